package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"predserver/generated/predpb"
)

// hang is how long a test waits for what should happen at once.
const hang = 20 * time.Second

// answer is what a fake prediction server does with a request.
type answer func(ctx context.Context, table string) (string, error)

// fakeServer is a prediction server whose answers a test chooses.
type fakeServer struct {
	predpb.UnimplementedPredictionServer
	answer answer
}

func (f fakeServer) Predict(ctx context.Context, request *predpb.Request) (*predpb.Response, error) {
	result, err := f.answer(ctx, request.InputData)
	if err != nil {
		return nil, err
	}
	return &predpb.Response{Result: result}, nil
}

// startFake serves a on address, beside what others register, until the test ends or kill is called.
func startFake(t *testing.T, address string, a answer, others ...func(*grpc.Server)) (listening string, kill func()) {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	fake := grpc.NewServer(grpc.MaxRecvMsgSize(1 << 30))
	predpb.RegisterPredictionServer(fake, fakeServer{answer: a})
	for _, register := range others {
		register(fake)
	}
	go fake.Serve(listener)
	t.Cleanup(fake.Stop)
	return listener.Addr().String(), fake.Stop
}

// constant answers every request with the same text.
func constant(result string) answer {
	return func(context.Context, string) (string, error) { return result, nil }
}

// failing answers every request with the same error.
func failing(err error) answer {
	return func(context.Context, string) (string, error) { return "", err }
}

// echo answers with the table that came.
func echo(_ context.Context, table string) (string, error) { return table, nil }

// incoming returns the metadata value that came with a call.
func incoming(ctx context.Context, key string) string {
	md, _ := metadata.FromIncomingContext(ctx)
	return strings.Join(md.Get(key), "|")
}

// testGateway is a gateway that runs in the test's process.
type testGateway struct {
	url  string
	log  *lockedBuffer
	stop func() // begins a graceful stop
	done chan error
}

// startGateway serves with the given flags, on a free port, until the test ends.
func startGateway(t *testing.T, backendAddress string, flags ...string) *testGateway {
	t.Helper()
	config, err := parseConfig(append([]string{"-listen", "127.0.0.1:0", "-backend", backendAddress}, flags...), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	backend, err := newBackend(config)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.ListenTCP("tcp", config.address)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	g := &testGateway{url: "http://" + listener.Addr().String(), log: &lockedBuffer{}, stop: stop, done: make(chan error, 1)}
	finished := make(chan struct{})
	go func() {
		g.done <- serve(ctx, listener, newServer(config, backend, config.logger(g.log)))
		close(finished)
	}()
	t.Cleanup(func() {
		backend.close() // ends the calls that a test left behind
		stop()
		<-finished
		if t.Failed() {
			t.Log("gateway's log:\n" + g.log.String())
		}
	})
	return g
}

// response is a whole HTTP reply.
type response struct {
	status int
	header http.Header
	body   string
}

// post sends a body to /predict. Headers are given as "Name: value".
func (g *testGateway) post(t *testing.T, body string, headers ...string) response {
	t.Helper()
	return g.do(t, "POST", "/predict", strings.NewReader(body), headers...)
}

func (g *testGateway) do(t *testing.T, method, path string, body io.Reader, headers ...string) response {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), hang)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, g.url+path, body)
	if err != nil {
		t.Fatal(err)
	}
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		request.Header.Set(name, value)
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
	return response{reply.StatusCode, reply.Header, string(text)}
}

// errorBody is the JSON of every error.
type errorBody struct {
	Error struct {
		Code       string      `json:"code"`
		Message    string      `json:"message"`
		RequestID  string      `json:"request_id"`
		Violations []violation `json:"violations"`
	} `json:"error"`
}

// wantError checks a reply that is an error, and returns its body.
func wantError(t *testing.T, r response, status int, code, inMessage string) errorBody {
	t.Helper()
	var e errorBody
	if err := json.Unmarshal([]byte(r.body), &e); err != nil {
		t.Fatalf("status %d, body %q is no JSON error: %v", r.status, r.body, err)
	}
	if r.status != status || e.Error.Code != code || !strings.Contains(e.Error.Message, inMessage) {
		t.Errorf("got %d %s, want %d %s with %q", r.status, r.body, status, code, inMessage)
	}
	if id := r.header.Get("X-Request-Id"); id == "" || id != e.Error.RequestID {
		t.Errorf("request id %q in the header, %q in the body", id, e.Error.RequestID)
	}
	if r.header.Get("Content-Type") != "application/json" {
		t.Errorf("Content-Type %q", r.header.Get("Content-Type"))
	}
	return e
}

// eventually waits until condition holds.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(hang); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("still waiting: %s", what)
		}
	}
}

// receive waits for a value.
func receive[T any](t *testing.T, what string, from <-chan T) T {
	t.Helper()
	select {
	case value := <-from:
		return value
	case <-time.After(hang):
		t.Fatalf("still waiting: %s", what)
		panic("unreachable")
	}
}

// lockedBuffer is a buffer that several goroutines may use.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// TestMain lets the test binary be the gateway, for tests that need a process.
func TestMain(m *testing.M) {
	if os.Getenv("TEST_AS_GATEWAY") != "" {
		main()
		panic(fmt.Sprint("main returned"))
	}
	os.Exit(m.Run())
}
