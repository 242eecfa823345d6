// Command client is a web server that asks a prediction server, to be copied into a program of yours: change point and
// table to what your model takes.
//
//	client -backend 127.0.0.1:50051 &
//	curl --data '[{"x": 1, "y": 2}]' http://127.0.0.1:8081/
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"time"

	"google.golang.org/grpc/codes"

	"example.com/predserver/gateway/pred"
)

// point is what a user sends, in a JSON list.
type point struct{ X, Y float64 }

// table returns the points as the model takes them.
func table(points []point) pred.Table {
	x, y := make([]float64, len(points)), make([]float64, len(points))
	for i, p := range points {
		x[i], y[i] = p.X, p.Y
	}
	return pred.Table{pred.NewColumn("x", x), pred.NewColumn("y", y)}
}

// predict returns a handler that answers a list of points with a list of predictions.
func predict(client *pred.Client) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var points []point
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&points); err != nil {
			http.Error(w, `send a list such as [{"x": 1, "y": 2}], of 1 MiB at most`, http.StatusBadRequest)
			return
		}
		// The call ends when the user goes away, and after two seconds.
		ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
		defer cancel()
		predictions, err := client.Predict(ctx, table(points))
		if err != nil {
			fail(w, err)
			return
		}
		sums, err := predictions.Float64s()
		if err != nil {
			fail(w, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(sums); err != nil {
			log.Printf("predict: %v", err) // the user is gone, or a number is one that JSON has no form for
		}
	}
}

// fail tells the user whose fault it is, and the log what it is.
func fail(w http.ResponseWriter, err error) {
	log.Printf("predict: %v", err)
	status, message := http.StatusBadGateway, "the prediction server failed"
	switch e := pred.FromError(err); {
	case e.Code == codes.InvalidArgument:
		status, message = http.StatusBadRequest, e.Message
	case e.TooLarge():
		status, message = http.StatusRequestEntityTooLarge, e.Message
	case e.Code == codes.Unavailable, e.Code == codes.ResourceExhausted:
		w.Header().Set("Retry-After", fmt.Sprint(max(1, int(e.RetryAfter.Seconds()))))
		status, message = http.StatusServiceUnavailable, "no predictions at present; try again"
	case e.Code == codes.DeadlineExceeded:
		status, message = http.StatusGatewayTimeout, "the predictions took too long"
	}
	http.Error(w, message, status)
}

func main() {
	backend := flag.String("backend", "127.0.0.1:50051", "address of the prediction server")
	listen := flag.String("listen", "127.0.0.1:8081", "address to serve HTTP on")
	flag.Parse()
	if err := run(*backend, *listen); err != nil {
		fmt.Fprintln(os.Stderr, "client:", err)
		os.Exit(1)
	}
}

// run serves with one client, which lives as long as the program and is shared by all requests.
func run(backend, listen string) error {
	client, err := pred.New(backend)
	if err != nil {
		return err
	}
	defer client.Close()
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	fmt.Printf("client ready on http://%s (%s)\n", listener.Addr(), backend)
	server := &http.Server{
		Handler:           predict(client),
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second,
	}
	return server.Serve(listener)
}
