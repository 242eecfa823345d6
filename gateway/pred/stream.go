package pred

import (
	"context"
	"errors"
	"io"
	"iter"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"

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
	timings Timings
}

// PredictStream returns the stream of predictions for a table in chunks, such as Table.Chunks gives. The chunks may have
// any number of rows; a mebibyte is a good size. An error among the chunks ends the stream, and comes back as it is.
//
// Nothing is sent before All is ranged over. The stream has no deadline but that of ctx.
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
func (s *Stream) Timings() Timings { return s.timings }

// errStopped ends a stream whose caller wants no more.
var errStopped = errors.New("no more predictions are wanted")

// run takes the chunks out and the predictions in, until yield wants no more.
func (s *Stream) run(yield func(*Predictions) bool) error {
	ctx, cancel := context.WithCancelCause(s.ctx)
	var sending sync.WaitGroup
	defer sending.Wait()
	defer cancel(errStopped)
	call, err := s.client.CallStream(ctx, s.opts...)
	if err != nil {
		return err
	}

	owed := make(chan sent, window)
	whole := false // all chunks are sent; to be read once the sender has ended
	sending.Go(func() {
		var err error
		if whole, err = s.send(ctx, call, owed); err != nil {
			cancel(err)
		}
	})
	for {
		response, err := call.Recv()
		if err == io.EOF {
			cancel(errStopped)
			sending.Wait()
			if !whole || len(owed) > 0 {
				return fault("ends before each chunk has its part")
			}
			s.timings = timingsOf(call.Trailer())
			return nil
		}
		if err != nil {
			if cause := context.Cause(ctx); cause != nil && s.ctx.Err() == nil {
				return cause // of the sender, who ended the stream
			}
			return FromError(err)
		}
		var chunk sent
		select {
		case chunk = <-owed:
		default:
			return fault("has more parts than chunks were sent")
		}
		header, err := call.Header()
		if err != nil {
			return FromError(err)
		}
		predictions, err := decode(chunk.request, response, chunk.rows, header)
		if err != nil {
			return err
		}
		if !yield(predictions) {
			return nil
		}
	}
}

// sent is a chunk that waits for its answer.
type sent struct {
	request *predpb.Request
	rows    int
}

// send sends all chunks, and reports whether it could. Before each, it puts what it sends into owed, which has room for
// as many as the window.
func (s *Stream) send(
	ctx context.Context, call grpc.BidiStreamingClient[predpb.Request, predpb.Response], owed chan<- sent,
) (whole bool, err error) {
	for table, err := range s.chunks {
		if err != nil {
			return false, err
		}
		request, err := table.request()
		if err != nil {
			return false, err
		}
		select {
		case owed <- sent{request, table.Rows()}:
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
		if err := call.Send(request); err == io.EOF {
			return false, nil // the stream has ended, and Recv says why
		} else if err != nil {
			return false, FromError(err)
		}
	}
	return true, call.CloseSend()
}
