// Package gunzip inflates bodies, and refuses bombs.
package gunzip

import (
	"compress/gzip"
	"errors"
	"io"
	"net/http"

	"google.golang.org/grpc/codes"

	"example.com/predserver/gateway/internal/problem"
)

// MostFold is how many times its size a long body may inflate to. Real tables come to 3 or 20; gzip can do a thousand, which
// no table needs and a bomb does.
const MostFold = 100

// Reader reads a body in gzip as what it was compressed from. Its errors are of package problem.
type Reader struct {
	source *counter
	free   int64 // what any body may inflate to
	zip    *gzip.Reader
	read   int64
}

// NewReader returns the text of a body. It is let inflate to so many bytes freely, and beyond that to MostFold times of what
// was read.
func NewReader(body io.Reader, free int64) *Reader {
	return &Reader{source: &counter{body: body}, free: free}
}

// Read implements io.Reader.
func (r *Reader) Read(p []byte) (n int, err error) {
	if r.zip == nil {
		if r.zip, err = gzip.NewReader(r.source); err != nil {
			return 0, r.fault(err)
		}
	}
	n, err = r.zip.Read(p)
	if r.read += int64(n); r.read > r.free && r.read > MostFold*r.source.read {
		e := problem.Refusal(http.StatusRequestEntityTooLarge, codes.ResourceExhausted,
			"The body inflates to more than %d bytes, and to more than %d times its size; send it uncompressed.", r.free, MostFold)
		e.Name = "TOO_LARGE"
		return 0, e
	}
	if err != nil && err != io.EOF {
		err = r.fault(err)
	}
	return n, err
}

// fault returns the error for a body that cannot be inflated.
func (r *Reader) fault(err error) error {
	if e, ok := errors.AsType[*problem.Error](err); ok {
		return e // of the body itself
	}
	if err == io.EOF && r.source.read == 0 {
		return io.EOF
	}
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return problem.BadRequest("The compressed body breaks off before its end.")
	}
	return problem.BadRequest("The body is announced as gzip, and is not in gzip (%v).", err)
}

// counter counts the bytes of a body.
type counter struct {
	body io.Reader
	read int64
}

// Read implements io.Reader.
func (c *counter) Read(p []byte) (int, error) {
	n, err := c.body.Read(p)
	c.read += int64(n)
	return n, err
}
