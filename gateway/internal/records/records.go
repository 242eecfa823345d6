// Package records turns records in JSON into CSV, and predictions in CSV into records.
package records

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"

	// Go has it from 1.27 on, as encoding/json/jsontext, and this module is the same; it lets the gateway build with 1.26.
	"github.com/go-json-experiment/json/jsontext"

	"example.com/predserver/gateway/internal/csv"
	"example.com/predserver/gateway/internal/problem"
)

// ToCSV turns a JSON array of flat objects into CSV and counts the rows. The first record's keys are the columns.
// Nothing passes through a Go number: digits arrive as they were sent.
func ToCSV(body []byte) (text string, rows int, err error) {
	t := &recordTable{json: jsontext.NewDecoder(bytes.NewBuffer(body))}
	if t.json.PeekKind() != jsontext.KindBeginArray {
		if _, err := t.json.ReadValue(); err != nil {
			return "", 0, t.syntax(err)
		}
		return "", 0, problem.BadRequest(`The JSON must be an array of records, such as [{"x": 1, "y": 2}].`)
	}
	if _, err := t.json.ReadToken(); err != nil {
		return "", 0, t.syntax(err)
	}
	for t.json.PeekKind() != jsontext.KindEndArray {
		if err := t.readRecord(); err != nil {
			return "", 0, err
		}
	}
	if _, err := t.json.ReadToken(); err != nil {
		return "", 0, t.syntax(err)
	}
	if _, err := t.json.ReadToken(); err != io.EOF {
		return "", 0, problem.BadRequest("Something follows the array of records; send one array and nothing else.")
	}
	if t.rows == 0 {
		return "", 0, problem.BadRequest("The array has no records; send one at least.")
	}
	return string(t.csv), t.rows, nil
}

// recordTable is a table while it is being read.
type recordTable struct {
	json    *jsontext.Decoder
	columns []string       // the first record's keys
	places  map[string]int // where each key stands in columns
	csv     []byte
	rows    int // records read, with the one at hand

	cells [][]byte // the record at hand, in the order of columns; nil where a key has not come
	space []byte   // what cells point into
	text  []byte   // a string without its JSON escapes
}

// readRecord adds one record to the table.
func (t *recordTable) readRecord() error {
	t.rows++
	t.space = t.space[:0]
	clear(t.cells)
	if kind := t.json.PeekKind(); kind != jsontext.KindBeginObject && kind != jsontext.KindInvalid {
		return problem.BadRequest(`Record %d is not an object; send records such as {"x": 1, "y": 2}.`, t.rows)
	}
	if _, err := t.json.ReadToken(); err != nil {
		return t.syntax(err)
	}
	for n := 0; t.json.PeekKind() != jsontext.KindEndObject; n++ {
		if err := t.readCell(n); err != nil {
			return err
		}
	}
	if _, err := t.json.ReadToken(); err != nil {
		return t.syntax(err)
	}
	if missing := slices.IndexFunc(t.cells, func(cell []byte) bool { return cell == nil }); missing >= 0 {
		return problem.BadRequest("Record %d has no key %s, which record 1 has; send null for a missing value.", t.rows, problem.Clip(t.columns[missing]))
	}
	return t.writeRow()
}

// readCell reads the n-th key of a record and its value.
func (t *recordTable) readCell(n int) error {
	token, err := t.json.ReadToken()
	if err != nil {
		return t.syntax(err)
	}
	key := token.String()
	if t.rows == 1 {
		t.columns = append(t.columns, key)
		t.cells = append(t.cells, nil)
	} else if n >= len(t.columns) || t.columns[n] != key {
		place, known := t.places[key]
		if !known {
			return problem.BadRequest("Record %d has the key %s, which record 1 has not; give every record the same keys.", t.rows, problem.Clip(key))
		}
		n = place
	}

	if kind := t.json.PeekKind(); kind == jsontext.KindBeginObject || kind == jsontext.KindBeginArray {
		return problem.BadRequest("Record %d, key %s: the value is an object or an array; send a number, a string, true, false or null.", t.rows, problem.Clip(key))
	}
	value, err := t.json.ReadValue()
	if err != nil {
		return t.syntax(err)
	}
	start := len(t.space)
	switch value.Kind() {
	case jsontext.KindNull:
		t.cells[n] = []byte{}
		return nil
	case jsontext.KindString:
		if t.text, err = jsontext.AppendUnquote(t.text[:0], value); err != nil {
			return t.syntax(err)
		}
		t.space = csv.AppendQuoted(t.space, t.text)
	default:
		t.space = append(t.space, value...)
	}
	t.cells[n] = t.space[start:]
	return nil
}

// writeRow adds the record at hand to the CSV, after the header if it is the first.
func (t *recordTable) writeRow() error {
	if len(t.columns) == 0 {
		return problem.BadRequest("Record 1 has no keys; its keys are the table's columns.")
	}
	if len(t.columns) == 1 && len(t.cells[0]) == 0 {
		return problem.BadRequest("Record %d, key %s: a table with a single column cannot have a missing value, since CSV readers skip blank lines; "+
			"leave the record out, or send a second column.", t.rows, problem.Clip(t.columns[0]))
	}
	if t.rows == 1 {
		t.places = make(map[string]int, len(t.columns))
		for i, column := range t.columns {
			t.places[column] = i
			t.csv = append(csv.AppendQuoted(t.csv, []byte(column)), ',')
		}
		t.csv[len(t.csv)-1] = '\n'
	}
	for _, cell := range t.cells {
		t.csv = append(append(t.csv, cell...), ',')
	}
	t.csv[len(t.csv)-1] = '\n'
	return nil
}

// syntax turns the decoder's error into a sentence that says where.
func (t *recordTable) syntax(err error) error {
	fault, ok := errors.AsType[*jsontext.SyntacticError](err)
	switch {
	case !ok:
		return problem.BadRequest("The JSON ends too early.")
	case t.rows == 0:
		return problem.BadRequest("The JSON cannot be read at byte %d: %v.", fault.ByteOffset, fault.Err)
	}
	// A pointer such as /2/carrier: a record counted from 0, a key.
	path := slices.Collect(fault.JSONPointer.Tokens())
	if len(path) < 2 {
		return problem.BadRequest("Record %d: the JSON cannot be read at byte %d: %v.", t.rows, fault.ByteOffset, fault.Err)
	}
	if fault.Err == jsontext.ErrDuplicateName {
		return problem.BadRequest("Record %d has the key %s twice; send each key once.", t.rows, problem.Clip(path[1]))
	}
	return problem.BadRequest("Record %d, key %s: the JSON cannot be read at byte %d: %v.", t.rows, problem.Clip(path[1]), fault.ByteOffset, fault.Err)
}

// FromCSV turns predictions into a JSON array of records and counts them. The dtype, which may be unknown, says
// what the fields are.
func FromCSV(text, dtype string) (records []byte, rows int, err error) {
	header, text, err := csv.CutRow(text, nil)
	if err != nil {
		return nil, 0, problem.BadReply("the header of the reply: %v", err)
	}
	if len(header) == 0 {
		return nil, 0, problem.BadReply("the reply has no header")
	}
	keys := make([][]byte, len(header))
	seen := make(map[string]bool, len(header))
	for i, name := range header {
		if seen[name] {
			return nil, 0, problem.BadReply("the reply has two columns %s", problem.Clip(name))
		}
		seen[name] = true
		keys[i], _ = jsontext.AppendQuote(nil, name) // fails for invalid UTF-8 alone, which protobuf does not let in
	}

	records = append(records, '[')
	for row := make([]string, 0, len(header)); ; rows++ {
		if row, text, err = csv.CutRow(text, row[:0]); err != nil {
			return nil, 0, problem.BadReply("prediction %d: %v", rows+1, err)
		}
		if len(row) == 0 {
			break
		}
		if len(row) != len(header) {
			return nil, 0, problem.BadReply("prediction %d has %d fields where the header has %d", rows+1, len(row), len(header))
		}
		separator := byte('{')
		for i, field := range row {
			records = append(append(append(records, separator), keys[i]...), ':')
			records = appendPrediction(records, field, dtype)
			separator = ','
		}
		records = append(records, '}', ',')
	}
	records = append(bytes.TrimSuffix(records, []byte(",")), ']', '\n')
	return records, rows, nil
}

// appendPrediction appends a field as a JSON value.
func appendPrediction(records []byte, field, dtype string) []byte {
	switch {
	case dtype == "str":
		// A string is a string, whatever it looks like.
	case isNumber(field) && dtype != "bool":
		return append(records, field...)
	case isNumeric(dtype):
		switch strings.ToLower(field) {
		case "", "nan":
			return append(records, "null"...)
		case "inf", "+inf", "infinity", "+infinity": // JSON has no infinities
			return append(records, `"inf"`...)
		case "-inf", "-infinity":
			return append(records, `"-inf"`...)
		}
	case dtype == "bool":
		switch strings.ToLower(field) {
		case "true", "false":
			return append(records, strings.ToLower(field)...)
		case "":
			return append(records, "null"...)
		}
	}
	records, _ = jsontext.AppendQuote(records, field)
	return records
}

// isNumeric reports whether a dtype, named as NumPy names it, is one of numbers.
func isNumeric(dtype string) bool {
	return strings.HasPrefix(dtype, "float") || strings.HasPrefix(dtype, "int") || strings.HasPrefix(dtype, "uint")
}

// isNumber reports whether text is a JSON number and nothing else, not even a space.
func isNumber(text string) bool {
	value := jsontext.Value(text)
	return strings.TrimSpace(text) == text && value.Kind() == jsontext.KindNumber && value.IsValid()
}
