// Command outside is a program of somebody who has nothing of this project but package pred. The tests copy it into a
// module of its own.
//
// It reads a table in JSON on standard input, asks for it in one message and as a stream, and prints the predictions of
// both: a list of columns, in which numbers are the hexadecimal bits of a float64.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"math"
	"os"
	"time"

	"example.com/predserver/gateway/pred"
)

// column has its values in the list of their type.
type column struct {
	Name    string
	Floats  []float64
	Ints    []int64
	Texts   []string
	Missing []int
}

func (c column) pred() pred.Column {
	switch {
	case c.Floats != nil:
		return pred.NewColumn(c.Name, c.Floats).WithMissing(c.Missing...)
	case c.Ints != nil:
		return pred.NewColumn(c.Name, c.Ints).WithMissing(c.Missing...)
	}
	return pred.NewColumn(c.Name, c.Texts).WithMissing(c.Missing...)
}

// answer is what is printed.
type answer struct {
	Whole   map[string][]string `json:"whole"`
	Stream  map[string][]string `json:"stream"`
	Ignored []string            `json:"ignored"`
	Batch   int                 `json:"batch"`
}

func main() {
	address := flag.String("address", "", "address of the prediction server")
	rows := flag.Int("rows", 1000, "rows in a chunk")
	probabilities := flag.Bool("probabilities", false, "ask for probabilities")
	flag.Parse()
	if err := run(*address, *rows, *probabilities); err != nil {
		log.Fatal(err)
	}
}

func run(address string, rows int, probabilities bool) error {
	var columns []column
	if err := json.NewDecoder(os.Stdin).Decode(&columns); err != nil {
		return err
	}
	var table pred.Table
	for _, c := range columns {
		table = append(table, c.pred())
	}
	client, err := pred.New(address)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var opts []pred.CallOption
	if probabilities {
		opts = append(opts, pred.Probabilities())
	}

	a := answer{Whole: map[string][]string{}, Stream: map[string][]string{}}
	predictions, err := client.Predict(ctx, table, opts...)
	if err != nil {
		return err
	}
	a.Ignored, a.Batch = predictions.IgnoredColumns, predictions.Timings.BatchRows
	if err := add(a.Whole, predictions); err != nil {
		return err
	}
	for predictions, err := range client.PredictStream(ctx, table.Chunks(rows), opts...).All() {
		if err != nil {
			return err
		}
		if err := add(a.Stream, predictions); err != nil {
			return err
		}
	}
	return json.NewEncoder(os.Stdout).Encode(a)
}

// add appends predictions as text.
func add(to map[string][]string, predictions *pred.Predictions) error {
	for _, c := range predictions.Columns {
		if texts, err := c.Strings(); err == nil {
			to[c.Name()] = append(to[c.Name()], texts...)
			continue
		}
		if ints, err := c.Int64s(); err == nil {
			for _, value := range ints {
				to[c.Name()] = append(to[c.Name()], fmt.Sprint(value))
			}
			continue
		}
		floats, err := c.Float64s()
		if err != nil {
			return err
		}
		for _, value := range floats {
			to[c.Name()] = append(to[c.Name()], fmt.Sprintf("%016x", math.Float64bits(value)))
		}
	}
	return nil
}
