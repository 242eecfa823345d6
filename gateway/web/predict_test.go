package web

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"example.com/predserver/gateway/internal/testkit"
	"example.com/predserver/generated/predpb"
)

func TestPredictCSV(t *testing.T) {
	var got string
	address, _ := testkit.StartFake(t, "127.0.0.1:0", func(_ context.Context, table string) (string, error) {
		got = table
		return "0\n3\n", nil
	})
	const table = "x,y\r\n\"1\",2" // passed on as it is
	r := startGateway(t, address).Post(t, table, "Content-Type: text/csv")
	if r.Status != 200 || r.Body != "0\n3\n" || got != table {
		t.Errorf("sent %q, got %d %q", got, r.Status, r.Body)
	}
}

func TestPredictJSON(t *testing.T) {
	var got string
	address, _ := testkit.StartFake(t, "127.0.0.1:0", func(ctx context.Context, table string) (string, error) {
		got = table
		return "arr_delay\n11.5\n\"\"\n", grpc.SetTrailer(ctx, metadata.Pairs("prediction-dtype", "float64"))
	})
	r := startGateway(t, address).Post(t, `[{"x": 1, "s": "a"}, {"s": "b", "x": null}]`, "Content-Type: application/json")
	if want := "[{\"arr_delay\":11.5},{\"arr_delay\":null}]\n"; r.Status != 200 || r.Body != want {
		t.Errorf("got %d %q, want %q", r.Status, r.Body, want)
	}
	if want := "\"x\",\"s\"\n1,\"a\"\n,\"b\"\n"; got != want {
		t.Errorf("sent %q, want %q", got, want)
	}
}

func TestRecordsThatAreRefusedDoNotReachTheServer(t *testing.T) {
	address, _ := testkit.StartFake(t, "127.0.0.1:0", func(context.Context, string) (string, error) {
		t.Error("the server was asked")
		return "", nil
	})
	r := startGateway(t, address).Post(t, `[{"x": 1}, {}]`, "Content-Type: application/json")
	testkit.WantError(t, r, 400, "INVALID_ARGUMENT", "Record 2")
}

func TestEveryRecordHasOnePrediction(t *testing.T) {
	for _, result := range []string{"p\n1\n", "p\n1\n2\n3\n", "p\n", "", "p\n1\n2,3\n"} {
		address, _ := testkit.StartFake(t, "127.0.0.1:0", testkit.Constant(result))
		r := startGateway(t, address).Post(t, `[{"x": 1}, {"x": 2}]`, "Content-Type: application/json")
		testkit.WantError(t, r, 502, "INTERNAL", "")
	}
}

// A reply to CSV has to fit as one to JSON has: a part of the predictions would be taken for all.
func TestRepliesInCSVFitTheTable(t *testing.T) {
	tests := []struct {
		name, table string
		response    *predpb.Response
		fits        bool
	}{
		{"a prediction a row", "x\n1\n2\n", &predpb.Response{Result: "p\n1\n2\n"}, true},
		{"blank lines and line ends", "\n\nx\r\n1\r\n\r\n2", &predpb.Response{Result: "p\r\n1\r\n2"}, true},
		{"rows of several lines", "x\n\"1\n\n\"\n2\n", &predpb.Response{Result: "p\n\"\n\"\n2\n"}, true},
		{"a table without rows, which is the server's to judge", "x\n", &predpb.Response{Result: "p\n1\n"}, true},
		{"rows that readers count in several ways", "x\r1\r2\r", &predpb.Response{Result: "p\n1\n2\n"}, true},
		{"nothing", "x\n1\n2\n", &predpb.Response{}, false},
		{"a header", "x\n1\n2\n", &predpb.Response{Result: "p\n"}, false},
		{"too few", "x\n1\n2\n", &predpb.Response{Result: "p\n1\n"}, false},
		{"too many", "x\n1\n2\n", &predpb.Response{Result: "p\n1\n2\n3\n"}, false},
		{"another encoding", "x\n1\n2\n", &predpb.Response{Columns: &predpb.Columns{}}, false},
		{"fields that the header has not", "x\n1\n2\n", &predpb.Response{Result: "p\n1\n2,3\n"}, false},
		{"a quote that is not closed", "x\n1\n2\n", &predpb.Response{Result: "p\n1\n\"2\n"}, false},
		{"two columns of one name", "x\n1\n2\n", &predpb.Response{Result: "p,p\n1,1\n2,2\n"}, false},
		{"no shape, for rows that readers count in several ways", "x\r1\r2\r", &predpb.Response{Result: "p\n1,2\n"}, false},
		{"a space for a prediction", "x\n1\n2\n", &predpb.Response{Result: "p\n \n2\n"}, true},
		{"two encodings", "x\n1\n2\n", &predpb.Response{Result: "p\n1\n2\n", Tensor: &predpb.Tensor{}}, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := startGateway(t, startResponding(t, test.response)).Post(t, test.table)
			if !test.fits {
				testkit.WantError(t, r, 502, "INTERNAL", "")
			} else if r.Status != 200 || r.Body != test.response.Result {
				t.Errorf("got %d %q", r.Status, r.Body)
			}
		})
	}
}

// startResponding answers every table that comes as one message with the same response.
func startResponding(t *testing.T, response *predpb.Response) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	predpb.RegisterPredictionServer(server, responding{response: response})
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	return listener.Addr().String()
}

type responding struct {
	predpb.UnimplementedPredictionServer
	response *predpb.Response
}

func (r responding) Predict(context.Context, *predpb.Request) (*predpb.Response, error) {
	return r.response, nil
}

func TestMetadataGoesBothWays(t *testing.T) {
	var id, name, version, output string
	address, _ := testkit.StartFake(t, "127.0.0.1:0", func(ctx context.Context, _ string) (string, error) {
		id, output = testkit.Incoming(ctx, "x-request-id"), testkit.Incoming(ctx, "output")
		name, version = testkit.Incoming(ctx, "model-name"), testkit.Incoming(ctx, "model-version")
		return "p\n1\n", grpc.SetTrailer(ctx, metadata.Pairs("ignored-columns", "tail%20num,a%2Cb"))
	})
	g := startGateway(t, address)

	r := g.Post(t, "x\n1\n", "X-Request-Id: abc 1", "Model-Name: flights", "Model-Version: 2", "Model-Output: probabilities")
	if r.Status != 200 || id != "abc 1" || name != "flights" || version != "2" || output != "probabilities" {
		t.Errorf("status %d, id %q, model %q, version %q, output %q", r.Status, id, name, version, output)
	}
	for header, want := range map[string]string{
		"X-Request-Id":    "abc 1",
		"Ignored-Columns": "tail%20num,a%2Cb",
	} {
		if got := r.Header.Get(header); got != want {
			t.Errorf("%s: %q, want %q", header, got, want)
		}
	}

	if r := g.Post(t, "x\n1\n"); r.Status != 200 || id != r.Header.Get("X-Request-Id") || name+version+output != "" {
		t.Errorf("status %d, id %q, model %q, version %q, output %q", r.Status, id, name, version, output)
	}
	for _, header := range []string{"Model-Name", "Model-Version", "Model-Output"} {
		testkit.WantError(t, g.Post(t, "x\n1\n", header+": été"), 400, "INVALID_ARGUMENT", header)
	}
}

func TestHeadersThatDidNotCome(t *testing.T) {
	address, _ := testkit.StartFake(t, "127.0.0.1:0", testkit.Constant("p\n1\n"))
	r := startGateway(t, address).Post(t, "x\n1\n")
	if got, ok := r.Header["Ignored-Columns"]; ok {
		t.Errorf("Ignored-Columns: %q", got)
	}
}

func TestRequestTimeout(t *testing.T) {
	const limit = 30 * time.Second
	tests := []struct {
		header string
		want   time.Duration // 0 is refused
	}{
		{"", limit},
		{"1", time.Millisecond},
		{"29999", 29999 * time.Millisecond},
		{"30000", limit},
		{"86400000", limit},
		{"9223372036854775807", limit},
		{"18446744073709551615", limit},
		{"18446744073709551616", 0},
		{"0", 0},
		{"-1", 0},
		{"+1", 0},
		{"1.5", 0},
		{"1e3", 0},
		{"1s", 0},
		{"soon", 0},
	}
	for _, test := range tests {
		got, err := requestTimeout(http.Header{"Request-Timeout-Ms": {test.header}}, limit)
		if got != test.want || (err == nil) != (test.want > 0) {
			t.Errorf("%q: got %v, %v, want %v", test.header, got, err, test.want)
		}
	}
}

func TestDeadlines(t *testing.T) {
	left := make(chan time.Duration, 10)
	address, _ := testkit.StartFake(t, "127.0.0.1:0", func(ctx context.Context, table string) (string, error) {
		deadline, _ := ctx.Deadline()
		left <- time.Until(deadline)
		if table == "wait" {
			<-ctx.Done()
			return "", ctx.Err()
		}
		return "p\n1\n", nil
	})
	g := startGateway(t, address, "-timeout=1h")

	g.Post(t, "x")
	if d := testkit.Receive(t, "call", left); d < 50*time.Minute || d > time.Hour {
		t.Errorf("the server has %v, want 1h", d)
	}
	g.Post(t, "x", "Request-Timeout-Ms: 600000")
	if d := testkit.Receive(t, "call", left); d > 10*time.Minute {
		t.Errorf("the server has %v, want 10m", d)
	}
	g.Post(t, "x", "Request-Timeout-Ms: 36000000")
	if d := testkit.Receive(t, "call", left); d > time.Hour {
		t.Errorf("the server has %v, want 1h", d)
	}
	testkit.WantError(t, g.Post(t, "wait", "Request-Timeout-Ms: 50"), 504, "DEADLINE_EXCEEDED", "in time")
	testkit.WantError(t, g.Post(t, "x", "Request-Timeout-Ms: soon"), 400, "INVALID_ARGUMENT", "Request-Timeout-Ms")

	short := startGateway(t, address, "-timeout=50ms")
	testkit.WantError(t, short.Post(t, "wait"), 504, "DEADLINE_EXCEEDED", "in time")
}

func TestClientThatGoesAwayCancelsTheCall(t *testing.T) {
	started, cancelled := make(chan struct{}), make(chan struct{})
	address, _ := testkit.StartFake(t, "127.0.0.1:0", func(ctx context.Context, _ string) (string, error) {
		close(started)
		<-ctx.Done()
		close(cancelled)
		return "", ctx.Err()
	})
	g := startGateway(t, address, "-timeout=1h")
	conn := g.Dial(t)
	fmt.Fprint(conn, "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nx\n1\n")
	testkit.Receive(t, "the call to begin", started)
	conn.Close()
	testkit.Receive(t, "the call to be cancelled", cancelled)
	testkit.Eventually(t, "a line with status 499", func() bool { return strings.Contains(g.Log.String(), `"status":499`) })
}

func TestConnectionsTakeTurns(t *testing.T) {
	var mu sync.Mutex
	calls := map[string]int{}
	address, _ := testkit.StartFake(t, "127.0.0.1:0", func(ctx context.Context, _ string) (string, error) {
		mu.Lock()
		defer mu.Unlock()
		p, _ := peer.FromContext(ctx)
		calls[p.Addr.String()]++
		return "p\n1\n", nil
	})
	g := startGateway(t, address, "-connections=3")
	for range 9 {
		g.Post(t, "x\n1\n")
	}
	if len(calls) != 3 {
		t.Errorf("calls by connection: %v, want 3 each", calls)
	}
	for _, n := range calls {
		if n != 3 {
			t.Errorf("calls by connection: %v, want 3 each", calls)
		}
	}
}

func TestManyClientsAtOnce(t *testing.T) {
	address, _ := testkit.StartFake(t, "127.0.0.1:0", testkit.Echo)
	g := startGateway(t, address, "-connections=2")
	var group sync.WaitGroup
	for i := range 50 {
		group.Go(func() {
			for j := range 10 {
				body := fmt.Sprintf("x\n%d\n", 100*i+j)
				if r := g.Post(t, body); r.Body != body {
					t.Errorf("sent %q, got %d %q", body, r.Status, r.Body)
				}
			}
		})
	}
	group.Wait()
}
