package inprocess_test

import (
	"errors"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"

	"example.com/predserver/gateway/examples/inprocess"
)

// open skips the test where ONNX Runtime cannot be had, and says why in one line.
func open(t *testing.T, folder string) *inprocess.Model {
	t.Helper()
	model, err := inprocess.Open(folder)
	if errors.Is(err, inprocess.ErrUnavailable) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { model.Close() })
	return model
}

// The graph of testdata/numbers is a + 2b + 3, and was exported like every other.
var numbers = []inprocess.Column{
	{Name: "a", Numbers: []float64{1, -4, 0.5}},
	{Name: "b", Numbers: []float64{10, 0, 0.25}},
}

var sums = []float64{24, -1, 4}

func TestNumbers(t *testing.T) {
	if got, err := open(t, "testdata/numbers").Predict(numbers); err != nil || !slices.Equal(got, sums) {
		t.Errorf("got %v, %v", got, err)
	}
}

// The graph of testdata/text is 10 times the carrier's place among AA and UA, -1 for others, plus the delay.
func TestTextAndMissingValues(t *testing.T) {
	got, err := open(t, "testdata/text").Predict([]inprocess.Column{
		{Name: "carrier", Texts: []string{"UA", "AA", "", "ü", "UA"}},
		{Name: "delay", Numbers: []float64{1, 2, 3, 4, math.NaN()}},
	})
	if err != nil || len(got) != 5 || !slices.Equal(got[:4], []float64{11, 2, -7, -6}) || !math.IsNaN(got[4]) {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestTablesThatDoNotFit(t *testing.T) {
	model := open(t, "testdata/numbers")
	for why, table := range map[string][]inprocess.Column{
		"the model takes 2": numbers[:1],
		`takes "a"`:         {numbers[1], numbers[0]},
		"text":              {numbers[0], {Name: "b", Texts: []string{"1", "2", "3"}}},
		"has 1 rows":        {numbers[0], {Name: "b", Numbers: []float64{1}}},
	} {
		if got, err := model.Predict(table); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: got %v, %v", why, got, err)
		}
	}
	if got, err := model.Predict([]inprocess.Column{{Name: "a"}, {Name: "b"}}); err != nil || len(got) != 0 {
		t.Errorf("no rows: got %v, %v", got, err)
	}
}

func TestGoroutinesShareAModel(t *testing.T) {
	model := open(t, "testdata/numbers")
	var running sync.WaitGroup
	for range 8 {
		running.Go(func() {
			for range 200 {
				if got, err := model.Predict(numbers); err != nil || !slices.Equal(got, sums) {
					t.Errorf("got %v, %v", got, err)
					return
				}
			}
		})
	}
	running.Wait()
}

func TestMissingLibraryIsSaidInALine(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv(inprocess.LibraryVariable, "")
	if _, err := inprocess.Library(); err == nil || strings.Count(err.Error(), "\n") > 0 || !strings.Contains(err.Error(), "make setup") {
		t.Errorf("got %v", err)
	}
	t.Setenv(inprocess.LibraryVariable, "/somewhere/libonnxruntime.so")
	if path, err := inprocess.Library(); err != nil || path != "/somewhere/libonnxruntime.so" {
		t.Errorf("got %s, %v", path, err)
	}
}
