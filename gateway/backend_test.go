package main

import (
	"context"
	"net"
	"testing"
)

// deadAddress returns an address where nothing listens.
func deadAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

func TestServerThatIsNotThere(t *testing.T) {
	g := startGateway(t, deadAddress(t), "-timeout=1h")
	for range 3 {
		wantError(t, g.post(t, "x\n1\n"), 503, "UNAVAILABLE", "cannot be reached")
		wantError(t, g.do(t, "GET", "/readyz", nil), 503, "UNAVAILABLE", "cannot be reached")
	}
	if r := g.do(t, "GET", "/healthz", nil); r.status != 200 {
		t.Errorf("healthz: got %d", r.status)
	}
}

// A listener that accepts and says nothing: a connection that is never made.
func TestServerThatDoesNotSpeak(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	g := startGateway(t, listener.Addr().String(), "-timeout=100ms", "-ready-timeout=100ms")
	wantError(t, g.do(t, "GET", "/readyz", nil), 503, "UNAVAILABLE", "")
	wantError(t, g.post(t, "x\n1\n"), 504, "DEADLINE_EXCEEDED", "")
}

func TestServerThatComesBack(t *testing.T) {
	address, kill := startFake(t, "127.0.0.1:0", echo)
	g := startGateway(t, address, "-connections=2", "-timeout=1h")
	status := func() int { return g.post(t, "x\n1\n").status }
	ready := func() int { return g.do(t, "GET", "/readyz", nil).status }
	eventually(t, "200", func() bool { return status() == 200 && ready() == 200 })

	for range 2 {
		kill()
		eventually(t, "503", func() bool { return status() == 503 })
		for range 20 {
			if got := status(); got != 503 {
				t.Fatalf("got %d while the server is dead", got)
			}
		}
		if got := ready(); got != 503 {
			t.Errorf("readyz: got %d while the server is dead", got)
		}
		_, kill = startFake(t, address, echo)
		eventually(t, "200", func() bool { return status() == 200 })
		eventually(t, "ready", func() bool { return ready() == 200 })
	}
}

// A call that the server's death interrupts fails, and does not hang.
func TestServerThatDiesDuringACall(t *testing.T) {
	started := make(chan struct{})
	address, kill := startFake(t, "127.0.0.1:0", func(ctx context.Context, _ string) (string, error) {
		close(started)
		<-ctx.Done()
		return "", ctx.Err()
	})
	g := startGateway(t, address, "-timeout=1h")
	replies := make(chan response, 1)
	go func() { replies <- g.post(t, "x\n1\n") }()
	receive(t, "the call to begin", started)
	kill()
	wantError(t, receive(t, "the reply", replies), 503, "UNAVAILABLE", "")
}
