package web

import (
	"context"
	"net"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"example.com/predserver/gateway/internal/testkit"
)

func TestServerThatIsNotThere(t *testing.T) {
	g := startGateway(t, testkit.DeadAddress(t), "-timeout=1h")
	for range 3 {
		testkit.WantError(t, g.Post(t, "x\n1\n"), 503, "UNAVAILABLE", "cannot be reached")
		testkit.WantError(t, g.Do(t, "GET", "/readyz", nil), 503, "UNAVAILABLE", "cannot be reached")
	}
	if r := g.Do(t, "GET", "/healthz", nil); r.Status != 200 {
		t.Errorf("healthz: got %d", r.Status)
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
	testkit.WantError(t, g.Do(t, "GET", "/readyz", nil), 503, "UNAVAILABLE", "")
	testkit.WantError(t, g.Post(t, "x\n1\n"), 504, "DEADLINE_EXCEEDED", "")
}

func TestServerThatComesBack(t *testing.T) {
	address, kill := testkit.StartFake(t, "127.0.0.1:0", testkit.Echo)
	g := startGateway(t, address, "-connections=2", "-timeout=1h")
	status := func() int { return g.Post(t, "x\n1\n").Status }
	ready := func() int { return g.Do(t, "GET", "/readyz", nil).Status }
	testkit.Eventually(t, "200", func() bool { return status() == 200 && ready() == 200 })

	for range 2 {
		kill()
		testkit.Eventually(t, "503", func() bool { return status() == 503 })
		for range 20 {
			if got := status(); got != 503 {
				t.Fatalf("got %d while the server is dead", got)
			}
		}
		if got := ready(); got != 503 {
			t.Errorf("readyz: got %d while the server is dead", got)
		}
		_, kill = testkit.StartFake(t, address, testkit.Echo)
		testkit.Eventually(t, "200", func() bool { return status() == 200 })
		testkit.Eventually(t, "ready", func() bool { return ready() == 200 })
	}
}

// A call that the server's death interrupts fails, and does not testkit.Hang.
func TestServerThatDiesDuringACall(t *testing.T) {
	started := make(chan struct{})
	address, kill := testkit.StartFake(t, "127.0.0.1:0", func(ctx context.Context, _ string) (string, error) {
		close(started)
		<-ctx.Done()
		return "", ctx.Err()
	})
	g := startGateway(t, address, "-timeout=1h")
	replies := make(chan testkit.Response, 1)
	go func() { replies <- g.Post(t, "x\n1\n") }()
	testkit.Receive(t, "the call to begin", started)
	kill()
	testkit.WantError(t, testkit.Receive(t, "the reply", replies), 503, "UNAVAILABLE", "")
}

// fakeHealth is a health service whose answers a test chooses.
type fakeHealth struct {
	grpc_health_v1.UnimplementedHealthServer
	check func(ctx context.Context) (*grpc_health_v1.HealthCheckResponse, error)
}

func (f fakeHealth) Check(ctx context.Context, _ *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	return f.check(ctx)
}

func TestReadyAsksForTheServersHealth(t *testing.T) {
	says := func(s grpc_health_v1.HealthCheckResponse_ServingStatus) *grpc_health_v1.HealthCheckResponse {
		return &grpc_health_v1.HealthCheckResponse{Status: s}
	}
	tests := []struct {
		name      string
		health    *grpc_health_v1.HealthCheckResponse
		err       error
		status    int
		inMessage string
	}{
		{"serves", says(grpc_health_v1.HealthCheckResponse_SERVING), nil, 200, ""},
		{"has no health service", nil, status.Error(codes.Unimplemented, "unknown method"), 200, ""},
		{"drains", says(grpc_health_v1.HealthCheckResponse_NOT_SERVING), nil, 503, "or stopping"},
		{"does not know", says(grpc_health_v1.HealthCheckResponse_UNKNOWN), nil, 503, "or stopping"},
		{"knows nothing of itself", nil, status.Error(codes.NotFound, "unknown service"), 503, "cannot be reached"},
		{"fails", nil, status.Error(codes.Internal, "secret"), 503, "cannot be reached"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			health := fakeHealth{check: func(context.Context) (*grpc_health_v1.HealthCheckResponse, error) { return test.health, test.err }}
			address, _ := testkit.StartFake(t, "127.0.0.1:0", testkit.Echo, func(s *grpc.Server) { grpc_health_v1.RegisterHealthServer(s, health) })
			g := startGateway(t, address, "-connections=2")
			r := g.Do(t, "GET", "/readyz", nil)
			if test.status == 200 {
				if r.Status != 200 {
					t.Errorf("got %d %s", r.Status, r.Body)
				}
				return
			}
			testkit.WantError(t, r, test.status, "UNAVAILABLE", test.inMessage)
			if r := g.Post(t, "x\n1\n"); r.Status != 200 {
				t.Errorf("a table that the server takes all the same: got %d %s", r.Status, r.Body)
			}
		})
	}
}

func TestHealthThatDoesNotAnswer(t *testing.T) {
	health := fakeHealth{check: func(ctx context.Context) (*grpc_health_v1.HealthCheckResponse, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	address, _ := testkit.StartFake(t, "127.0.0.1:0", testkit.Echo, func(s *grpc.Server) { grpc_health_v1.RegisterHealthServer(s, health) })
	g := startGateway(t, address, "-ready-timeout=100ms")
	testkit.WantError(t, g.Do(t, "GET", "/readyz", nil), 503, "UNAVAILABLE", "cannot be reached")
}
