package main

import (
	"bytes"
	"encoding/binary"
	"encoding/csv"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"example.com/predserver/generated/predpb"
)

// encoding is a way to put a table into a request, and to read the predictions that come back in the same form.
type encoding struct {
	name  string
	write func(table) (*predpb.Request, error)
	read  func(*predpb.Response) ([]float64, error)
}

var encodings = []encoding{
	{"csv", writeCSV, readCSV},
	{"columns", writeColumns, readColumns},
	{"tensor", writeTensor, readTensor},
	{"arrow", writeArrow, readArrow},
}

// writeCSV makes text of the table: what everyone can read, and what takes the most time to read.
func writeCSV(t table) (*predpb.Request, error) {
	var text strings.Builder
	w := csv.NewWriter(&text)
	line := make([]string, len(t.columns))
	for i, c := range t.columns {
		line[i] = c.name
	}
	w.Write(line)
	for row := range t.rows {
		for i, c := range t.columns {
			line[i] = c.text[row]
		}
		w.Write(line)
	}
	w.Flush()
	return &predpb.Request{InputData: text.String()}, w.Error()
}

// readCSV reads the predictions below the header. The digits that the server writes name one float64, and no other.
func readCSV(response *predpb.Response) ([]float64, error) {
	lines, err := csv.NewReader(strings.NewReader(response.Result)).ReadAll()
	if err != nil {
		return nil, err
	}
	if len(lines) == 0 {
		return nil, errors.New("the reply has no header")
	}
	predictions := make([]float64, len(lines)-1)
	for i, line := range lines[1:] {
		if predictions[i], err = strconv.ParseFloat(line[0], 64); err != nil {
			return nil, err
		}
	}
	return predictions, nil
}

// writeColumns makes a typed list of each column. It needs nothing but the stubs.
func writeColumns(t table) (*predpb.Request, error) {
	columns := &predpb.Columns{}
	for _, c := range t.columns {
		message := &predpb.Column{Name: c.name}
		switch {
		case c.isText:
			message.Str = c.text
			for row, present := range c.present {
				if !present {
					message.Missing = append(message.Missing, uint32(row))
				}
			}
		case c.floats != nil:
			message.Float64 = c.floats
		default:
			message.Int64 = c.integers
		}
		columns.Columns = append(columns.Columns, message)
	}
	return &predpb.Request{Columns: columns}, nil
}

// readColumns returns the one column of the reply.
func readColumns(response *predpb.Response) ([]float64, error) {
	columns := response.GetColumns().GetColumns()
	if len(columns) != 1 {
		return nil, fmt.Errorf("the reply has %d columns, and one was expected", len(columns))
	}
	return columns[0].Float64, nil
}

// writeTensor puts all values, row by row, into one block of bytes: the least work of all, for tables of numbers.
func writeTensor(t table) (*predpb.Request, error) {
	const exact = 1 << 53 // every integer up to here is a float64
	tensor := &predpb.Tensor{
		Dtype: "float64",
		Shape: []int64{int64(t.rows), int64(len(t.columns))},
		Data:  make([]byte, 0, 8*t.rows*len(t.columns)),
	}
	for _, c := range t.columns {
		tensor.Names = append(tensor.Names, c.name)
	}
	for row := range t.rows {
		for _, c := range t.columns {
			var value float64
			switch {
			case c.isText:
				return nil, fmt.Errorf("column %s is text, and a tensor holds numbers", c.name)
			case c.floats != nil:
				value = c.floats[row]
			case c.integers[row] > exact || c.integers[row] < -exact:
				return nil, fmt.Errorf("column %s has %d, which no float64 is", c.name, c.integers[row])
			default:
				value = float64(c.integers[row])
			}
			tensor.Data = binary.LittleEndian.AppendUint64(tensor.Data, math.Float64bits(value))
		}
	}
	return &predpb.Request{Tensor: tensor}, nil
}

// readTensor reads the values back from the reply's bytes.
func readTensor(response *predpb.Response) ([]float64, error) {
	tensor := response.GetTensor()
	if tensor.GetDtype() != "float64" || len(tensor.GetData())%8 != 0 {
		return nil, fmt.Errorf("the reply is a tensor of %q, and float64 was expected", tensor.GetDtype())
	}
	predictions := make([]float64, len(tensor.Data)/8)
	for i := range predictions {
		predictions[i] = math.Float64frombits(binary.LittleEndian.Uint64(tensor.Data[8*i:]))
	}
	return predictions, nil
}

// writeArrow makes an Arrow IPC stream of one record batch: every type as it is, for programs that have Arrow anyway.
func writeArrow(t table) (*predpb.Request, error) {
	var fields []arrow.Field
	var columns []arrow.Array
	for _, c := range t.columns {
		var values arrow.Array
		switch {
		case c.isText:
			builder := array.NewStringBuilder(memory.DefaultAllocator)
			builder.AppendValues(c.text, c.present)
			values = builder.NewArray()
		case c.floats != nil:
			builder := array.NewFloat64Builder(memory.DefaultAllocator)
			builder.AppendValues(c.floats, nil) // nil: every row has a value, and NaN is one
			values = builder.NewArray()
		default:
			builder := array.NewInt64Builder(memory.DefaultAllocator)
			builder.AppendValues(c.integers, nil)
			values = builder.NewArray()
		}
		fields = append(fields, arrow.Field{Name: c.name, Type: values.DataType(), Nullable: true})
		columns = append(columns, values)
	}
	schema := arrow.NewSchema(fields, nil)

	var stream bytes.Buffer
	w := ipc.NewWriter(&stream, ipc.WithSchema(schema))
	if err := w.Write(array.NewRecordBatch(schema, columns, int64(t.rows))); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil { // writes the end of the stream
		return nil, err
	}
	return &predpb.Request{Arrow: stream.Bytes()}, nil
}

// readArrow returns the one column of the reply, whatever number of record batches it came in.
func readArrow(response *predpb.Response) ([]float64, error) {
	r, err := ipc.NewReader(bytes.NewReader(response.Arrow))
	if err != nil {
		return nil, err
	}
	defer r.Release()
	var predictions []float64
	for r.Next() {
		if r.RecordBatch().NumCols() != 1 {
			return nil, fmt.Errorf("the reply has %d columns, and one was expected", r.RecordBatch().NumCols())
		}
		values, ok := r.RecordBatch().Column(0).(*array.Float64)
		if !ok {
			return nil, fmt.Errorf("the reply holds %s, and float64 was expected", r.RecordBatch().Column(0).DataType())
		}
		predictions = append(predictions, values.Float64Values()...) // a copy, since the batch is gone with the next one
	}
	return predictions, r.Err()
}
