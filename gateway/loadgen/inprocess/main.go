// Command inprocess is the generator of measurements, gateway/loadgen, with one more way to predictions: in its own
// process, with the example gateway/examples/inprocess.
//
//	inprocess                 # the generator
//	inprocess -hold FOLDER    # load a model, say so, and hold it until standard input ends
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"

	"example.com/predserver/gateway/examples/inprocess"
	"example.com/predserver/gateway/internal/load"
)

func main() {
	folder := flag.String("hold", "", "folder with an exported model, whose start and memory are to be measured")
	flag.Parse()
	if *folder == "" {
		load.Main(load.Ways{"inprocess": open})
		return
	}
	if _, err := inprocess.Open(*folder); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Printf("inprocess ready on %s (ONNX Runtime)\n", *folder)
	io.Copy(io.Discard, os.Stdin)
}

type caller struct{ *inprocess.Model }

func open(folder string, _ int) (load.Caller, error) {
	model, err := inprocess.Open(folder)
	return caller{model}, err
}

// Predict gives the model its columns in its order, and integers as the numbers that the graph takes.
func (c caller) Predict(_ context.Context, table []load.Column) ([]float64, error) {
	columns := make([]inprocess.Column, len(table))
	for i, column := range table {
		columns[i] = inprocess.Column{Name: column.Name, Numbers: column.Numbers, Texts: column.Texts}
		if column.Integers != nil {
			columns[i].Numbers = make([]float64, len(column.Integers))
			for row, integer := range column.Integers {
				columns[i].Numbers[row] = float64(integer)
			}
		}
	}
	return c.Model.Predict(columns)
}
