package pred_test

import (
	"context"
	"errors"
	"iter"
	"slices"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"example.com/predserver/gateway/internal/testkit"
	"example.com/predserver/gateway/pred"
	"example.com/predserver/generated/predpb"
)

// counted is a table of the numbers from 0 on.
func counted(rows int) pred.Table {
	x := make([]float64, rows)
	for i := range x {
		x[i] = float64(i)
	}
	return pred.Table{pred.NewColumn("x", x), pred.NewColumn("n", make([]int64, rows))}
}

// collect ranges over a stream.
func collect(stream *pred.Stream) (all []float64, err error) {
	for predictions, err := range stream.All() {
		if err != nil {
			return all, err
		}
		values, err := predictions.Float64s()
		if err != nil {
			return all, err
		}
		all = append(all, values...)
	}
	return all, nil
}

func TestStream(t *testing.T) {
	address, _ := start(t, "127.0.0.1:0", fake{predict: func(ctx context.Context, request *predpb.Request) (*predpb.Response, error) {
		grpc.SetHeader(ctx, metadata.Pairs("ignored-columns", "n"))
		grpc.SetTrailer(ctx, metadata.Pairs("server-timing", "predict;dur=3"))
		return firstColumn(ctx, request)
	}})
	client := connect(t, address)
	want, _ := counted(10_000)[0].Float64s()
	for _, rows := range []int{1, 7, 10_000, 1_000_000} {
		stream := client.PredictStream(t.Context(), counted(10_000).Chunks(rows))
		got, err := collect(stream)
		if err != nil || !slices.Equal(got, want) || stream.Timings().Predict == 0 {
			t.Errorf("%d rows in a chunk: %d predictions, %v", rows, len(got), err)
		}
		if _, err := collect(stream); err == nil {
			t.Error("a stream was ranged over twice")
		}
	}
	for predictions, err := range client.PredictStream(t.Context(), counted(3).Chunks(2)).All() {
		if err != nil || !slices.Equal(predictions.IgnoredColumns, []string{"n"}) {
			t.Errorf("got %+v, %v", predictions, err)
		}
	}
	if _, err := collect(client.PredictStream(t.Context(), counted(3).Chunks(0))); err == nil {
		t.Error("chunks without rows were taken")
	}
}

// Chunks that are not answered are few, however many there are to be drawn.
func TestStreamWaitsForTheServer(t *testing.T) {
	const window = 8
	drawn, answer := make(chan int, 1_000), make(chan struct{})
	address, _ := start(t, "127.0.0.1:0", fake{stream: func(stream serverStream) error {
		<-answer
		return fake{predict: firstColumn}.PredictStream(stream)
	}})
	endless := func(yield func(pred.Table, error) bool) {
		for i := 0; ; i++ {
			drawn <- i
			if !yield(counted(1), nil) {
				return
			}
		}
	}
	first := make(chan struct{})
	done := make(chan int)
	go func() {
		n := 0
		for _, err := range connect(t, address).PredictStream(t.Context(), endless).All() {
			if err != nil {
				t.Error(err)
			}
			if n++; n == 1 {
				close(first)
			}
			if n == 100 {
				break // no more are wanted, and the iteration over the chunks ends
			}
		}
		done <- n
	}()
	for range window + 1 {
		testkit.Receive(t, "a chunk to be drawn", drawn)
	}
	if len(drawn) > 0 {
		t.Errorf("%d chunks were drawn beyond the window", len(drawn))
	}
	close(answer)
	testkit.Receive(t, "the first predictions", first)
	if n := testkit.Receive(t, "the end", done); n != 100 {
		t.Errorf("got %d", n)
	}
}

func TestStreamsThatFail(t *testing.T) {
	errOdd := errors.New("odd")
	withError := func(yield func(pred.Table, error) bool) {
		if yield(counted(1), nil) {
			yield(nil, errOdd)
		}
	}
	var endless iter.Seq2[pred.Table, error] = func(yield func(pred.Table, error) bool) {
		for yield(counted(1), nil) {
		}
	}
	send := func(rows int, stream serverStream) error {
		return stream.Send(&predpb.Response{Columns: &predpb.Columns{Columns: []*predpb.Column{{Name: "p", Float64: make([]float64, rows)}}}})
	}
	tests := []struct {
		name   string
		stream func(stream serverStream) error
		chunks iter.Seq2[pred.Table, error]
		code   codes.Code
	}{
		{"an error among the chunks", nil, withError, codes.Unknown},
		{"an error of the server's", func(serverStream) error { return status.Error(codes.InvalidArgument, "no") }, endless, codes.InvalidArgument},
		{"no answers", func(serverStream) error { return nil }, endless, codes.Internal},
		{"an answer too many", func(stream serverStream) error {
			stream.Recv()
			send(1, stream)
			return send(1, stream)
		}, counted(1).Chunks(1), codes.Internal},
		{"an answer too few", func(stream serverStream) error {
			stream.Recv()
			return send(1, stream)
		}, counted(2).Chunks(1), codes.Internal},
		{"an answer too long", func(stream serverStream) error {
			stream.Recv()
			return send(2, stream)
		}, counted(1).Chunks(1), codes.Internal},
		{"no streams", func(serverStream) error { return status.Error(codes.Unimplemented, "unknown method") }, endless, codes.Unimplemented},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			address, _ := start(t, "127.0.0.1:0", fake{predict: firstColumn, stream: test.stream})
			_, err := collect(connect(t, address).PredictStream(t.Context(), test.chunks))
			if status.Code(err) != test.code || (test.name == "an error among the chunks") != errors.Is(err, errOdd) {
				t.Errorf("got %v", err)
			}
		})
	}
	t.Run("cancelled", func(t *testing.T) {
		address, _ := start(t, "127.0.0.1:0", fake{stream: func(stream serverStream) error {
			<-stream.Context().Done()
			return nil
		}})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := collect(connect(t, address).PredictStream(ctx, endless)); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}
