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
	bytetext "example.com/predserver/gateway/internal/text"
)

// ToCSV reads a JSON array of flat objects, turns it into CSV and counts the rows. The first record's keys are the columns.
// Nothing passes through a Go number: digits arrive as they were sent.
//
// The JSON is never held: memory goes to the CSV, and to the record at hand. Before they take more, hold is called with
// how many bytes more that will be, the message to the prediction server included; its error ends the reading. The body
// may end in a *problem.Error.
func ToCSV(body io.Reader, hold func(bytes int64) error) (text string, rows int, err error) {
	source := &recordReader{body: withoutMark(body), hold: hold}
	t := &recordTable{json: jsontext.NewDecoder(source), source: source}
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
		if e, ok := errors.AsType[*problem.Error](err); ok {
			return "", 0, e
		}
		return "", 0, problem.BadRequest("Something follows the array of records; send one array and nothing else.")
	}
	if t.rows == 0 {
		return "", 0, problem.BadRequest("The array has no records; send one at least.")
	}
	return bytetext.Of(t.csv), t.rows, nil
}

// What a record costs beyond its text.
const (
	plainBytes = 64 << 10 // a record up to this size costs no more than the decoder's buffer
	longFold   = 4        // a longer one is held by the decoder, which doubles its buffer, and once more as a cell
	keyBytes   = 400      // a key: in the list of columns, in two maps, and the cell that belongs to it
)

// recordReader counts the bytes of the record at hand.
type recordReader struct {
	body    io.Reader
	hold    func(bytes int64) error
	record  int64 // bytes read since the last record ended
	longest int64
}

// Read implements io.Reader.
func (r *recordReader) Read(p []byte) (int, error) {
	n, err := r.body.Read(p)
	r.record += int64(n)
	if more := r.record - max(r.longest, plainBytes); more > 0 {
		r.longest = r.record
		if err := r.hold(longFold * more); err != nil {
			return 0, err
		}
	}
	return n, err
}

// withoutMark returns the body without the mark that spreadsheets and PowerShell put in front of text.
func withoutMark(body io.Reader) io.Reader {
	beginning := make([]byte, len(csv.ByteOrderMark))
	n, err := io.ReadFull(body, beginning)
	if err == nil && string(beginning) == csv.ByteOrderMark {
		return body
	}
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		body = failing{err}
	}
	return io.MultiReader(bytes.NewReader(beginning[:n]), body)
}

// failing is a body that cannot be read.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// recordTable is a table while it is being read.
type recordTable struct {
	json    *jsontext.Decoder
	source  *recordReader
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
	if err := t.writeRow(); err != nil {
		return err
	}
	t.source.record = 0
	return nil
}

// readCell reads the n-th key of a record and its value.
func (t *recordTable) readCell(n int) error {
	token, err := t.json.ReadToken()
	if err != nil {
		return t.syntax(err)
	}
	key := token.String()
	if t.rows == 1 {
		if err := t.source.hold(keyBytes + 2*int64(len(key))); err != nil {
			return err
		}
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
		room := 0
		for _, column := range t.columns {
			room += 2*len(column) + len(`"",`)
		}
		if err := t.makeRoom(room); err != nil {
			return err
		}
		t.places = make(map[string]int, len(t.columns))
		for i, column := range t.columns {
			t.places[column] = i
			t.csv = append(csv.AppendQuoted(t.csv, []byte(column)), ',')
		}
		t.csv[len(t.csv)-1] = '\n'
	}
	if err := t.makeRoom(len(t.space) + len(t.cells)); err != nil {
		return err
	}
	for _, cell := range t.cells {
		t.csv = append(append(t.csv, cell...), ',')
	}
	t.csv[len(t.csv)-1] = '\n'
	return nil
}

// makeRoom makes room for so many bytes of CSV more. With the message that it becomes, the CSV is held twice.
func (t *recordTable) makeRoom(bytes int) error {
	if need := len(t.csv) + bytes; need > cap(t.csv) {
		// Large tables grow by less than to the double, as append has it.
		room := max(need, cap(t.csv)+max(min(cap(t.csv), 1<<20), cap(t.csv)/4), 512)
		if err := t.source.hold(2 * int64(room-cap(t.csv))); err != nil {
			return err
		}
		t.csv = append(make([]byte, 0, room), t.csv...)
	}
	return nil
}

// syntax turns the decoder's error into a sentence that says where.
func (t *recordTable) syntax(err error) error {
	if e, ok := errors.AsType[*problem.Error](err); ok {
		return e // of the body, or because there is no room
	}
	fault, ok := errors.AsType[*jsontext.SyntacticError](err)
	switch {
	case err == io.EOF && t.rows == 0:
		return problem.Empty()
	case ok && fault.Err.Error() == "invalid UTF-8":
		return problem.NotText()
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
// what the fields are. Before the array takes more memory, hold is called with how many bytes more that will be.
func FromCSV(text, dtype string, hold func(bytes int64) error) (records []byte, rows int, err error) {
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

	perRow := 1
	for _, key := range keys {
		perRow += len(key) + len(":,")
	}
	size := len(text) + perRow*(1+strings.Count(text, "\n")) + len("[]\n")
	if err := hold(int64(size)); err != nil {
		return nil, 0, err
	}
	records = make([]byte, 0, size)
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
		if more := cap(records) - size; more > 0 { // for escapes, and null in place of nothing
			size += more
			if err := hold(int64(more)); err != nil {
				return nil, 0, err
			}
		}
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
