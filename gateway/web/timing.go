package web

import (
	"fmt"
	"time"
)

// serverTiming returns a value of the Server-Timing header, https://www.w3.org/TR/server-timing/: the metrics that the
// prediction server sent, if any, then the call as the gateway saw it, and the rest of whole, which is the gateway's own
// work. The server's metrics are parts of backend; backend and gateway do not overlap.
func serverTiming(sent string, backend, whole time.Duration) string {
	if sent != "" {
		sent += ", "
	}
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	return fmt.Sprintf(`%sbackend;dur=%.3f;desc="whole gRPC call", gateway;dur=%.3f;desc="HTTP body and conversion"`,
		sent, ms(backend), ms(whole-backend))
}
