package pred_test

import (
	"context"
	"io"
	"net"
	"testing"

	"google.golang.org/grpc"

	"example.com/predserver/gateway/pred"
	"example.com/predserver/generated/predpb"
)

type serverStream = grpc.BidiStreamingServer[predpb.Request, predpb.Response]

// fake is a prediction server whose answers a test chooses.
type fake struct {
	predpb.UnimplementedPredictionServer
	predict func(ctx context.Context, request *predpb.Request) (*predpb.Response, error)
	stream  func(stream serverStream) error
}

func (f fake) Predict(ctx context.Context, request *predpb.Request) (*predpb.Response, error) {
	return f.predict(ctx, request)
}

func (f fake) PredictStream(stream serverStream) error {
	if f.stream != nil {
		return f.stream(stream)
	}
	for {
		request, err := stream.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		response, err := f.predict(stream.Context(), request)
		if err != nil {
			return err
		}
		if err := stream.Send(response); err != nil {
			return err
		}
	}
}

func (f fake) Describe(context.Context, *predpb.DescribeRequest) (*predpb.DescribeResponse, error) {
	return &predpb.DescribeResponse{Name: "fake"}, nil
}

// start serves on address, beside what others register, until the test ends or kill is called.
func start(t *testing.T, address string, f fake, others ...func(*grpc.Server)) (listening string, kill func()) {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(1 << 30))
	predpb.RegisterPredictionServer(server, f)
	for _, register := range others {
		register(server)
	}
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	return listener.Addr().String(), server.Stop
}

// connect returns a client that the test's end closes.
func connect(t *testing.T, target string, opts ...pred.Option) *pred.Client {
	t.Helper()
	client, err := pred.New(target, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// echo answers with the table that came.
func echo(_ context.Context, request *predpb.Request) (*predpb.Response, error) {
	return &predpb.Response{Tensor: request.Tensor, Columns: request.Columns, Result: request.InputData}, nil
}

// firstColumn answers with the first column of a table that came as columns, or as a tensor of float64.
func firstColumn(_ context.Context, request *predpb.Request) (*predpb.Response, error) {
	if tensor := request.Tensor; tensor != nil {
		return &predpb.Response{Tensor: &predpb.Tensor{
			Dtype: tensor.Dtype, Names: tensor.Names[:1], Shape: []int64{tensor.Shape[0], 1}, Data: tensor.Data[:8*tensor.Shape[0]],
		}}, nil
	}
	return &predpb.Response{Columns: &predpb.Columns{Columns: request.Columns.Columns[:1]}}, nil
}
