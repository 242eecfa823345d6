package web

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"example.com/predserver/gateway/internal/csv"
	"example.com/predserver/gateway/internal/stream"
	"example.com/predserver/gateway/internal/testkit"
	"example.com/predserver/generated/predpb"
)

type serverStream = grpc.BidiStreamingServer[predpb.Request, predpb.Response]

// streamServer is a fake server that has PredictStream.
type streamServer struct {
	testkit.FakeServer
	serve func(stream serverStream) error
}

func (f streamServer) PredictStream(stream serverStream) error { return f.serve(stream) }

// startStreams serves streams until the test ends. Tables that come as one message are refused.
func startStreams(t *testing.T, serve func(stream serverStream) error) (address string) {
	t.Helper()
	return startBoth(t, testkit.Failing(status.Error(codes.FailedPrecondition, "a table came in one message")), serve)
}

// startBoth serves tables in one message, and streams, until the test ends.
func startBoth(t *testing.T, answer testkit.Answer, serve func(stream serverStream) error) (address string) {
	t.Helper()
	fake := grpc.NewServer(grpc.MaxRecvMsgSize(1 << 30))
	predpb.RegisterPredictionServer(fake, streamServer{testkit.FakeServer{Answer: answer}, serve})
	return testkit.Serve(t, fake)
}

// chunkwise answers each chunk of a stream, counted from 1.
func chunkwise(answer func(chunk int, table string) (string, error)) func(stream serverStream) error {
	return func(stream serverStream) error {
		for chunk := 1; ; chunk++ {
			request, err := stream.Recv()
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
			result, err := answer(chunk, request.InputData)
			if err != nil {
				return err
			}
			if err := stream.Send(&predpb.Response{Result: result}); err != nil {
				return err
			}
		}
	}
}

// same answers with the table that came.
func same(_ int, table string) (string, error) { return table, nil }

// conversation is a request whose body a test writes, and whose reply it reads, piece by piece.
type conversation struct {
	t       *testing.T
	body    *io.PipeWriter
	replies chan *http.Response
	failed  chan error
	reader  *bufio.Reader
	reply   *http.Response
}

// converse begins a request.
func converse(t *testing.T, g *testkit.Gateway, headers ...string) *conversation {
	t.Helper()
	from, to := io.Pipe()
	c := &conversation{t: t, body: to, replies: make(chan *http.Response, 1), failed: make(chan error, 1)}
	ctx, cancel := context.WithTimeout(context.Background(), testkit.Hang)
	t.Cleanup(cancel)
	request, err := http.NewRequestWithContext(ctx, "POST", g.URL+"/predict", from)
	if err != nil {
		t.Fatal(err)
	}
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		request.Header.Set(name, value)
	}
	client := &http.Client{Transport: &http.Transport{}}
	t.Cleanup(client.CloseIdleConnections)
	go func() {
		reply, err := client.Do(request)
		if err != nil {
			c.failed <- err
			return
		}
		t.Cleanup(func() { reply.Body.Close() })
		c.replies <- reply
	}()
	return c
}

// send writes to the body.
func (c *conversation) send(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c.body, text); err != nil {
		c.t.Fatal(err)
	}
}

// lines reads so many lines of the reply.
func (c *conversation) lines(n int) (text string) {
	c.t.Helper()
	if c.reply == nil {
		c.reply = testkit.Receive(c.t, "the reply to begin", c.replies)
		c.reader = bufio.NewReader(c.reply.Body)
	}
	for range n {
		line, err := c.reader.ReadString('\n')
		if err != nil {
			c.t.Fatalf("%q, then %v", text+line, err)
		}
		text += line
	}
	return text
}

// end ends the body, and reads the rest of the reply.
func (c *conversation) end() (string, error) {
	c.t.Helper()
	c.body.Close()
	rest, err := io.ReadAll(c.reader)
	return string(rest), err
}

// numbers is a table of so many rows of 10 bytes.
func numbers(rows int) string {
	return "x\n" + strings.Repeat("123456789\n", rows)
}

func TestFirstPredictionsLeaveBeforeTheLastRowHasCome(t *testing.T) {
	address := startStreams(t, chunkwise(same))
	g := startGateway(t, address, "-chunk-bytes=100")
	for range 2 { // the first time, the gateway does not know yet that the server has streams
		c := converse(t, g)
		c.send(numbers(10))
		if got := c.lines(10); got != numbers(9) {
			t.Errorf("got %q", got)
		}
		for range 5 {
			c.send(strings.Repeat("987654321\n", 10))
			c.lines(9)
		}
		c.send("1") // which no line feed ends
		rest, err := c.end()
		if err != nil || !strings.HasSuffix(rest, "987654321\n1\n") {
			t.Errorf("the end is %q, %v", rest, err)
		}
	}
}

func TestTablesOfAChunkAreNotStreamed(t *testing.T) {
	address := startStreams(t, chunkwise(same))
	g := startGateway(t, address, "-chunk-bytes=102")
	for _, body := range []io.Reader{strings.NewReader(numbers(10)), io.MultiReader(strings.NewReader(numbers(10)))} {
		testkit.WantError(t, g.Do(t, "POST", "/predict", body), 400, "FAILED_PRECONDITION", "one message")
	}
	for _, body := range []io.Reader{strings.NewReader(numbers(11)), io.MultiReader(strings.NewReader(numbers(11)))} {
		if r := g.Do(t, "POST", "/predict", body); r.Status != 200 || r.Body != numbers(11) {
			t.Errorf("got %d %s", r.Status, r.Body)
		}
	}
}

func TestLargeTablesComeBackWhole(t *testing.T) {
	address := startStreams(t, chunkwise(same))
	g := startGateway(t, address, "-max-body-bytes=1000000", "-chunk-bytes=10000")
	for _, rows := range []int{1_000, 1_001, 300_000} {
		if r := g.Post(t, numbers(rows)); r.Status != 200 || r.Body != numbers(rows) {
			t.Errorf("%d rows: got %d and %d bytes", rows, r.Status, len(r.Body))
		}
	}
}

func TestWhatIsToldBesideAStream(t *testing.T) {
	var id, name, output string
	address := startStreams(t, func(stream serverStream) error {
		id, name, output = testkit.Incoming(stream.Context(), "x-request-id"), testkit.Incoming(stream.Context(), "model-name"), testkit.Incoming(stream.Context(), "output")
		stream.SetHeader(metadata.Pairs("ignored-columns", "tail%20num"))
		stream.SetTrailer(metadata.Pairs("server-timing", "decode;dur=1"))
		return chunkwise(same)(stream)
	})
	g := startGateway(t, address, "-chunk-bytes=10")
	c := converse(t, g, "X-Request-Id: 7", "Model-Name: m", "Model-Output: probabilities")
	c.send(numbers(3))
	c.lines(1)
	if _, err := c.end(); err != nil || id != "7" || name != "m" || output != "probabilities" {
		t.Errorf("%v, id %q, model %q, output %q", err, id, name, output)
	}
	for header, want := range map[string]string{
		"Content-Type": "text/csv; charset=utf-8", "X-Content-Type-Options": "nosniff", "Ignored-Columns": "tail%20num", "X-Request-Id": "7",
	} {
		if got := c.reply.Header.Get(header); got != want {
			t.Errorf("%s: %q, want %q", header, got, want)
		}
	}
	if got := c.reply.Trailer.Get("Server-Timing"); !strings.HasPrefix(got, "decode;dur=1, backend;dur=") {
		t.Errorf("Server-Timing: %q", got)
	}
}

// Of the header, which may have several lines, each answer has a copy, and the reply one.
func TestAnswersAreJoined(t *testing.T) {
	tests := []struct {
		name    string
		answers []string
		want    string // "" is refused
	}{
		{"lines in the header", []string{"\"a\nb\"\n1\n", "\"a\nb\"\n2\n"}, "\"a\nb\"\n1\n2\n"},
		{"lines in predictions", []string{"p\n\"1\n\"\n", "p\n\"\n\n2\"\n"}, "p\n\"1\n\"\n\"\n\n2\"\n"},
		{"CRLF", []string{"p\r\n1\r\n", "p\r\n2\r\n"}, "p\r\n1\r\n2\r\n"},
		{"no line feed at the end", []string{"p\n1", "p\n2"}, "p\n1\n2\n"},
		{"another header", []string{"p\n1\n", "q\n2\n"}, ""},
		{"no header", []string{"p\n1\n", "2\n"}, ""},
		{"nothing", []string{"p\n1\n", ""}, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			address := startStreams(t, chunkwise(func(chunk int, _ string) (string, error) { return test.answers[chunk-1], nil }))
			g := startGateway(t, address, "-chunk-bytes=12")
			c := converse(t, g)
			c.send("x\n123456789\n1\n")
			first := c.lines(1)
			rest, err := c.end()
			if got := first + rest; err == nil && got != test.want || (err == nil) != (test.want != "") {
				t.Errorf("got %q, %v, want %q", got, err, test.want)
			}
		})
	}
}

// badRow is what the server says of a row at fault.
func badRow(t *testing.T) error {
	st, err := status.New(codes.InvalidArgument, "x: line 2: 'one' is not a number").WithDetails(&errdetails.BadRequest{
		FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: "x", Description: "line 2: 'one' is not a number"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return st.Err()
}

func TestErrorBeforeTheFirstByteIsAReply(t *testing.T) {
	tests := []struct {
		name      string
		serve     func(stream serverStream) error
		body      string
		status    int
		code      string
		inMessage string
	}{
		{"a bad row", chunkwise(func(int, string) (string, error) { return "", badRow(t) }), "", 400, "INVALID_ARGUMENT", "is not a number"},
		{"at once", func(serverStream) error { return status.Error(codes.NotFound, "no model") }, "", 404, "NOT_FOUND", "no model"},
		{"too much", func(serverStream) error { return status.Error(codes.ResourceExhausted, "later") }, "", 429, "RESOURCE_EXHAUSTED", ""},
		{"without an answer", func(serverStream) error { return nil }, "", 502, "INTERNAL", ""},
		{"too few predictions", chunkwise(func(int, string) (string, error) { return "x\n1\n", nil }), "", 502, "INTERNAL", ""},
		{"no predictions", chunkwise(func(int, string) (string, error) { return "", nil }), "", 502, "INTERNAL", ""},
		{"no text", nil, "x\n1\xff3456789\n" + numbers(100), 400, "INVALID_ARGUMENT", "UTF-8"},
		{"a long row", nil, "x\n" + strings.Repeat("1", 1_500_000), 413, "RESOURCE_EXHAUSTED", "1000000 bytes"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if test.serve == nil {
				test.serve = chunkwise(same)
			}
			if test.body == "" {
				test.body = numbers(100_000) // more than sockets hold: the client is heard to its end all the same
			}
			g := startGateway(t, startStreams(t, test.serve), "-chunk-bytes=100", "-max-body-bytes=1000000")
			conn := g.Dial(t)
			upload(conn, test.body)
			reply, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			text, _ := io.ReadAll(reply.Body)
			e := testkit.WantError(t, testkit.Response{Status: reply.StatusCode, Header: reply.Header, Body: string(text)}, test.status, test.code, test.inMessage)
			if test.name == "a bad row" && (len(e.Error.Violations) != 1 || reply.Header.Get("Server-Timing") == "") {
				t.Errorf("got %s with %v", text, reply.Header)
			}
		})
	}
}

// upload posts a body, and does not read.
func upload(conn net.Conn, body string) {
	fmt.Fprintf(conn, "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n", len(body))
	io.WriteString(conn, body)
}

func TestErrorAfterTheFirstByteBreaksTheConnection(t *testing.T) {
	tests := []struct {
		name  string
		third func(table string) (string, error)
		rest  string
		log   string
	}{
		{"a bad row", func(string) (string, error) { return "", badRow(t) }, numbers(20), "is not a number"},
		{"another table", func(table string) (string, error) { return strings.Replace(table, "x", "y", 1), nil }, numbers(20), "header"},
		{"no text", func(table string) (string, error) { return table, nil }, "1\xff3456789\n" + numbers(20), "UTF-8"},
		{"too large", func(table string) (string, error) { return table, nil }, numbers(200), "larger than 1000 bytes"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			address := startStreams(t, chunkwise(func(chunk int, table string) (string, error) {
				if chunk < 3 {
					return table, nil
				}
				return test.third(table)
			}))
			g := startGateway(t, address, "-chunk-bytes=100", "-max-body-bytes=1000", "-max-stream-bytes=1000")
			c := converse(t, g, "X-Request-Id: cut")
			c.send(numbers(10))
			if got := c.lines(10); got != numbers(9) || c.reply.StatusCode != 200 {
				t.Errorf("got %d %q", c.reply.StatusCode, got)
			}
			io.WriteString(c.body, test.rest) // the connection may break meanwhile
			if rest, err := c.end(); err == nil {
				t.Errorf("the reply ended as if it were whole, with %q", rest)
			}
			testkit.Eventually(t, "a line in the log", func() bool { return strings.Contains(g.Log.String(), `"request_id":"cut"`) })
			for _, want := range []string{test.log, `"aborted":true`, `"status":200`} {
				if !strings.Contains(g.Log.String(), want) {
					t.Errorf("the log does not say %s", want)
				}
			}
		})
	}
}

func TestEveryChunkHasOneAnswer(t *testing.T) {
	drain := func(stream serverStream) {
		for _, err := stream.Recv(); err == nil; _, err = stream.Recv() {
		}
	}
	echoOne := func(stream serverStream) error {
		request, _ := stream.Recv()
		return stream.Send(&predpb.Response{Result: request.GetInputData()})
	}
	for name, serve := range map[string]func(stream serverStream) error{
		"too few": func(stream serverStream) error {
			echoOne(stream)
			drain(stream)
			return nil
		},
		"an early end": func(stream serverStream) error {
			return echoOne(stream)
		},
		"too many": func(stream serverStream) error {
			err := chunkwise(same)(stream)
			stream.Send(&predpb.Response{Result: "x\n1\n"})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := startGateway(t, startStreams(t, serve), "-chunk-bytes=10")
			c := converse(t, g)
			c.send(numbers(3))
			c.lines(2)
			if rest, err := c.end(); err == nil {
				t.Errorf("the reply ended as if it were whole, with %q", rest)
			}
			testkit.Eventually(t, "a line in the log", func() bool { return strings.Contains(g.Log.String(), `"code":"INTERNAL"`) })
		})
	}
}

// ones is the predictions for so many rows.
func ones(rows int) string {
	return "p\n" + strings.Repeat("1\n", rows)
}

func TestServerWithoutStreamsGetsOneMessage(t *testing.T) {
	var calls atomic.Int64
	var got string
	address, _ := testkit.StartFake(t, "127.0.0.1:0", func(_ context.Context, table string) (string, error) {
		calls.Add(1)
		got = table
		return ones(strings.Count(table, "123456789")), nil
	})
	g := startGateway(t, address, "-chunk-bytes=100", "-max-body-bytes=1000")
	for _, chunked := range []bool{false, true} {
		for _, rows := range []int{50, 99, 100, 1_000} {
			table := csv.ByteOrderMark + "\r\n" + numbers(rows)
			var body io.Reader = strings.NewReader(table)
			if chunked {
				body = io.MultiReader(body)
			}
			before := calls.Load()
			r := g.Do(t, "POST", "/predict", body)
			if rows < 100 {
				if r.Status != 200 || r.Body != ones(rows) || got != table || calls.Load() != before+1 {
					t.Errorf("%d rows: got %d %s, and the server %q", rows, r.Status, r.Body, got)
				}
				continue
			}
			testkit.WantError(t, r, 413, "RESOURCE_EXHAUSTED", "larger than 1000 bytes")
		}
	}
}

// Whether there are streams is asked once, but not for ever.
func TestServersThatAreReplaced(t *testing.T) {
	for _, streams := range []bool{true, false} {
		address := startStreams(t, chunkwise(same))
		if !streams {
			address, _ = testkit.StartFake(t, "127.0.0.1:0", testkit.Echo)
		}
		h, _ := newHandler(t, address, "-chunk-bytes=100")
		post := func() testkit.Response {
			w := newSlowWriter(nil)
			request, _ := http.NewRequest("POST", "/predict", strings.NewReader(numbers(100)))
			h.ServeHTTP(w, request)
			return testkit.Response{Status: w.status, Header: w.header, Body: w.text.String()}
		}
		for range 2 {
			if r := post(); r.Status != 200 || r.Body != numbers(100) || h.support.Known() != streams || h.support.MayTry() != streams {
				t.Errorf("streams %v: got %d", streams, r.Status)
			}
		}
		if streams {
			continue
		}
		h.support = stream.NewSupport() // a minute later; see the test of Support
		h.support.Remember(true)        // of another server, which was there before
		testkit.WantError(t, post(), 503, "UNAVAILABLE", "replaced")
		if r := post(); r.Status != 200 {
			t.Errorf("the next try: got %d %s", r.Status, r.Body)
		}
	}
}

// HTTP/1.0 knows no reply that breaks off, so it gets none that could.
func TestOldClientsGetWholeReplies(t *testing.T) {
	g := startGateway(t, startStreams(t, chunkwise(same)), "-chunk-bytes=100")
	conn := g.Dial(t)
	body := numbers(100)
	fmt.Fprintf(conn, "POST /predict HTTP/1.0\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	reply, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(reply.Body)
	testkit.WantError(t, testkit.Response{Status: reply.StatusCode, Header: reply.Header, Body: string(text)}, 400, "FAILED_PRECONDITION", "one message")
}

func TestConnectionsOutliveStreams(t *testing.T) {
	g := startGateway(t, startStreams(t, chunkwise(same)), "-chunk-bytes=100")
	conn := g.Dial(t)
	reader := bufio.NewReader(conn)
	for range 3 {
		upload(conn, numbers(1_000))
		reply, err := http.ReadResponse(reader, nil)
		if err != nil {
			t.Fatal(err)
		}
		if text, err := io.ReadAll(reply.Body); err != nil || string(text) != numbers(1_000) {
			t.Errorf("got %d bytes, %v", len(text), err)
		}
	}
}

// slowWriter is a reply in memory whose writes wait until they are allowed, if there is a channel that allows them.
type slowWriter struct {
	allow  <-chan struct{}
	header http.Header
	status int
	text   strings.Builder
	writes atomic.Int64
}

func newSlowWriter(allow <-chan struct{}) *slowWriter {
	return &slowWriter{allow: allow, header: http.Header{}}
}

func (w *slowWriter) Header() http.Header              { return w.header }
func (w *slowWriter) WriteHeader(status int)           { w.status = status }
func (w *slowWriter) FlushError() error                { return nil }
func (w *slowWriter) EnableFullDuplex() error          { return nil }
func (w *slowWriter) SetReadDeadline(time.Time) error  { return nil }
func (w *slowWriter) SetWriteDeadline(time.Time) error { return nil }
func (w *slowWriter) Write(text []byte) (int, error) {
	if w.allow != nil {
		<-w.allow
	}
	w.writes.Add(1)
	return w.text.Write(text)
}

// A client that does not read stops the reading of its body; one that reads on gets all.
func TestBodyIsNotReadFasterThanPredictionsAreTaken(t *testing.T) {
	const size, rows = 1_000, 100_000
	// Behind the writes there may be: the answer that is being written, one in the backlog and one that waits for room
	// there, the window, a chunk that waits for the window, and what is read of the next.
	const ahead = (1 + 1 + 1 + stream.Window + 1 + 1) * size
	h, _ := newHandler(t, startStreams(t, chunkwise(same)), "-chunk-bytes", fmt.Sprint(size), "-backlog-bytes=1")
	table := numbers(rows)
	allow := make(chan struct{})
	w := newSlowWriter(allow)
	var read, most atomic.Int64
	body := readerFunc(func(p []byte) (int, error) {
		most.Store(max(most.Load(), read.Load()-w.writes.Load()*size))
		n := copy(p, table[read.Load():])
		if read.Add(int64(n)); n == 0 {
			return 0, io.EOF
		}
		return n, nil
	})
	request, err := http.NewRequest("POST", "/predict", body)
	if err != nil {
		t.Fatal(err)
	}
	request.ContentLength = -1
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.ServeHTTP(w, request)
	}()
	testkit.Eventually(t, "the stream.Window to fill", func() bool { return read.Load() >= (stream.Window+1)*size })
	close(allow) // until here nothing was written; the reader has kept count of how far it got ahead
	testkit.Receive(t, "the end", done)
	if w.text.String() != table {
		t.Errorf("got %d bytes", w.text.Len())
	}
	if got := most.Load(); got > ahead {
		t.Errorf("%d bytes were read before they were written, want at most %d", got, ahead)
	}
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// Clients that send all before they read are answered too, unless their predictions are more than the gateway holds.
func TestClientThatReadsLast(t *testing.T) {
	body := numbers(700_000)
	g := startGateway(t, startStreams(t, chunkwise(same)), "-chunk-bytes=100000")
	conn := g.Dial(t)
	upload(conn, body)
	reply, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(reply.Body); err != nil || string(text) != body {
		t.Errorf("got %d bytes, %v", len(text), err)
	}

	short := startGateway(t, startStreams(t, chunkwise(same)), "-chunk-bytes=100000", "-backlog-bytes=1", "-stall-timeout=1s")
	conn = short.Dial(t)
	upload(conn, strings.Repeat(body, 4))
	testkit.Eventually(t, "a line in the log", func() bool { return strings.Contains(short.Log.String(), "did not take its predictions") })
	if !strings.Contains(short.Log.String(), `"aborted":true`) {
		t.Error("the reply was not aborted")
	}
}

func TestClientThatGoesAwayCancelsTheStream(t *testing.T) {
	for _, when := range []string{"before its last row", "after its last row"} {
		t.Run(when, func(t *testing.T) {
			cancelled := make(chan struct{})
			address := startStreams(t, func(stream serverStream) error {
				request, err := stream.Recv()
				if err == nil {
					err = stream.Send(&predpb.Response{Result: request.InputData})
				}
				<-stream.Context().Done()
				close(cancelled)
				return err
			})
			g := startGateway(t, address, "-chunk-bytes=100", "-stall-timeout=1h")
			conn := g.Dial(t)
			length := 1_000_000
			if when == "after its last row" {
				length = len(numbers(50))
			}
			fmt.Fprintf(conn, "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s", length, numbers(50))
			if reply, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || reply.StatusCode != 200 {
				t.Fatalf("got %v, %v", reply, err)
			}
			conn.Close()
			testkit.Receive(t, "the stream to be cancelled", cancelled)
			testkit.Eventually(t, "a line in the log", func() bool { return strings.Contains(g.Log.String(), `"aborted":true`) })
		})
	}
}

func TestStalls(t *testing.T) {
	silent := func(stream serverStream) error {
		<-stream.Context().Done()
		return status.FromContextError(stream.Context().Err()).Err()
	}
	t.Run("the client sends no more", func(t *testing.T) {
		g := startGateway(t, startStreams(t, chunkwise(same)), "-chunk-bytes=100", "-stall-timeout=200ms")
		c := converse(t, g)
		c.send(numbers(15))
		c.lines(1)
		if rest, err := io.ReadAll(c.reader); err == nil {
			t.Errorf("the reply ended as if it were whole, with %q", rest)
		}
		testkit.Eventually(t, "a line in the log", func() bool { return strings.Contains(g.Log.String(), "came too slowly") })
	})
	t.Run("the server does not answer", func(t *testing.T) {
		g := startGateway(t, startStreams(t, silent), "-chunk-bytes=100", "-stall-timeout=200ms", "-timeout=1h")
		testkit.WantError(t, g.Post(t, numbers(100_000)), 504, "DEADLINE_EXCEEDED", "in time")
	})
	t.Run("the server does not end", func(t *testing.T) {
		g := startGateway(t, startStreams(t, func(stream serverStream) error {
			err := chunkwise(same)(stream)
			<-stream.Context().Done()
			return err
		}), "-chunk-bytes=100", "-stall-timeout=200ms", "-timeout=1h")
		c := converse(t, g)
		c.send(numbers(30))
		c.lines(1)
		if rest, err := c.end(); err == nil {
			t.Errorf("the reply ended as if it were whole, with %q", rest)
		}
	})
	t.Run("nobody is there", func(t *testing.T) {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		g := startGateway(t, listener.Addr().String(), "-chunk-bytes=100", "-stall-timeout=200ms")
		testkit.WantError(t, g.Post(t, numbers(100)), 504, "DEADLINE_EXCEEDED", "in time")
		g = startGateway(t, testkit.DeadAddress(t), "-chunk-bytes=100")
		testkit.WantError(t, g.Post(t, numbers(100)), 503, "UNAVAILABLE", "cannot be reached")
	})
	t.Run("the client's own deadline", func(t *testing.T) {
		g := startGateway(t, startStreams(t, silent), "-chunk-bytes=100", "-timeout=1ms")
		testkit.WantError(t, g.Post(t, numbers(100), "Request-Timeout-Ms: 50"), 504, "DEADLINE_EXCEEDED", "in time")
	})
}

// The limits of whole requests do not hold for streams: this one takes longer than all of them together.
func TestStreamThatMovesIsNotCutOff(t *testing.T) {
	g := startGateway(t, startStreams(t, chunkwise(same)), "-chunk-bytes=100", "-read-timeout=200ms", "-timeout=1ms", "-write-timeout=1ms")
	start := time.Now()
	c := converse(t, g)
	c.send(numbers(15))
	c.lines(2)
	testkit.Eventually(t, "every limit to pass", func() bool { return time.Since(start) > 300*time.Millisecond })
	c.send(strings.Repeat("123456789\n", 25))
	c.lines(20)
	if rest, err := c.end(); err != nil || strings.Count(rest, "\n") != 19 {
		t.Errorf("got %q, %v", rest, err)
	}
}

func TestStreamLimit(t *testing.T) {
	g := startGateway(t, startStreams(t, chunkwise(same)), "-chunk-bytes=1000", "-max-body-bytes=1000", "-max-stream-bytes=5002")
	for rows, code := range map[int]int{500: 200, 501: 413, 100_000: 413} {
		if r := g.Post(t, numbers(rows)); r.Status != code || code == 413 && !strings.Contains(r.Body, "larger than 5002 bytes") {
			t.Errorf("%d rows: got %d %.100s", rows, r.Status, r.Body)
		}
	}
}
