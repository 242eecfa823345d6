package csv

import (
	"errors"
	"fmt"
	"strings"
)

// Shape returns how many columns and rows a reply has, and an error for text that is no table: a row has more or fewer
// fields than the header, a quote is not closed, two columns have one name.
func Shape(text string) (columns, rows int, err error) {
	header, rest, err := CutRow(text, nil)
	switch {
	case err != nil:
		return 0, 0, fmt.Errorf("the header of the reply: %w", err)
	case len(header) == 0:
		return 0, 0, errors.New("the reply has no header")
	}
	seen := make(map[string]bool, len(header))
	for _, name := range header {
		if seen[name] {
			return 0, 0, fmt.Errorf("the reply has two columns %.60q", name)
		}
		seen[name] = true
	}
	plain := strings.IndexByte(rest, '"') < 0 && strings.IndexByte(rest, '\r') < 0
	for row := make([]string, 0, len(header)); ; rows++ {
		fields := 0
		if plain {
			fields, rest = plainRow(rest)
		} else {
			if row, rest, err = CutRow(rest, row[:0]); err != nil {
				return 0, 0, fmt.Errorf("prediction %d: %w", rows+1, err)
			}
			fields = len(row)
		}
		if fields == 0 {
			return len(header), rows, nil
		}
		if fields != len(header) {
			return 0, 0, fmt.Errorf("prediction %d has %d fields where the header has %d", rows+1, fields, len(header))
		}
	}
}

// plainRow cuts the first row off text without quotes and carriage returns, and returns how many fields it has.
func plainRow(text string) (fields int, rest string) {
	for {
		line, rest, more := strings.Cut(text, "\n")
		if line != "" {
			return 1 + strings.Count(line, ","), rest
		}
		if !more {
			return 0, ""
		}
		text = rest
	}
}

// CountRows returns how many rows stand below the header. It is not ok if readers of CSV may disagree on that: a line
// has nothing but spaces, a carriage return stands alone, a quote is in a wrong place.
func CountRows(text string) (rows int, ok bool) {
	text = strings.TrimPrefix(text, ByteOrderMark)
	plain := strings.IndexByte(text, '"') < 0 && strings.IndexByte(text, '\r') < 0
	records := 0
	for text != "" {
		end, ok := strings.IndexByte(text, '\n')+1, true
		if !plain {
			end, ok = endOfRecord(text)
		}
		if !ok {
			return 0, false
		}
		if end == 0 {
			end = len(text)
		}
		if line := strings.TrimRight(text[:end], "\r\n"); line != "" {
			if (line[0] == ' ' || line[0] == '\t') && strings.TrimLeft(line, " \t") == "" {
				return 0, false
			}
			records++
		}
		text = text[end:]
	}
	return max(records-1, 0), true
}

// endOfRecord returns the place behind the first record, which may be blank. It is not ok if readers may disagree.
func endOfRecord(text string) (end int, ok bool) {
	for i := 0; ; {
		end = len(text)
		if n := strings.IndexByte(text[i:], '\n'); n >= 0 {
			end = i + n + 1
		}
		quote := strings.IndexByte(text[i:end], '"')
		if quote < 0 {
			r := strings.IndexByte(text[i:end], '\r')
			return end, r < 0 || strings.TrimSuffix(text[i+r+1:end], "\n") == ""
		}
		if strings.IndexByte(text[i:i+quote], '\r') >= 0 {
			return 0, false
		}
		i += quote + 1
		if i > 1 && text[i-2] != ',' {
			continue // a quote inside a field is like any character
		}
		if i, ok = closingQuote(text, i); !ok {
			return 0, false
		}
		if i < len(text) && text[i] != ',' && text[i] != '\r' && text[i] != '\n' {
			return 0, false
		}
	}
}

// closingQuote returns the place behind the quote that closes the field whose text begins at start.
func closingQuote(text string, start int) (after int, ok bool) {
	for {
		quote := strings.IndexByte(text[start:], '"')
		if quote < 0 {
			return 0, false
		}
		start += quote + 1
		if start == len(text) || text[start] != '"' {
			return start, true
		}
		start++
	}
}
