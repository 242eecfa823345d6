package metrics

import (
	"io"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"example.com/predserver/gateway/web"
)

// scrape returns the text that Prometheus reads.
func scrape(t *testing.T, m *Metrics) string {
	t.Helper()
	reply := httptest.NewRecorder()
	m.Server(slog.New(slog.DiscardHandler)).Handler.ServeHTTP(reply, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
	body, err := io.ReadAll(reply.Body)
	if err != nil || reply.Code != 200 {
		t.Fatal(reply.Code, err)
	}
	return string(body)
}

func TestWhatIsCounted(t *testing.T) {
	m := New()
	m.Watch(func() web.Load { return web.Load{Requests: 3, MaxRequests: 10, Held: 5, MaxHeld: 100} }, nil, nil)
	m.Observe(web.Ended{Route: "/predict", Status: 200, Code: "OK", Took: 30 * time.Millisecond, Backend: 20 * time.Millisecond})
	m.Observe(web.Ended{Route: "/predict", Status: 429, Code: "RESOURCE_EXHAUSTED", Reason: "OVERLOADED", Took: time.Millisecond})
	m.Observe(web.Ended{Route: "other", Status: 404, Code: "NOT_FOUND", Reason: "what a server made up", Took: time.Millisecond})
	text := scrape(t, m)
	for _, line := range []string{
		`gateway_requests_total{code="OK",route="/predict",status="200"} 1`,
		`gateway_requests_total{code="RESOURCE_EXHAUSTED",route="/predict",status="429"} 1`,
		`gateway_requests_total{code="NOT_FOUND",route="other",status="404"} 1`,
		`gateway_refusals_total{reason="OVERLOADED"} 1`,
		`gateway_request_seconds_bucket{route="/predict",le="0.05"} 2`,
		`gateway_request_seconds_count{route="/predict"} 2`,
		`gateway_backend_seconds_count 1`,
		`gateway_requests_in_flight 3`,
		`gateway_bytes_held 5`,
		`gateway_limit{limit="max_requests_in_flight"} 10`,
		`gateway_limit{limit="max_bytes_held"} 100`,
	} {
		if !strings.Contains(text, "\n"+line+"\n") {
			t.Errorf("no line %s in\n%s", line, text)
		}
	}
	if strings.Contains(text, "made up") || !strings.Contains(text, "go_goroutines") {
		t.Error(text)
	}
}
