package web

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"example.com/predserver/gateway/internal/testkit"
)

// reasonOf returns the reason in the body of an error.
func reasonOf(t *testing.T, r testkit.Response) string {
	t.Helper()
	var body struct{ Error struct{ Reason string } }
	if err := json.Unmarshal([]byte(r.Body), &body); err != nil {
		t.Fatal(err)
	}
	return body.Error.Reason
}

// wantOverloaded checks a reply that asks the client to come back later.
func wantOverloaded(t *testing.T, r testkit.Response, inMessage string) {
	t.Helper()
	testkit.WantError(t, r, 429, "RESOURCE_EXHAUSTED", inMessage)
	if r.Header.Get("Retry-After") != "1" || reasonOf(t, r) != "OVERLOADED" {
		t.Errorf("Retry-After %q, reason %q", r.Header.Get("Retry-After"), reasonOf(t, r))
	}
}

func TestRequestsInFlightAreBounded(t *testing.T) {
	started, release := make(chan struct{}, 10), make(chan struct{})
	wait := func(string) {
		started <- struct{}{}
		<-release
	}
	address := startBoth(t, func(_ context.Context, table string) (string, error) {
		wait(table)
		return table, nil
	}, chunkwise(func(chunk int, table string) (string, error) {
		if chunk == 1 {
			wait(table)
		}
		return table, nil
	}))
	g := startGateway(t, address, "-max-requests-in-flight=2", "-chunk-bytes=100", "-timeout=1h")
	replies := make(chan testkit.Response, 2)
	for _, body := range []string{"x\n1\n", numbers(100)} { // one whole, one as a stream
		go func() { replies <- g.Post(t, body) }()
		testkit.Receive(t, "the call to begin", started)
	}
	wantOverloaded(t, g.Post(t, "x\n1\n"), "-max-requests-in-flight is 2")
	wantOverloaded(t, g.Post(t, numbers(1_000_000)), "-max-requests-in-flight is 2")
	wantOverloaded(t, g.Post(t, `[{"x": 1}]`, "Content-Type: application/json"), "-max-requests-in-flight is 2")
	if r := g.Do(t, "GET", "/healthz", nil); r.Status != 200 {
		t.Errorf("healthz: got %d", r.Status)
	}
	// A body that is on its way takes no place of those that are asked for.
	conn := g.Dial(t)
	fmt.Fprint(conn, "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nx\n")
	close(release)
	for range 2 {
		if r := testkit.Receive(t, "a reply", replies); r.Status != 200 {
			t.Errorf("got %d %s", r.Status, r.Body)
		}
	}
	fmt.Fprint(conn, "1\n")
	if reply, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || reply.StatusCode != 200 {
		t.Errorf("the slow body: got %v, %v", reply, err)
	}
	testkit.Eventually(t, "places to be free", func() bool { return g.Post(t, "x\n1\n").Status == 200 })
}

// What is held is bounded in all; small requests have room all the same, and all of it comes back.
func TestBytesHeldAreBounded(t *testing.T) {
	const most = 3_000_000
	for _, test := range []struct{ name, mediaType, half, rest string }{
		{"whole tables", "application/json", `[{"x": 1, "y": 1}` + strings.Repeat(`,{"x": 1, "y": 1}`, 50_000), "]"},
		{"first chunks of streams", "text/csv", "x\n" + strings.Repeat("1\n", 45_000), strings.Repeat("1\n", 55_000)},
	} {
		t.Run(test.name, func(t *testing.T) {
			h, log := newHandler(t, startBoth(t, testkit.Echo, chunkwise(same)),
				"-max-body-bytes=1000000", "-chunk-bytes=100000", "-max-bytes-held=3000000", "-body-idle-timeout=1h", "-read-timeout=1h")
			g := serveHandler(t, h, log)
			// Bodies of which the ends are missing.
			var ends []func() int
			for range 40 {
				conn := g.Dial(t)
				fmt.Fprintf(conn, "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s",
					test.mediaType, len(test.half)+len(test.rest), test.half)
				ends = append(ends, func() int {
					io.WriteString(conn, test.rest)
					reply, err := http.ReadResponse(bufio.NewReader(conn), nil)
					if err != nil {
						t.Error(err)
						return 0
					}
					io.Copy(io.Discard, reply.Body)
					return reply.StatusCode
				})
			}
			testkit.Eventually(t, "the bodies to fill what there is", func() bool {
				return h.held.Held() > most/2 && strings.Contains(log.String(), `"status":429`)
			})
			if got := h.held.Held(); got > most {
				t.Errorf("%d bytes are held", got)
			}
			for range 20 {
				if r := g.Post(t, "x\n1\n"); r.Status != 200 {
					t.Fatalf("a small table: got %d %s", r.Status, r.Body)
				}
			}
			counts := map[int]int{}
			for _, end := range ends {
				counts[end()]++
			}
			if counts[200] == 0 || counts[429] == 0 || counts[200]+counts[429] != len(ends) {
				t.Errorf("got %v", counts)
			}
			for _, body := range []string{"x\n1\n", numbers(5_000), numbers(90_000), "", "x\n\xff\n", numbers(200_000)} {
				g.Post(t, body)
			}
			testkit.Eventually(t, "all to be given back", func() bool { return h.held.Held() == 0 })
		})
	}
}

// A table that one request alone may not hold is too large, and not too much at once.
func TestTableThatNeverHasRoom(t *testing.T) {
	address, _ := testkit.StartFake(t, "127.0.0.1:0", testkit.Echo)
	g := startGateway(t, address, "-max-body-bytes=1000000", "-chunk-bytes=10000", "-max-bytes-held=2400000")
	var keys strings.Builder
	for i := range 50_000 {
		fmt.Fprintf(&keys, `,"%d":1`, i)
	}
	r := g.Post(t, `[{"x": 1`+keys.String()+`}]`, "Content-Type: application/json")
	testkit.WantError(t, r, 413, "RESOURCE_EXHAUSTED", "-max-bytes-held")
	if reasonOf(t, r) != "TOO_LARGE" || r.Header.Get("Retry-After") != "" {
		t.Errorf("reason %q, Retry-After %q", reasonOf(t, r), r.Header.Get("Retry-After"))
	}
}

func TestSlowBodies(t *testing.T) {
	for _, test := range []struct {
		name, header, body string
		flags              []string
	}{
		{"stops", "Content-Length: 1000", "x\n1\n", []string{"-body-idle-timeout=100ms"}},
		{"stops, in JSON", "Content-Length: 1000\r\nContent-Type: application/json", "[", []string{"-body-idle-timeout=100ms"}},
		{"stops, in pieces", "Transfer-Encoding: chunked", "2\r\nx\n\r\n", []string{"-body-idle-timeout=100ms"}},
		{"stops, in gzip", "Content-Length: 1000\r\nContent-Encoding: gzip", "\x1f\x8b\x08", []string{"-body-idle-timeout=100ms"}},
		{"never begins", "Content-Length: 1000", "", []string{"-body-idle-timeout=100ms"}},
		{"trickles", "Content-Length: 1000", "x", []string{"-read-timeout=200ms", "-body-idle-timeout=1h"}},
		{"stops in a first chunk", "Content-Length: 10000000", "x\n1\n", []string{"-body-idle-timeout=100ms"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := startGateway(t, startStreams(t, chunkwise(same)), test.flags...)
			conn := g.Dial(t)
			fmt.Fprintf(conn, "POST /predict HTTP/1.1\r\nHost: localhost\r\n%s\r\n\r\n%s", test.header, test.body)
			reply, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil || reply.StatusCode != 408 {
				t.Errorf("got %v, %v", reply, err)
			}
		})
	}
}

// The time that a body may take does not run while the prediction server works.
func TestReadTimeoutEndsWithTheBody(t *testing.T) {
	address, _ := testkit.StartFake(t, "127.0.0.1:0", func(ctx context.Context, table string) (string, error) {
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(2 * time.Second):
			return table, nil
		}
	})
	g := startGateway(t, address, "-read-timeout=1s", "-body-idle-timeout=1s")
	for range 2 { // on one connection
		if r := g.Post(t, "x\n1\n"); r.Status != 200 {
			t.Errorf("got %d %s", r.Status, r.Body)
		}
	}
}

func TestWhoseDeadline(t *testing.T) {
	silent := func(ctx context.Context, _ string) (string, error) {
		<-ctx.Done()
		return "", status.Error(codes.DeadlineExceeded, "this took longer than the server allows (--max-deadline-s is 300)")
	}
	tight := testkit.Failing(status.Error(codes.DeadlineExceeded, "this took longer than the server allows (--max-deadline-s is 1)"))
	for _, test := range []struct {
		name      string
		answer    testkit.Answer
		flag      string
		header    string
		inMessage string
	}{
		{"the request's", silent, "-timeout=1h", "Request-Timeout-Ms: 50", "the request allows 50ms (Request-Timeout-Ms)"},
		{"the gateway's", silent, "-timeout=50ms", "", "the gateway allows 50ms (-timeout)"},
		{"the server's", tight, "-timeout=1h", "", "the prediction server's own limit"},
		{"the server's, for all that the request allows", tight, "-timeout=1h", "Request-Timeout-Ms: 60000", "the prediction server's own limit"},
	} {
		t.Run(test.name, func(t *testing.T) {
			address := startBoth(t, test.answer, func(stream serverStream) error {
				_, err := test.answer(stream.Context(), "")
				return err
			})
			g := startGateway(t, address, test.flag, "-chunk-bytes=100")
			testkit.WantError(t, g.Post(t, "x\n1\n", test.header), 504, "DEADLINE_EXCEEDED", test.inMessage)
			if test.flag == "-timeout=1h" {
				testkit.WantError(t, g.Post(t, numbers(100), test.header), 504, "DEADLINE_EXCEEDED", test.inMessage)
			}
		})
	}
	stalled := startGateway(t, startStreams(t, func(stream serverStream) error {
		<-stream.Context().Done()
		return stream.Context().Err()
	}), "-chunk-bytes=100", "-stall-timeout=50ms")
	testkit.WantError(t, stalled.Post(t, numbers(100)), 504, "DEADLINE_EXCEEDED", "-stall-timeout")
}
