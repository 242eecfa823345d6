package main

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"example.com/predserver/generated/predpb"
)

// table holds the columns that a model takes, in its order.
type table struct {
	columns []column
	rows    int
}

// column has its values as text, as they stand in the file, and those of numbers as such.
type column struct {
	name     string
	isText   bool
	text     []string
	present  []bool    // of text: false where there is no value, which is not the same as an empty one
	floats   []float64 // nil unless the model takes floats; NaN where there is no value
	integers []int64   // nil unless the model takes integers
}

// readTable reads CSV with a header. The model's description says which columns are needed, and of what type they are.
func readTable(in io.Reader, wanted []*predpb.ColumnDescription) (table, error) {
	lines, err := csv.NewReader(in).ReadAll()
	if err != nil {
		return table{}, err
	}
	if len(lines) < 2 {
		return table{}, errors.New("a header and at least one row are needed")
	}
	header, rows := lines[0], lines[1:]
	t := table{rows: len(rows)}
	for _, description := range wanted {
		at := slices.Index(header, description.Name)
		if at < 0 {
			return table{}, fmt.Errorf("the column %s is missing", description.Name)
		}
		c := column{name: description.Name, isText: description.Dtype == "str"}
		for row, fields := range rows {
			if err := c.add(fields[at], description); err != nil {
				return table{}, fmt.Errorf("column %s, row %d: %w", c.name, row+1, err)
			}
		}
		t.columns = append(t.columns, c)
	}
	return t, nil
}

// add appends the value of one more row.
func (c *column) add(text string, description *predpb.ColumnDescription) error {
	c.text = append(c.text, text)
	switch dtype := description.Dtype; {
	case c.isText:
		c.present = append(c.present, text != "" || !description.Nullable)
	case strings.HasPrefix(dtype, "float"):
		if text == "" {
			text = "nan"
		}
		value, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return err
		}
		c.floats = append(c.floats, value)
	case strings.HasPrefix(dtype, "int"):
		value, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return err
		}
		c.integers = append(c.integers, value)
	default:
		return fmt.Errorf("this example knows no values of type %s", dtype)
	}
	return nil
}

// slice returns the rows from first up to the one before last. They share their memory with the table.
func (t table) slice(first, last int) table {
	part := table{rows: last - first}
	for _, c := range t.columns {
		c.text = c.text[first:last]
		switch {
		case c.isText:
			c.present = c.present[first:last]
		case c.floats != nil:
			c.floats = c.floats[first:last]
		default:
			c.integers = c.integers[first:last]
		}
		part.columns = append(part.columns, c)
	}
	return part
}

// hasText reports whether any column is one of text.
func (t table) hasText() bool {
	return slices.ContainsFunc(t.columns, func(c column) bool { return c.isText })
}
