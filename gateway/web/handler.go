// Package web answers HTTP requests for predictions: it takes tables as CSV or JSON, asks a prediction server over gRPC,
// and answers in kind. handler.go shows what every request gets, predict.go what a table comes to; stream.go is for
// tables that are too large to be held. models.go says what is served, page.go and form.go say it to people.
package web

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"path"
	"runtime/debug"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"example.com/predserver/gateway/internal/budget"
	"example.com/predserver/gateway/internal/problem"
	"example.com/predserver/gateway/internal/stream"
	"example.com/predserver/gateway/pred"
)

// Handler answers POST /predict, GET /healthz and GET /readyz; with Options.Page also /, /models and /openapi.json.
type Handler struct {
	client  *pred.Client
	options Options
	log     *slog.Logger
	support *stream.Support
	guard   guard
	held    *budget.Budget
	slots   *budget.Slots
	mux     *http.ServeMux

	stopping atomic.Bool
}

// New returns a handler that asks the client. It has each request in the log.
func New(client *pred.Client, options Options, log *slog.Logger) *Handler {
	h := &Handler{
		client: client, options: options, log: log, support: stream.NewSupport(), mux: http.NewServeMux(),
		guard: newGuard(options.AllowHosts), held: budget.New(options.maxBytesHeld()), slots: budget.NewSlots(options.MaxRequests),
	}
	h.mux.Handle("POST /predict", h.handle(h.predict))
	h.mux.Handle("GET /healthz", h.probe(h.health))
	h.mux.Handle("GET /readyz", h.probe(h.ready))

	h.mux.Handle("/predict", h.handle(allow("POST")))
	h.mux.Handle("/healthz", h.probe(allow("GET, HEAD")))
	h.mux.Handle("/readyz", h.probe(allow("GET, HEAD")))
	h.mux.Handle("/", h.handle(notFound))
	if options.Page {
		h.mux.Handle("GET /{$}", h.handle(h.page))
		h.mux.Handle("POST /{$}", h.handle(h.form))
		h.mux.Handle("/{$}", h.handle(allow("GET, HEAD, POST")))
		for place, handler := range map[string]handler{
			"/models": h.models, "/models/{name}": h.model, "/models/{name}/{version}": h.model, "/openapi.json": h.openAPI,
		} {
			h.mux.Handle("GET "+place, h.handle(handler))
			h.mux.Handle(place, h.handle(allow("GET, HEAD")))
		}
	}
	return h
}

// Stopping has /readyz say, from now on, that the gateway is about to stop. Requests are still answered; connections end
// with their next reply, so that clients make new ones, to another gateway.
func (h *Handler) Stopping() { h.stopping.Store(true) }

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// ServeMux would redirect a path such as //predict by itself, and no log would have the request.
	clean := path.Clean("/" + r.URL.Path)
	if r.URL.Path != clean && (r.URL.Path != clean+"/" || clean == "/") {
		h.handle(notFound).ServeHTTP(w, r)
		return
	}
	h.mux.ServeHTTP(w, r)
}

// answer is what a request comes to. Beside an error, its header and finish still count.
type answer struct {
	header http.Header
	body   string
	stream func(io.Writer) (trailer http.Header, err error) // writes the body as it comes; nil if that is whole
	finish func()                                           // what remains to be done once all is written; may be nil
	page   func(*problem.Error) answer                      // what an error looks like to a person; nil for a program
}

// whole returns the answer with a body that is at hand.
func whole(mediaType, body string) answer {
	return answer{
		header: http.Header{"Content-Type": {mediaType}, "Content-Length": {strconv.Itoa(len(body))}},
		body:   body,
	}
}

// identify notes in the header which model answered, if the prediction server says so.
func (a *answer) identify(beside metadata.MD) {
	if identity := identityOf(beside); identity != "" {
		a.header.Set("Model-Identity", identity)
	}
}

// endings is what is done at the end of a request, however it ends, and what is said of it then.
type endings struct {
	all     []func()
	caller  string        // the name of its token; "" without one
	backend time.Duration // how long the prediction server was asked
}

type endingsKey struct{}

// atEnd has do called at the end of the request of ctx.
func atEnd(ctx context.Context, do func()) {
	e := endingsOf(ctx)
	e.all = append(e.all, do)
}

func endingsOf(ctx context.Context) *endings {
	return ctx.Value(endingsKey{}).(*endings)
}

func (e *endings) run() {
	for _, do := range slices.Backward(e.all) {
		do()
	}
}

// handler answers a request. It reads the request, and sets deadlines with the controller; handle alone writes.
type handler func(r *http.Request, control *http.ResponseController) (answer, error)

// handle wraps a handler in what every request gets: a look at its token, if the gateway asks for one, and what wrap adds.
func (h *Handler) handle(next handler) http.Handler {
	if h.options.Authorize == nil {
		return h.wrap(next)
	}
	return h.wrap(func(r *http.Request, control *http.ResponseController) (answer, error) {
		name, header, err := h.authorize(r)
		if err != nil {
			return answer{header: header, finish: h.readOn(&question{Request: r}, control)}, err
		}
		endingsOf(r.Context()).caller = name
		return next(r, control)
	})
}

// probe is handle, without a look at the token unless the options say so.
func (h *Handler) probe(next handler) http.Handler {
	if h.options.HealthToken {
		return h.handle(next)
	}
	return h.wrap(next)
}

// wrap wraps a handler in an id, protection from panics, errors as JSON, and a line in the log. An error that comes when a
// part of the reply is written already can be told to the client in one way alone: the connection breaks.
func (h *Handler) wrap(handler handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		id := requestID(r)
		out := &recorder{ResponseWriter: w}
		out.Header().Set("X-Request-Id", id)
		if h.stopping.Load() {
			out.Header().Set("Connection", "close")
		}
		line := []any{slog.String("request_id", id), slog.String("method", r.Method), slog.String("path", r.URL.EscapedPath())}

		ends := &endings{}
		defer ends.run()
		ctx := context.WithValue(r.Context(), endingsKey{}, ends)
		ctx, trace := traced(metadata.AppendToOutgoingContext(ctx, "x-request-id", id), r.Header)
		if trace != "" {
			line = append(line, slog.String("trace_id", trace))
		}
		r = r.WithContext(ctx)
		a, err := callSafely(handler, r, http.NewResponseController(out))
		if err == nil {
			err = a.writeSafely(out)
		}
		level, aborted := slog.LevelInfo, false
		ended := Ended{Route: route(r.Pattern), Code: codes.OK.String()}
		if err != nil {
			e := problemOf(err)
			if out.status == 0 {
				body := errorBody(e, id)
				if a.page != nil {
					body = a.page(e)
				}
				writeError(out, a.header, e, body)
			} else {
				level, aborted = slog.LevelWarn, true
				line = append(line, slog.Bool("aborted", true))
			}
			if e.Status >= http.StatusInternalServerError {
				level = slog.LevelError
			}
			ended.Code, ended.Reason = e.CodeName(), e.Name
			line = append(line, slog.String("code", e.CodeName()), slog.String("error", e.Error()))
			if e.Name != "" {
				line = append(line, slog.String("reason", e.Name))
			}
		}
		if identity := out.Header().Get("Model-Identity"); identity != "" {
			line = append(line, slog.String("model", identity))
		}

		if ends.caller != "" {
			line = append(line, slog.String("caller", ends.caller))
		}

		ended.Status, ended.Took, ended.Backend = out.status, time.Since(start), ends.backend
		if h.options.Observe != nil {
			h.options.Observe(ended)
		}
		elapsed := float64(ended.Took.Microseconds()) / 1000
		line = append(line, slog.Int("status", out.status), slog.Float64("duration_ms", elapsed), slog.Int64("bytes", out.bytes))
		h.log.Log(r.Context(), level, "request", line...)
		if aborted {
			panic(http.ErrAbortHandler) // which net/http knows: it breaks the connection, and logs nothing
		}
		if a.finish != nil {
			a.finish()
		}
	})
}

// callSafely calls a handler and turns a panic into an error that carries the stack.
func callSafely(handler handler, r *http.Request, control *http.ResponseController) (a answer, err error) {
	defer recovered(&err)
	return handler(r, control)
}

// writeSafely writes an answer with status 200. It turns a panic into an error too.
func (a answer) writeSafely(w http.ResponseWriter) (err error) {
	defer recovered(&err)
	setHeader(w, a.header)
	w.WriteHeader(http.StatusOK)
	if a.stream == nil {
		io.WriteString(w, a.body) // an error here means that the client is gone
		return nil
	}
	trailer, err := a.stream(w)
	setHeader(w, trailer)
	return err
}

func recovered(err *error) {
	if p := recover(); p != nil {
		*err = problem.Failure("panic: %v\n%s", p, debug.Stack())
	}
}

// setHeader adds to the header of a reply what all replies have, and more.
func setHeader(w http.ResponseWriter, more http.Header) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	for name, values := range more {
		w.Header()[name] = values
	}
}

// health says that the process is alive.
func (h *Handler) health(*http.Request, *http.ResponseController) (answer, error) {
	return whole(mediaJSON, `{"status":"alive"}`+"\n"), nil
}

// ready says whether predictions can be had.
func (h *Handler) ready(r *http.Request, _ *http.ResponseController) (answer, error) {
	if h.stopping.Load() {
		return answer{}, problem.Refusal(http.StatusServiceUnavailable, codes.Unavailable, "The gateway is about to stop.")
	}
	ctx, cancel := context.WithTimeout(r.Context(), h.options.ReadyTimeout)
	defer cancel()
	if err := h.client.Ready(ctx); err != nil {
		sentence := answers[codes.Unavailable].sentence
		if errors.Is(err, pred.ErrNotServing) {
			sentence = "The prediction server does not serve at present: it is starting, or stopping."
		}
		e := problem.Refusal(http.StatusServiceUnavailable, codes.Unavailable, "%s", sentence)
		e.Reason = err.Error()
		return answer{}, e
	}
	return whole(mediaJSON, `{"status":"ready"}`+"\n"), nil
}

// allow answers requests whose method has no handler.
func allow(methods string) handler {
	return func(r *http.Request, _ *http.ResponseController) (answer, error) {
		return answer{header: http.Header{"Allow": {methods}}}, problem.Refusal(http.StatusMethodNotAllowed, codes.Unimplemented,
			"%s does not take %s; use %s.", r.URL.Path, problem.Clip(r.Method), methods)
	}
}

// notFound answers requests for paths that do not exist.
func notFound(r *http.Request, _ *http.ResponseController) (answer, error) {
	return answer{}, problem.Refusal(http.StatusNotFound, codes.NotFound,
		"There is nothing at %s; POST a table to /predict.", problem.Clip(r.URL.Path))
}

// requestID returns the id that the client chose, or a new one if that is missing or not fit for logs and metadata.
func requestID(r *http.Request) string {
	id := r.Header.Get("X-Request-Id")
	if id == "" || len(id) > 128 || !printable(id) {
		return rand.Text()
	}
	return id
}

// printable reports whether text is ASCII without control characters, which is what gRPC metadata can hold.
func printable(text string) bool {
	for _, b := range []byte(text) {
		if b < ' ' || b > '~' {
			return false
		}
	}
	return true
}

// recorder remembers what was sent, for the log.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
}

// Unwrap lets http.ResponseController find what it controls.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (r *recorder) Write(p []byte) (int, error) {
	n, err := r.ResponseWriter.Write(p)
	r.bytes += int64(n)
	return n, err
}

// WriteString implements io.StringWriter: net/http's reply does, and needs no copy of the text.
func (r *recorder) WriteString(text string) (int, error) {
	n, err := io.WriteString(r.ResponseWriter, text)
	r.bytes += int64(n)
	return n, err
}
