package web

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/metadata"

	"example.com/predserver/gateway/internal/csv"
	"example.com/predserver/gateway/internal/problem"
	"example.com/predserver/gateway/internal/records"
	"example.com/predserver/gateway/internal/stream"
	"example.com/predserver/generated/predpb"
)

// question is a request for predictions, but for its body.
type question struct {
	*http.Request
	start   time.Time
	format  format
	timeout time.Duration
	ctx     context.Context // the request's, with the choice of a model; it ends when the client goes away
}

// predict takes a table and answers with one prediction for each of its rows, in the same order and format.
func (h *Handler) predict(r *http.Request, control *http.ResponseController) (answer, error) {
	q, err := h.question(r)
	if err != nil {
		return answer{}, err
	}
	body := io.Reader(r.Body)
	if h.mayStream(q) {
		a, rest, err := h.stream(q, control)
		if rest == nil {
			return a, err
		}
		body = rest
	}
	return h.predictWhole(q, body)
}

// question reads the header of a request.
func (h *Handler) question(r *http.Request) (question, error) {
	q := question{Request: r, start: time.Now()}
	var err error
	if q.format, err = requestFormat(r.Header); err != nil {
		return q, err
	}
	if q.timeout, err = requestTimeout(r.Header, h.options.Timeout); err != nil {
		return q, err
	}
	q.ctx, err = withChoices(r.Context(), r.Header)
	return q, err
}

// predictWhole reads the whole body, and asks once.
func (h *Handler) predictWhole(q question, body io.Reader) (answer, error) {
	text, err := readBody(q.Request, body, h.options.MaxBodyBytes)
	if err != nil {
		return answer{}, err
	}
	table, rows, counted := string(text), 0, true
	if q.format == formatJSON {
		table, rows, err = records.ToCSV(text)
	} else {
		rows, counted = csv.CountRows(table)
	}
	if err != nil {
		return answer{}, err
	}

	// The context ends when the client goes away, and with it the call.
	ctx, cancel := context.WithTimeout(q.ctx, q.timeout)
	defer cancel()
	called := time.Now()
	response, beside, err := h.client.Call(ctx, &predpb.Request{InputData: table})
	backend := time.Since(called)

	a, err := reply(q.format, response, err, rows, counted, beside)
	if a.header == nil {
		a.header = http.Header{}
	}
	a.header.Set("Server-Timing", serverTiming(strings.Join(beside.Get("server-timing"), ", "), backend, time.Since(q.start)))
	return a, err
}

// reply makes an answer of what a call came to.
func reply(f format, response *predpb.Response, err error, rows int, counted bool, beside metadata.MD) (answer, error) {
	if err != nil {
		return answer{}, err
	}
	// Records are counted below, as they are read.
	predictions, err := stream.Fit(response, rows, counted && f == formatCSV)
	if err != nil {
		return answer{}, err
	}
	a := whole("text/csv; charset=utf-8", []byte(predictions))
	if f == formatJSON {
		list, n, err := records.FromCSV(predictions, first(beside, "prediction-dtype"))
		if err != nil {
			return answer{}, err
		}
		if n != rows {
			return answer{}, problem.BadReply("%d predictions came for %d records", n, rows)
		}
		a = whole("application/json", list)
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
