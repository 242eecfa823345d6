// Package testkit has what tests of the gateway and its client share: fake prediction servers, and HTTP to a gateway.
package testkit

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"example.com/predserver/gateway/internal/problem"
	"example.com/predserver/generated/predpb"
)

// Hang is how long a test waits for what should happen at once.
const Hang = 20 * time.Second

// Answer is what a fake prediction server does with a request.
type Answer func(ctx context.Context, table string) (string, error)

// FakeServer is a prediction server whose answers a test chooses.
type FakeServer struct {
	predpb.UnimplementedPredictionServer
	Answer Answer
}

func (f FakeServer) Predict(ctx context.Context, request *predpb.Request) (*predpb.Response, error) {
	result, err := f.Answer(ctx, request.InputData)
	if err != nil {
		return nil, err
	}
	return &predpb.Response{Result: result}, nil
}

// StartFake serves a on address, beside what others register, until the test ends or kill is called.
func StartFake(t *testing.T, address string, a Answer, others ...func(*grpc.Server)) (listening string, kill func()) {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	fake := grpc.NewServer(grpc.MaxRecvMsgSize(1 << 30))
	predpb.RegisterPredictionServer(fake, FakeServer{Answer: a})
	for _, register := range others {
		register(fake)
	}
	go fake.Serve(listener)
	t.Cleanup(fake.Stop)
	return listener.Addr().String(), fake.Stop
}

// Serve serves on a free port until the test ends.
func Serve(t *testing.T, server *grpc.Server) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	return listener.Addr().String()
}

// Constant answers every request with the same text.
func Constant(result string) Answer {
	return func(context.Context, string) (string, error) { return result, nil }
}

// Failing answers every request with the same error.
func Failing(err error) Answer {
	return func(context.Context, string) (string, error) { return "", err }
}

// Echo answers with the table that came.
func Echo(_ context.Context, table string) (string, error) { return table, nil }

// Incoming returns the metadata value that came with a call.
func Incoming(ctx context.Context, key string) string {
	md, _ := metadata.FromIncomingContext(ctx)
	return strings.Join(md.Get(key), "|")
}

// Gateway is a gateway that runs in the test's process, or in one of its own.
type Gateway struct {
	URL string
	Log *LockedBuffer
}

// Response is a whole HTTP reply.
type Response struct {
	Status int
	Header http.Header
	Body   string
	Close  bool // the server ended the connection
}

// Post sends a body to /predict. Headers are given as "Name: value".
func (g *Gateway) Post(t *testing.T, body string, headers ...string) Response {
	t.Helper()
	return g.Do(t, "POST", "/predict", strings.NewReader(body), headers...)
}

// Do sends a request.
func (g *Gateway) Do(t *testing.T, method, path string, body io.Reader, headers ...string) Response {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Hang)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, g.URL+path, body)
	if err != nil {
		t.Fatal(err)
	}
	for _, header := range headers {
		name, value, ok := strings.Cut(header, ": ")
		switch {
		case name == "Host":
			request.Host = value
		case ok:
			request.Header.Set(name, value)
		}
	}
	reply, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer reply.Body.Close()
	text, err := io.ReadAll(reply.Body)
	if err != nil {
		t.Fatal(err)
	}
	return Response{reply.StatusCode, reply.Header, string(text), reply.Close}
}

// ErrorBody is the JSON of every error.
type ErrorBody struct {
	Error struct {
		Code       string              `json:"code"`
		Message    string              `json:"message"`
		RequestID  string              `json:"request_id"`
		Violations []problem.Violation `json:"violations"`
	} `json:"error"`
}

// WantError checks a reply that is an error, and returns its body.
func WantError(t *testing.T, r Response, status int, code, inMessage string) ErrorBody {
	t.Helper()
	var e ErrorBody
	if err := json.Unmarshal([]byte(r.Body), &e); err != nil {
		t.Fatalf("status %d, body %q is no JSON error: %v", r.Status, r.Body, err)
	}
	if r.Status != status || e.Error.Code != code || !strings.Contains(e.Error.Message, inMessage) {
		t.Errorf("got %d %s, want %d %s with %q", r.Status, r.Body, status, code, inMessage)
	}
	if id := r.Header.Get("X-Request-Id"); id == "" || id != e.Error.RequestID {
		t.Errorf("request id %q in the header, %q in the body", id, e.Error.RequestID)
	}
	if r.Header.Get("Content-Type") != "application/json" {
		t.Errorf("Content-Type %q", r.Header.Get("Content-Type"))
	}
	return e
}

// Eventually waits until condition holds.
func Eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(Hang); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("still waiting: %s", what)
		}
	}
}

// Receive waits for a value.
func Receive[T any](t *testing.T, what string, from <-chan T) T {
	t.Helper()
	select {
	case value := <-from:
		return value
	case <-time.After(Hang):
		t.Fatalf("still waiting: %s", what)
		panic("unreachable")
	}
}

// LockedBuffer is a buffer that several goroutines may use.
type LockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *LockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *LockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// Dial opens a connection that writes bytes as a test wants them.
func (g *Gateway) Dial(t *testing.T) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(g.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(Hang))
	return conn
}

// DeadAddress returns an address where nothing listens.
func DeadAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}
