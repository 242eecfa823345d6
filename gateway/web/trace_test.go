package web

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc/metadata"

	"example.com/predserver/gateway/internal/testkit"
)

func TestTracesArePassedOnWhereTheyAreWellFormed(t *testing.T) {
	address, _ := testkit.StartFake(t, "127.0.0.1:0", func(ctx context.Context, _ string) (string, error) {
		return "sent\n" + testkit.Incoming(ctx, "traceparent") + "/" + testkit.Incoming(ctx, "tracestate") + "\n", nil
	})
	gateway := startGateway(t, address)
	const trace, span = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	const good = "00-" + trace + "-" + span + "-01"
	sent := func(headers ...string) string {
		t.Helper()
		r := gateway.Post(t, "x\n1\n", headers...)
		if r.Status != 200 {
			t.Fatal(r.Status, r.Body)
		}
		return strings.TrimSuffix(strings.TrimPrefix(r.Body, "sent\n"), "\n")
	}
	for _, parent := range []string{good, "01-" + trace + "-" + span + "-01", "01-" + trace + "-" + span + "-01-more"} {
		if got := sent("Traceparent: "+parent, "Tracestate: a=b"); got != parent+"/a=b" {
			t.Errorf("%s: %s", parent, got)
		}
	}
	if n := strings.Count(gateway.Log.String(), `"trace_id":"`+trace+`"`); n != 3 {
		t.Errorf("%d times in the log:\n%s", n, gateway.Log)
	}
	for _, parent := range []string{
		"", "00", trace, good[:54], good + "-more", "ff" + good[2:], "00-" + strings.Repeat("0", 32) + "-" + span + "-01",
		"00-" + trace + "-" + strings.Repeat("0", 16) + "-01", strings.ToUpper(good), good[:3] + "g" + good[4:], good + "x",
		"01" + good[2:] + "-" + strings.Repeat("a", 512),
	} {
		if got := sent("Traceparent: "+parent, "Tracestate: a=b"); got != "/" {
			t.Errorf("%q: %s", parent, got)
		}
	}
	if got := sent("Traceparent: "+good, "Tracestate: "+strings.Repeat("a", 513)); got != good+"/" {
		t.Error(got)
	}
	if n := strings.Count(gateway.Log.String(), "trace_id"); n != 4 {
		t.Errorf("%d times in the log:\n%s", n, gateway.Log)
	}
}

func TestSeveralTracestatesAreOneList(t *testing.T) {
	long := strings.Repeat("a", 256)
	for want, states := range map[string][]string{
		"a=b,c=d,e=f": {"a=b,c=d", "e=f"}, long + "," + long[:255]: {long, long[:255]}, "": {long, long},
	} {
		ctx, id := traced(t.Context(), http.Header{
			"Traceparent": {"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}, "Tracestate": states,
		})
		sent, _ := metadata.FromOutgoingContext(ctx)
		if got := first(sent, "tracestate"); got != want || id == "" {
			t.Errorf("%.20q: got %.20q, trace %q", states, got, id)
		}
	}
}
