package main

import (
	"math"
	"strings"
	"testing"

	"example.com/predserver/generated/predpb"
)

// described is a model's columns, given as "name dtype", and with a question mark behind if values may be missing.
func described(columns ...string) []*predpb.ColumnDescription {
	var all []*predpb.ColumnDescription
	for _, column := range columns {
		name, dtype, _ := strings.Cut(column, " ")
		kind, nullable := strings.CutSuffix(dtype, "?")
		all = append(all, &predpb.ColumnDescription{Name: name, Dtype: kind, Nullable: nullable})
	}
	return all
}

func TestReadTable(t *testing.T) {
	const file = "unknown,n,x,s\n0,-7,0.1,\"a,\"\"b\n\"\n0,9007199254740993,,\n"
	got, err := readTable(strings.NewReader(file), described("x float64?", "n int16", "s str?"))
	if err != nil || got.rows != 2 || len(got.columns) != 3 {
		t.Fatalf("%+v, %v", got, err)
	}
	x, n, s := got.columns[0], got.columns[1], got.columns[2]
	if x.floats[0] != 0.1 || !math.IsNaN(x.floats[1]) || n.integers[1] != 9007199254740993 || s.text[0] != "a,\"b\n" {
		t.Errorf("%+v", got)
	}
	if !s.present[0] || s.present[1] {
		t.Errorf("present: %v", s.present)
	}
	part := got.slice(1, 2)
	if part.rows != 1 || part.columns[1].integers[0] != 9007199254740993 || part.columns[2].present[0] {
		t.Errorf("%+v", part)
	}
	if request, err := writeTensor(part); err == nil {
		t.Errorf("an integer that no float64 holds became %v", request)
	}
	if request, _ := writeColumns(part); len(request.Columns.Columns[2].Missing) != 1 {
		t.Errorf("a missing value became %v", request)
	}
}

func TestTablesThatAreRefused(t *testing.T) {
	for file, complaint := range map[string]string{
		"":           "header",
		"x\n":        "header",
		"y\n1\n":     "column x is missing",
		"x\n1\ntwo":  "column x, row 2",
		"x\n1\n2,3":  "wrong number of fields",
		"x\n\"1\n2,": "quote",
	} {
		if _, err := readTable(strings.NewReader(file), described("x float64")); err == nil || !strings.Contains(err.Error(), complaint) {
			t.Errorf("%q: %v", file, err)
		}
	}
	if _, err := readTable(strings.NewReader("x\ntrue\n"), described("x bool")); err == nil {
		t.Error("a type that the example does not know was taken")
	}
}

func TestCompare(t *testing.T) {
	nan := math.NaN()
	otherNaN := math.Float64frombits(math.Float64bits(nan) ^ 1)
	tests := []struct {
		name      string
		a, b      []float64
		complaint string
	}{
		{"equal", []float64{1, nan, math.Inf(1)}, []float64{1, nan, math.Inf(1)}, ""},
		{"the last bit", []float64{1, 1}, []float64{1, math.Nextafter(1, 2)}, "prediction 2"},
		{"zeros", []float64{0}, []float64{math.Copysign(0, -1)}, "prediction 1"},
		{"NaNs", []float64{nan}, []float64{otherNaN}, "prediction 1"},
		{"one too few", []float64{1, 2}, []float64{1}, "b has 1"},
		{"none", nil, nil, "no predictions"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			err := compare([]way{{"a", test.a}, {"b", test.b}})
			if (err == nil) != (test.complaint == "") || err != nil && !strings.Contains(err.Error(), test.complaint) {
				t.Errorf("got %v, want %q", err, test.complaint)
			}
		})
	}
}
