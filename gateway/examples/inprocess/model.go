//go:build cgo

package inprocess

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	ort "github.com/yalue/onnxruntime_go"
)

// Model is a graph that is ready to predict. Goroutines may share it.
type Model struct {
	Columns []Spec // what Predict takes, in this order
	session *ort.DynamicAdvancedSession
}

// load loads the shared library, once for the process.
var load = sync.OnceValue(func() error {
	path, err := Library()
	if err != nil {
		return err
	}
	ort.SetSharedLibraryPath(path)
	return ort.InitializeEnvironment(ort.WithLogLevelError())
})

// Open reads a model that Python has exported to a folder.
func Open(folder string) (*Model, error) {
	if err := load(); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(folder, "columns.json"))
	if err != nil {
		return nil, err
	}
	m := &Model{}
	if err := json.Unmarshal(text, &m.Columns); err != nil {
		return nil, fmt.Errorf("inprocess: columns.json: %w", err)
	}
	inputs := []string{"X"} // all numbers: one matrix
	if hasText(m.Columns) { // else each column is an input
		inputs = inputs[:0]
		for i := range m.Columns {
			inputs = append(inputs, fmt.Sprintf("x%d", i))
		}
	}
	options, err := ort.NewSessionOptions()
	if err != nil {
		return nil, err
	}
	defer options.Destroy()
	// Each caller computes on its own thread. With several for one call, sums would be rounded in another order.
	if err := errors.Join(options.SetIntraOpNumThreads(1), options.SetInterOpNumThreads(1)); err != nil {
		return nil, err
	}
	graph := filepath.Join(folder, "graph.onnx")
	m.session, err = ort.NewDynamicAdvancedSession(graph, inputs, []string{"variable"}, options)
	return m, err
}

// Predict returns a prediction for each row. The table has the model's columns, in the model's order.
func (m *Model) Predict(table []Column) ([]float64, error) {
	rows, err := m.check(table)
	if rows == 0 {
		return nil, err
	}
	inputs, err := m.inputs(table, rows)
	defer destroy(inputs)
	if err != nil {
		return nil, err
	}
	outputs := []ort.Value{nil} // ONNX Runtime makes it
	if err := m.session.Run(inputs, outputs); err != nil {
		return nil, err
	}
	defer destroy(outputs)
	predictions, ok := outputs[0].(*ort.Tensor[float64])
	if !ok {
		return nil, fmt.Errorf("inprocess: the graph gives %T, and float64 was expected", outputs[0])
	}
	return append([]float64(nil), predictions.GetData()...), nil // a copy: the tensor's memory is C's
}

// check returns the number of rows of a table that the model can take.
func (m *Model) check(table []Column) (rows int, err error) {
	if len(table) != len(m.Columns) {
		return 0, fmt.Errorf("inprocess: %d columns were given, and the model takes %d", len(table), len(m.Columns))
	}
	for i, c := range table {
		wanted := m.Columns[i]
		if c.Name != wanted.Name || (c.Texts != nil) != wanted.IsText {
			return 0, fmt.Errorf("inprocess: column %d is %q, and the model takes %q (text: %t)", i, c.Name, wanted.Name, wanted.IsText)
		}
		if c.rows() != table[0].rows() {
			return 0, fmt.Errorf("inprocess: %q has %d rows, and the columns before it %d", c.Name, c.rows(), table[0].rows())
		}
	}
	return table[0].rows(), nil
}

// inputs returns the table as tensors.
func (m *Model) inputs(table []Column, rows int) (made []ort.Value, err error) {
	if !hasText(m.Columns) {
		matrix, err := ort.NewTensor(ort.NewShape(int64(rows), int64(len(table))), byRows(table, rows))
		return []ort.Value{matrix}, err
	}
	shape := ort.NewShape(int64(rows), 1)
	for _, c := range table {
		if c.Texts == nil {
			numbers, err := ort.NewTensor(shape, c.Numbers)
			if err != nil {
				return made, err
			}
			made = append(made, numbers)
			continue
		}
		texts, err := ort.NewStringTensor(shape)
		if err != nil {
			return made, err
		}
		made = append(made, texts)
		if err := texts.SetContents(c.Texts); err != nil {
			return made, err
		}
	}
	return made, nil
}

// byRows writes the values row by row, as a matrix has them.
func byRows(table []Column, rows int) []float64 {
	matrix := make([]float64, rows*len(table))
	for i, c := range table {
		for row, value := range c.Numbers {
			matrix[row*len(table)+i] = value
		}
	}
	return matrix
}

func destroy(values []ort.Value) {
	for _, value := range values {
		value.Destroy()
	}
}

// Close frees the graph.
func (m *Model) Close() error { return m.session.Destroy() }
