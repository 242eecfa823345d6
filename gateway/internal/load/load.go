// Package load makes the calls of a measurement: one generator for every way to a prediction.
//
// Main is the program. It reads orders from standard input, a JSON object each: connect a target, or make a segment of
// calls to one. Each order is answered with a line of JSON on standard output. It ends when standard input ends, whatever
// it is doing, so that it never outlives the program that started it.
//
// It makes each call once. A call that fails keeps its code, and is never tried again.
package load

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
)

// Main is the generator. Beside gRPC, HTTP and the pipe it knows the ways of a program's own.
func Main(own Ways) {
	// Collections are rarer than by default: each takes time from the calls, and memory is not short.
	debug.SetGCPercent(400)
	orders := make(chan order)
	go func() {
		decoder := json.NewDecoder(bufio.NewReaderSize(os.Stdin, 1<<20))
		decoder.DisallowUnknownFields()
		for {
			var next order
			if err := decoder.Decode(&next); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				os.Exit(0) // whoever gave the orders is gone, and nobody waits for the calls under way
			} else if err != nil {
				fmt.Fprintln(os.Stderr, "loadgen: an order cannot be read:", err)
				os.Exit(1)
			}
			orders <- next
		}
	}()
	if err := obey(orders, os.Stdout, own); err != nil {
		fmt.Fprintln(os.Stderr, "loadgen:", err)
		os.Exit(1)
	}
}

// obey carries out one order after the other, and answers each.
func obey(orders <-chan order, out io.Writer, own Ways) error {
	targets := map[string]target{}
	answers := json.NewEncoder(out)
	for next := range orders {
		if err := answers.Encode(carryOut(next, targets, own)); err != nil {
			return err
		}
	}
	return nil
}

func carryOut(next order, targets map[string]target, own Ways) any {
	switch {
	case next.Connect != nil:
		if like := next.Connect.Like; like != "" {
			if targets[like] == nil {
				return failure{fmt.Sprintf("no target %q is connected", like)}
			}
			next.Connect.Messages = targets[like].ready()
		}
		made, err := connect(*next.Connect, own)
		if err != nil {
			return failure{err.Error()}
		}
		if before := targets[next.Connect.Name]; before != nil {
			before.close()
		}
		targets[next.Connect.Name] = made
		return struct{}{}
	case next.Run != nil:
		called := targets[next.Run.Target]
		if called == nil {
			return failure{fmt.Sprintf("no target %q is connected", next.Run.Target)}
		}
		if err := next.Run.check(); err != nil {
			return failure{err.Error()}
		}
		return next.Run.drive(called)
	}
	return failure{"an order must be to connect or to run"}
}
