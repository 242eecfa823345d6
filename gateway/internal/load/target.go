package load

import "time"

// dialTimeout is for a connection that is made before the clock starts.
const dialTimeout = 10 * time.Second

// outcome is what became of one call.
type outcome struct {
	code       string // the name of a gRPC status, or HTTP and its status where that is none of success
	replyBytes int
	timing     string // the server's, in the syntax of the header Server-Timing
	firstNs    int64  // when a stream's first reply came, by the clock; 0 if none did
}

const (
	ok               = "OK"
	unavailable      = "UNAVAILABLE"
	deadlineExceeded = "DEADLINE_EXCEEDED"
)

// target is what a segment calls.
type target interface {
	// renew makes connections anew that were lost since the last segment, before the clock starts.
	renew()
	// call makes the call with this number, once. now is the segment's clock.
	call(number int, now func() int64) outcome
	// redials counts connections that calls made anew.
	redials() int64
	// ready returns the bytes that a call sends.
	ready() [][]byte
	close()
}
