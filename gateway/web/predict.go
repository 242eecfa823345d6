package web

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/metadata"

	"example.com/predserver/gateway/internal/budget"
	"example.com/predserver/gateway/internal/csv"
	"example.com/predserver/gateway/internal/presence"
	"example.com/predserver/gateway/internal/problem"
	"example.com/predserver/gateway/internal/records"
	"example.com/predserver/gateway/internal/stream"
	"example.com/predserver/gateway/internal/text"
	"example.com/predserver/generated/predpb"
)

// question is a request for predictions, but for its body.
type question struct {
	*http.Request
	start     time.Time
	format    format
	mediaType string
	zipped    bool
	timeout   time.Duration
	ctx       context.Context // the request's, with the choice of a model; it ends when the client goes away
	client    *presence.Client
	share     *budget.Share // what the request holds; nil before it holds anything
	received  *received     // the body; nil before it is opened
	kept      bool          // the reply shows the table, so it is held to the end, also where there is an error
}

// predict takes a table and answers with one prediction for each of its rows, in the same order and format.
func (h *Handler) predict(r *http.Request, control *http.ResponseController) (answer, error) {
	q := &question{Request: r, start: time.Now()}
	return h.settle(q, control, func() (answer, error) {
		if err := h.read(q); err != nil {
			return answer{}, err
		}
		return h.answerTo(q, control)
	})
}

// settle has a question answered, and sees to what an answer or an error leaves to be done.
func (h *Handler) settle(q *question, control *http.ResponseController, do func() (answer, error)) (answer, error) {
	a, err := do()
	if err != nil && a.finish == nil {
		if q.share != nil && !q.kept {
			q.share.Close() // before the rest of the body is read, which may take long
		}
		a.finish = h.readOn(q, control)
	}
	if q.client != nil && a.stream == nil {
		q.client.Quiet() // the reply is written next
	}
	return a, err
}

// answerTo opens the body and asks: in chunks where that is possible, and else once.
func (h *Handler) answerTo(q *question, control *http.ResponseController) (answer, error) {
	share, body, err := h.begin(q, h.most(q), control)
	if err != nil {
		return answer{}, err
	}
	if h.mayStream(q) {
		a, rest, err := h.stream(q, body, share, control)
		if rest == nil {
			return a, err
		}
		body = rest
		q.received.until = time.Now().Add(h.options.ReadTimeout) // the client was made to wait
	}
	return h.predictWhole(q, body, share)
}

// begin opens the body of a question, which may have so many bytes, and a share for what it takes.
func (h *Handler) begin(q *question, most int64, control *http.ResponseController) (*budget.Share, io.Reader, error) {
	q.share = h.held.Share()
	atEnd(q.Context(), q.share.Close)
	if err := q.share.Grow(requestBytes); err != nil {
		return nil, nil, err
	}
	if !q.zipped && q.ContentLength > most {
		return nil, nil, problem.TooLarge(most)
	}
	return q.share, h.open(q, control), nil
}

// requestBytes is about what a request takes that has no body yet: a connection's buffers, its header, a goroutine.
const requestBytes = 8 << 10

// read reads the header of a request.
func (h *Handler) read(q *question) (err error) {
	if err := h.guard.check(q.Request); err != nil {
		return err
	}
	if q.format, q.mediaType, err = requestFormat(q.Header); err != nil {
		return err
	}
	if q.zipped, err = zipped(q.Header); err != nil {
		return err
	}
	if q.timeout, err = requestTimeout(q.Header, h.options.Timeout); err != nil {
		return err
	}
	return q.watch(q.Header)
}

// watch has the question end with its client, and notes what that chooses.
func (q *question) watch(choice http.Header) (err error) {
	ctx, client := presence.Watch(q.Request)
	atEnd(q.Context(), client.Stop)
	q.client = client
	q.ctx, err = withChoices(ctx, choice)
	return err
}

// predictWhole reads the whole body, and asks once.
func (h *Handler) predictWhole(q *question, body io.Reader, share *budget.Share) (answer, error) {
	before := share.Held()
	body = limit(body, h.options.MaxBodyBytes)
	var table string
	var rows int
	var err error
	counted := true
	if q.format == formatJSON {
		table, rows, err = records.ToCSV(body, share.Grow)
	} else if table, err = readCSV(q, body, share); err == nil {
		rows, counted = csv.CountRows(table)
	}
	if err != nil {
		return answer{}, err
	}
	return h.ask(q, table, rows, counted, share, func() { share.Free(share.Held() - before) })
}

// ask asks once, and calls done when it does not need the table any more. The rows are those of the table, if they could
// be counted.
func (h *Handler) ask(
	q *question, table string, rows int, counted bool, share *budget.Share, done func(),
) (answer, error) {
	release, err := h.slots.Take()
	if err != nil {
		return answer{}, err
	}
	defer release()

	// The context ends when the client goes away, and with it the call.
	ctx, cancel := context.WithTimeout(q.ctx, q.timeout)
	defer cancel()
	called := time.Now()
	response, beside, err := h.client.Call(ctx, &predpb.Request{InputData: table})
	backend := time.Since(called)
	done()
	endingsOf(q.Context()).backend = backend

	var a answer
	if err == nil {
		a, err = reply(q.format, response, rows, counted, beside, share)
	} else {
		err = whoseDeadline(ctx, err, q.timeout < h.options.Timeout, q.timeout)
	}
	if a.header == nil {
		a.header = http.Header{}
	}
	a.header.Set("Server-Timing", serverTiming(strings.Join(beside.Get("server-timing"), ", "), backend, time.Since(q.start)))
	a.identify(beside)
	return a, err
}

// reply makes an answer of a response.
func reply(
	f format, response *predpb.Response, rows int, counted bool, beside metadata.MD, share *budget.Share,
) (answer, error) {
	if err := share.Grow(2 * int64(len(response.GetResult()))); err != nil { // as it came, and as text
		return answer{}, err
	}
	var a answer
	if f == formatJSON {
		predictions, err := stream.CSV(response)
		if err != nil {
			return answer{}, err
		}
		list, n, err := records.FromCSV(predictions, first(beside, "prediction-dtype"), share.Grow)
		if err != nil {
			return answer{}, err
		}
		if n != rows {
			return answer{}, problem.BadReply("%d predictions came for %d records", n, rows)
		}
		a = whole(mediaJSON, text.Of(list))
	} else {
		predictions, err := stream.Fit(response, rows, counted)
		if err != nil {
			return answer{}, err
		}
		a = whole("text/csv; charset=utf-8", predictions)
	}
	if ignored := beside.Get("ignored-columns"); len(ignored) > 0 {
		a.header.Set("Ignored-Columns", strings.Join(ignored, ","))
	}
	return a, nil
}

// requestTimeout returns the limit, or less if the client asks for less.
func requestTimeout(header http.Header, limit time.Duration) (time.Duration, error) {
	value := header.Get("Request-Timeout-Ms")
	if value == "" {
		return limit, nil
	}
	ms, err := strconv.ParseUint(value, 10, 64)
	if err != nil || ms == 0 {
		return 0, problem.BadRequest("Request-Timeout-Ms must be a whole number of milliseconds, 1 or more (got %s).", problem.Clip(value))
	}
	if ms >= uint64(limit.Milliseconds()) {
		return limit, nil
	}
	return time.Duration(ms) * time.Millisecond, nil
}

// choices are the headers with which a client chooses, and the metadata that tells the prediction server of it.
var choices = []struct{ header, key string }{
	{"Model-Name", "model-name"},
	{"Model-Version", "model-version"},
	{"Model-Output", "output"},
	{"Expect-Schema", "expect-schema"},
}

// withChoices passes the client's choice of a model and of what it answers on to the prediction server.
func withChoices(ctx context.Context, header http.Header) (context.Context, error) {
	for _, choice := range choices {
		value := header.Get(choice.header)
		if value == "" {
			continue
		}
		if !printable(value) {
			return nil, problem.BadRequest("%s must be printable ASCII (got %s).", choice.header, problem.Clip(value))
		}
		ctx = metadata.AppendToOutgoingContext(ctx, choice.key, value)
	}
	return ctx, nil
}

// first returns the first value of a key, or nothing.
func first(md metadata.MD, key string) string {
	if values := md.Get(key); len(values) > 0 {
		return values[0]
	}
	return ""
}
