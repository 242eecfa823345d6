package web

import (
	"context"
	"io"
	"math"
	"net/http"
	"time"

	"example.com/predserver/gateway/internal/budget"
	"example.com/predserver/gateway/internal/csv"
	"example.com/predserver/gateway/internal/stream"
)

// mayStream reports whether the table of a request may go as a stream, if it is longer than a chunk.
func (h *Handler) mayStream(q *question) bool {
	return h.streams(q) && (q.zipped || q.ContentLength < 0 || q.ContentLength > int64(h.options.chunkBytes()))
}

// streams reports whether a table may go as a stream, whatever its length.
func (h *Handler) streams(q *question) bool {
	// To a client of HTTP/1.0, a connection that breaks is the end of the reply: it would take a part for the whole.
	return q.format == formatCSV && q.ProtoAtLeast(1, 1) && h.support.MayTry()
}

// ahead is how many chunks a stream holds at the most: those that were sent and have no answer, one that is being cut, one
// that is being sent. For each of them there may be a message beside it.
const ahead = stream.Window + 2

// stream takes a table of any length through in chunks, in constant memory. Where the table has to be held whole, since
// it is shorter than a chunk or the prediction server takes no streams, there is no answer, and rest is all of the body.
func (h *Handler) stream(
	q *question, body io.Reader, share *budget.Share, control *http.ResponseController,
) (a answer, rest io.Reader, err error) {
	o := h.options
	size := int64(o.chunkBytes())
	room, weight := int64(0), int64(1) // what the splitter's buffer may have before it costs more, and how much that is
	table := &csv.Splitter{
		Body: body, Size: o.chunkBytes(), Limit: int(o.MaxBodyBytes), Most: o.MaxStreamBytes,
		Hold: func(capacity int) error {
			more := int64(capacity) - room
			if more <= 0 {
				return nil
			}
			room += more
			return share.Grow(weight * more)
		},
	}
	before := share.Held()
	chunk, ok, err := table.First()
	if err != nil {
		return answer{}, nil, err
	}
	if !ok {
		share.Free(share.Held() - before)
		return answer{}, unread(table.Held(), body), nil
	}
	// From here on there are chunks ahead, and a row that is longer than a chunk makes all of them longer.
	weight = 4
	more := ahead*size + weight*max(0, room-2*size) - (share.Held() - before)
	if err := share.Grow(max(0, more)); err != nil {
		return answer{}, nil, err
	}
	room = max(room, 2*size)
	release, err := h.slots.Take()
	if err != nil {
		return answer{}, nil, err
	}
	atEnd(q.Context(), release)

	// The context does not end when the client goes away: net/http takes it for gone also when the body cannot be read,
	// and the transfer knows better why that is.
	ctx, cancel := context.WithoutCancel(q.ctx), context.CancelFunc(func() {})
	// A client may set a stream a deadline of any length. The gateway's own limit is for each chunk.
	const none = time.Duration(math.MaxInt64)
	timeout, _ := requestTimeout(q.Header, none)
	if timeout < none {
		ctx, cancel = context.WithTimeout(ctx, timeout)
	}
	q.received.until = time.Time{} // from here on each chunk has its deadline
	t := stream.New(ctx, stream.Options{
		Client: h.client, Support: h.support, Share: share, Reader: q.client,
		BacklogBytes: o.BacklogBytes, StallTimeout: o.StallTimeout, DrainBytes: o.MaxBodyBytes,
	}, table, chunk, control)
	timing := func() http.Header {
		sent, backend := t.Timing()
		endingsOf(q.Context()).backend = backend
		return http.Header{"Server-Timing": {serverTiming(sent, backend, time.Since(q.start))}}
	}

	streams, err := t.Begin(q.ctx)
	switch {
	case err != nil:
		err = whoseDeadline(ctx, err, true, timeout)
		cancel()
		a = answer{header: timing(), finish: func() {
			share.Close()
			release()
			t.Drain(q.Body)
		}}
		a.identify(t.Beside())
		return a, nil, err
	case !streams:
		cancel()
		release()
		share.Free(share.Held() - before)
		return answer{}, t.Table(body), nil
	}
	a.header = http.Header{"Content-Type": {"text/csv; charset=utf-8"}, "Trailer": {"Server-Timing, Model-Identity"}}
	if ignored := t.Ignored(); ignored != "" {
		a.header.Set("Ignored-Columns", ignored)
	}
	a.stream = func(w io.Writer) (http.Header, error) {
		defer cancel()
		err := whoseDeadline(ctx, t.Write(w), true, timeout)
		trailer := timing()
		if identity := identityOf(t.Beside()); identity != "" {
			trailer.Set("Model-Identity", identity)
		}
		return trailer, err
	}
	return a, nil, nil
}
