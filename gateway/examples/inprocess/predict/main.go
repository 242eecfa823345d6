// Command predict prints predictions for a CSV file, computed in this process.
package main

import (
	"encoding/csv"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"

	"example.com/predserver/gateway/examples/inprocess"
)

func main() {
	folder := flag.String("model", "exported", "folder with a model that Python has exported")
	name := flag.String("csv", "flights.csv", "table to predict")
	flag.Parse()
	if err := predict(*folder, *name, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func predict(folder, name string, out io.Writer) error {
	model, err := inprocess.Open(folder)
	if err != nil {
		return err
	}
	defer model.Close()
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	table, err := read(file, model.Columns)
	if err != nil {
		return err
	}
	predictions, err := model.Predict(table)
	for _, prediction := range predictions {
		fmt.Fprintln(out, strconv.FormatFloat(prediction, 'g', -1, 64))
	}
	return err
}

// read returns the columns that the model takes, in its order. An empty cell is a missing value.
func read(in io.Reader, wanted []inprocess.Spec) ([]inprocess.Column, error) {
	lines, err := csv.NewReader(in).ReadAll()
	if err != nil || len(lines) == 0 {
		return nil, fmt.Errorf("a table with a header is needed (%v)", err)
	}
	var table []inprocess.Column
	for _, spec := range wanted {
		at := slices.Index(lines[0], spec.Name)
		if at < 0 {
			return nil, fmt.Errorf("the column %s is missing", spec.Name)
		}
		c := inprocess.Column{Name: spec.Name}
		for row, line := range lines[1:] {
			if spec.IsText {
				c.Texts = append(c.Texts, line[at])
				continue
			}
			number := math.NaN()
			if line[at] != "" {
				if number, err = strconv.ParseFloat(line[at], 64); err != nil {
					return nil, fmt.Errorf("column %s, row %d: %w", spec.Name, row+1, err)
				}
			}
			c.Numbers = append(c.Numbers, number)
		}
		table = append(table, c)
	}
	return table, nil
}
