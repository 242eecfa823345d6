package web

import (
	"context"
	"io"
	"math"
	"net/http"
	"time"

	"example.com/predserver/gateway/internal/csv"
	"example.com/predserver/gateway/internal/problem"
	"example.com/predserver/gateway/internal/stream"
)

// mayStream reports whether the table of a request may go as a stream, if it is longer than a chunk.
func (h *Handler) mayStream(q question) bool {
	// To a client of HTTP/1.0, a connection that breaks is the end of the reply: it would take a part for the whole.
	return q.format == formatCSV && q.ProtoAtLeast(1, 1) && h.support.MayTry() &&
		(q.ContentLength < 0 || q.ContentLength > int64(h.options.chunkBytes()))
}

// stream takes a table of any length through in chunks, in constant memory. Where the table has to be held whole, since
// it is shorter than a chunk or the prediction server takes no streams, there is no answer, and rest is all of the body.
func (h *Handler) stream(q question, control *http.ResponseController) (a answer, rest io.Reader, err error) {
	o := h.options
	table := &csv.Splitter{Body: q.Body, Size: o.chunkBytes(), Limit: int(o.MaxBodyBytes), Most: o.MaxStreamBytes}
	if q.ContentLength > o.MaxStreamBytes {
		drain(q.Request, o.MaxBodyBytes)
		return answer{}, nil, problem.TooLarge(o.MaxStreamBytes)
	}
	chunk, ok, err := table.First()
	if err != nil {
		drain(q.Request, o.MaxBodyBytes)
		return answer{}, nil, err
	}
	if !ok {
		return answer{}, unread(table.Held(), q.Body), nil
	}

	// net/http ends the request's context also when the body cannot be read, and the transfer knows better why that is;
	// so it looks at that context only once the body is read.
	ctx, cancel := context.WithoutCancel(q.ctx), context.CancelFunc(func() {})
	// A client may set a stream a deadline of any length. The gateway's own limit is for each chunk.
	const none = time.Duration(math.MaxInt64)
	if timeout, _ := requestTimeout(q.Header, none); timeout < none {
		ctx, cancel = context.WithTimeout(ctx, timeout)
	}
	t := stream.New(ctx, stream.Options{
		Client: h.client, Support: h.support,
		BacklogBytes: o.BacklogBytes, StallTimeout: o.StallTimeout, DrainBytes: o.MaxBodyBytes,
	}, table, chunk, control)
	timing := func() http.Header {
		sent, backend := t.Timing()
		return http.Header{"Server-Timing": {serverTiming(sent, backend, time.Since(q.start))}}
	}

	streams, err := t.Begin(q.Context())
	switch {
	case err != nil:
		cancel()
		return answer{header: timing(), finish: func() { t.Drain(q.Body) }}, nil, err
	case !streams:
		cancel()
		return answer{}, t.Table(q.Body), nil
	}
	header := http.Header{"Content-Type": {"text/csv; charset=utf-8"}, "Trailer": {"Server-Timing"}}
	if ignored := t.Ignored(); ignored != "" {
		header.Set("Ignored-Columns", ignored)
	}
	return answer{header: header, stream: func(w io.Writer) (http.Header, error) {
		defer cancel()
		err := t.Write(w)
		return timing(), err
	}}, nil, nil
}
