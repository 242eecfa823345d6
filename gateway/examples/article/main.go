// Command article sends a table to a Prediction server and prints the predictions, as a client of the article would: with
// the stubs alone, in CSV. It is the whole of gRPC in Go on one page; package pred is what a program of yours would use.
//
//	article flights.csv
//	article < flights.csv
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"example.com/predserver/generated/predpb"
)

func main() {
	address := flag.String("address", "127.0.0.1:50051", "address of the Prediction server")
	timeout := flag.Duration("timeout", 10*time.Second, "how long to wait for the answer")
	flag.Parse()

	result, err := predict(*address, *timeout, flag.Arg(0))
	if err != nil {
		fmt.Fprintln(os.Stderr, "article:", err)
		os.Exit(1)
	}
	fmt.Print(result)
}

// predict sends the CSV in the named file, or on standard input, and returns the predictions as CSV.
func predict(address string, timeout time.Duration, name string) (string, error) {
	read := func() ([]byte, error) { return io.ReadAll(os.Stdin) }
	if name != "" {
		read = func() ([]byte, error) { return os.ReadFile(name) }
	}
	table, err := read()
	if err != nil {
		return "", err
	}

	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return "", err
	}
	defer conn.Close()

	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	res, err := predpb.NewPredictionClient(conn).Predict(ctx, &predpb.Request{InputData: string(table)})
	if err != nil {
		s, _ := status.FromError(err)
		return "", fmt.Errorf("no predictions from %s: %s (%s)", address, s.Message(), s.Code())
	}
	return res.Result, nil
}
