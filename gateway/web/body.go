package web

import (
	"bytes"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"example.com/predserver/gateway/internal/budget"
	"example.com/predserver/gateway/internal/csv"
	"example.com/predserver/gateway/internal/gunzip"
	"example.com/predserver/gateway/internal/problem"
	"example.com/predserver/gateway/internal/text"
)

// format is how a table is written, in the request and in the reply.
type format int

const (
	formatCSV format = iota
	formatJSON
)

const (
	mediaForm = "application/x-www-form-urlencoded" // curl calls whatever it posts a form
	mediaJSON = "application/json"
)

// formats are the media types that are taken. What is no more precise than text, or bytes, is taken for CSV.
var formats = map[string]format{
	"text/csv": formatCSV, "application/csv": formatCSV, "text/x-csv": formatCSV, "application/x-csv": formatCSV,
	"text/comma-separated-values": formatCSV, "text/plain": formatCSV, "application/octet-stream": formatCSV, mediaForm: formatCSV,
	mediaJSON: formatJSON, "text/json": formatJSON,
}

// charsets are the names of UTF-8, and of ASCII, which is a part of it.
var charsets = map[string]bool{
	"": true, "utf-8": true, "utf8": true, "utf_8": true, "utf-8-sig": true, "unicode-1-1-utf-8": true,
	"us-ascii": true, "ascii": true, "us": true, "iso646-us": true, "iso-ir-6": true, "ansi_x3.4-1968": true,
}

// requestFormat returns the format that the header announces, and the media type.
func requestFormat(header http.Header) (f format, mediaType string, err error) {
	contentType := header.Get("Content-Type")
	if contentType == "" {
		return formatCSV, "", nil
	}
	mediaType, parameters, err := mime.ParseMediaType(contentType)
	if err != nil {
		return 0, "", problem.Unsupported("Content-Type %s cannot be read; send text/csv or application/json.", problem.Clip(contentType))
	}
	if strings.HasPrefix(mediaType, "multipart/") {
		return 0, "", problem.Unsupported("Content-Type %s is not understood: a form wraps the table in other text. "+
			"Send the file itself as the body, as text/csv; curl does so with --data-binary @FILE in place of -F.", problem.Clip(mediaType))
	}
	f, ok := formats[mediaType]
	if !ok {
		return 0, "", problem.Unsupported("Content-Type %s is not understood; send text/csv or application/json.", problem.Clip(mediaType))
	}
	charset := strings.ToLower(strings.Trim(strings.TrimSpace(parameters["charset"]), "'"))
	if !charsets[charset] {
		return 0, "", problem.Unsupported("Charset %s is not understood; send UTF-8.", problem.Clip(parameters["charset"]))
	}
	return f, mediaType, nil
}

// zipped reports whether the header announces a body in gzip, which is the one coding that is taken.
func zipped(header http.Header) (bool, error) {
	switch coding := strings.ToLower(strings.TrimSpace(strings.Join(header.Values("Content-Encoding"), ","))); coding {
	case "", "identity":
		return false, nil
	case "gzip", "x-gzip":
		return true, nil
	default:
		return false, problem.Unsupported("Content-Encoding %s is not understood; send the table in gzip, or uncompressed.", problem.Clip(coding))
	}
}

// received is the body of a request as it comes in. Its errors are of package problem.
type received struct {
	body    io.Reader
	control *http.ResponseController
	idle    time.Duration // longest time between two reads
	until   time.Time     // when the last byte has to be here; zero for a stream, which sets its own deadlines
	ended   bool
}

// Read implements io.Reader.
func (r *received) Read(p []byte) (int, error) {
	if !r.until.IsZero() {
		deadline := time.Now().Add(r.idle)
		if r.until.Before(deadline) {
			deadline = r.until
		}
		r.control.SetReadDeadline(deadline) // an error means that there is no connection, as in tests
	}
	n, err := r.body.Read(p)
	if err == io.EOF && !r.ended {
		// Behind the body net/http reads on, to see whether the client goes away, and needs no deadline.
		r.control.SetReadDeadline(time.Time{})
	}
	r.ended = r.ended || err != nil
	if err != nil && err != io.EOF {
		err = problem.BrokenOff(err)
	}
	return n, err
}

// most returns how long the body of a question may be.
func (h *Handler) most(q *question) int64 {
	if h.streams(q) {
		return h.options.MaxStreamBytes
	}
	return h.options.MaxBodyBytes
}

// open returns what the body of a question is to be read from: its bytes, inflated if they are compressed.
func (h *Handler) open(q *question, control *http.ResponseController) io.Reader {
	q.received = &received{
		body: q.Body, control: control, idle: h.options.BodyIdleTimeout, until: q.start.Add(h.options.ReadTimeout),
	}
	if !q.zipped {
		return q.received
	}
	return gunzip.NewReader(q.received, h.options.MaxBodyBytes)
}

// unread returns a body of which the beginning is read already.
func unread(beginning []byte, body io.Reader) io.Reader {
	return io.MultiReader(bytes.NewReader(beginning), body)
}

// limited is a body that may have so many bytes.
type limited struct {
	body        io.Reader
	left, limit int64
}

func limit(body io.Reader, bytes int64) io.Reader { return &limited{body, bytes, bytes} }

// Read implements io.Reader.
func (l *limited) Read(p []byte) (int, error) {
	n, err := l.body.Read(p)
	if l.left -= int64(n); l.left < 0 {
		return 0, problem.TooLarge(l.limit)
	}
	return n, err
}

// readCSV returns the whole body of a request in CSV. It takes from share what that needs, with the message that it becomes.
func readCSV(q *question, body io.Reader, share *budget.Share) (string, error) {
	table, err := readTwice(q, body, share)
	if err != nil {
		return "", err
	}
	return text.Of(table), checkCSV(table, q.mediaType)
}

// readTwice returns the whole body of a request. It takes from share what that needs, and as much again for what it becomes.
func readTwice(q *question, body io.Reader, share *budget.Share) ([]byte, error) {
	expected := q.ContentLength
	if q.zipped || expected > budget.SmallBytes {
		expected = -1 // what is announced is not there yet
	}
	var whole []byte
	for {
		if len(whole) == cap(whole) {
			room := max(int(expected)+1, 2*cap(whole), 512)
			if err := share.Grow(2 * int64(room-cap(whole))); err != nil {
				return nil, err
			}
			whole = append(make([]byte, 0, room), whole...)
		}
		n, err := body.Read(whole[len(whole):cap(whole)])
		whole = whole[:len(whole)+n]
		if err == io.EOF {
			return whole, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// gzipMark is how data in gzip begins.
const gzipMark = "\x1f\x8b"

// checkCSV returns an error for a body that cannot be a table in CSV, whatever the model.
func checkCSV(table []byte, mediaType string) error {
	trimmed := bytes.TrimSpace(bytes.TrimPrefix(table, []byte(csv.ByteOrderMark)))
	oneLine := bytes.IndexByte(table, '\n') < 0 && bytes.IndexByte(table, '\r') < 0
	switch form := mediaType == mediaForm; {
	case len(trimmed) == 0:
		return problem.Empty()
	case bytes.HasPrefix(table, []byte(gzipMark)):
		return problem.BadRequest("The body is compressed with gzip, and does not say so; add the header Content-Encoding: gzip.")
	case !utf8.Valid(table):
		return problem.NotText()
	case form && (trimmed[0] == '[' || trimmed[0] == '{'):
		return problem.BadRequest("The body looks like JSON and is announced as a form; add the header Content-Type: application/json.")
	case oneLine && (form || bytes.IndexByte(table, ',') >= 0):
		return problem.BadRequest("The table has no line ends, and so no rows. If curl sent it: -d takes the line ends away; " +
			"use --data-binary @FILE in its place.")
	}
	return nil
}

// readOn returns what is left to be done behind a refusal: to read on for a while, since many clients look for an answer
// only after all is sent, and would see a broken connection in place of it. A client that waits to be asked for the body
// is not asked. What is read is not held.
func (h *Handler) readOn(q *question, control *http.ResponseController) func() {
	if q.Header.Get("Expect") != "" || q.received != nil && q.received.ended || q.ContentLength == 0 {
		return nil
	}
	// Else net/http reads a part of the body before it writes the reply.
	if control.EnableFullDuplex() != nil {
		return nil
	}
	return func() {
		control.Flush()
		control.SetReadDeadline(time.Now().Add(h.options.ReadTimeout))
		io.CopyN(io.Discard, q.Body, h.options.MaxBodyBytes)
	}
}
