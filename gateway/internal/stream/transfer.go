// Package stream takes a table of any length through a prediction server in chunks, in constant memory.
package stream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"example.com/predserver/gateway/internal/budget"
	"example.com/predserver/gateway/internal/csv"
	"example.com/predserver/gateway/internal/presence"
	"example.com/predserver/gateway/internal/problem"
	"example.com/predserver/gateway/pred"
	"example.com/predserver/generated/predpb"
)

// Window is how many chunks may be on their way to the prediction server at the same time: enough that it can decode
// one, predict another and encode a third, and has the next ones at hand.
const Window = 6

// ReasonStall is the reason of an error with DEADLINE_EXCEEDED where a chunk took too long.
const ReasonStall = "STALL"

// Options are what transfers have in common.
type Options struct {
	Client       *pred.Client
	Support      *Support
	Share        *budget.Share    // what the stream holds in memory
	Reader       *presence.Client // who takes the predictions
	BacklogBytes int              // most predictions that are held for a client that does not read them yet
	StallTimeout time.Duration    // longest time for a chunk to arrive, to be predicted, and to be taken
	DrainBytes   int64            // most bytes that are read on behind an error
}

// Transfer is a table on its way to the prediction server, and the predictions on their way back:
//
//	client → send → prediction server → receive → answers → Write → client
//
// Each stage waits for the next one, so that a slow end slows down the other, and few chunks are in memory.
type Transfer struct {
	options Options
	table   *csv.Splitter
	chunk   string // the table's first
	control *http.ResponseController

	ctx                context.Context
	cancel             context.CancelFunc
	called             time.Time
	took               time.Duration
	unwatch            func() bool
	sending, receiving sync.WaitGroup
	call               grpc.BidiStreamingClient[predpb.Request, predpb.Response]
	owed               chan owed
	whole              bool          // all chunks are sent; to be read once owed is closed
	known              bool          // the prediction server is known to have PredictStream
	readOn             chan struct{} // closed once the body may be read beyond its first chunk
	bodyRead           chan struct{} // closed once the body is read
	answers            *backlog
	first              string      // the first answer
	unsupported        bool        // the prediction server turned out not to have PredictStream
	header, trailer    metadata.MD // what the prediction server said beside the predictions
}

// owed is a chunk that is sent, and whose answer nobody waits for yet.
type owed struct {
	rows    int
	counted bool // whether all readers agree on the rows
}

// New returns the transfer of a table whose first chunk is at hand. It ends when ctx does.
func New(ctx context.Context, o Options, table *csv.Splitter, chunk string, control *http.ResponseController) *Transfer {
	t := &Transfer{
		options: o, table: table, chunk: chunk, control: control, unwatch: func() bool { return false },
		owed: make(chan owed, Window), readOn: make(chan struct{}), bodyRead: make(chan struct{}),
		answers: newBacklog(o.BacklogBytes, o.Share),
	}
	t.ctx, t.cancel = context.WithCancel(ctx)
	if t.known = o.Support.Known(); t.known {
		close(t.readOn)
	}
	return t
}

// Begin waits for the first answer. If it reports false, the prediction server takes no streams, and Table has all of
// the table. After true, call Write; after an error, Drain. The context is the client's, and ends when that goes away.
func (t *Transfer) Begin(client context.Context) (streams bool, err error) {
	t.called = time.Now()
	if err := t.control.EnableFullDuplex(); err != nil {
		t.end()
		return false, problem.Failure("reading and writing at the same time: %v", err)
	}
	t.unwatch = context.AfterFunc(client, t.clientLeft)
	context.AfterFunc(t.ctx, func() { t.answers.close(statusError(t.ctx.Err())) }) // the deadline

	clock := t.clock()
	call, err := t.options.Client.CallStream(t.ctx)
	clock.Stop()
	if err != nil {
		t.fail(err)
	} else {
		t.call = call
		t.sending.Go(func() { t.send(t.chunk) })
		t.receiving.Go(t.receive)
	}
	if t.first, err = t.answers.get(); err == nil {
		return true, nil
	}
	t.end()
	if t.unsupported {
		t.sending.Wait()
		return false, nil
	}
	t.control.SetWriteDeadline(time.Now().Add(t.options.StallTimeout))
	return false, err
}

// Table returns all of the table: what was read of it, and what is still to be read of body.
func (t *Transfer) Table(body io.Reader) io.Reader {
	return io.MultiReader(strings.NewReader(t.chunk), bytes.NewReader(t.table.Held()), body)
}

// Ignored returns ignored-columns as the prediction server sent it.
func (t *Transfer) Ignored() string { return strings.Join(t.header.Get("ignored-columns"), ",") }

// Beside returns all that the prediction server said beside the predictions; once the call has ended.
func (t *Transfer) Beside() metadata.MD { return metadata.Join(t.header, t.trailer) }

// Timing returns server-timing as the prediction server sent it, and how long the call took; once it has ended.
func (t *Transfer) Timing() (sent string, took time.Duration) {
	return strings.Join(t.trailer.Get("server-timing"), ", "), t.took
}

// Write writes the predictions as they come, as one table, and returns the error that broke it off, if one did.
func (t *Transfer) Write(w io.Writer) error {
	err := t.write(w)
	t.end()
	if err != nil {
		// The sender may be waiting for the body; nobody else may read it then, nor the handler return.
		t.control.SetReadDeadline(time.Now())
		t.sending.Wait()
		return err
	}
	t.control.SetWriteDeadline(time.Now().Add(t.options.StallTimeout)) // for what net/http has still to write
	return nil
}

// Drain flushes the reply and reads on behind an error, since many clients look for an answer only after all is sent.
// It has to come after the reply: a client that sees predictions while it sends may well wait for them before it sends
// more.
func (t *Transfer) Drain(body io.Reader) {
	t.control.Flush()
	t.sending.Wait()
	if !t.table.Ended() {
		t.control.SetReadDeadline(time.Now().Add(t.options.StallTimeout))
		io.CopyN(io.Discard, body, t.options.DrainBytes)
	}
}

// end ends the call. The sender may then still be reading.
func (t *Transfer) end() {
	t.unwatch()
	t.cancel()
	t.receiving.Wait()
	t.took = time.Since(t.called)
}

// fail ends the transfer. Of several errors the first is the one that counts; the others follow from it.
func (t *Transfer) fail(err error) {
	t.answers.close(err)
	t.cancel()
}

// statusError returns the error of a context as one of a call.
func statusError(err error) error {
	return pred.FromError(status.FromContextError(err).Err())
}

// clientLeft ends the transfer because the client is gone. Before the body is read, its reader says so.
func (t *Transfer) clientLeft() {
	select {
	case <-t.bodyRead:
		t.fail(&pred.Error{Code: codes.Canceled, Message: "the client went away"})
	case <-t.ctx.Done():
	}
}

// clock lets the transfer fail if it is not stopped in time.
func (t *Transfer) clock() *time.Timer {
	stall := t.options.StallTimeout
	return time.AfterFunc(stall, func() {
		t.fail(&pred.Error{
			Code: codes.DeadlineExceeded, Reason: ReasonStall, Message: fmt.Sprintf("a chunk was not answered within %v", stall),
		})
	})
}

// send sends the first chunk and all that follow.
func (t *Transfer) send(chunk string) {
	defer close(t.owed)
	for {
		if !utf8.ValidString(chunk) {
			t.fail(problem.NotText())
			return
		}
		rows, counted := csv.CountRows(chunk)
		select {
		case t.owed <- owed{rows, counted}:
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
func (t *Transfer) read() (string, error) {
	if t.table.Ended() {
		// Behind the body net/http reads on, to see whether the client goes away, and needs no deadline.
		return t.table.Next()
	}
	t.control.SetReadDeadline(time.Now().Add(t.options.StallTimeout))
	// Asked after the deadline is set: whoever cancels, and then sets another deadline, finds nobody who puts it off.
	if err := t.ctx.Err(); err != nil {
		return "", err
	}
	chunk, err := t.table.Next()
	if t.table.Ended() && (err == nil || err == io.EOF) {
		close(t.bodyRead)
	}
	return chunk, err
}

// receive takes one answer for each chunk.
func (t *Transfer) receive() {
	for first := true; ; first = false {
		chunk, more := <-t.owed
		clock := t.clock()
		response, err := t.call.Recv()
		clock.Stop()
		if err != nil {
			t.trailer = t.call.Trailer()
		}
		switch {
		case err == io.EOF && !more && t.whole:
			t.answers.close(io.EOF)
		case err == io.EOF:
			t.fail(problem.BadReply("the stream ended before each chunk had its answer"))
		case status.Code(err) == codes.Unimplemented && first:
			t.fail(t.withoutStreams(err))
		case err != nil:
			t.fail(pred.FromCall(t.ctx, err))
		case !more:
			t.fail(problem.BadReply("more answers came than chunks were sent"))
		default:
			if first {
				t.firstAnswer()
			}
			answer, err := Fit(response, chunk.rows, chunk.counted)
			if err != nil {
				t.fail(err)
			} else if t.answers.put(answer) {
				continue
			}
		}
		return
	}
}

// Fit returns the CSV of a response, if it fits a request in CSV of so many rows. A request without rows fits no number
// of predictions: whatever the prediction server says to it stands. Neither does one whose rows were not counted, as
// readers of CSV may disagree on them.
func Fit(response *predpb.Response, rows int, counted bool) (string, error) {
	result, err := CSV(response)
	if err != nil {
		return "", err
	}
	_, predictions, err := csv.Shape(result)
	if err != nil {
		return "", problem.BadReply("%v", err)
	}
	if counted && rows > 0 && predictions != rows {
		return "", problem.BadReply("%d predictions came for %d rows", predictions, rows)
	}
	return result, nil
}

// CSV returns what a response to a table in CSV has.
func CSV(response *predpb.Response) (string, error) {
	if response.GetResult() == "" || response.Tensor != nil || response.Columns != nil || response.Arrow != nil {
		return "", problem.BadReply("the reply to a table in CSV is empty, or not in CSV")
	}
	return response.Result, nil
}

// firstAnswer notes what comes with the first answer.
func (t *Transfer) firstAnswer() {
	t.header, _ = t.call.Header() // a stream with an answer has one
	if !t.known {
		t.options.Support.Remember(true)
		close(t.readOn)
	}
}

// withoutStreams notes that the prediction server does not know PredictStream, and returns what a transfer comes to
// that cannot be begun anew.
func (t *Transfer) withoutStreams(err error) error {
	t.options.Support.Remember(false)
	t.unsupported = !t.known
	// More of the table may have been read than is still at hand. The next try finds the server known.
	e := problem.Refusal(http.StatusServiceUnavailable, codes.Unavailable,
		"The prediction server was replaced by one that takes no streams; try again.")
	e.Reason, e.RetryAfter = err.Error(), 1
	return e
}

// write writes the answers to the client as they come, as one table.
func (t *Transfer) write(w io.Writer) error {
	defer t.options.Reader.Quiet() // net/http ends the reply
	answer, header, begun := t.first, "", false
	for {
		if !strings.HasSuffix(answer, "\n") {
			answer += "\n"
		}
		rows := csv.FirstRecord(answer)
		if !begun {
			header, begun = answer[:rows], true
			rows = 0
		} else if answer[:rows] != header {
			err := problem.BadReply("an answer's header is %s, and the first one's %s", problem.Clip(answer[:rows]), problem.Clip(header))
			t.fail(err)
			return err
		}
		t.control.SetWriteDeadline(time.Now().Add(t.options.StallTimeout))
		t.options.Reader.Quiet()
		_, err := io.WriteString(w, answer[rows:])
		if err == nil {
			err = t.control.Flush()
		}
		t.options.Reader.BetweenChunks()
		if err != nil {
			e := &pred.Error{Code: codes.Canceled, Message: err.Error()}
			if errors.Is(err, os.ErrDeadlineExceeded) {
				e.Message = "the client did not take its predictions in time"
			}
			t.fail(e)
			return e
		}
		if answer, err = t.answers.get(); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}
