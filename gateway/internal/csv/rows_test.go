package csv

import (
	stdcsv "encoding/csv"
	"slices"
	"strings"
	"testing"
)

// cutAll reads all the rows of a table.
func cutAll(text string) (rows [][]string, err error) {
	for {
		row, rest, err := CutRow(text, nil)
		if err != nil || len(row) == 0 {
			return rows, err
		}
		rows, text = append(rows, row), rest
	}
}

func TestCutRow(t *testing.T) {
	tests := []struct {
		csv  string
		want [][]string
	}{
		{"", nil},
		{"\n\r\n", nil},
		{"a\n1\n", [][]string{{"a"}, {"1"}}},
		{"a\r\n1", [][]string{{"a"}, {"1"}}},
		{"a\n\n1\n\n", [][]string{{"a"}, {"1"}}},
		{"a,b\n,\n", [][]string{{"a", "b"}, {"", ""}}},
		{`""`, [][]string{{""}}},
		{"a,", [][]string{{"a", ""}}},
		{`"a,b","say ""hi"""` + "\n", [][]string{{"a,b", `say "hi"`}}},
		{"\"a\r\nb\",c\r\n", [][]string{{"a\r\nb", "c"}}},
		{"\"a\r\"\n\"\n\"\n", [][]string{{"a\r"}, {"\n"}}},
		{"a\"b\n", [][]string{{`a"b`}}},
		{"a\rb\n", [][]string{{"a\rb"}}},
		{"\"a\"\r", [][]string{{"a"}}},
	}
	for _, test := range tests {
		got, err := cutAll(test.csv)
		if err != nil || !slices.EqualFunc(got, test.want, slices.Equal) {
			t.Errorf("%q: got %q, %v, want %q", test.csv, got, err, test.want)
		}
	}
	for _, broken := range []string{`"a`, `"a"b`, `"a""`, "\"a\"\rb"} {
		if got, err := cutAll(broken); err == nil {
			t.Errorf("%q: got %q, want an error", broken, got)
		}
	}
}

// Where encoding/csv reads a table, CutRow reads the same, but for the \r\n that encoding/csv rewrites.
func FuzzCutRow(f *testing.F) {
	f.Add("a,b\n\"1\r\n\",2\n")
	f.Add("\"a\"\"\"\r\n\r\n\"\"\n")
	f.Add("a\"\r\n,\r")
	f.Fuzz(func(t *testing.T, text string) {
		reader := stdcsv.NewReader(strings.NewReader(text))
		reader.FieldsPerRecord = -1
		want, err := reader.ReadAll()
		if err != nil {
			t.Skip("encoding/csv refuses it, so there is nothing to compare with")
		}
		got, err := cutAll(text)
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		for _, row := range got {
			for i, field := range row {
				row[i] = strings.ReplaceAll(field, "\r\n", "\n")
			}
		}
		if !slices.EqualFunc(got, want, slices.Equal) {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	})
}

func TestQuotedFieldsComeBack(t *testing.T) {
	for _, text := range []string{"", "a", `"`, `""`, "a,b", "\r\n", "\n", "\r", " ", "ü", "\x00", "\ufeff"} {
		rows, err := cutAll(string(AppendQuoted(nil, []byte(text))))
		if err != nil || len(rows) != 1 || !slices.Equal(rows[0], []string{text}) {
			t.Errorf("%q came back as %q, %v", text, rows, err)
		}
	}
}
