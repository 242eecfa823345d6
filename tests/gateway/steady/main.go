// Command steady asks servers of the model sum so many times a second, until its standard input ends. It prints a line
// when a call begins, "+", and one when it ends: its code, and how many milliseconds it took.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc/status"

	"example.com/predserver/gateway/pred"
)

func main() {
	backend := flag.String("backend", "", "addresses of the servers")
	rate := flag.Int("rate", 100, "calls a second")
	flag.Parse()
	client, err := pred.New(*backend)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	ended := make(chan struct{})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		close(ended)
	}()

	var calls sync.WaitGroup
	var mu sync.Mutex
	print := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Printf(format, args...)
	}
	ticks := time.NewTicker(time.Second / time.Duration(*rate))
	defer ticks.Stop()
	for {
		select {
		case <-ended:
			calls.Wait()
			return
		case <-ticks.C:
		}
		calls.Go(func() {
			print("+\n")
			start := time.Now()
			predictions, err := client.Predict(context.Background(),
				pred.Table{pred.NewColumn("x", []float64{1}), pred.NewColumn("y", []float64{2})})
			code := status.Code(err).String()
			if err == nil {
				if sums, err := predictions.Float64s(); err != nil || sums[0] != 3 {
					code = fmt.Sprintf("wrong:%v", sums)
				}
			}
			print("%s %d\n", code, time.Since(start).Milliseconds())
		})
	}
}
