package catalog

import (
	"fmt"
	"strings"

	"example.com/predserver/gateway/internal/csv"
)

// example returns a table of one row. Its values are made up: all that is known of a column is its type.
func example(columns []Column) string {
	var header, row []string
	for i, c := range columns {
		header = append(header, field(c.Name))
		row = append(row, value(i, c.Dtype))
	}
	return strings.Join(header, ",") + "\n" + strings.Join(row, ",") + "\n"
}

// value returns a value for the column at a place. Floats differ from column to column, so that none is taken for another.
func value(place int, dtype string) string {
	switch {
	case strings.HasPrefix(dtype, "float"):
		return fmt.Sprintf("%d.5", place%10)
	case dtype == "str":
		return "a"
	case dtype == "bool":
		return "true"
	default:
		return "1"
	}
}

// field returns a column's name as a CSV field: in quotes where it must be, or where readers may differ.
func field(name string) string {
	if name != "" && strings.IndexFunc(name, func(r rune) bool { return strings.ContainsRune("\",\r\n \t", r) }) < 0 {
		return name
	}
	return string(csv.AppendQuoted(nil, []byte(name)))
}
