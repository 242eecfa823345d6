package pred

import (
	"encoding/binary"
	"fmt"
	"iter"
	"math"
	"slices"

	"example.com/predserver/generated/predpb"
)

// Value is what a column may hold.
type Value interface {
	float64 | float32 | int | int64 | int32 | int16 | int8 | uint64 | uint32 | uint16 | uint8 | bool | string
}

// Column is a name and a value for each row, all of one type. The zero Column has no name and no rows.
type Column struct {
	name    string
	values  any   // []float64, []float32, []int64, []uint64, []bool or []string
	missing []int // rows without a value, rising
}

// NewColumn returns a column of these values. It keeps the slice if it can: do not change the values before the call
// that sends them has returned. A number that is missing may be NaN; for other values see WithMissing.
func NewColumn[T Value](name string, values []T) Column {
	c := Column{name: name}
	switch values := any(values).(type) {
	case []float64, []float32, []int64, []uint64, []bool, []string:
		c.values = values
	case []int:
		c.values = widen[int64](values)
	case []int32:
		c.values = widen[int64](values)
	case []int16:
		c.values = widen[int64](values)
	case []int8:
		c.values = widen[int64](values)
	case []uint32:
		c.values = widen[uint64](values)
	case []uint16:
		c.values = widen[uint64](values)
	case []uint8:
		c.values = widen[uint64](values)
	}
	return c
}

type number interface {
	float32 | float64 | int | int64 | int32 | int16 | int8 | uint64 | uint32 | uint16 | uint8
}

func widen[To, From number](values []From) []To {
	wide := make([]To, len(values))
	for i, value := range values {
		wide[i] = To(value)
	}
	return wide
}

// WithMissing returns the column with no values in these rows, counted from 0; what stands there is not looked at. A
// text that is missing is not the same as an empty one.
func (c Column) WithMissing(rows ...int) Column {
	c.missing = slices.Clone(rows)
	slices.Sort(c.missing)
	c.missing = slices.Compact(c.missing)
	return c
}

// Name returns the column's name.
func (c Column) Name() string { return c.name }

// Missing returns the rows that have no value, counted from 0, in rising order.
func (c Column) Missing() []int { return slices.Clone(c.missing) }

// Len returns the number of rows.
func (c Column) Len() int {
	switch values := c.values.(type) {
	case []float64:
		return len(values)
	case []float32:
		return len(values)
	case []int64:
		return len(values)
	case []uint64:
		return len(values)
	case []bool:
		return len(values)
	case []string:
		return len(values)
	}
	return 0
}

// Float64s returns the values of a column of floats. Those of 32 bits become their equals of 64.
func (c Column) Float64s() ([]float64, error) {
	switch values := c.values.(type) {
	case []float64:
		return values, nil
	case []float32:
		return widen[float64](values), nil
	}
	return nil, c.holdsOther("floats")
}

// Int64s returns the values of a column of integers.
func (c Column) Int64s() ([]int64, error) {
	switch values := c.values.(type) {
	case []int64:
		return values, nil
	case []uint64:
		if len(values) > 0 && slices.Max(values) > math.MaxInt64 {
			return nil, fmt.Errorf("pred: the column %s holds integers that no int64 is", c.name)
		}
		return widen[int64](values), nil
	}
	return nil, c.holdsOther("integers")
}

// Bools returns the values of a column of truths.
func (c Column) Bools() ([]bool, error) {
	if values, ok := c.values.([]bool); ok {
		return values, nil
	}
	return nil, c.holdsOther("bools")
}

// Strings returns the values of a column of text.
func (c Column) Strings() ([]string, error) {
	if values, ok := c.values.([]string); ok {
		return values, nil
	}
	return nil, c.holdsOther("text")
}

func (c Column) holdsOther(wanted string) error {
	return fmt.Errorf("pred: the column %s holds %T, and no %s", c.name, c.values, wanted)
}

// slice returns the rows from first up to the one before last. They share their memory with the column.
func (c Column) slice(first, last int) Column {
	switch values := c.values.(type) {
	case []float64:
		c.values = values[first:last]
	case []float32:
		c.values = values[first:last]
	case []int64:
		c.values = values[first:last]
	case []uint64:
		c.values = values[first:last]
	case []bool:
		c.values = values[first:last]
	case []string:
		c.values = values[first:last]
	}
	var missing []int
	for _, row := range c.missing {
		if row >= first && row < last {
			missing = append(missing, row-first)
		}
	}
	c.missing = missing
	return c
}

// Table is columns of one length, in any order: the model finds its own by name, and ignores others.
type Table []Column

// Rows returns the number of rows.
func (t Table) Rows() int {
	if len(t) == 0 {
		return 0
	}
	return t[0].Len()
}

// Slice returns the rows from first up to the one before last. They share their memory with the table.
func (t Table) Slice(first, last int) Table {
	part := make(Table, len(t))
	for i, c := range t {
		part[i] = c.slice(first, last)
	}
	return part
}

// Chunks cuts the table, for PredictStream, into pieces of so many rows; the last may be shorter. A table without rows
// is one piece: the server says what is wrong with it.
func (t Table) Chunks(rows int) iter.Seq2[Table, error] {
	return func(yield func(Table, error) bool) {
		if rows < 1 {
			yield(nil, fmt.Errorf("pred: a chunk must have 1 row or more (got %d)", rows))
			return
		}
		if err := t.check(); err != nil {
			yield(nil, err)
			return
		}
		for first, more := 0, true; more; first += rows {
			end := min(first+rows, t.Rows())
			more = end < t.Rows()
			if !yield(t.Slice(first, end), nil) {
				return
			}
		}
	}
}

// check returns an error for columns that cannot be rows of one table.
func (t Table) check() error {
	for _, c := range t {
		if c.Len() != t.Rows() {
			return invalid(c.name, "has %d values, and the columns before it %d", c.Len(), t.Rows())
		}
		if n := len(c.missing); n > 0 && (c.missing[0] < 0 || c.missing[n-1] >= c.Len()) {
			return invalid(c.name, "the missing rows must be between 0 and %d", c.Len()-1)
		}
	}
	return nil
}

// request returns the table as a message.
func (t Table) request() (*predpb.Request, error) {
	if err := t.check(); err != nil {
		return nil, err
	}
	if t.isTensor() {
		return &predpb.Request{Tensor: t.tensor()}, nil
	}
	columns := &predpb.Columns{Columns: make([]*predpb.Column, len(t))}
	for i, c := range t {
		columns.Columns[i] = c.message()
	}
	return &predpb.Request{Columns: columns}, nil
}

// isTensor reports whether all columns hold numbers of one type, and a value for each row.
func (t Table) isTensor() bool {
	if len(t) == 0 {
		return false
	}
	same := func(c Column) bool { return dtype(c.values) == dtype(t[0].values) && len(c.missing) == 0 }
	return dtype(t[0].values) != "" && !slices.ContainsFunc(t, func(c Column) bool { return !same(c) })
}

// dtype returns the type of numbers as NumPy names it, and nothing for what travels as columns alone.
func dtype(values any) string {
	switch values.(type) {
	case []float64:
		return "float64"
	case []float32:
		return "float32"
	case []int64:
		return "int64"
	}
	return ""
}

// tensor writes one column after the other, as they are in memory.
func (t Table) tensor() *predpb.Tensor {
	tensor := &predpb.Tensor{
		Dtype: dtype(t[0].values),
		Shape: []int64{int64(t.Rows()), int64(len(t))},
		Order: predpb.Tensor_ORDER_COLUMN_MAJOR,
	}
	size := 8
	if tensor.Dtype == "float32" {
		size = 4
	}
	tensor.Data = make([]byte, 0, size*t.Rows()*len(t))
	for _, c := range t {
		tensor.Names = append(tensor.Names, c.name)
		switch values := c.values.(type) {
		case []float64:
			for _, value := range values {
				tensor.Data = binary.LittleEndian.AppendUint64(tensor.Data, math.Float64bits(value))
			}
		case []float32:
			for _, value := range values {
				tensor.Data = binary.LittleEndian.AppendUint32(tensor.Data, math.Float32bits(value))
			}
		case []int64:
			for _, value := range values {
				tensor.Data = binary.LittleEndian.AppendUint64(tensor.Data, uint64(value))
			}
		}
	}
	return tensor
}

func (c Column) message() *predpb.Column {
	message := &predpb.Column{Name: c.name}
	switch values := c.values.(type) {
	case []float64:
		message.Float64 = values
	case []float32:
		message.Float32 = values
	case []int64:
		message.Int64 = values
	case []uint64:
		message.Uint64 = values
	case []bool:
		message.Bool = values
	case []string:
		message.Str = values
	}
	for _, row := range c.missing {
		message.Missing = append(message.Missing, uint32(row))
	}
	return message
}
