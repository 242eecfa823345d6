package csv

import "strings"

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
