package testkit

import (
	"context"
	"net"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"example.com/predserver/generated/predpb"
)

// modelServer is a FakeServer that describes models, the first of which answers calls that name none.
type modelServer struct {
	FakeServer
	models []*predpb.DescribeResponse
}

func (m modelServer) Describe(ctx context.Context, _ *predpb.DescribeRequest) (*predpb.DescribeResponse, error) {
	name, version := Incoming(ctx, "model-name"), Incoming(ctx, "model-version")
	for _, model := range m.models {
		if (name == "" || name == model.Name) && (version == "" || version == model.Version) {
			grpc.SetTrailer(ctx, metadata.Pairs("model-identity", "some/"+model.Version+"/5c4e3a/d16e57"))
			return model, nil
		}
	}
	return nil, status.Errorf(codes.NotFound, "no model %q here", name)
}

// StartModels serves models that answer like a, on a free port, until the test ends or kill is called.
func StartModels(t *testing.T, a Answer, models ...*predpb.DescribeResponse) (address string, kill func()) {
	t.Helper()
	return StartModelsAt(t, "127.0.0.1:0", a, models...)
}

// StartModelsAt is StartModels on an address.
func StartModelsAt(t *testing.T, address string, a Answer, models ...*predpb.DescribeResponse) (listening string, kill func()) {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, model := range models {
		all = append(all, model.Name+"/"+model.Version)
	}
	for _, model := range models {
		model.Models = all
	}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(1 << 30))
	predpb.RegisterPredictionServer(server, modelServer{FakeServer{Answer: a}, models})
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	return listener.Addr().String(), server.Stop
}
