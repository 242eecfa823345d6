package pred

import (
	"encoding/binary"
	"fmt"
	"math"

	"google.golang.org/grpc/metadata"

	"example.com/predserver/generated/predpb"
)

// Predictions has one prediction for each row of a table, in the same order.
type Predictions struct {
	// Columns has one column, named after what the model predicts; or, if a classifier was asked for Probabilities, one
	// for each class, named after it.
	Columns []Column
	Info
}

// Len returns the number of predictions.
func (p *Predictions) Len() int { return Table(p.Columns).Rows() }

// Float64s returns the predictions of a model that predicts floats.
func (p *Predictions) Float64s() ([]float64, error) { return only(p, Column.Float64s) }

// Int64s returns the predictions of a model that predicts integers, or classes that are integers.
func (p *Predictions) Int64s() ([]int64, error) { return only(p, Column.Int64s) }

// Bools returns the predictions of a model that predicts true or false.
func (p *Predictions) Bools() ([]bool, error) { return only(p, Column.Bools) }

// Strings returns the predictions of a classifier whose classes are text.
func (p *Predictions) Strings() ([]string, error) { return only(p, Column.Strings) }

func only[T any](p *Predictions, values func(Column) ([]T, error)) ([]T, error) {
	if len(p.Columns) != 1 {
		return nil, fmt.Errorf("pred: the predictions have %d columns; see Columns", len(p.Columns))
	}
	return values(p.Columns[0])
}

// decode reads the response to a request of so many rows, which must be in the request's encoding.
func decode(request *predpb.Request, response *predpb.Response, rows int, beside metadata.MD) (*Predictions, error) {
	var columns []Column
	var err error
	switch {
	case request.Tensor != nil && response.GetTensor() != nil:
		columns, err = fromTensor(response.GetTensor())
	case request.Columns != nil && response.GetColumns() != nil:
		columns, err = fromColumns(response.GetColumns())
	default:
		err = fault("is not in the encoding of the request")
	}
	if err != nil {
		return nil, err
	}
	if len(columns) == 0 {
		return nil, fault("has no predictions")
	}
	for _, c := range columns {
		if c.Len() != rows {
			return nil, fault("has %d predictions for %d rows", c.Len(), rows)
		}
	}
	return &Predictions{Columns: columns, Info: infoOf(beside)}, nil
}

func fromColumns(message *predpb.Columns) ([]Column, error) {
	var columns []Column
	for _, m := range message.GetColumns() {
		var lists []any
		for _, list := range []struct {
			n      int
			values any
		}{
			{len(m.Float64), m.Float64}, {len(m.Float32), m.Float32}, {len(m.Int64), m.Int64},
			{len(m.Uint64), m.Uint64}, {len(m.Bool), m.Bool}, {len(m.Str), m.Str},
		} {
			if list.n > 0 {
				lists = append(lists, list.values)
			}
		}
		if len(lists) != 1 {
			return nil, fault("has %d lists of values in the column %.60q", len(lists), m.Name)
		}
		c := Column{name: m.Name, values: lists[0]}
		last := -1
		for _, row := range m.Missing {
			if int(row) <= last || int(row) >= c.Len() {
				return nil, fault("has missing rows that are not rising places in the column %.60q", m.Name)
			}
			last = int(row)
			c.missing = append(c.missing, last)
		}
		columns = append(columns, c)
	}
	return columns, nil
}

// sizes are the bytes of a value in a tensor.
var sizes = map[string]int{
	"float64": 8, "float32": 4, "int64": 8, "int32": 4, "int16": 2, "int8": 1,
	"uint64": 8, "uint32": 4, "uint16": 2, "uint8": 1, "bool": 1,
}

func fromTensor(t *predpb.Tensor) ([]Column, error) {
	size, ok := sizes[t.Dtype]
	if !ok || len(t.Shape) != 2 || t.Shape[0] < 0 || t.Shape[1] != int64(len(t.Names)) {
		return nil, fault("is a tensor of type %.20q, %d dimensions and %d names", t.Dtype, len(t.Shape), len(t.Names))
	}
	if _, known := predpb.Tensor_Order_name[int32(t.Order)]; !known {
		return nil, fault("is a tensor in the order %d", t.Order)
	}
	// Compared in this way, no product of sizes can overflow.
	width := size * len(t.Names)
	if width == 0 || len(t.Data)%width != 0 || t.Shape[0] != int64(len(t.Data)/width) {
		return nil, fault("is a tensor of %d bytes for %d rows of %d columns", len(t.Data), t.Shape[0], len(t.Names))
	}
	rows := int(t.Shape[0])
	columns := make([]Column, len(t.Names))
	for i, name := range t.Names {
		start, step := i*size, width
		if t.Order == predpb.Tensor_ORDER_COLUMN_MAJOR {
			start, step = i*size*rows, size
		}
		at := func(row int) []byte { return t.Data[start+row*step:] }
		columns[i] = Column{name: name, values: numbers(t.Dtype, rows, at)}
		if len(t.Categories) == 0 {
			continue
		}
		places, err := columns[i].Int64s()
		if err != nil {
			return nil, fault("has categories, and %s in their place", t.Dtype)
		}
		labels := make([]string, rows)
		for row, place := range places {
			if place < 0 || place >= int64(len(t.Categories)) {
				return nil, fault("has the category %d of %d", place, len(t.Categories))
			}
			labels[row] = t.Categories[place]
		}
		columns[i].values = labels
	}
	return columns, nil
}

// numbers reads little-endian values. The bytes from a row's value on are at(row).
func numbers(dtype string, rows int, at func(row int) []byte) any {
	le := binary.LittleEndian
	switch dtype {
	case "float64":
		return read(rows, func(row int) float64 { return math.Float64frombits(le.Uint64(at(row))) })
	case "float32":
		return read(rows, func(row int) float32 { return math.Float32frombits(le.Uint32(at(row))) })
	case "int64":
		return read(rows, func(row int) int64 { return int64(le.Uint64(at(row))) })
	case "int32":
		return read(rows, func(row int) int64 { return int64(int32(le.Uint32(at(row)))) })
	case "int16":
		return read(rows, func(row int) int64 { return int64(int16(le.Uint16(at(row)))) })
	case "int8":
		return read(rows, func(row int) int64 { return int64(int8(at(row)[0])) })
	case "uint64":
		return read(rows, func(row int) uint64 { return le.Uint64(at(row)) })
	case "uint32":
		return read(rows, func(row int) uint64 { return uint64(le.Uint32(at(row))) })
	case "uint16":
		return read(rows, func(row int) uint64 { return uint64(le.Uint16(at(row))) })
	case "uint8":
		return read(rows, func(row int) uint64 { return uint64(at(row)[0]) })
	default: // bool
		return read(rows, func(row int) bool { return at(row)[0] != 0 })
	}
}

func read[T any](rows int, at func(row int) T) []T {
	values := make([]T, rows)
	for row := range values {
		values[row] = at(row)
	}
	return values
}
