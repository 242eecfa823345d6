package pred_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"google.golang.org/grpc/codes"

	"example.com/predserver/gateway/pred"
)

// These are compiled, and not run: they need a server, such as `pred-server serve --model flights`.

func Example() {
	client, err := pred.New("127.0.0.1:50051")
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	predictions, err := client.Predict(ctx, pred.Table{
		pred.NewColumn("month", []int{1, 1}),
		pred.NewColumn("day", []int{2, 2}),
		pred.NewColumn("hour", []int{5, 6}),
		pred.NewColumn("minute", []int{15, 0}),
		pred.NewColumn("carrier", []string{"UA", "AA"}),
		pred.NewColumn("origin", []string{"EWR", "JFK"}),
		pred.NewColumn("dest", []string{"IAH", "MIA"}),
		pred.NewColumn("distance", []int{1400, 1089}),
		pred.NewColumn("dep_delay", []float64{2, 4}),
	})
	if err != nil {
		log.Fatal(err)
	}
	delays, err := predictions.Float64s()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(delays)
}

// Several servers of the same models, and how patient the client is with them.
func ExampleNew() {
	client, err := pred.New("10.0.0.1:50051,10.0.0.2:50051",
		pred.WithTimeout(500*time.Millisecond),
		pred.WithRetries(2),
		pred.WithCallOptions(pred.Model("flights")),
	)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
}

// A classifier answers labels, or the probability of each class.
func ExampleProbabilities() {
	var client *pred.Client // see New
	wine := pred.Table{pred.NewColumn("alcohol", []float64{13.2, 12.4}), pred.NewColumn("hue", []float64{1.04, 1.05})}

	predictions, err := client.Predict(context.Background(), wine, pred.Model("wine"), pred.Probabilities())
	if err != nil {
		log.Fatal(err)
	}
	for _, class := range predictions.Columns {
		chances, err := class.Float64s()
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(class.Name(), chances)
	}
}

// A table that is too large for one message travels in chunks. Predictions come while chunks are still being sent.
func ExampleClient_PredictStream() {
	var client *pred.Client // see New
	numbers := pred.Table{pred.NewColumn("x", make([]float64, 10_000_000)), pred.NewColumn("y", make([]float64, 10_000_000))}

	stream := client.PredictStream(context.Background(), numbers.Chunks(65_536))
	for predictions, err := range stream.All() {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(predictions.Len())
	}
	fmt.Println(stream.Timings().Predict)
}

// An error says whose fault it is.
func ExampleError() {
	var client *pred.Client // see New
	_, err := client.Predict(context.Background(), pred.Table{pred.NewColumn("x", []string{"one"})})
	if e, ok := errors.AsType[*pred.Error](err); ok && e.Code == codes.InvalidArgument {
		for _, v := range e.Violations {
			fmt.Fprintf(os.Stderr, "column %s %s\n", v.Field, v.Description)
		}
	}
	if errors.Is(err, context.DeadlineExceeded) {
		fmt.Fprintln(os.Stderr, "it took too long")
	}
}
