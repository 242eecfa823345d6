package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"example.com/predserver/gateway/internal/testkit"
	"example.com/predserver/generated/predpb"
)

// replaceable is a prediction server that a test has stop as the project's does: its health turns, and then it refuses new
// calls, while what is in flight goes on and keeps the connection.
type replaceable struct {
	predpb.UnimplementedPredictionServer
	address  string
	health   *health.Server
	draining atomic.Bool
}

func startReplaceable(t *testing.T) *replaceable {
	r := &replaceable{health: health.NewServer()}
	server := grpc.NewServer()
	predpb.RegisterPredictionServer(server, r)
	grpc_health_v1.RegisterHealthServer(server, r.health)
	r.address = testkit.Serve(t, server)
	return r
}

func (r *replaceable) refusal() error {
	if r.draining.Load() {
		return status.Error(codes.Unavailable, "the server is stopping")
	}
	return nil
}

func (r *replaceable) Predict(_ context.Context, request *predpb.Request) (*predpb.Response, error) {
	return &predpb.Response{Result: request.InputData}, r.refusal()
}

func (r *replaceable) PredictStream(stream grpc.BidiStreamingServer[predpb.Request, predpb.Response]) error {
	if err := r.refusal(); err != nil {
		return err
	}
	for {
		request, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.Send(&predpb.Response{Result: request.InputData}); err != nil {
			return err
		}
	}
}

// Servers are replaced one after the other while streams are open, as one address and as two. Nobody notices.
func TestServersAreReplacedAndNobodyNotices(t *testing.T) {
	rows := "x\n" + strings.Repeat("123456789\n", 100)
	for _, addresses := range []int{1, 2} {
		t.Run(fmt.Sprint(addresses, " addresses"), func(t *testing.T) {
			servers, forwarders, backend := []*replaceable{}, []*testkit.Forwarder{}, []string{}
			for range addresses {
				server := startReplaceable(t)
				servers = append(servers, server)
				forwarders = append(forwarders, testkit.StartForwarder(t, server.address))
				backend = append(backend, forwarders[len(forwarders)-1].Address)
			}
			g := startGateway(t, strings.Join(backend, ","), "-chunk-bytes=100", "-stall-timeout=1h")
			for round := range 6 {
				// An upload that is under way for as long as the replacement takes.
				body, upload := io.Pipe()
				ended := make(chan error, 1)
				begun := make(chan struct{})
				go func() {
					reply, err := http.Post(g.URL+"/predict", "text/csv", body)
					if err == nil {
						close(begun)
						var text []byte
						if text, err = io.ReadAll(reply.Body); err == nil && (reply.StatusCode != 200 || string(text) != rows+"1\n") {
							err = fmt.Errorf("%d and %d bytes", reply.StatusCode, len(text))
						}
						reply.Body.Close()
					}
					ended <- err
				}()
				io.WriteString(upload, rows)
				testkit.Receive(t, "the stream to begin", begun)

				at := round % addresses
				old := servers[at]
				servers[at] = startReplaceable(t)
				forwarders[at].Lead(servers[at].address)
				old.health.SetServingStatus("", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
				old.draining.Store(true)
				for call := range 20 {
					table := "x\n1\n"
					if call%2 == 1 {
						table = rows
					}
					if r := g.Post(t, table); r.Status != 200 || r.Body != table {
						t.Fatalf("round %d, call %d: got %d %.200s", round, call, r.Status, r.Body)
					}
				}
				if r := g.Do(t, "GET", "/readyz", nil); r.Status != 200 {
					t.Errorf("round %d: not ready: %s", round, r.Body)
				}
				io.WriteString(upload, "1\n")
				upload.Close()
				if err := testkit.Receive(t, "the end of the stream", ended); err != nil {
					t.Errorf("round %d: the stream that was open: %v", round, err)
				}
			}
		})
	}
}
