package main

import (
	"context"
	"errors"
	"io"
	"math"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"predserver/generated/predpb"
)

// window is how many chunks may be on their way to the prediction server at the same time: enough that it can decode
// one, predict another and encode a third, and has the next ones at hand.
const window = 6

// errHoldWhole says that a table is to be sent as one message.
var errHoldWhole = errors.New("the table is to be held whole")

// streamable reports whether the table of a request may go as a stream, if it is longer than a chunk.
func (s *server) streamable(r *http.Request) bool {
	// To a client of HTTP/1.0, a connection that breaks is the end of the reply: it would take a part for the whole.
	return r.ProtoAtLeast(1, 1) && (r.ContentLength < 0 || r.ContentLength > int64(s.config.chunkBytes)) && s.backend.mayStream()
}

// stream takes a table of any length through in chunks, in constant memory, and answers. If it returns errHoldWhole,
// nothing is written, and beginning is what was read of the body.
func (s *server) stream(ctx context.Context, w http.ResponseWriter, r *http.Request, o *outcome) (beginning []byte, err error) {
	c := s.config
	table := &splitter{body: r.Body, size: c.chunkBytes, limit: int(c.maxBodyBytes), most: c.maxStreamBytes}
	if r.ContentLength > c.maxStreamBytes {
		drain(r, c.maxBodyBytes)
		return nil, tooLarge(c.maxStreamBytes)
	}
	chunk, ok, err := table.first()
	if err != nil {
		drain(r, c.maxBodyBytes)
		return nil, err
	}
	if !ok {
		return table.buffer, errHoldWhole
	}

	// net/http ends the request's context also when the body cannot be read, and the sender knows better why that is; so
	// that context is looked at only once the body is read (see clientLeft).
	ctx = context.WithoutCancel(ctx)
	// A client may set a stream a deadline of any length. The gateway's own limit is for each chunk.
	const none = time.Duration(math.MaxInt64)
	if timeout, _ := requestTimeout(r.Header, none); timeout < none {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	t := newTransfer(ctx, c, s.backend, table, w)
	defer t.cancel()
	switch err = t.run(r.Context(), chunk, o); {
	case err == nil:
		return nil, nil
	case err == errHoldWhole:
		t.sending.Wait()
		return append([]byte(chunk), table.buffer...), err
	case t.begun:
		// The sender may be waiting for the body; nobody else may read it then, nor the handler return.
		t.control.SetReadDeadline(time.Now())
		t.sending.Wait()
		return nil, err
	}
	t.control.SetWriteDeadline(time.Now().Add(c.stallTimeout))
	if e, ok := errors.AsType[*httpError](err); ok {
		e.finish = func() { t.drain(r.Body) }
	}
	return nil, err
}

// transfer is a table on its way to the prediction server, and the predictions on their way back:
//
//	client → send → prediction server → receive → answers → write → client
//
// Each stage waits for the next one, so that a slow end slows down the other, and few chunks are in memory.
type transfer struct {
	config  *config
	backend *backend
	table   *splitter
	w       http.ResponseWriter
	control *http.ResponseController

	ctx                context.Context
	cancel             context.CancelFunc
	sending, receiving sync.WaitGroup
	call               grpc.BidiStreamingClient[predpb.Request, predpb.Response]
	owed               chan struct{} // has an entry for each chunk that is sent and whose answer nobody waits for yet
	whole              bool          // all chunks are sent; to be read once owed is closed
	known              bool          // the prediction server is known to have PredictStream
	readOn             chan struct{} // closed once the body may be read beyond its first chunk
	bodyRead           chan struct{} // closed once the body is read
	answers            *backlog
	ignored, timing    string // what the prediction server said beside the predictions
	begun              bool   // a part of the reply is written
}

func newTransfer(ctx context.Context, c *config, b *backend, table *splitter, w http.ResponseWriter) *transfer {
	t := &transfer{
		config: c, backend: b, table: table, w: w, control: http.NewResponseController(w),
		owed: make(chan struct{}, window), readOn: make(chan struct{}), bodyRead: make(chan struct{}), answers: newBacklog(c.backlogBytes),
	}
	t.ctx, t.cancel = context.WithCancel(ctx)
	if t.known = b.streams.Load(); t.known {
		close(t.readOn)
	}
	return t
}

// fail ends the transfer. Of several errors the first is the one that counts; the others follow from it.
func (t *transfer) fail(err error) {
	t.answers.close(err)
	t.cancel()
}

// run returns when the reply is written, or the error that prevented it. The sender may then still be reading.
func (t *transfer) run(client context.Context, chunk string, o *outcome) error {
	if err := t.control.EnableFullDuplex(); err != nil {
		return failure("reading and writing at the same time: %v", err)
	}
	defer context.AfterFunc(client, t.clientLeft)()
	context.AfterFunc(t.ctx, func() { t.answers.close(fromBackend(status.FromContextError(t.ctx.Err()).Err())) }) // the deadline

	called := time.Now()
	clock := t.clock()
	call, err := t.backend.client().PredictStream(t.ctx)
	clock.Stop()
	if err != nil {
		t.fail(fromBackend(err))
	} else {
		t.call = call
		t.sending.Go(func() { t.send(chunk) })
		t.receiving.Go(t.receive)
	}
	err = t.write()
	t.cancel()
	t.receiving.Wait()
	if err == errHoldWhole {
		return err
	}
	o.backend, o.timing = time.Since(called), t.timing
	if err != io.EOF {
		return err
	}
	o.sent = true
	t.control.SetWriteDeadline(time.Now().Add(t.config.stallTimeout)) // for what net/http has still to write
	return nil
}

// clientLeft ends the transfer because the client is gone. Before the body is read, its reader says so.
func (t *transfer) clientLeft() {
	select {
	case <-t.bodyRead:
		t.fail(fromBackend(status.Error(codes.Canceled, "the client went away")))
	case <-t.ctx.Done():
	}
}

// clock lets the transfer fail if it is not stopped in time.
func (t *transfer) clock() *time.Timer {
	return time.AfterFunc(t.config.stallTimeout, func() {
		t.fail(fromBackend(status.Errorf(codes.DeadlineExceeded, "a chunk was not answered within %v", t.config.stallTimeout)))
	})
}

// send sends the first chunk and all that follow.
func (t *transfer) send(chunk string) {
	defer close(t.owed)
	for {
		if !utf8.ValidString(chunk) {
			t.fail(notText())
			return
		}
		select {
		case t.owed <- struct{}{}:
		case <-t.ctx.Done():
			return
		}
		if t.call.Send(&predpb.Request{InputData: chunk}) != nil {
			return // the receiver gets to know why
		}
		select {
		case <-t.readOn:
		case <-t.ctx.Done():
			return
		}
		var err error
		chunk, err = t.read()
		if err == io.EOF {
			t.whole = t.call.CloseSend() == nil
			return
		}
		if err != nil {
			t.fail(err)
			return
		}
	}
}

// read returns the next chunk. Its bytes have to come in time.
func (t *transfer) read() (string, error) {
	if t.table.ended {
		// Behind the body net/http reads on, to see whether the client goes away, and needs no deadline.
		return t.table.next()
	}
	t.control.SetReadDeadline(time.Now().Add(t.config.stallTimeout))
	// Asked after the deadline is set: whoever cancels, and then sets another deadline, finds nobody who puts it off.
	if err := t.ctx.Err(); err != nil {
		return "", err
	}
	chunk, err := t.table.next()
	if t.table.ended && (err == nil || err == io.EOF) {
		close(t.bodyRead)
	}
	return chunk, err
}

// receive takes one answer for each chunk.
func (t *transfer) receive() {
	for first := true; ; first = false {
		_, more := <-t.owed
		clock := t.clock()
		response, err := t.call.Recv()
		clock.Stop()
		if err != nil {
			t.timing = strings.Join(t.call.Trailer().Get("server-timing"), ", ")
		}
		switch {
		case err == io.EOF && !more && t.whole:
			t.answers.close(io.EOF)
		case err == io.EOF:
			t.fail(badReply("the stream ended before each chunk had its answer"))
		case status.Code(err) == codes.Unimplemented && first:
			t.fail(t.withoutStreams(err))
		case err != nil:
			t.fail(fromBackend(err))
		case !more:
			t.fail(badReply("more answers came than chunks were sent"))
		default:
			if first {
				t.firstAnswer()
			}
			if t.answers.put(response.Result) {
				continue
			}
		}
		return
	}
}

// firstAnswer notes what comes with the first answer.
func (t *transfer) firstAnswer() {
	if header, err := t.call.Header(); err == nil {
		t.ignored = strings.Join(header.Get("ignored-columns"), ",")
	}
	if !t.known {
		t.backend.remember(true)
		close(t.readOn)
	}
}

// withoutStreams returns what a transfer comes to if the prediction server does not know PredictStream.
func (t *transfer) withoutStreams(err error) error {
	t.backend.remember(false)
	if !t.known {
		return errHoldWhole
	}
	// More of the table may have been read than is still at hand. The next try finds the server known.
	e := refuse(http.StatusServiceUnavailable, codes.Unavailable, "The prediction server was replaced by one that takes no streams; try again.")
	e.reason, e.retryAfter = err.Error(), 1
	return e
}

// write writes the answers to the client as they come, as one table. After the last it returns io.EOF.
func (t *transfer) write() error {
	for header := ""; ; {
		answer, err := t.answers.get()
		if err != nil {
			return err
		}
		if answer != "" && !strings.HasSuffix(answer, "\n") {
			answer += "\n"
		}
		rows := firstRecord(answer)
		if !t.begun {
			header = answer[:rows]
			rows = 0
			t.begin()
		} else if answer[:rows] != header {
			err := badReply("an answer's header is %s, and the first one's %s", clip(answer[:rows]), clip(header))
			t.fail(err)
			return err
		}
		t.control.SetWriteDeadline(time.Now().Add(t.config.stallTimeout))
		_, err = t.w.Write([]byte(answer[rows:]))
		if err == nil {
			err = t.control.Flush()
		}
		if err != nil {
			e := fromBackend(status.Error(codes.Canceled, err.Error()))
			if errors.Is(err, os.ErrDeadlineExceeded) {
				e.reason = "the client did not take its predictions in time"
			}
			t.fail(e)
			return e
		}
	}
}

// begin writes the header of the reply.
func (t *transfer) begin() {
	t.begun = true
	header := t.w.Header()
	header.Set("Content-Type", "text/csv; charset=utf-8")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Trailer", "Server-Timing")
	if t.ignored != "" {
		header.Set("Ignored-Columns", t.ignored)
	}
	t.w.WriteHeader(http.StatusOK)
}

// drain reads on behind an error, as drain in body.go does before one. Here it has to come afterwards: a client that
// sees predictions while it sends may well wait for them before it sends more.
func (t *transfer) drain(body io.Reader) {
	t.control.Flush()
	t.sending.Wait()
	if !t.table.ended {
		t.control.SetReadDeadline(time.Now().Add(t.config.stallTimeout))
		io.CopyN(io.Discard, body, t.config.maxBodyBytes)
	}
}
