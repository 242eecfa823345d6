// Package csv cuts CSV text into rows and into chunks, and leaves their bytes as they are.
package csv

import (
	"errors"
	"strings"
)

// AppendQuoted appends text as a quoted CSV field.
func AppendQuoted(csv, text []byte) []byte {
	csv = append(csv, '"')
	for _, b := range text {
		if b == '"' {
			csv = append(csv, '"')
		}
		csv = append(csv, b)
	}
	return append(csv, '"')
}

// CutRow cuts the first row off csv and appends its fields to row. Blank lines are no rows, as usual; at the end of csv
// no field is appended.
//
// Why not encoding/csv: its reader turns \r\n inside quotes into \n, and a prediction must come through as it was made.
func CutRow(csv string, row []string) (fields []string, rest string, err error) {
	for csv != "" {
		line, after, _ := strings.Cut(csv, "\n")
		if strings.TrimSuffix(line, "\r") != "" {
			break
		}
		csv = after
	}
	for more := csv != ""; more; {
		var field string
		field, csv, more, err = cutField(csv)
		if err != nil {
			return nil, "", err
		}
		row = append(row, field)
	}
	return row, csv, nil
}

// cutField cuts the first field off csv, and what ends it. It reports whether the row has more.
func cutField(csv string) (field, rest string, more bool, err error) {
	if quoted, ok := strings.CutPrefix(csv, `"`); ok {
		if field, rest, err = cutQuoted(quoted); err != nil {
			return "", "", false, err
		}
	} else {
		end := strings.IndexAny(csv, ",\n")
		if end < 0 {
			end = len(csv)
		}
		field, rest = csv[:end], csv[end:]
		if !strings.HasPrefix(rest, ",") {
			field = strings.TrimSuffix(field, "\r")
		}
	}

	switch {
	case rest == "" || rest == "\r":
		return field, "", false, nil
	case rest[0] == ',':
		return field, rest[1:], true, nil
	case rest[0] == '\n':
		return field, rest[1:], false, nil
	case strings.HasPrefix(rest, "\r\n"):
		return field, rest[2:], false, nil
	}
	return "", "", false, errors.New("text follows a closing quote")
}

// cutQuoted cuts a quoted field off csv, which starts after the opening quote.
func cutQuoted(csv string) (field, rest string, err error) {
	var pieces strings.Builder
	for {
		piece, after, found := strings.Cut(csv, `"`)
		if !found {
			return "", "", errors.New("a quote is not closed")
		}
		pieces.WriteString(piece)
		if !strings.HasPrefix(after, `"`) {
			return pieces.String(), after, nil
		}
		pieces.WriteByte('"')
		csv = after[1:]
	}
}
