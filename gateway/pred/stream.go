package pred

import (
	"context"
	"errors"
	"io"
	"iter"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"example.com/predserver/generated/predpb"
)

// window is how many chunks of a stream may be sent and not answered: enough that neither end waits for the other.
const window = 8

// Stream is the predictions of a table that travels in chunks. Few chunks are in memory, whatever the table's length.
type Stream struct {
	client  *Client
	ctx     context.Context
	chunks  iter.Seq2[Table, error]
	opts    []CallOption
	begun   atomic.Bool
	trailer metadata.MD
}

// PredictStream returns the stream of predictions for a table in chunks, such as Table.Chunks gives. The chunks may have
// any number of rows; a mebibyte is a good size. An error among the chunks ends the stream, and comes back as it is.
//
// Nothing is sent before All is ranged over. The stream has no deadline but that of ctx, and ends only between two chunks: an
// iterator that waits for something should end when ctx does.
func (c *Client) PredictStream(ctx context.Context, chunks iter.Seq2[Table, error], opts ...CallOption) *Stream {
	return &Stream{client: c, ctx: ctx, chunks: chunks, opts: opts}
}

// All returns an iterator over the predictions of each chunk, in order, as they come; an error is the last. It can be
// ranged over once.
//
// The chunks are drawn by another goroutine, ahead of the predictions. It has ended when the iteration has.
func (s *Stream) All() iter.Seq2[*Predictions, error] {
	return func(yield func(*Predictions, error) bool) {
		if s.begun.Swap(true) {
			yield(nil, errors.New("pred: a stream can be ranged over once"))
			return
		}
		if err := s.run(func(p *Predictions) bool { return yield(p, nil) }); err != nil {
			yield(nil, err)
		}
	}
}

// Timings returns where the server's time went, over all chunks. They come with the last predictions; call it behind the
// loop over All.
func (s *Stream) Timings() Timings { return timingsOf(s.trailer) }

// Model returns which model answered. It comes with the last predictions, as Timings do.
func (s *Stream) Model() Identity { return identityOf(s.trailer) }

// errStopped ends a stream whose caller wants no more.
var errStopped = errors.New("no more predictions are wanted")

// run takes the chunks out and the predictions in, until yield wants no more.
func (s *Stream) run(yield func(*Predictions) bool) error {
	ctx, err := withMetadata(s.ctx, s.client.options.call, s.opts)
	if err != nil {
		return err
	}
	source := newSource(s.chunks)
	defer source.stop()
	expecting, ours := s.client.expecting(ctx)
	answered, err := s.exchange(expecting, source, yield)
	if e, ok := errors.AsType[*Error](err); ok && ours && !answered && e.SchemaChanged() {
		s.client.describeAnew(ctx)
		expecting, _ = s.client.expecting(ctx)
		source.rewind()
		_, err = s.exchange(expecting, source, yield)
	}
	return err
}

// exchange makes one call of the stream. It reports whether the server answered any chunk.
func (s *Stream) exchange(ctx context.Context, source *source, yield func(*Predictions) bool) (answered bool, err error) {
	callersCtx := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	var sending sync.WaitGroup
	defer sending.Wait()
	defer cancel(errStopped)
	call, err := s.client.open(ctx)
	if err != nil {
		return false, err
	}

	whole := false // all chunks are sent; to be read once the sender has ended
	sending.Go(func() {
		var err error
		if whole, err = source.send(ctx, call); err != nil {
			cancel(err)
		}
	})
	for {
		response, err := call.Recv()
		if err == io.EOF {
			cancel(errStopped)
			sending.Wait()
			if !whole || len(source.owed) > 0 {
				return answered, fault("ends before each chunk has its part")
			}
			s.trailer = call.Trailer()
			return answered, nil
		}
		if err != nil {
			if cause := context.Cause(ctx); cause != nil && callersCtx.Err() == nil {
				return answered, cause // of the sender, who ended the stream
			}
			return answered, FromCall(callersCtx, err)
		}
		var chunk sent
		select {
		case chunk = <-source.owed:
		default:
			return answered, fault("has more parts than chunks were sent")
		}
		answered = true
		header, err := call.Header()
		if err != nil {
			return answered, FromError(err)
		}
		predictions, err := decode(chunk.request, response, chunk.rows, header)
		if err != nil {
			return answered, err
		}
		if !yield(predictions) {
			return answered, nil
		}
	}
}

// sent is a chunk that waits for its answer.
type sent struct {
	request *predpb.Request
	rows    int
}

// source draws the chunks of a table, once, and keeps those that have no answer yet: at the most as many as the window,
// and one. Until the first answer it can be rewound, to send the same chunks in another call.
type source struct {
	next  func() (Table, error, bool)
	stop  func()
	owed  chan sent
	again []sent // chunks that a call before sent or drew
	err   error  // what ended the chunks, if it was no end
}

func newSource(chunks iter.Seq2[Table, error]) *source {
	next, stop := iter.Pull2(chunks)
	return &source{next: next, stop: stop, owed: make(chan sent, window)}
}

// rewind has the chunks that were sent be sent again. Nobody may be sending.
func (s *source) rewind() {
	before := s.again
	s.again = nil
	for len(s.owed) > 0 {
		s.again = append(s.again, <-s.owed)
	}
	s.again = append(s.again, before...)
}

// draw returns the next chunk, and false after the last.
func (s *source) draw() (chunk sent, more bool, err error) {
	if len(s.again) > 0 {
		chunk, s.again = s.again[0], s.again[1:]
		return chunk, true, nil
	}
	if s.err != nil {
		return sent{}, false, s.err
	}
	table, err, more := s.next()
	if !more {
		return sent{}, false, nil
	}
	if err == nil {
		chunk.request, err = table.request()
	}
	chunk.rows, s.err = table.Rows(), err
	return chunk, err == nil, err
}

// send sends all chunks, and reports whether it could. Before each, it puts what it sends into owed.
func (s *source) send(
	ctx context.Context, call grpc.BidiStreamingClient[predpb.Request, predpb.Response],
) (whole bool, err error) {
	for {
		chunk, more, err := s.draw()
		if err != nil {
			return false, err
		}
		if !more {
			return true, call.CloseSend()
		}
		select {
		case s.owed <- chunk:
		case <-ctx.Done():
			s.again = append([]sent{chunk}, s.again...)
			return false, context.Cause(ctx)
		}
		if err := call.Send(chunk.request); err == io.EOF {
			return false, nil // the stream has ended, and Recv says why
		} else if err != nil {
			return false, FromError(err)
		}
	}
}
