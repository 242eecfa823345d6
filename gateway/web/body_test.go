package web

import (
	"bufio"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"example.com/predserver/gateway/internal/testkit"
)

func TestMediaTypes(t *testing.T) {
	const csv, json = "x,y\n1,2\n", `[{"x": 1, "y": 2}]`
	const csvReply, jsonReply = csv, "[{\"x\":1,\"y\":2}]\n"
	tests := []struct {
		contentType string // "-" sends none
		body        string
		status      int
		want        string
	}{
		{"-", csv, 200, csvReply},
		{"text/csv", csv, 200, csvReply},
		{"Text/CSV; Charset=UTF-8; header=present", csv, 200, csvReply},
		{"application/x-www-form-urlencoded", csv, 200, csvReply},
		{"application/x-www-form-urlencoded", "a=1&b=%41,y\n1,2\n", 200, "a=1&b=%41,y\n1,2\n"},
		{"application/json", json, 200, jsonReply},
		{"application/json; charset=utf-8", json, 200, jsonReply},
		{"application/json; charset=latin1", json, 415, "UTF-8"},
		{"text/csv; charset=utf-16", csv, 415, "UTF-8"},
		{"text/plain", csv, 200, csvReply},
		{"text/plain; charset=UTF-8", csv, 200, csvReply},
		{"application/octet-stream", csv, 200, csvReply},
		{"application/csv", csv, 200, csvReply},
		{"text/csv; charset=utf8", csv, 200, csvReply},
		{"text/csv; charset=\"Utf8\"", csv, 200, csvReply},
		{"text/csv; charset='utf-8'", csv, 200, csvReply},
		{"text/csv; charset=us-ascii", csv, 200, csvReply},
		{"application/json; charset=US-ASCII", json, 200, jsonReply},
		{"application/json", "\ufeff" + json, 200, jsonReply},
		{"application/gzip", csv, 415, "text/csv"},
		{"text/html", csv, 415, "text/csv"},
		{"application/jsonl", json, 415, "text/csv"},
		{"multipart/form-data; boundary=x", csv, 415, "text/csv"},
		{"text/csv; charset", csv, 415, "cannot be read"},
		{"/", csv, 415, "cannot be read"},
	}
	address, _ := testkit.StartFake(t, "127.0.0.1:0", testkit.Echo)
	g := startGateway(t, address)
	for _, test := range tests {
		t.Run(test.contentType, func(t *testing.T) {
			var headers []string
			if test.contentType != "-" {
				headers = []string{"Content-Type: " + test.contentType}
			}
			r := g.Post(t, test.body, headers...)
			if test.status != 200 {
				testkit.WantError(t, r, test.status, "INVALID_ARGUMENT", test.want)
				return
			}
			if r.Status != 200 || r.Body != test.want {
				t.Errorf("got %d %q, want %q", r.Status, r.Body, test.want)
			}
			kind := "text/csv; charset=utf-8"
			if test.want == jsonReply {
				kind = "application/json"
			}
			if got := r.Header.Get("Content-Type"); got != kind {
				t.Errorf("Content-Type %q, want %q", got, kind)
			}
		})
	}
	r := g.Post(t, csv, "Content-Encoding: br")
	testkit.WantError(t, r, 415, "INVALID_ARGUMENT", "uncompressed")
	if got := r.Header.Get("Accept-Encoding"); got != "gzip, identity" {
		t.Errorf("Accept-Encoding %q", got)
	}
	testkit.WantError(t, g.Post(t, csv, "Content-Type: multipart/form-data; boundary=x"), 415, "INVALID_ARGUMENT", "--data-binary")
}

func TestBodiesThatAreRefused(t *testing.T) {
	address, _ := testkit.StartFake(t, "127.0.0.1:0", testkit.Echo)
	g := startGateway(t, address)
	for _, kind := range []string{"text/csv", "application/json"} {
		testkit.WantError(t, g.Post(t, "", "Content-Type: "+kind), 400, "INVALID_ARGUMENT", "empty")
		testkit.WantError(t, g.Post(t, " \r\n\t", "Content-Type: "+kind), 400, "INVALID_ARGUMENT", "empty")
		testkit.WantError(t, g.Post(t, "[{\"x\": \"\xff\"}]", "Content-Type: "+kind), 400, "INVALID_ARGUMENT", "UTF-8")
	}
}

// curl's -d takes the line ends of a file away, and calls what is left a form.
func TestTablesWithoutLineEnds(t *testing.T) {
	address, _ := testkit.StartFake(t, "127.0.0.1:0", testkit.Echo)
	g := startGateway(t, address)
	const form, csv = "Content-Type: application/x-www-form-urlencoded", "Content-Type: text/csv"
	for _, test := range []struct{ body, header, inMessage string }{
		{"x,y1,23,4", form, "--data-binary"},
		{"x12", form, "--data-binary"},
		{"x,y1,23,4", csv, "--data-binary"},
		{`[{"x": 1}]`, form, "application/json"},
		{"\x1f\x8b\x08", csv, "Content-Encoding: gzip"},
	} {
		testkit.WantError(t, g.Post(t, test.body, test.header), 400, "INVALID_ARGUMENT", test.inMessage)
	}
	for _, whole := range []string{"x,y\n", "x\r1\r", "x\n12"} { // the prediction server's to judge
		if r := g.Post(t, whole, form); r.Status != 200 || r.Body != whole {
			t.Errorf("%q: got %d %s", whole, r.Status, r.Body)
		}
	}
}

// zip returns a body in gzip.
func zip(t *testing.T, body string) string {
	t.Helper()
	var zipped strings.Builder
	w := gzip.NewWriter(&zipped)
	io.WriteString(w, body)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return zipped.String()
}

func TestBodiesInGzip(t *testing.T) {
	g := startGateway(t, startBoth(t, testkit.Echo, chunkwise(same)), "-chunk-bytes=10000", "-max-body-bytes=1000000")
	const coding = "Content-Encoding: gzip"
	rows := make([]string, 200_001) // unlike each other, so that they do not fold to nothing
	rows[0] = "x"
	for i := range rows[1:] {
		rows[i+1] = fmt.Sprint(i * i * 7919 % 1_000_003)
	}
	long := strings.Join(rows, "\n") + "\n"
	for _, body := range []string{"x,y\n1,2\n", numbers(5), long} {
		for _, name := range []string{coding, "Content-Encoding: X-GZIP"} {
			if r := g.Post(t, zip(t, body), name); r.Status != 200 || r.Body != body {
				t.Errorf("%d bytes, %s: got %d and %d bytes", len(body), name, r.Status, len(r.Body))
			}
		}
	}
	if r := g.Post(t, zip(t, "[{\"x\": 1}]"), coding, "Content-Type: application/json"); r.Status != 200 || r.Body != "[{\"x\":1}]\n" {
		t.Errorf("records: got %d %s", r.Status, r.Body)
	}
	bomb := zip(t, strings.Repeat("0", 5_000_000))
	testkit.WantError(t, g.Post(t, bomb, coding), 413, "RESOURCE_EXHAUSTED", "1000000 bytes")
	spaces := zip(t, "["+strings.Repeat(" ", 5_000_000))
	testkit.WantError(t, g.Post(t, spaces, coding, "Content-Type: application/json"), 413, "RESOURCE_EXHAUSTED", "1000000 bytes")
	testkit.WantError(t, g.Post(t, zip(t, zip(t, "x\n1\n")), coding), 400, "INVALID_ARGUMENT", "gzip")
	testkit.WantError(t, g.Post(t, "x\n1\n2\n3\n4\n5\n", coding), 400, "INVALID_ARGUMENT", "not in gzip")
	testkit.WantError(t, g.Post(t, bomb[:100], coding), 400, "INVALID_ARGUMENT", "breaks off")
	testkit.WantError(t, g.Post(t, "", coding), 400, "INVALID_ARGUMENT", "empty")
	testkit.WantError(t, g.Post(t, zip(t, ""), coding), 400, "INVALID_ARGUMENT", "empty")
	// Rows without end, as a stream: it may be refused before the first predictions have left, or else breaks.
	c := converse(t, g, coding)
	go func() {
		io.WriteString(c.body, zip(t, numbers(1_000_000)))
		c.body.Close()
	}()
	c.lines(1)
	if rest, err := io.ReadAll(c.reader); err == nil && c.reply.StatusCode != 413 {
		t.Errorf("10 MB were taken, and %d bytes answered", len(rest))
	}
	testkit.Eventually(t, "a line in the log", func() bool { return strings.Contains(g.Log.String(), "inflates to more") })
}

func TestBodyLimit(t *testing.T) {
	const limit = 100_000
	address, _ := testkit.StartFake(t, "127.0.0.1:0", testkit.Constant("p\n1\n"))
	g := startGateway(t, address, fmt.Sprint("-max-body-bytes=", limit))
	for _, test := range []struct {
		size    int
		chunked bool
		status  int
	}{
		{limit, false, 200},
		{limit, true, 200},
		{limit + 1, false, 413},
		{limit + 1, true, 413},
		{2 * limit, false, 413},
		{2 * limit, true, 413},
	} {
		t.Run(fmt.Sprint(test.size, " chunked ", test.chunked), func(t *testing.T) {
			var body io.Reader = strings.NewReader(strings.Repeat("x", test.size))
			if test.chunked {
				body = io.MultiReader(body) // whose length net/http does not know
			}
			r := g.Do(t, "POST", "/predict", body)
			if test.status == 413 {
				testkit.WantError(t, r, 413, "RESOURCE_EXHAUSTED", "larger than 100000 bytes")
			} else if r.Status != test.status {
				t.Errorf("got %d %s", r.Status, r.Body)
			}
		})
	}
}

// The largest body that is let in must also pass the limits of gRPC, out and back.
func TestLargestBodyReachesTheServer(t *testing.T) {
	address, _ := testkit.StartFake(t, "127.0.0.1:0", testkit.Echo)
	const limit = 5 << 20 // more than gRPC's own default
	g := startGateway(t, address, fmt.Sprint("-max-body-bytes=", limit))
	body := strings.Repeat("x", limit)
	if r := g.Post(t, body); r.Status != 200 || r.Body != body {
		t.Errorf("got %d and %d bytes", r.Status, len(r.Body))
	}
}

func TestReplyOverTheLimit(t *testing.T) {
	address, _ := testkit.StartFake(t, "127.0.0.1:0", testkit.Constant(strings.Repeat("x", 4<<20+messageOverhead+1)))
	g := startGateway(t, address, "-max-body-bytes=10")
	testkit.WantError(t, g.Post(t, "x\n1\n"), 413, "RESOURCE_EXHAUSTED", "fewer rows")
}

// A client that asks before it sends is told no before it sends.
func TestTooLargeBodyIsNotAskedFor(t *testing.T) {
	address, _ := testkit.StartFake(t, "127.0.0.1:0", testkit.Echo)
	g := startGateway(t, address, "-max-body-bytes=10", "-max-stream-bytes=20")
	for _, headers := range []string{"Content-Type: application/json\r\nContent-Length: 11", "Content-Length: 21"} {
		conn := g.Dial(t)
		fmt.Fprint(conn, "POST /predict HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"+headers+"\r\n\r\n")
		reply, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || reply.StatusCode != 413 {
			t.Errorf("%s: got %v, %v", headers, reply, err)
		}
	}
}

func TestBodyThatBreaksOff(t *testing.T) {
	address, _ := testkit.StartFake(t, "127.0.0.1:0", testkit.Echo)
	g := startGateway(t, address)
	conn := g.Dial(t)
	fmt.Fprint(conn, "POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n")
	reply, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || reply.StatusCode != 400 {
		t.Errorf("got %v, %v", reply, err)
	}
}

func TestBodyThatTrickles(t *testing.T) {
	address, _ := testkit.StartFake(t, "127.0.0.1:0", testkit.Echo)
	g := startGateway(t, address, "-read-timeout=300ms")
	conn := g.Dial(t)
	fmt.Fprint(conn, "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nx")
	answers := bufio.NewReader(conn)
	reply, err := http.ReadResponse(answers, nil)
	if err != nil || reply.StatusCode != 408 {
		t.Fatalf("got %v, %v", reply, err)
	}
	io.Copy(io.Discard, reply.Body)
	if _, err := answers.ReadByte(); err != io.EOF {
		t.Errorf("the connection is still open: %v", err)
	}
}
