package main

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
)

// server answers HTTP requests by asking the backend.
type server struct {
	config  *config
	backend *backend
	log     *slog.Logger
}

func newServer(c *config, b *backend, log *slog.Logger) *server {
	return &server{config: c, backend: b, log: log}
}

// httpServer returns the server with every limit set: none of net/http's timeouts has a default.
func (s *server) httpServer() *http.Server {
	c := s.config
	return &http.Server{
		Handler:           s.routes(),
		ReadHeaderTimeout: c.headerTimeout,
		ReadTimeout:       c.readTimeout,
		// This clock starts when the header has been read, so it runs while the body arrives and the backend computes.
		WriteTimeout:   c.readTimeout + c.timeout + c.writeTimeout,
		IdleTimeout:    c.idleTimeout,
		MaxHeaderBytes: c.maxHeaderBytes,
		ErrorLog:       slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
	}
}

// handler is an http.HandlerFunc that may fail. If its error comes when a part of the reply is written already, the rest
// cannot be told to the client in another way than by a connection that breaks.
type handler func(w http.ResponseWriter, r *http.Request) error

func (s *server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST /predict", s.handle(s.predict))
	mux.Handle("GET /healthz", s.handle(s.health))
	mux.Handle("GET /readyz", s.handle(s.ready))

	mux.Handle("/predict", s.handle(allow("POST")))
	mux.Handle("/healthz", s.handle(allow("GET, HEAD")))
	mux.Handle("/readyz", s.handle(allow("GET, HEAD")))
	mux.Handle("/", s.handle(notFound))
	return mux
}

// handle wraps h in what every request gets: an id, protection from panics, errors as JSON, and a line in the log.
func (s *server) handle(h handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		id := requestID(r)
		out := &recorder{ResponseWriter: w}
		out.Header().Set("X-Request-Id", id)
		line := []any{slog.String("request_id", id), slog.String("method", r.Method), slog.String("path", r.URL.Path)}

		err := callSafely(h, out, r.WithContext(metadata.AppendToOutgoingContext(r.Context(), "x-request-id", id)))
		level, aborted, finish := slog.LevelInfo, false, func() {}
		if err != nil {
			e, ok := errors.AsType[*httpError](err)
			if !ok {
				e = failure("%v", err)
			}
			if out.status == 0 {
				e.write(out, id)
			} else {
				level, aborted = slog.LevelWarn, true
				line = append(line, slog.Bool("aborted", true))
			}
			if e.status >= http.StatusInternalServerError {
				level = slog.LevelError
			}
			line = append(line, slog.String("code", e.codeName()), slog.String("error", e.Error()))
			if e.finish != nil {
				finish = e.finish
			}
		}

		elapsed := float64(time.Since(start).Microseconds()) / 1000
		line = append(line, slog.Int("status", out.status), slog.Float64("duration_ms", elapsed), slog.Int64("bytes", out.bytes))
		s.log.Log(r.Context(), level, "request", line...)
		if aborted {
			panic(http.ErrAbortHandler) // which net/http knows: it breaks the connection, and logs nothing
		}
		finish()
	})
}

// callSafely calls h and turns a panic into an error that carries the stack.
func callSafely(h handler, w http.ResponseWriter, r *http.Request) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = failure("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return h(w, r)
}

// health says that the process is alive.
func (s *server) health(w http.ResponseWriter, r *http.Request) error {
	reply(w, http.StatusOK, "application/json", []byte(`{"status":"alive"}`+"\n"))
	return nil
}

// ready says whether predictions can be had.
func (s *server) ready(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := context.WithTimeout(r.Context(), s.config.readyTimeout)
	defer cancel()
	if err := s.backend.ready(ctx); err != nil {
		sentence := answers[codes.Unavailable].sentence
		if errors.Is(err, errNotServing) {
			sentence = "The prediction server does not serve at present: it is starting, or stopping."
		}
		e := refuse(http.StatusServiceUnavailable, codes.Unavailable, "%s", sentence)
		e.reason = err.Error()
		return e
	}
	reply(w, http.StatusOK, "application/json", []byte(`{"status":"ready"}`+"\n"))
	return nil
}

// allow answers requests whose method has no handler.
func allow(methods string) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		w.Header().Set("Allow", methods)
		return refuse(http.StatusMethodNotAllowed, codes.Unimplemented, "%s does not take %s; use %s.", r.URL.Path, clip(r.Method), methods)
	}
}

// notFound answers requests for paths that do not exist.
func notFound(w http.ResponseWriter, r *http.Request) error {
	return refuse(http.StatusNotFound, codes.NotFound, "There is nothing at %s; POST a table to /predict.", clip(r.URL.Path))
}

// reply sends a whole answer.
func reply(w http.ResponseWriter, status int, mediaType string, body []byte) {
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	w.Write(body) // an error here means that the client is gone
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
