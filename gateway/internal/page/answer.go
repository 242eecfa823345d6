package page

import (
	"net/url"
	"strconv"
	"strings"

	"example.com/predserver/gateway/internal/csv"
)

// What a page shows of an answer: a person looks at no more, and a browser takes its time for each cell.
const (
	mostRows    = 100
	mostColumns = 40
	mostText    = 60 // of a cell, in characters
)

// Answer is the predictions for a table, with the table's own values beside them.
type Answer struct {
	Count, Shown string   // rows in all, and in the table
	One, Cut     bool     // one row alone; not all rows are shown
	Predicted    []string // the predictions' columns
	Given        []string // the table's; none if it could not be read
	MoreColumns  int      // columns that are not shown
	Rows         []Row
	Ignored      []string // columns that the model does not know
	Identity     string   // which model answered
	Waterfall    *Waterfall
}

// Row is one row of the table.
type Row struct {
	Number    string
	Predicted []string
	Given     []string
}

// NewAnswer returns what a page shows of a table and its predictions, both in CSV, and of what came beside them.
func NewAnswer(table, predictions string, ignored, identity, timing string) *Answer {
	a := &Answer{Identity: identity, Waterfall: FromServerTiming(timing)}
	_, rows, err := csv.Shape(predictions)
	if err != nil {
		return a // the gateway checked it before; nothing is better than half of it
	}
	predicted, given := read(predictions), read(table)
	if inTable, sure := csv.CountRows(table); !sure || inTable != rows || !even(given) {
		given = nil // readers may differ on which row is which
	}
	a.Predicted, predicted = cut(predicted, &a.MoreColumns)
	a.Given, given = cut(given, &a.MoreColumns)
	for i, values := range predicted {
		row := Row{Number: grouped(strconv.Itoa(i + 1)), Predicted: values}
		if i < len(given) {
			row.Given = given[i]
		}
		a.Rows = append(a.Rows, row)
	}
	a.Count, a.Shown = grouped(strconv.Itoa(rows)), grouped(strconv.Itoa(len(a.Rows)))
	a.One, a.Cut = rows == 1, len(a.Rows) < rows
	if ignored != "" {
		for name := range strings.SplitSeq(ignored, ",") {
			if plain, err := url.PathUnescape(name); err == nil {
				name = plain
			}
			a.Ignored = append(a.Ignored, clip(name))
		}
	}
	return a
}

// read returns the header of a table, and its first rows. It returns nil for what is no table.
func read(text string) [][]string {
	text = strings.TrimPrefix(text, csv.ByteOrderMark)
	var rows [][]string
	for len(rows) <= mostRows {
		row, rest, err := csv.CutRow(text, nil)
		if err != nil {
			return nil
		}
		if len(row) == 0 {
			break
		}
		rows, text = append(rows, row), rest
	}
	return rows
}

// even reports whether all rows have as many fields as the first.
func even(rows [][]string) bool {
	for _, row := range rows {
		if len(row) != len(rows[0]) {
			return false
		}
	}
	return true
}

// cut returns the header and the rows as far as they are shown, and adds the columns that are not to more.
func cut(table [][]string, more *int) (header []string, rows [][]string) {
	if len(table) == 0 {
		return nil, nil
	}
	*more += max(0, len(table[0])-mostColumns)
	for i, row := range table {
		row = row[:min(len(row), mostColumns)]
		for j := range row {
			row[j] = clip(row[j])
		}
		table[i] = row
	}
	return table[0], table[1:]
}

// clip returns text without its end if it is long.
func clip(text string) string {
	characters := 0
	for at := range text {
		if characters++; characters > mostText {
			return text[:at] + "…"
		}
	}
	return text
}
