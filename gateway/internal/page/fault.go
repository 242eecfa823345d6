package page

import (
	"regexp"
	"strconv"
	"strings"

	"example.com/predserver/gateway/internal/problem"
)

// NewProblem returns an error as a page shows it. Where the table is at fault, its lines are shown, too.
func NewProblem(e *problem.Error, table string) *Problem {
	p := &Problem{Status: e.Status, Message: e.Message, RetryAfter: e.RetryAfter, Title: title(e.Status)}
	for _, v := range e.Violations {
		p.Violations = append(p.Violations, violation(v, table))
	}
	return p
}

// title says whose matter an error is.
func title(status int) string {
	switch {
	case status == 503 || status == 504 || status == 429:
		return "No answer at present"
	case status >= 500:
		return "Something failed on our side"
	case status == 400 || status == 412 || status == 413:
		return "The table was not taken"
	}
	return "The request was not taken"
}

// atLine is how the prediction server says where a fault is.
var atLine = regexp.MustCompile(`^line (\d{1,9})(?:: | )`)

func violation(v problem.Violation, table string) Violation {
	shown := Violation{Column: v.Field, Description: v.Description}
	found := atLine.FindStringSubmatch(v.Description)
	if found == nil {
		return shown
	}
	shown.Line = found[1]
	if strings.HasPrefix(v.Description, found[0]) && strings.HasSuffix(found[0], ": ") {
		shown.Description = v.Description[len(found[0]):]
	}
	number, _ := strconv.Atoi(found[1])
	shown.Text = clip(line(table, number))
	return shown
}

// line returns a line of a table, counted from 1, and nothing if there is none.
func line(table string, number int) string {
	for ; number > 1; number-- {
		end := strings.IndexAny(table, "\r\n")
		if end < 0 {
			return ""
		}
		if strings.HasPrefix(table[end:], "\r\n") {
			end++
		}
		table = table[end+1:]
	}
	if end := strings.IndexAny(table, "\r\n"); end >= 0 {
		table = table[:end]
	}
	return table
}
