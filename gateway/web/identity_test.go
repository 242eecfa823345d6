package web

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"example.com/predserver/gateway/internal/testkit"
)

const identity = "flights/2/0a1b/2c3d"

func TestRepliesSayWhichModelAnswered(t *testing.T) {
	changed, err := status.New(codes.FailedPrecondition, "the schema is 0a1b").WithDetails(&errdetails.ErrorInfo{Reason: "SCHEMA_CHANGED"})
	if err != nil {
		t.Fatal(err)
	}
	refuse := func(ctx context.Context) error {
		if expected := testkit.Incoming(ctx, "expect-schema"); expected != "" && expected != "0a1b" {
			return changed.Err()
		}
		return nil
	}
	g := startGateway(t, startBoth(t, func(ctx context.Context, table string) (string, error) {
		grpc.SetTrailer(ctx, metadata.Pairs("model-identity", identity))
		return table, refuse(ctx)
	}, func(stream serverStream) error {
		stream.SetTrailer(metadata.Pairs("model-identity", identity))
		if err := refuse(stream.Context()); err != nil {
			return err
		}
		return chunkwise(same)(stream)
	}), "-chunk-bytes=100")
	logged := func(id string) func() bool {
		return func() bool {
			for line := range strings.Lines(g.Log.String()) {
				if strings.Contains(line, `"request_id":"`+id+`"`) && strings.Contains(line, `"model":"`+identity+`"`) {
					return true
				}
			}
			return false
		}
	}
	r := g.Post(t, "x\n1\n", "X-Request-Id: csv", "Expect-Schema: 0a1b")
	if r.Status != 200 || r.Header.Get("Model-Identity") != identity {
		t.Errorf("CSV: got %d, %q", r.Status, r.Header.Get("Model-Identity"))
	}
	testkit.Eventually(t, "the log to say so", logged("csv"))
	r = g.Post(t, `[{"x": 1}]`, "X-Request-Id: json", "Content-Type: application/json")
	if r.Status != 200 || r.Header.Get("Model-Identity") != identity {
		t.Errorf("JSON: got %d, %q", r.Status, r.Header.Get("Model-Identity"))
	}
	testkit.Eventually(t, "the log to say so", logged("json"))
	for id, body := range map[string]string{"whole": "x\n1\n", "chunks": numbers(100)} {
		r := g.Post(t, body, "Expect-Schema: 9999", "X-Request-Id: "+id)
		testkit.WantError(t, r, 412, "FAILED_PRECONDITION", "schema")
		if r.Header.Get("Model-Identity") != identity || reasonOf(t, r) != "SCHEMA_CHANGED" {
			t.Errorf("%s: %q, reason %q", id, r.Header.Get("Model-Identity"), reasonOf(t, r))
		}
		testkit.Eventually(t, "the log to say so", logged(id))
	}

	c := converse(t, g, "X-Request-Id: stream")
	c.send(numbers(100))
	c.lines(1)
	if _, err := c.end(); err != nil || c.reply.Trailer.Get("Model-Identity") != identity {
		t.Errorf("a stream: %v, trailer %v", err, c.reply.Trailer)
	}
	testkit.Eventually(t, "the log to say so", logged("stream"))

	old, _ := testkit.StartFake(t, "127.0.0.1:0", testkit.Echo)
	if r := startGateway(t, old).Post(t, "x\n1\n"); r.Status != 200 || len(r.Header.Values("Model-Identity")) > 0 {
		t.Errorf("a server without identities: got %d, %v", r.Status, r.Header)
	}
}

// A reason that the gateway does not know, such as one for the server's memory, is passed on by its name.
func TestReasonsArePassedOn(t *testing.T) {
	for reason, want := range map[string]int{"OUT_OF_MEMORY": 429, "OVERLOADED": 429, "TOO_LARGE": 413} {
		st, err := status.New(codes.ResourceExhausted, "not now").WithDetails(&errdetails.ErrorInfo{Reason: reason})
		if err != nil {
			t.Fatal(err)
		}
		address := startBoth(t, testkit.Failing(st.Err()), func(stream serverStream) error { return st.Err() })
		g := startGateway(t, address, "-chunk-bytes=100")
		for _, body := range []string{"x\n1\n", numbers(100)} {
			r := g.Post(t, body)
			testkit.WantError(t, r, want, "RESOURCE_EXHAUSTED", "not now")
			if reasonOf(t, r) != reason || (r.Header.Get("Retry-After") != "") != (want == 429) {
				t.Errorf("%s: reason %q, Retry-After %q", reason, reasonOf(t, r), r.Header.Get("Retry-After"))
			}
		}
		testkit.Eventually(t, "the log to say so", func() bool { return strings.Contains(g.Log.String(), `"reason":"`+reason+`"`) })
	}
}
