// Package inprocess predicts inside the Go process: no server, no message. ONNX Runtime computes a graph that Python has
// made of a scikit-learn model.
//
//	python -m pred_server.lab.export flights exported    # writes exported/graph.onnx and exported/columns.json
//	go run ./predict -model exported -csv flights.csv
//
// What it leaves behind, beside the message: everything that is Python. A new model means a new graph, and every program
// that has the old one must fetch it. A part of a pipeline that does not convert cannot come along. And for rows on which
// ONNX Runtime and scikit-learn disagree, nobody asks scikit-learn, as the server does.
package inprocess

import (
	"errors"
	"slices"
)

// ErrUnavailable is the error of a program that was built without cgo, or finds no ONNX Runtime. It says what is needed.
var ErrUnavailable = errors.New("ONNX Runtime cannot be had")

// Column is a column of a table: numbers or text. A number that is missing is NaN, a text that is missing is empty.
type Column struct {
	Name    string
	Numbers []float64
	Texts   []string
}

func (c Column) rows() int { return max(len(c.Numbers), len(c.Texts)) }

// Spec is a column that a model takes.
type Spec struct {
	Name   string `json:"name"`
	IsText bool   `json:"is_text"`
}

func hasText(columns []Spec) bool {
	return slices.ContainsFunc(columns, func(s Spec) bool { return s.IsText })
}
