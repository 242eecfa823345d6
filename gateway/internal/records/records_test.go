package records

import (
	"bytes"
	stdcsv "encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"example.com/predserver/gateway/internal/csv"
	"example.com/predserver/gateway/internal/problem"
)

// noLimit lets a table take what it needs.
func noLimit(int64) error { return nil }

func TestRecordsToCSV(t *testing.T) {
	tests := []struct {
		name, json, want string
		rows             int
	}{
		{"plain", `[{"x": 1, "y": 2}, {"x": 3, "y": 4}]`, "\"x\",\"y\"\n1,2\n3,4\n", 2},
		{"keys in any order", `[{"x": 1, "y": 2}, {"y": 4, "x": 3}]`, "\"x\",\"y\"\n1,2\n3,4\n", 2},
		{"long numbers", `[{"a": 12345678901234567890123, "b": 0.1000000000000000055511151231257827, "c": -0, "d": 1E+400}]`,
			"\"a\",\"b\",\"c\",\"d\"\n12345678901234567890123,0.1000000000000000055511151231257827,-0,1E+400\n", 1},
		{"null, true, false", `[{"a": null, "b": true, "c": false}]`, "\"a\",\"b\",\"c\"\n,true,false\n", 1},
		{"nothing but null", `[{"a": null, "b": null}]`, "\"a\",\"b\"\n,\n", 1},
		{"empty string", `[{"a": ""}]`, "\"a\"\n\"\"\n", 1},
		{"strings that look like others", `[{"a": "1", "b": "null", "c": "NaN"}]`, "\"a\",\"b\",\"c\"\n\"1\",\"null\",\"NaN\"\n", 1},
		{"quotes, commas, line ends", `[{"a,\"\n": "say \"hi\", \r\nbye"}]`, "\"a,\"\"\n\"\n\"say \"\"hi\"\", \r\nbye\"\n", 1},
		{"escapes", `[{"\u0061": "\ud83d\ude00\u00e9\/\\\t"}]`, "\"a\"\n\"😀é/\\\t\"\n", 1},
		{"key that is empty", `[{"": 1}]`, "\"\"\n1\n", 1},
		{"keys alike but for escapes", `[{"a": 1, "b": 2}, {"\u0062": 4, "\u0061": 3}]`, "\"a\",\"b\"\n1,2\n3,4\n", 2},
		{"spaces", " [ { \"x\" : 1 } ] \n", "\"x\"\n1\n", 1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, rows, err := ToCSV(strings.NewReader(test.json), noLimit)
			if err != nil || got != test.want || rows != test.rows {
				t.Errorf("got %q, %d rows, %v\nwant %q, %d rows", got, rows, err, test.want, test.rows)
			}
		})
	}
}

func TestRecordsThatAreRefused(t *testing.T) {
	long := strings.Repeat("k", 1000)
	tests := []struct {
		name, json, want string
	}{
		{"missing key", `[{"x": 1, "y": 2}, {"x": 3}]`, `Record 2 has no key "y", which record 1 has; send null for a missing value.`},
		{"record without keys", `[{"x": 1}, {}]`, `Record 2 has no key "x"`},
		{"additional key", `[{"x": 1}, {"x": 2}, {"x": 3, "z": 4}]`, `Record 3 has the key "z", which record 1 has not`},
		{"another key", `[{"x": 1}, {"z": 4}]`, `Record 2 has the key "z"`},
		{"long key", `[{"x": 1}, {"` + long + `": 4}]`, `kkk…"`},
		{"duplicate key", `[{"x": 1, "x": 2}]`, `Record 1 has the key "x" twice`},
		{"duplicate key later", `[{"x": 1, "y": 1}, {"y": 2, "x": 2, "y": 1}]`, `Record 2 has the key "y" twice`},
		{"duplicate key by escape", `[{"x": 1, "\u0078": 2}]`, `Record 1 has the key "x" twice`},
		{"duplicate of key with slash", `[{"a/b~c": 1, "a/b~c": 2}]`, `Record 1 has the key "a/b~c" twice`},
		{"nested object", `[{"x": {"y": 1}}]`, `Record 1, key "x": the value is an object or an array`},
		{"nested array", `[{"x": 1}, {"x": [1]}]`, `Record 2, key "x": the value is an object or an array`},
		{"lone surrogate", `[{"x": "\ud800"}]`, `Record 1, key "x"`},
		{"lone surrogate in a key", `[{"\udc00": 1}]`, `Record 1`},
		{"trailing garbage", `[{"x": 1}] x`, `Something follows the array`},
		{"two arrays", `[{"x": 1}][{"x": 1}]`, `Something follows the array`},
		{"object", `{"x": 1}`, `must be an array of records`},
		{"number", `1`, `must be an array of records`},
		{"null", `null`, `must be an array of records`},
		{"not JSON", `x,y`, `cannot be read at byte 0`},
		{"byte order mark", "\ufeff[]", `has no records`},
		{"two byte order marks", "\ufeff\ufeff[]", `cannot be read at byte 0`},
		{"a part of a byte order mark", "\xef\xbb", `cannot be read at byte 0`},
		{"nothing", " \r\n", `is empty`},
		{"nothing behind a byte order mark", "\ufeff", `is empty`},
		{"not UTF-8", "[{\"x\": \"\xff\"}]", `not UTF-8 text`},
		{"empty array", `[]`, `has no records`},
		{"number as a record", `[1]`, `Record 1 is not an object`},
		{"array as a record", `[{"x": 1}, [2]]`, `Record 2 is not an object`},
		{"null as a record", `[{"x": 1}, null]`, `Record 2 is not an object`},
		{"first record without keys", `[{}]`, `Record 1 has no keys`},
		{"null alone in its row", `[{"x": 1}, {"x": null}]`, `Record 2, key "x": a table with a single column cannot have a missing value`},
		{"null alone in the first row", `[{"x": null}]`, `Record 1, key "x"`},
		{"NaN", `[{"x": NaN}]`, `Record 1, key "x"`},
		{"leading zero", `[{"x": 01}]`, `Record 1`},
		{"comma at the end", `[{"x": 1},]`, `cannot be read at byte 9`},
		{"unquoted key", `[{x: 1}]`, `Record 1`},
		{"cut in a record", `[{"x": 1`, `Record 1`},
		{"cut between records", `[{"x": 1},`, `unexpected EOF`},
		{"cut at the start", `[`, `unexpected EOF`},
		{"deep", strings.Repeat("[", 100_000), `Record 1 is not an object`},
		{"deep value", `[{"x": ` + strings.Repeat("[", 100_000), `Record 1, key "x"`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, _, err := ToCSV(strings.NewReader(test.json), noLimit)
			refusal, ok := errors.AsType[*problem.Error](err)
			if !ok {
				t.Fatalf("got %q, %v, want a refusal", got, err)
			}
			if refusal.Status != http.StatusBadRequest || !strings.Contains(refusal.Message, test.want) {
				t.Errorf("got %d %s\nwant %s", refusal.Status, refusal.Message, test.want)
			}
			if len(refusal.Message) > 300 {
				t.Errorf("the message has %d bytes", len(refusal.Message))
			}
		})
	}
}

// What a spreadsheet or PowerShell puts in front of a table is no part of it.
func TestByteOrderMark(t *testing.T) {
	got, rows, err := ToCSV(iotest.OneByteReader(strings.NewReader("\ufeff[{\"x\": \"\ufeff\"}]")), noLimit)
	if err != nil || rows != 1 || got != "\"x\"\n\"\ufeff\"\n" {
		t.Errorf("got %q, %v", got, err)
	}
}

// Memory goes to the CSV, and to what is longer than any record should be; what takes it is asked for first.
func TestMemoryOfRecordsIsAskedFor(t *testing.T) {
	errFull := problem.BadRequest("full")
	for name, test := range map[string]struct {
		body      string
		low, high int64 // how much is asked for
	}{
		"many records": {"[" + strings.Repeat(`{"first": 1, "second": 22},`, 100_000) + `{"first": 1, "second": 22}]`, 1_000_000, 1_600_000},
		"a long cell":  {`[{"x": "` + strings.Repeat("a", 1_000_000) + `"}]`, 5_000_000, 9_000_000},
		"many keys":    {`[{"0": 0` + manyKeys(100_000) + `}]`, 40_000_000, 50_000_000},
		"spaces":       {"[" + strings.Repeat(" ", 1_000_000) + `{"x": 1}]`, 0, 5_000_000},
	} {
		t.Run(name, func(t *testing.T) {
			var held int64
			hold := func(bytes int64) error { held += bytes; return nil }
			if _, _, err := ToCSV(strings.NewReader(test.body), hold); err != nil || held < test.low || held > test.high {
				t.Errorf("held %d, %v", held, err)
			}
			room := held - 1
			hold = func(bytes int64) error {
				if room -= bytes; room < 0 {
					return errFull
				}
				return nil
			}
			if _, _, err := ToCSV(strings.NewReader(test.body), hold); !errors.Is(err, errFull) {
				t.Errorf("with a byte less: %v", err)
			}
		})
	}
	var held int64
	hold := func(bytes int64) error { held += bytes; return nil }
	text := "p\n" + strings.Repeat("\"\x1f\"\n", 1_000)
	list, _, err := FromCSV(text, "str", hold)
	if err != nil || int64(cap(list)) > held || held > 4*int64(len(list)) {
		t.Errorf("%d bytes of predictions, held %d, %v", cap(list), held, err)
	}
	if _, _, err := FromCSV(text, "str", func(int64) error { return errFull }); !errors.Is(err, errFull) {
		t.Errorf("no room at all: %v", err)
	}
}

// manyKeys is so many members of an object.
func manyKeys(n int) string {
	var keys strings.Builder
	for i := range n {
		fmt.Fprintf(&keys, `,"%d":1`, i+1)
	}
	return keys.String()
}

// What a CSV reader reads back is what the records said.
func FuzzRecordsToCSV(f *testing.F) {
	f.Add([]byte(`[{"x": 1, "y": "a\r\n\"b,"}, {"y": null, "x": true}]`))
	f.Add([]byte(`[{"\ud83d\ude00": 1e5, "": ""}]`))
	f.Add([]byte(`[{"a": -0.0, "b": 10000000000000000000000001}, {"b": false, "a": "\\"}]`))
	f.Fuzz(func(t *testing.T, body []byte) {
		text, rows, err := ToCSV(bytes.NewReader(body), noLimit)
		if err != nil {
			if refusal, ok := errors.AsType[*problem.Error](err); !ok || refusal.Status != http.StatusBadRequest || !utf8.ValidString(refusal.Message) {
				t.Fatalf("%q: %v", body, err)
			}
			return
		}
		var records []map[string]any
		decoder := json.NewDecoder(bytes.NewReader(body))
		decoder.UseNumber()
		if err := decoder.Decode(&records); err != nil {
			t.Fatalf("%q: %v", body, err)
		}
		table, err := stdcsv.NewReader(strings.NewReader(text)).ReadAll()
		if err != nil {
			t.Fatalf("%q became %q: %v", body, text, err)
		}
		if rows != len(records) || len(table) != rows+1 {
			t.Fatalf("%q: %d records, %d rows said, %d rows read", body, len(records), rows, len(table)-1)
		}
		normal := strings.NewReplacer("\r\n", "\n") // as encoding/csv reads it
		for r, record := range records {
			if len(record) != len(table[0]) {
				t.Fatalf("%q: record %d has %d keys, the table %d columns", body, r+1, len(record), len(table[0]))
			}
			for key, value := range record {
				column := slices.Index(table[0], normal.Replace(key))
				if strings.Contains(key, "\r\n") {
					continue // two keys may be one to encoding/csv
				}
				if column < 0 {
					t.Fatalf("%q: no column %q in %q", body, key, table[0])
				}
				want := ""
				if value != nil {
					want = normal.Replace(fmt.Sprint(value))
				}
				if got := table[r+1][column]; got != want {
					t.Fatalf("%q: record %d, key %q: got %q, want %q", body, r+1, key, got, want)
				}
			}
		}
	})
}

func TestCSVToRecords(t *testing.T) {
	tests := []struct {
		name, csv, dtype, want string
	}{
		{"floats", "arr_delay\n11.5\n-3.0\n1e-09\n", "float64", `[{"arr_delay":11.5},{"arr_delay":-3.0},{"arr_delay":1e-09}]`},
		{"long digits", "p\n0.1000000000000000055511151231257827\n12345678901234567890\n", "float64",
			`[{"p":0.1000000000000000055511151231257827},{"p":12345678901234567890}]`},
		{"not numbers", "p\nnan\n\"\"\nNaN\n", "float32", `[{"p":null},{"p":null},{"p":null}]`},
		{"infinities", "p\ninf\n-inf\n", "float64", `[{"p":"inf"},{"p":"-inf"}]`},
		{"numbers that JSON writes otherwise", "p\n.5\n+1\n1.\n", "float64", `[{"p":".5"},{"p":"+1"},{"p":"1."}]`},
		{"integers", "p\n7\n-7\n", "int64", `[{"p":7},{"p":-7}]`},
		{"unsigned", "p\n\"\"\n", "uint8", `[{"p":null}]`},
		{"truths", "p\nTrue\nFalse\n\"\"\n1\n", "bool", `[{"p":true},{"p":false},{"p":null},{"p":"1"}]`},
		{"strings", "p\n1\n\"\"\nnan\nTrue\n", "str", `[{"p":"1"},{"p":""},{"p":"nan"},{"p":"True"}]`},
		{"strings with everything", "p\n\"a\r\n\"\"b\"\", c\"\n", "str", `[{"p":"a\r\n\"b\", c"}]`},
		{"by form", "p\n1.5\nnan\nx\nTrue\n 1\n", "", `[{"p":1.5},{"p":"nan"},{"p":"x"},{"p":"True"},{"p":" 1"}]`},
		{"unknown dtype", "p\n1.5\nnan\n", "object", `[{"p":1.5},{"p":"nan"}]`},
		{"two columns", "a,\"b \"\"q\"\"\"\n1,2\n3,\n", "float64", `[{"a":1,"b \"q\"":2},{"a":3,"b \"q\"":null}]`},
		{"no rows", "p\n", "float64", `[]`},
		{"line ends of Windows", "p\r\n1\r\n2", "float64", `[{"p":1},{"p":2}]`},
		{"blank lines", "p\n1\n\n2\n\n", "float64", `[{"p":1},{"p":2}]`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, rows, err := FromCSV(test.csv, test.dtype, noLimit)
			if err != nil || string(got) != test.want+"\n" {
				t.Fatalf("got %s, %v\nwant %s", got, err, test.want)
			}
			var records []any
			if err := json.Unmarshal(got, &records); err != nil || len(records) != rows {
				t.Errorf("%d records, %d rows, %v", len(records), rows, err)
			}
		})
	}
}

func TestRepliesThatMakeNoSense(t *testing.T) {
	for _, csv := range []string{"", "\n\n", "a,b\n1\n", "a\n1,2\n", "a,a\n1,2\n", "\"a\n1\n", "a\n\"1\n", "a\n\"1\"2\n"} {
		got, _, err := FromCSV(csv, "float64", noLimit)
		if fault, ok := errors.AsType[*problem.Error](err); !ok || fault.Status != http.StatusBadGateway {
			t.Errorf("%q became %s, %v", csv, got, err)
		}
	}
}

// A reply is valid JSON with as many records as rows, and its strings are the fields.
func FuzzCSVToRecords(f *testing.F) {
	f.Add("p\n1\nnan\n", "float64")
	f.Add("a,b\n\"x\r\n\",\"\"\"\"\n", "str")
	f.Add("p\nTrue\n-inf\n01\n", "bool")
	f.Add("p\n 1\n1 \n-\n1e5\n", "")
	f.Fuzz(func(t *testing.T, text, dtype string) {
		if !utf8.ValidString(text) {
			t.Skip("protobuf lets no such reply through")
		}
		body, rows, err := FromCSV(text, dtype, noLimit)
		if err != nil {
			return
		}
		if !jsontext.Value(body).IsValid() {
			t.Fatalf("%q became %q", text, body)
		}
		var records []map[string]any
		decoder := json.NewDecoder(bytes.NewReader(body))
		decoder.UseNumber()
		if err := decoder.Decode(&records); err != nil {
			t.Fatalf("%q became %q: %v", text, body, err)
		}
		table, err := allRows(text)
		if err != nil || len(records) != rows || len(table) != rows+1 {
			t.Fatalf("%q: %d records, %d rows said, %d rows read, %v", text, len(records), rows, len(table)-1, err)
		}
		for r, record := range records {
			for c, key := range table[0] {
				field := table[r+1][c]
				switch value := record[key].(type) {
				case string:
					if value != field && !strings.Contains(strings.ToLower(field), "inf") {
						t.Fatalf("%q as %q: %q became %q", text, dtype, field, value)
					}
				case json.Number:
					if value.String() != field || dtype == "str" {
						t.Fatalf("%q as %q: %q became %s", text, dtype, field, value)
					}
				case nil:
					if field != "" && !strings.EqualFold(field, "nan") || dtype == "str" || dtype == "" {
						t.Fatalf("%q as %q: %q became null", text, dtype, field)
					}
				case bool:
					if !strings.EqualFold(field, fmt.Sprint(value)) || dtype != "bool" {
						t.Fatalf("%q as %q: %q became %t", text, dtype, field, value)
					}
				}
			}
		}
	})
}

func BenchmarkRecordsToCSV(b *testing.B) {
	record := `{"month":1,"day":2,"hour":5,"minute":15,"carrier":"UA","origin":"EWR","dest":"IAH","distance":1400,"dep_delay":2.5}`
	body := []byte("[" + strings.Repeat(record+",", 9_999) + record + "]")
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		if _, _, err := ToCSV(bytes.NewReader(body), noLimit); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCSVToRecords(b *testing.B) {
	text := "arr_delay\n" + strings.Repeat("11.482716049382717\n", 10_000)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if _, _, err := FromCSV(text, "float64", noLimit); err != nil {
			b.Fatal(err)
		}
	}
}

// allRows reads all the rows of a table.
func allRows(text string) (rows [][]string, err error) {
	for {
		row, rest, err := csv.CutRow(text, nil)
		if err != nil || len(row) == 0 {
			return rows, err
		}
		rows, text = append(rows, row), rest
	}
}

// What fits as CSV fits as records, and as many of them.
func FuzzShape(f *testing.F) {
	for _, text := range []string{"", "p\n1\n", "a,b\n1,2\n\n3,4", "a,a\n1,2\n", "p\n1,2\n", "p\r\n\"1\r\n\"\r\n", "p\n\"1\"2\n", "p,\n,\n"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if !utf8.ValidString(text) {
			t.Skip("protobuf lets no such reply through")
		}
		_, want, err := FromCSV(text, "str", noLimit)
		columns, got, shapeErr := csv.Shape(text)
		if (err == nil) != (shapeErr == nil) || err == nil && got != want || err == nil && columns == 0 {
			t.Fatalf("%q: %d records, %v; %d rows of %d columns, %v", text, want, err, got, columns, shapeErr)
		}
	})
}
