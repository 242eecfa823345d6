package main

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"net/http"
	"os"
	"strconv"
	"strings"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
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
		return 0, unsupported("Content-Encoding %s is not understood; send the table uncompressed.", clip(encoding))
	}
	contentType := header.Get("Content-Type")
	if contentType == "" {
		return formatCSV, nil
	}
	mediaType, parameters, err := mime.ParseMediaType(contentType)
	if err != nil {
		return 0, unsupported("Content-Type %s cannot be read; send text/csv or application/json.", clip(contentType))
	}
	if charset := parameters["charset"]; charset != "" && !strings.EqualFold(charset, "utf-8") {
		return 0, unsupported("Charset %s is not understood; send UTF-8.", clip(charset))
	}
	switch mediaType {
	case "text/csv", "application/x-www-form-urlencoded": // curl calls whatever it posts a form
		return formatCSV, nil
	case "application/json":
		return formatJSON, nil
	}
	return 0, unsupported("Content-Type %s is not understood; send text/csv or application/json.", clip(mediaType))
}

func unsupported(format string, args ...any) *httpError {
	return refuse(http.StatusUnsupportedMediaType, codes.InvalidArgument, format, args...)
}

// readBody returns the whole body, which is text, and not empty. Its beginning may have been read already.
func readBody(r *http.Request, beginning []byte, limit int64) ([]byte, error) {
	large := r.ContentLength > limit
	var body []byte
	if !large {
		var err error
		body, err = io.ReadAll(io.LimitReader(io.MultiReader(bytes.NewReader(beginning), r.Body), limit+1))
		if err != nil {
			return nil, brokenOff(err)
		}
		large = int64(len(body)) > limit
	}
	switch {
	case large:
		drain(r, limit)
		return nil, tooLarge(limit)
	case len(bytes.TrimSpace(body)) == 0:
		return nil, badRequest("The body is empty; send a table as CSV, or as a JSON array of records.")
	case !utf8.Valid(body):
		return nil, notText()
	}
	return body, nil
}

// brokenOff returns the error for a body that cannot be read to its end.
func brokenOff(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return refuse(http.StatusRequestTimeout, codes.DeadlineExceeded, "The body came too slowly.")
	}
	e := badRequest("The body breaks off before its end.")
	e.reason = err.Error()
	return e
}

// tooLarge returns the error for a body over a limit.
func tooLarge(limit int64) error {
	return refuse(http.StatusRequestEntityTooLarge, codes.ResourceExhausted,
		"The body is larger than %d bytes; send fewer rows at a time.", limit)
}

// notText returns the error for a body that is no text.
func notText() error {
	return badRequest("The body is not UTF-8 text; save the table as UTF-8.")
}

// drain reads on for a while, since many clients look for an answer only after all is sent, and would see a broken
// connection in place of it. A client that waits to be asked for the body is not asked.
func drain(r *http.Request, limit int64) {
	if r.Header.Get("Expect") == "" {
		io.CopyN(io.Discard, r.Body, limit)
	}
}

// clip quotes text for an error message, without its end if it is long.
func clip(text string) string {
	const limit = 60
	if len(text) > limit {
		text = strings.ToValidUTF8(text[:limit], "") + "…"
	}
	return strconv.Quote(text)
}
