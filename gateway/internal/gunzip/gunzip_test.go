package gunzip

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"example.com/predserver/gateway/internal/problem"
)

// zip returns text in gzip.
func zip(text string) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	io.WriteString(w, text)
	w.Close()
	return out.Bytes()
}

// FuzzReader reads bodies of which most are no gzip: none inflates to more than it may, and all errors are the client's.
func FuzzReader(f *testing.F) {
	f.Add(zip("x\n1\n"))
	f.Add(zip(strings.Repeat("1\n", 100_000)))
	f.Add(append(zip("x\n1\n"), zip("2\n")...))
	f.Add(append(zip("x\n1\n"), "rest"...))
	f.Add(zip("x\n1\n")[:10])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, body []byte) {
		const free = 1000
		text, err := io.ReadAll(NewReader(bytes.NewReader(body), free))
		if len(text) > max(free, MostFold*len(body)) {
			t.Fatalf("%d bytes became %d", len(body), len(text))
		}
		if err == nil {
			return
		}
		e, ok := errors.AsType[*problem.Error](err)
		if !ok || e.Status != http.StatusBadRequest && e.Status != http.StatusRequestEntityTooLarge {
			t.Fatal(err)
		}
	})
}
