//go:build !cgo

package inprocess

import "fmt"

// Model cannot be made without cgo: ONNX Runtime is a library in C++.
type Model struct{ Columns []Spec }

var errNoCgo = fmt.Errorf("inprocess: %w: built without cgo; it needs a C compiler, and CGO_ENABLED=1", ErrUnavailable)

// Open returns an error that says what is needed.
func Open(string) (*Model, error) { return nil, errNoCgo }

// Predict returns an error that says what is needed.
func (*Model) Predict([]Column) ([]float64, error) { return nil, errNoCgo }

// Close has nothing to free.
func (*Model) Close() error { return nil }
