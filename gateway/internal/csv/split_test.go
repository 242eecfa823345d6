package csv

import (
	stdcsv "encoding/csv"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"example.com/predserver/gateway/internal/problem"
)

// chunks cuts a table, and returns it as one chunk if it is not to be cut.
func chunks(body io.Reader, size, limit int) (all []string, err error) {
	s := &Splitter{Body: body, Size: size, Limit: limit, Most: 1 << 40}
	chunk, ok, err := s.First()
	if err != nil {
		return nil, err
	}
	if !ok {
		rest, err := io.ReadAll(body)
		return []string{string(s.buffer) + string(rest)}, err
	}
	for err == nil {
		all = append(all, chunk)
		chunk, err = s.Next()
	}
	if err == io.EOF {
		err = nil
	}
	return all, err
}

// records reads a table as encoding/csv does.
func records(text string) ([][]string, error) {
	reader := stdcsv.NewReader(strings.NewReader(strings.TrimPrefix(text, ByteOrderMark)))
	reader.FieldsPerRecord = -1
	return reader.ReadAll()
}

// checkChunks checks that chunks hold the records of the table, and the header each.
func checkChunks(t *testing.T, text string, all []string) {
	t.Helper()
	want, err := records(text)
	if err != nil {
		return // what is no CSV need only come through, in whatever pieces
	}
	var got [][]string
	for i, chunk := range all {
		part, err := records(chunk)
		if err != nil || len(all) > 1 && len(part) < 2 {
			t.Fatalf("%q: chunk %d is %q: %v", text, i, chunk, err)
		}
		if i > 0 {
			if !slices.Equal(part[0], want[0]) {
				t.Fatalf("%q: chunk %d has the header %q", text, i, part[0])
			}
			part = part[1:]
		}
		got = append(got, part...)
	}
	if !slices.EqualFunc(got, want, slices.Equal) {
		t.Fatalf("%q in %q: got %q, want %q", text, all, got, want)
	}
}

// randomTable writes fields that hold what a cut could stumble over.
func randomTable(random *rand.Rand) string {
	pick := func(from ...string) string { return from[random.IntN(len(from))] }
	columns := 1 + random.IntN(4)
	var text strings.Builder
	text.WriteString(pick("", "", ByteOrderMark, "\n", "\r\n\n"))
	for range 2 + random.IntN(12) {
		for column := range columns {
			if column > 0 {
				text.WriteByte(',')
			}
			if random.IntN(2) == 0 {
				text.WriteString(pick("1.5", "abc", "é", "x y"))
				continue
			}
			text.WriteByte('"')
			for range random.IntN(6) {
				text.WriteString(pick("a", `""`, "\n", "\r\n", "\r", ",", "ü", "\n\n"))
			}
			text.WriteByte('"')
		}
		text.WriteString(pick("\n", "\n", "\r\n", "\n\n", "\r\n\r\n"))
	}
	return strings.TrimSuffix(text.String(), pick("\n", "-"))
}

func TestChunksHoldTheSameRecords(t *testing.T) {
	random := rand.New(rand.NewPCG(6, 0))
	several := 0
	for range 3_000 {
		text := randomTable(random)
		for _, body := range []io.Reader{strings.NewReader(text), iotest.OneByteReader(strings.NewReader(text)), iotest.DataErrReader(strings.NewReader(text))} {
			all, err := chunks(body, 1+random.IntN(len(text)+2), 1<<20)
			if err != nil {
				t.Fatalf("%q: %v", text, err)
			}
			checkChunks(t, text, all)
			several += min(1, len(all)-1)
		}
	}
	if several < 3_000 {
		t.Errorf("only %d tables were cut", several)
	}
}

func FuzzSplitter(f *testing.F) {
	f.Add("a,b\n\"1\r\n\",2\n3,4\n", 4)
	f.Add("\ufeff\r\na\"\n1\n\n\n\n2\"\n", 1)
	f.Add("a\rb\nc\n", 2)
	f.Add("\n\ufeff\r\na\n1\n\n\n\n2\x03", 93)
	f.Fuzz(func(t *testing.T, text string, size int) {
		all, err := chunks(strings.NewReader(text), 1+max(0, size)%(len(text)+2), 1<<20)
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		checkChunks(t, text, all)
		for _, chunk := range all {
			if len(chunk) == 0 && text != "" {
				t.Errorf("%q: an empty chunk in %q", text, all)
			}
		}
	})
}

func TestWhereTablesAreCut(t *testing.T) {
	tests := []struct {
		name string
		text string
		size int
		want []string
	}{
		{"a chunk", "x\n1\n2\n", 6, []string{"x\n1\n2\n"}},
		{"a byte more", "x\n1\n2\n3", 6, []string{"x\n1\n2\n", "x\n3"}},
		{"a header of several lines", "\"x\ny\"\n1\n2\n3\n", 8, []string{"\"x\ny\"\n1\n", "\"x\ny\"\n2\n3\n"}},
		{"a long record", "x\n1\n\"2\n2\n2\n2\"\n3\n4\n5\n", 4, []string{"x\n1\n", "x\n\"2\n2\n2\n2\"\n3\n4\n5\n"}},
		{"a mark in front", "\ufeffx\n1\n2\n", 7, []string{"\ufeffx\n1\n", "x\n2\n"}},
		{"blank lines are no rows", "\n\r\nx\n\n\n1\n" + strings.Repeat("\n", 50) + "2\n\n\n\n", 3, []string{"\n\r\nx\n\n\n1\n\n\n\n\n\n\n\n", "x\n2\n"}},
		{"CRLF", "x\r\n1\r\n2\r\n", 7, []string{"x\r\n1\r\n", "x\r\n2\r\n"}},
		{"old line ends", "x\r1\r2\r3\r", 2, []string{"x\r1\r2\r3\r"}},
		{"is x the header, or x and 1?", "x\r1\n2\n3\n", 2, []string{"x\r1\n2\n3\n"}},
		{"nothing but a header", "x,y,z\n", 2, []string{"x,y,z\n"}},
		{"nothing but lines", "\n\n\n\n\n", 2, []string{"\n\n\n\n\n"}},
		{"nothing", "", 2, []string{""}},
		{"a quote that is not closed", "x\n1\n\"2\n3\n4\n5\n", 4, []string{"x\n1\n", "x\n\"2\n3\n4\n5\n"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := chunks(strings.NewReader(test.text), test.size, 1000)
			if err != nil || !slices.Equal(got, test.want) {
				t.Errorf("got %q, %v, want %q", got, err, test.want)
			}
		})
	}
}

func TestLongRecordsAndTables(t *testing.T) {
	row := strings.Repeat("1", 99) + "\n"
	for _, text := range []string{"x\n" + strings.Repeat("1", 2000), "x\n1\n\"" + strings.Repeat(row, 20), strings.Repeat("\n", 2000)} {
		_, err := chunks(strings.NewReader(text), 10, 1000)
		if e, ok := errors.AsType[*problem.Error](err); !ok || e.Status != 413 || !strings.Contains(e.Message, "1000 bytes") {
			t.Errorf("%.20q: %v", text, err)
		}
	}
	for size := range 400 { // no chunk is over the limit, wherever it was cut
		all, err := chunks(strings.NewReader("x\n"+strings.Repeat(row, 50)), 1+size, 400)
		if err != nil || slices.ContainsFunc(all, func(chunk string) bool { return len(chunk) > 401 }) {
			t.Fatalf("size %d: %v", size, err)
		}
	}
	for most, fits := range map[int64]bool{2: false, 4999: false, 5002: true} {
		s := &Splitter{Body: strings.NewReader("x\n" + strings.Repeat(row, 50)), Size: 300, Limit: 400, Most: most}
		_, _, err := s.First()
		for err == nil {
			_, err = s.Next()
		}
		if want := fmt.Sprintf("larger than %d bytes", most); (err == io.EOF) != fits || !fits && !strings.Contains(err.Error(), want) {
			t.Errorf("%d: %v", most, err)
		}
	}
}

func BenchmarkSplitter(b *testing.B) {
	for name, row := range map[string]string{"plain": "1,2,5,15,UA,EWR,IAH,1400,2.5\n", "quoted": "1,2,5,15,\"UA\",\"EWR\",\"IAH\",1400,2.5\n"} {
		text := "month,day,hour,minute,carrier,origin,dest,distance,dep_delay\n" + strings.Repeat(row, 100_000)
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				if _, err := chunks(strings.NewReader(text), 1<<20, 64<<20); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
