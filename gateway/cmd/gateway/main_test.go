package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"example.com/predserver/gateway/internal/testkit"
	"example.com/predserver/gateway/web"
)

func TestExitCodes(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	tests := []struct {
		args   string
		code   int
		stderr string
	}{
		{"-listen " + taken.Addr().String(), 1, "is taken"},
		{"-listen 192.0.2.1:0 -expose-to-network", 1, "cannot listen"},
		{"-listen 0.0.0.0:0", 2, "-listen"},
		{"-timeout soon", 2, "-timeout"},
		{"-help", 0, ""},
	}
	for _, test := range tests {
		t.Run(test.args, func(t *testing.T) {
			var stdout, stderr strings.Builder
			code := run(t.Context(), strings.Fields(test.args), &stdout, &stderr)
			if code != test.code || !strings.Contains(stderr.String(), test.stderr) {
				t.Errorf("exit %d, %s", code, stderr.String())
			}
			if code != 0 && (strings.Count(stderr.String(), "\n") != 1 || stdout.Len() > 0) {
				t.Errorf("want one line on stderr alone, got %q and %q", stderr.String(), stdout.String())
			}
		})
	}
}

// process is a gateway of its own.
type process struct {
	*exec.Cmd
	url    string
	exited chan error
}

// startProcess runs the gateway and waits for its ready line.
func startProcess(t *testing.T, flags ...string) *process {
	t.Helper()
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{Cmd: exec.Command(executable, append([]string{"-listen", "127.0.0.1:0"}, flags...)...), exited: make(chan error, 1)}
	p.Env = append(os.Environ(), "TEST_AS_GATEWAY=1")
	stdout, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Process.Kill() })
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	var backend string
	if _, err := fmt.Sscanf(line, "gateway ready on %s (backend %s", &p.url, &backend); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	go func() { p.exited <- p.Wait() }()
	return p
}

func TestSignals(t *testing.T) {
	for _, signal := range []os.Signal{syscall.SIGTERM, syscall.SIGINT} {
		p := startProcess(t)
		p.Process.Signal(signal)
		if err := testkit.Receive(t, "the exit", p.exited); err != nil {
			t.Errorf("%v: %v", signal, err)
		}
	}
}

func TestSecondSignalEndsAtOnce(t *testing.T) {
	started := make(chan struct{})
	address, _ := testkit.StartFake(t, "127.0.0.1:0", func(ctx context.Context, _ string) (string, error) {
		close(started)
		<-ctx.Done()
		return "", ctx.Err()
	})
	p := startProcess(t, "-backend", address, "-timeout=1h", "-drain-timeout=1h")
	go http.Post(p.url+"/predict", "text/csv", strings.NewReader("x"))
	testkit.Receive(t, "the call to begin", started)
	p.Process.Signal(syscall.SIGTERM)
	testkit.Eventually(t, "no new connections", func() bool { return refused(p.url) })
	p.Process.Signal(syscall.SIGTERM)
	err := testkit.Receive(t, "the exit", p.exited)
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
		t.Errorf("got %v, want death by the second signal", err)
	}
}

// refused reports whether nothing listens at url any more.
func refused(url string) bool {
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		return true
	}
	conn.Close()
	return false
}

// stoppable is a gateway in the test's process that a test stops.
type stoppable struct {
	*testkit.Gateway
	stop func() // begins a graceful stop
	done chan error
}

// startGateway serves with the given flags, on a free port, until the test ends.
func startGateway(t *testing.T, backend string, flags ...string) *stoppable {
	t.Helper()
	return startGatewayThatWaits(t, backend, time.After, flags...)
}

// startGatewayThatWaits is startGateway with a clock of the test's for the drain delay.
func startGatewayThatWaits(t *testing.T, backend string, after func(time.Duration) <-chan time.Time, flags ...string) *stoppable {
	t.Helper()
	config, err := parseConfig(append([]string{"-listen", "127.0.0.1:0", "-backend", backend}, flags...), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	config.after = after
	client, err := config.client(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.ListenTCP("tcp", config.address)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	log := &testkit.LockedBuffer{}
	g := &stoppable{&testkit.Gateway{URL: "http://" + listener.Addr().String(), Log: log}, stop, make(chan error, 1)}
	finished := make(chan struct{})
	go func() {
		logger := config.logger(log)
		g.done <- config.serve(ctx, listener, web.New(client, config.web, logger), logger)
		close(finished)
	}()
	t.Cleanup(func() {
		client.Close() // ends the calls that a test left behind
		stop()
		<-finished
		if t.Failed() {
			t.Log("gateway's log:\n" + log.String())
		}
	})
	return g
}

// TestMain lets the test binary be the gateway, for tests that need a process.
func TestMain(m *testing.M) {
	if os.Getenv("TEST_AS_GATEWAY") != "" {
		main()
		panic("main returned")
	}
	os.Exit(m.Run())
}

func TestStopLetsRequestsFinish(t *testing.T) {
	started, release := make(chan struct{}), make(chan struct{})
	address, _ := testkit.StartFake(t, "127.0.0.1:0", func(context.Context, string) (string, error) {
		close(started)
		<-release
		return "p\n1\n", nil
	})
	g := startGateway(t, address, "-drain-timeout=1h")
	replies := make(chan testkit.Response, 1)
	go func() { replies <- g.Post(t, "x\n1\n") }()
	testkit.Receive(t, "the call to begin", started)
	g.stop()
	testkit.Eventually(t, "no new connections", func() bool { return refused(g.URL) })
	close(release)
	if r := testkit.Receive(t, "the reply", replies); r.Status != 200 || r.Body != "p\n1\n" {
		t.Errorf("got %d %q", r.Status, r.Body)
	}
	if err := testkit.Receive(t, "the end", g.done); err != nil {
		t.Error(err)
	}
}

// A balancer has time to hear of the stop, and to send its requests elsewhere, before any is refused.
func TestDrainDelay(t *testing.T) {
	address, _ := testkit.StartFake(t, "127.0.0.1:0", testkit.Echo)
	passed := make(chan time.Time)
	g := startGatewayThatWaits(t, address, func(d time.Duration) <-chan time.Time {
		if d != time.Hour {
			t.Errorf("waits for %v", d)
		}
		return passed
	}, "-drain-delay=1h")
	ready := func() testkit.Response { return g.Do(t, "GET", "/readyz", nil) }
	testkit.Eventually(t, "200", func() bool { return ready().Status == 200 })
	g.stop()
	testkit.Eventually(t, "503", func() bool { return ready().Status == 503 })
	testkit.WantError(t, ready(), 503, "UNAVAILABLE", "about to stop")
	for range 3 {
		if r := g.Post(t, "x\n1\n"); r.Status != 200 || r.Body != "x\n1\n" || !r.Close {
			t.Errorf("got %d %q, the connection is kept: %v", r.Status, r.Body, !r.Close)
		}
	}
	close(passed)
	if err := testkit.Receive(t, "the end", g.done); err != nil || !refused(g.URL) {
		t.Errorf("after the delay: %v", err)
	}
}

func TestStopIsBounded(t *testing.T) {
	started := make(chan struct{})
	address, _ := testkit.StartFake(t, "127.0.0.1:0", func(ctx context.Context, _ string) (string, error) {
		close(started)
		<-ctx.Done()
		return "", ctx.Err()
	})
	g := startGateway(t, address, "-drain-timeout=50ms", "-timeout=1h")
	go http.Post(g.URL+"/predict", "text/csv", strings.NewReader("x"))
	testkit.Receive(t, "the call to begin", started)
	g.stop()
	if err := testkit.Receive(t, "the end", g.done); err != nil {
		t.Error(err)
	}
	if !strings.Contains(g.Log.String(), "cut off") {
		t.Errorf("log: %s", g.Log)
	}
}

// Hundreds of clients that send a byte now and then are dropped, and others are answered all the while.
func TestSlowClientsDoNotStopOthers(t *testing.T) {
	const clients = 500
	address, _ := testkit.StartFake(t, "127.0.0.1:0", testkit.Echo)
	g := startGateway(t, address, "-header-timeout=1s")
	var slow sync.WaitGroup
	for range clients {
		conn := g.Dial(t)
		dropped := make(chan struct{})
		slow.Go(func() {
			defer close(dropped)
			if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("a slow client was not dropped: %v", err)
			}
		})
		slow.Go(func() {
			io.WriteString(conn, "POST /predict HTTP/1.1\r\nA: ")
			for tick := time.NewTicker(100 * time.Millisecond); ; {
				select {
				case <-dropped:
					tick.Stop()
					return
				case <-tick.C:
					io.WriteString(conn, "x")
				}
			}
		})
	}
	allDropped := make(chan struct{})
	go func() { slow.Wait(); close(allDropped) }()
	for answered := 0; ; answered++ {
		if r := g.Post(t, "x\n1\n"); r.Status != 200 {
			t.Fatalf("got %d %s", r.Status, r.Body)
		}
		select {
		case <-allDropped:
			if answered == 0 {
				t.Error("nobody was answered meanwhile")
			}
			return
		default:
		}
	}
}
