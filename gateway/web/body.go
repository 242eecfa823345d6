package web

import (
	"bytes"
	"io"
	"mime"
	"net/http"
	"strings"
	"unicode/utf8"

	"example.com/predserver/gateway/internal/problem"
)

// format is how a table is written, in the request and in the reply.
type format int

const (
	formatCSV format = iota
	formatJSON
)

// requestFormat returns the format that the header announces.
func requestFormat(header http.Header) (format, error) {
	if encoding := header.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return 0, problem.Unsupported("Content-Encoding %s is not understood; send the table uncompressed.", problem.Clip(encoding))
	}
	contentType := header.Get("Content-Type")
	if contentType == "" {
		return formatCSV, nil
	}
	mediaType, parameters, err := mime.ParseMediaType(contentType)
	if err != nil {
		return 0, problem.Unsupported("Content-Type %s cannot be read; send text/csv or application/json.", problem.Clip(contentType))
	}
	if charset := parameters["charset"]; charset != "" && !strings.EqualFold(charset, "utf-8") {
		return 0, problem.Unsupported("Charset %s is not understood; send UTF-8.", problem.Clip(charset))
	}
	switch mediaType {
	case "text/csv", "application/x-www-form-urlencoded": // curl calls whatever it posts a form
		return formatCSV, nil
	case "application/json":
		return formatJSON, nil
	}
	return 0, problem.Unsupported("Content-Type %s is not understood; send text/csv or application/json.", problem.Clip(mediaType))
}

// unread returns a body of which the beginning is read already.
func unread(beginning []byte, body io.Reader) io.Reader {
	return io.MultiReader(bytes.NewReader(beginning), body)
}

// readBody returns the whole body of a request, which is text, and not empty.
func readBody(r *http.Request, from io.Reader, limit int64) ([]byte, error) {
	large := r.ContentLength > limit
	var body []byte
	if !large {
		var err error
		body, err = io.ReadAll(io.LimitReader(from, limit+1))
		if err != nil {
			return nil, problem.BrokenOff(err)
		}
		large = int64(len(body)) > limit
	}
	switch {
	case large:
		drain(r, limit)
		return nil, problem.TooLarge(limit)
	case len(bytes.TrimSpace(body)) == 0:
		return nil, problem.BadRequest("The body is empty; send a table as CSV, or as a JSON array of records.")
	case !utf8.Valid(body):
		return nil, problem.NotText()
	}
	return body, nil
}

// drain reads on for a while, since many clients look for an answer only after all is sent, and would see a broken
// connection in place of it. A client that waits to be asked for the body is not asked.
func drain(r *http.Request, limit int64) {
	if r.Header.Get("Expect") == "" {
		io.CopyN(io.Discard, r.Body, limit)
	}
}
