package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"example.com/predserver/gateway/pred"
	"example.com/predserver/generated/predpb"
)

// server answers every table with its first column, or with an error.
type server struct {
	predpb.UnimplementedPredictionServer
	err error
}

func (s server) Predict(_ context.Context, request *predpb.Request) (*predpb.Response, error) {
	if s.err != nil {
		return nil, s.err
	}
	tensor := request.Tensor
	return &predpb.Response{Tensor: &predpb.Tensor{
		Dtype: tensor.Dtype, Shape: []int64{tensor.Shape[0], 1}, Names: tensor.Names[:1], Data: tensor.Data[:8*tensor.Shape[0]],
	}}, nil
}

func TestPredict(t *testing.T) {
	const table, list = `[{"x": 1.5, "y": 2}, {"x": -3, "y": 4}]`, "[1.5,-3]\n"
	tests := []struct {
		name   string
		body   string
		err    error
		status int
		text   string
	}{
		{"predictions", table, nil, 200, list},
		{"no JSON", "x,y\n1,2\n", nil, 400, "send a list"},
		{"too much", "[" + strings.Repeat(" ", 2<<20) + "]", nil, 400, "1 MiB"},
		{"a bad value", table, status.Error(codes.InvalidArgument, "x: has no value"), 400, "x: has no value"},
		{"too large", table, status.Error(codes.ResourceExhausted, "message larger than max"), 413, "larger"},
		{"overloaded", table, status.Error(codes.ResourceExhausted, "secret"), 503, "try again"},
		{"slow", table, status.Error(codes.DeadlineExceeded, "secret"), 504, "too long"},
		{"a fault", table, status.Error(codes.Internal, "secret"), 502, "failed"},
		{"refused", table, status.Error(codes.Unauthenticated, "secret"), 502, "failed"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			backend := grpc.NewServer()
			predpb.RegisterPredictionServer(backend, server{err: test.err})
			go backend.Serve(listener)
			defer backend.Stop()
			client, err := pred.New(listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			web := httptest.NewServer(predict(client))
			defer web.Close()

			reply, err := http.Post(web.URL, "application/json", strings.NewReader(test.body))
			if err != nil {
				t.Fatal(err)
			}
			defer reply.Body.Close()
			text, err := io.ReadAll(reply.Body)
			if err != nil || reply.StatusCode != test.status || !strings.Contains(string(text), test.text) || strings.Contains(string(text), "secret") {
				t.Errorf("got %d %s, %v; want %d with %q", reply.StatusCode, text, err, test.status, test.text)
			}
		})
	}
}
