package csv

import (
	"bytes"
	"io"
	"net/http"
	"strings"

	"google.golang.org/grpc/codes"

	"example.com/predserver/gateway/internal/problem"
)

// ByteOrderMark is what spreadsheets put in front of a table.
const ByteOrderMark = "\ufeff"

// Splitter reads a table in CSV and cuts it into chunks that end where a record ends, each with the header in front.
//
// A record ends with a line feed that an even number of quotes precedes; nothing else is parsed. A quote in a wrong place
// moves these ends, but then the chunk in which it stands is no CSV either, and the prediction server says so.
type Splitter struct {
	Body  io.Reader
	Size  int   // of a chunk, about
	Limit int   // most bytes of a chunk, since a record may be longer than Size
	Most  int64 // most bytes of the table

	// Hold is called before the buffer takes more memory, with its capacity then; nil is never. Its error ends the reading.
	Hold func(capacity int) error

	header string
	buffer []byte // what was read and is in no chunk yet
	total  int64
	ended  bool // nothing more can be read of the body
}

// First returns the first chunk, which is how the table begins, byte for byte. It returns false, and keeps all that it
// read in the buffer, if the table is not to be cut: it ends before it is longer than a chunk, or where its header ends
// is a matter of opinion.
func (s *Splitter) First() (chunk string, ok bool, err error) {
	for want := s.Size + 1; ; want = 2 * len(s.buffer) {
		if err := s.fill(min(want, s.Limit+1)); err != nil || s.ended {
			return "", false, err
		}
		mark := len(s.buffer) - len(bytes.TrimPrefix(s.buffer, []byte(ByteOrderMark)))
		start := mark + FirstRecord(s.buffer[mark:])
		end := lastRecord(s.buffer)
		if mark < start && start < end && !blank(s.buffer[start:end]) {
			if loneReturn(s.buffer[mark:start]) {
				return "", false, nil
			}
			s.header = strings.TrimLeft(string(s.buffer[mark:start]), "\r\n")
			if strings.HasPrefix(s.header, ByteOrderMark) {
				// It stood behind the table's beginning, and belongs to the first name. In front of a chunk it would be lost.
				s.header = "\n" + s.header
			}
			return s.take("", end), true, nil
		}
		if len(s.buffer) > s.Limit {
			return "", false, s.longRecord()
		}
	}
}

// Held returns what was read of the body and is in no chunk yet.
func (s *Splitter) Held() []byte { return s.buffer }

// Ended reports whether the body is read to its end, or cannot be read further.
func (s *Splitter) Ended() bool { return s.ended }

// Next returns the next chunk, and io.EOF after the last.
func (s *Splitter) Next() (string, error) {
	for {
		end, err := s.records()
		if err != nil {
			return "", err
		}
		// Lines without a character are no rows, and a table without rows is an error.
		rows := !blank(s.buffer[:end])
		chunk := s.take(s.header, end)
		if rows {
			return chunk, nil
		}
	}
}

// records reads about as much as a chunk has room for, and returns where the last whole record ends.
func (s *Splitter) records() (int, error) {
	limit := s.Limit - len(s.header)
	// Under a long header the chunks are longer, or they would be all header.
	for want := max(s.Size-len(s.header), s.Size/2, 1); ; want = 2 * len(s.buffer) {
		if err := s.fill(min(want, limit+1)); err != nil {
			return 0, err
		}
		end := len(s.buffer)
		if end == 0 {
			return 0, io.EOF
		}
		if !s.ended || end > limit {
			end = lastRecord(s.buffer[:min(end, limit)])
		}
		if end > 0 {
			return end, nil
		}
		if len(s.buffer) > limit {
			return 0, s.longRecord()
		}
	}
}

// fill reads until the buffer holds as much as wanted, or all that there is.
func (s *Splitter) fill(want int) error {
	for !s.ended && len(s.buffer) < want {
		if len(s.buffer) == cap(s.buffer) {
			// Not all that is wanted at once: what is announced is not there yet.
			room := max(min(want, max(2*cap(s.buffer), firstRead)), cap(s.buffer)+1)
			if s.Hold != nil {
				if err := s.Hold(room); err != nil {
					return err
				}
			}
			s.buffer = append(make([]byte, 0, room), s.buffer...)
		}
		n, err := s.Body.Read(s.buffer[len(s.buffer):min(want, cap(s.buffer))])
		s.buffer, s.total = s.buffer[:len(s.buffer)+n], s.total+int64(n)
		if s.total > s.Most {
			return problem.TooLarge(s.Most)
		}
		if s.ended = err != nil; err != nil && err != io.EOF {
			return problem.BrokenOff(err)
		}
	}
	return nil
}

// take takes the first n bytes off the buffer and puts front before them.
func (s *Splitter) take(front string, n int) string {
	chunk := front + string(s.buffer[:n])
	s.buffer = s.buffer[:copy(s.buffer, s.buffer[n:])]
	return chunk
}

// firstRead is the first size of the buffer: with it, a request that is small still counts as one (budget.SmallBytes).
const firstRead = 32 << 10

// longRecord is the error for a record that is longer than a chunk may be.
func (s *Splitter) longRecord() error {
	return problem.Refusal(http.StatusRequestEntityTooLarge, codes.ResourceExhausted,
		"A row is larger than %d bytes; is a quote not closed? (Or did curl take the line ends away? Use --data-binary in place of -d.)", s.Limit)
}

// FirstRecord returns where the first record ends, 0 if nowhere. Blank lines are no records.
func FirstRecord[T string | []byte](text T) int {
	quoted, blank := false, true
	for i := range len(text) {
		switch text[i] {
		case '"':
			quoted, blank = !quoted, false
		case '\n':
			if !quoted && !blank {
				return i + 1
			}
		case '\r':
		default:
			blank = false
		}
	}
	return 0
}

// lastRecord returns where the last record ends, 0 if nowhere.
func lastRecord(text []byte) int {
	quotes := bytes.Count(text, []byte{'"'})
	for {
		end := bytes.LastIndexByte(text, '\n') + 1
		quotes -= bytes.Count(text[end:], []byte{'"'})
		if end == 0 || quotes%2 == 0 {
			return end
		}
		text = text[:end-1]
	}
}

// blank reports whether there is nothing but empty lines.
func blank(text []byte) bool {
	return len(bytes.TrimLeft(text, "\r\n")) == 0 && !loneReturn(text)
}

// loneReturn reports whether a carriage return stands in the text, not in quotes, and no line feed behind it. Some
// readers take it for the end of a line, and some do not: they would not agree on where a header ends.
func loneReturn(text []byte) bool {
	quoted := false
	for i, b := range text {
		switch {
		case b == '"':
			quoted = !quoted
		case b == '\r' && !quoted && i+1 < len(text) && text[i+1] != '\n':
			return true
		}
	}
	return false
}
