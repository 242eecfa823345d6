package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

func TestPredictCSV(t *testing.T) {
	var got string
	address, _ := startFake(t, "127.0.0.1:0", func(_ context.Context, table string) (string, error) {
		got = table
		return "0\n3\n", nil
	})
	const table = "x,y\r\n\"1\",2" // passed on as it is
	r := startGateway(t, address).post(t, table, "Content-Type: text/csv")
	if r.status != 200 || r.body != "0\n3\n" || got != table {
		t.Errorf("sent %q, got %d %q", got, r.status, r.body)
	}
}

func TestPredictJSON(t *testing.T) {
	var got string
	address, _ := startFake(t, "127.0.0.1:0", func(ctx context.Context, table string) (string, error) {
		got = table
		return "arr_delay\n11.5\n\"\"\n", grpc.SetTrailer(ctx, metadata.Pairs("prediction-dtype", "float64"))
	})
	r := startGateway(t, address).post(t, `[{"x": 1, "s": "a"}, {"s": "b", "x": null}]`, "Content-Type: application/json")
	if want := "[{\"arr_delay\":11.5},{\"arr_delay\":null}]\n"; r.status != 200 || r.body != want {
		t.Errorf("got %d %q, want %q", r.status, r.body, want)
	}
	if want := "\"x\",\"s\"\n1,\"a\"\n,\"b\"\n"; got != want {
		t.Errorf("sent %q, want %q", got, want)
	}
}

func TestRecordsThatAreRefusedDoNotReachTheServer(t *testing.T) {
	address, _ := startFake(t, "127.0.0.1:0", func(context.Context, string) (string, error) {
		t.Error("the server was asked")
		return "", nil
	})
	r := startGateway(t, address).post(t, `[{"x": 1}, {}]`, "Content-Type: application/json")
	wantError(t, r, 400, "INVALID_ARGUMENT", "Record 2")
}

func TestEveryRecordHasOnePrediction(t *testing.T) {
	for _, result := range []string{"p\n1\n", "p\n1\n2\n3\n", "p\n", "", "p\n1\n2,3\n"} {
		address, _ := startFake(t, "127.0.0.1:0", constant(result))
		r := startGateway(t, address).post(t, `[{"x": 1}, {"x": 2}]`, "Content-Type: application/json")
		wantError(t, r, 502, "INTERNAL", "")
	}
}

func TestMetadataGoesBothWays(t *testing.T) {
	var id, name, version, output string
	address, _ := startFake(t, "127.0.0.1:0", func(ctx context.Context, _ string) (string, error) {
		id, output = incoming(ctx, "x-request-id"), incoming(ctx, "output")
		name, version = incoming(ctx, "model-name"), incoming(ctx, "model-version")
		return "p\n1\n", grpc.SetTrailer(ctx, metadata.Pairs("ignored-columns", "tail%20num,a%2Cb"))
	})
	g := startGateway(t, address)

	r := g.post(t, "x\n1\n", "X-Request-Id: abc 1", "Model-Name: flights", "Model-Version: 2", "Model-Output: probabilities")
	if r.status != 200 || id != "abc 1" || name != "flights" || version != "2" || output != "probabilities" {
		t.Errorf("status %d, id %q, model %q, version %q, output %q", r.status, id, name, version, output)
	}
	for header, want := range map[string]string{
		"X-Request-Id":    "abc 1",
		"Ignored-Columns": "tail%20num,a%2Cb",
	} {
		if got := r.header.Get(header); got != want {
			t.Errorf("%s: %q, want %q", header, got, want)
		}
	}

	if r := g.post(t, "x\n1\n"); r.status != 200 || id != r.header.Get("X-Request-Id") || name+version+output != "" {
		t.Errorf("status %d, id %q, model %q, version %q, output %q", r.status, id, name, version, output)
	}
	for _, header := range []string{"Model-Name", "Model-Version", "Model-Output"} {
		wantError(t, g.post(t, "x\n1\n", header+": été"), 400, "INVALID_ARGUMENT", header)
	}
}

func TestHeadersThatDidNotCome(t *testing.T) {
	address, _ := startFake(t, "127.0.0.1:0", constant("p\n1\n"))
	r := startGateway(t, address).post(t, "x\n1\n")
	if got, ok := r.header["Ignored-Columns"]; ok {
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
	address, _ := startFake(t, "127.0.0.1:0", func(ctx context.Context, table string) (string, error) {
		deadline, _ := ctx.Deadline()
		left <- time.Until(deadline)
		if table == "wait" {
			<-ctx.Done()
			return "", ctx.Err()
		}
		return "p\n1\n", nil
	})
	g := startGateway(t, address, "-timeout=1h")

	g.post(t, "x")
	if d := receive(t, "call", left); d < 50*time.Minute || d > time.Hour {
		t.Errorf("the server has %v, want 1h", d)
	}
	g.post(t, "x", "Request-Timeout-Ms: 600000")
	if d := receive(t, "call", left); d > 10*time.Minute {
		t.Errorf("the server has %v, want 10m", d)
	}
	g.post(t, "x", "Request-Timeout-Ms: 36000000")
	if d := receive(t, "call", left); d > time.Hour {
		t.Errorf("the server has %v, want 1h", d)
	}
	wantError(t, g.post(t, "wait", "Request-Timeout-Ms: 50"), 504, "DEADLINE_EXCEEDED", "in time")
	wantError(t, g.post(t, "x", "Request-Timeout-Ms: soon"), 400, "INVALID_ARGUMENT", "Request-Timeout-Ms")

	short := startGateway(t, address, "-timeout=50ms")
	wantError(t, short.post(t, "wait"), 504, "DEADLINE_EXCEEDED", "in time")
}

func TestClientThatGoesAwayCancelsTheCall(t *testing.T) {
	started, cancelled := make(chan struct{}), make(chan struct{})
	address, _ := startFake(t, "127.0.0.1:0", func(ctx context.Context, _ string) (string, error) {
		close(started)
		<-ctx.Done()
		close(cancelled)
		return "", ctx.Err()
	})
	g := startGateway(t, address, "-timeout=1h")
	conn := g.dial(t)
	fmt.Fprint(conn, "POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nx\n1\n")
	receive(t, "the call to begin", started)
	conn.Close()
	receive(t, "the call to be cancelled", cancelled)
	eventually(t, "a line with status 499", func() bool { return strings.Contains(g.log.String(), `"status":499`) })
}

func TestConnectionsTakeTurns(t *testing.T) {
	var mu sync.Mutex
	calls := map[string]int{}
	address, _ := startFake(t, "127.0.0.1:0", func(ctx context.Context, _ string) (string, error) {
		mu.Lock()
		defer mu.Unlock()
		p, _ := peer.FromContext(ctx)
		calls[p.Addr.String()]++
		return "p\n1\n", nil
	})
	g := startGateway(t, address, "-connections=3")
	for range 9 {
		g.post(t, "x\n1\n")
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
	address, _ := startFake(t, "127.0.0.1:0", echo)
	g := startGateway(t, address, "-connections=2")
	var group sync.WaitGroup
	for i := range 50 {
		group.Go(func() {
			for j := range 10 {
				body := fmt.Sprintf("x\n%d\n", 100*i+j)
				if r := g.post(t, body); r.body != body {
					t.Errorf("sent %q, got %d %q", body, r.status, r.body)
				}
			}
		})
	}
	group.Wait()
}
