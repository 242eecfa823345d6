package pred_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"example.com/predserver/gateway/internal/testkit"
	"example.com/predserver/gateway/pred"
	"example.com/predserver/generated/predpb"
)

// drainable is a server that can be told to stop as the project's does, without a GOAWAY: its health is NOT_SERVING, new
// calls are refused, open streams go on.
type drainable struct {
	address  string
	health   *health.Server
	draining atomic.Bool
	calls    atomic.Int64
}

func startDrainable(t *testing.T) *drainable {
	d := &drainable{health: health.NewServer()}
	d.address, _ = start(t, "127.0.0.1:0", fake{
		predict: func(ctx context.Context, request *predpb.Request) (*predpb.Response, error) {
			if d.draining.Load() {
				return nil, status.Error(codes.Unavailable, "the server is stopping")
			}
			d.calls.Add(1)
			return firstColumn(ctx, request)
		},
		stream: func(stream serverStream) error {
			if d.draining.Load() {
				return status.Error(codes.Unavailable, "the server is stopping")
			}
			return fake{predict: firstColumn}.PredictStream(stream)
		},
	}, func(s *grpc.Server) { grpc_health_v1.RegisterHealthServer(s, d.health) })
	return d
}

func (d *drainable) drain() {
	d.health.SetServingStatus("", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	d.draining.Store(true)
}

// openStream begins a stream whose chunks the test sends. The reply to the first has come.
func openStream(t *testing.T, client *pred.Client) (chunks chan<- pred.Table, done <-chan error) {
	t.Helper()
	tables, ended, answered := make(chan pred.Table), make(chan error, 1), make(chan struct{}, 100)
	go func() {
		var last error
		for _, err := range client.PredictStream(t.Context(), func(yield func(pred.Table, error) bool) {
			for table := range tables {
				if !yield(table, nil) {
					return
				}
			}
		}).All() {
			last = err
			answered <- struct{}{}
		}
		ended <- last
	}()
	tables <- oneRow
	testkit.Receive(t, "the first answer", answered)
	return tables, ended
}

// A stream that is open keeps the connection to a server that stops; calls go to its successor all the same, and none
// fails.
func TestServerThatStopsBehindAForwarder(t *testing.T) {
	for range 5 {
		first, second := startDrainable(t), startDrainable(t)
		forwarder := testkit.StartForwarder(t, first.address)
		client := connect(t, forwarder.Address)
		chunks, done := openStream(t, client)

		forwarder.Lead(second.address)
		if _, err := client.Predict(t.Context(), oneRow); err != nil || first.calls.Load() != 1 {
			t.Fatalf("the first server serves, and is left: %v", err)
		}
		first.drain()
		for range 20 {
			if _, err := client.Predict(t.Context(), oneRow); err != nil {
				t.Fatalf("a call: %v", err)
			}
			for _, err := range client.PredictStream(t.Context(), oneRow.Chunks(1)).All() {
				if err != nil {
					t.Fatalf("a stream: %v", err)
				}
			}
		}
		if err := client.Ready(t.Context()); err != nil || second.calls.Load() != 20 {
			t.Errorf("not ready: %v; %d calls went to the second server", err, second.calls.Load())
		}
		chunks <- oneRow
		close(chunks)
		if err := testkit.Receive(t, "the end of the stream", done); err != nil {
			t.Errorf("the stream that was open: %v", err)
		}
	}
}

// secretive is a health service that asks for what the client does not have.
type secretive struct {
	grpc_health_v1.UnimplementedHealthServer
}

func (secretive) Watch(*grpc_health_v1.HealthCheckRequest, grpc.ServerStreamingServer[grpc_health_v1.HealthCheckResponse]) error {
	return status.Error(codes.Unauthenticated, "this server asks for a token")
}

// Of servers that do not tell their health, calls learn why at once.
func TestServersThatKeepTheirHealthToThemselves(t *testing.T) {
	var addresses []string
	for range 2 {
		address, _ := start(t, "127.0.0.1:0", fake{predict: firstColumn},
			func(s *grpc.Server) { grpc_health_v1.RegisterHealthServer(s, secretive{}) })
		addresses = append(addresses, address)
	}
	client := connect(t, strings.Join(addresses, ","))
	if _, err := client.Predict(t.Context(), oneRow); err != nil {
		t.Errorf("got %v", err)
	}
}

// A server that stops, and has no successor yet, is asked on; one that serves again is kept.
func TestServerThatStopsAlone(t *testing.T) {
	d := startDrainable(t)
	client := connect(t, d.address, pred.WithRetries(0))
	d.health.SetServingStatus("", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	testkit.Eventually(t, "not ready", func() bool { return errors.Is(client.Ready(t.Context()), pred.ErrNotServing) })
	for range 10 {
		if _, err := client.Predict(t.Context(), oneRow); err != nil {
			t.Fatal(err)
		}
	}
	d.health.SetServingStatus("", grpc_health_v1.HealthCheckResponse_SERVING)
	testkit.Eventually(t, "ready", func() bool { return client.Ready(t.Context()) == nil })
	if _, err := client.Predict(t.Context(), oneRow); err != nil {
		t.Fatal(err)
	}
}

// The same with a list of servers, of which one stops.
func TestServerThatStopsBesideAnother(t *testing.T) {
	for range 5 {
		first, second := startDrainable(t), startDrainable(t)
		client := connect(t, first.address+","+second.address)
		chunks, done := openStream(t, client)
		first.drain()
		for range 20 {
			if _, err := client.Predict(t.Context(), oneRow); err != nil {
				t.Fatalf("a call: %v", err)
			}
		}
		close(chunks)
		if err := testkit.Receive(t, "the end of the stream", done); err != nil {
			t.Errorf("the stream that was open: %v", err)
		}
	}
}
