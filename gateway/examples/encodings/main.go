// Command encodings asks a Prediction server for the predictions of one table in every encoding, in one message and as a
// stream of chunks, and checks that all ways lead to the same bits. The encodings themselves are in encodings.go.
//
//	encodings -chunk-rows 100 table.csv
//
// It prints CSV, with the bits of each prediction beside it, and on standard error a line for each way. The exit code is
// 1 if ways differ.
package main

import (
	"context"
	"encoding/csv"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"example.com/predserver/generated/predpb"
)

func main() {
	address := flag.String("address", "127.0.0.1:50051", "address of the Prediction server")
	model := flag.String("model", "", "name of the model; without it the server's first answers")
	chunkRows := flag.Int("chunk-rows", 1000, "rows in a chunk of a stream")
	timeout := flag.Duration("timeout", time.Minute, "how long all calls may take together")
	flag.Parse()

	ctx, cancel := context.WithTimeout(context.Background(), *timeout)
	defer cancel()
	if *model != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "model-name", *model)
	}
	if err := run(ctx, *address, *chunkRows, flag.Arg(0)); err != nil {
		fmt.Fprintln(os.Stderr, "encodings:", err)
		os.Exit(1)
	}
}

// run prints the predictions for the table in the named file.
func run(ctx context.Context, address string, chunkRows int, name string) error {
	if chunkRows < 1 {
		return fmt.Errorf("-chunk-rows must be 1 or more (got %d)", chunkRows)
	}
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()

	conn, err := grpc.NewClient(address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		// Replies over gRPC's 4 MiB are refused unless we say that we take them; half a million numbers are that large.
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		return err
	}
	defer conn.Close()
	client := predpb.NewPredictionClient(conn)

	description, err := client.Describe(ctx, &predpb.DescribeRequest{})
	if err != nil {
		return err
	}
	if description.Target.Dtype != "float64" {
		return fmt.Errorf("this example compares predictions that are float64, and those of %s are %s", description.Name, description.Target.Dtype)
	}
	t, err := readTable(file, description.Columns)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	ways, err := predictAllWays(ctx, client, t, chunkRows)
	if err != nil {
		return err
	}
	if err := compare(ways); err != nil {
		return err
	}
	return printPredictions(os.Stdout, description.Target.Name, ways[0].predictions)
}

// way is how predictions were asked for, and what they are.
type way struct {
	name        string
	predictions []float64
}

// predictAllWays asks in each encoding, in one message and in chunks.
func predictAllWays(ctx context.Context, client predpb.PredictionClient, t table, chunkRows int) ([]way, error) {
	var ways []way
	for _, e := range encodings {
		if e.name == "tensor" && t.hasText() {
			fmt.Fprintln(os.Stderr, "tensor         is left out: it holds numbers of one type, and the table has text")
			continue
		}
		for _, kind := range []string{"unary", "stream"} {
			var predictions []float64
			var err error
			if kind == "unary" {
				predictions, err = predict(ctx, client, e, t)
			} else {
				predictions, err = predictStream(ctx, client, e, t, chunkRows)
			}
			if err != nil {
				return nil, fmt.Errorf("%s, %s: %w", e.name, kind, err)
			}
			fmt.Fprintf(os.Stderr, "%-7s %-6s %d predictions\n", e.name, kind, len(predictions))
			ways = append(ways, way{e.name + ", " + kind, predictions})
		}
	}
	return ways, nil
}

// predict sends the whole table in one message.
func predict(ctx context.Context, client predpb.PredictionClient, e encoding, t table) ([]float64, error) {
	request, err := e.write(t)
	if err != nil {
		return nil, err
	}
	response, err := client.Predict(ctx, request)
	if err != nil {
		return nil, err
	}
	return e.read(response)
}

// predictStream sends the table in chunks, and puts the answers together.
func predictStream(ctx context.Context, client predpb.PredictionClient, e encoding, t table, chunkRows int) ([]float64, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil) // ends the stream, and with it the sender below, also when we leave early
	stream, err := client.PredictStream(ctx)
	if err != nil {
		return nil, err
	}
	// We send and receive at once. To send all and then receive would fill the buffers on the way, and wait for ever.
	go func() {
		for first := 0; first < t.rows; first += chunkRows {
			request, err := e.write(t.slice(first, min(first+chunkRows, t.rows)))
			if err != nil {
				cancel(err)
				return
			}
			if stream.Send(request) != nil {
				return // the stream has ended, and Recv says why
			}
		}
		stream.CloseSend()
	}()

	var predictions []float64
	for {
		response, err := stream.Recv()
		if err == io.EOF {
			return predictions, nil
		}
		if err != nil {
			if cause := context.Cause(ctx); cause != nil {
				err = cause
			}
			return nil, err
		}
		chunk, err := e.read(response)
		if err != nil {
			return nil, err
		}
		predictions = append(predictions, chunk...)
	}
}

// compare returns an error that names the first prediction which is not the same, to the bit, however it was asked for.
func compare(ways []way) error {
	if len(ways) == 0 || len(ways[0].predictions) == 0 {
		return errors.New("there are no predictions")
	}
	want := ways[0]
	for _, got := range ways[1:] {
		if len(got.predictions) != len(want.predictions) {
			return fmt.Errorf("%s has %d predictions, %s %d", got.name, len(got.predictions), want.name, len(want.predictions))
		}
		for i, value := range got.predictions {
			// Bits, not ==: that takes 0 and -0 for equal, and no NaN for equal to itself.
			if math.Float64bits(value) != math.Float64bits(want.predictions[i]) {
				return fmt.Errorf("prediction %d is %v by %s, and %v by %s", i+1, value, got.name, want.predictions[i], want.name)
			}
		}
	}
	return nil
}

// printPredictions writes them as CSV: in decimal, and their bits in hexadecimal.
func printPredictions(out io.Writer, target string, predictions []float64) error {
	w := csv.NewWriter(out)
	w.Write([]string{target, "bits"})
	for _, value := range predictions {
		w.Write([]string{fmt.Sprint(value), fmt.Sprintf("%016x", math.Float64bits(value))})
	}
	w.Flush()
	return w.Error()
}
