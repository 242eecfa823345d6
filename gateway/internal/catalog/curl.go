package catalog

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// longest is how long a table may be that a person pastes into a terminal.
const longest = 2 << 10

// Curl returns the command that posts the table to /predict at a base URL. It is for a POSIX shell, and is safe to paste:
// whatever the table and the model's name hold, the shell and curl take them for text. A table that is too long for that, or
// that holds characters which a terminal would obey, comes from a file that the reader names. With token, the command has a
// place for one.
func Curl(base string, choice Choice, token bool, table string) string {
	command, authorization := "curl -sS "+quote(base+"/predict"), ""
	if token {
		authorization = "Bearer TOKEN"
	}
	for _, header := range []struct{ name, value string }{
		{"Authorization", authorization}, {"Content-Type", "text/csv"}, {"Model-Name", choice.Name}, {"Model-Version", choice.Version},
	} {
		if header.value != "" && inert(header.value) {
			command += " -H " + quote(header.name+": "+header.value)
		}
	}
	command += " \\\n  "
	if table != "" && len(table) <= longest {
		if table = strings.ReplaceAll(table, "\r\n", "\n"); inert(table) {
			return command + "--data-raw " + quote(table) // which, unlike --data-binary, opens no file whose name is behind an @
		}
	}
	return command + "--data-binary @table.csv"
}

// inert reports whether a terminal shows all of a text and obeys none of it. Inside quotes a shell takes line ends, too.
func inert(text string) bool {
	return utf8.ValidString(text) && strings.IndexFunc(text, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }) < 0
}

// quote returns text as one word of a POSIX shell.
func quote(text string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._/:"
	if text != "" && strings.Trim(text, plain) == "" {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
