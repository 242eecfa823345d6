package main

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"predserver/generated/predpb"
)

// outcome is what a request for predictions comes to.
type outcome struct {
	mediaType string
	body      []byte
	timing    string        // Server-Timing as the prediction server sent it
	backend   time.Duration // how long the call took; 0 if there was none
	sent      bool          // the reply is written already, as a stream
}

// predict takes a table and answers with one prediction for each of its rows, in the same order and format.
func (s *server) predict(w http.ResponseWriter, r *http.Request) error {
	start := time.Now()
	var o outcome
	err := s.ask(w, r, &o)
	if o.backend > 0 { // in the header; behind a stream, which has announced it, in the trailer
		w.Header().Set("Server-Timing", serverTiming(o.timing, o.backend, time.Since(start)))
	}
	if err != nil || o.sent {
		return err
	}
	reply(w, http.StatusOK, o.mediaType, o.body)
	return nil
}

// ask passes the request on and brings about its outcome, also the part of it that there is when it fails. What the
// prediction server says beside the predictions becomes part of w's header; w gets no more, unless it is a stream.
func (s *server) ask(w http.ResponseWriter, r *http.Request, o *outcome) error {
	format, err := requestFormat(r.Header)
	if err != nil {
		return err
	}
	timeout, err := requestTimeout(r.Header, s.config.timeout)
	if err != nil {
		return err
	}
	ctx, err := withChoices(r.Context(), r.Header)
	if err != nil {
		return err
	}

	var beginning []byte
	if format == formatCSV && s.streamable(r) {
		beginning, err = s.stream(ctx, w, r, o)
		if err != errHoldWhole {
			return err
		}
	}
	body, err := readBody(r, beginning, s.config.maxBodyBytes)
	if err != nil {
		return err
	}

	table, rows := string(body), 0
	if format == formatJSON {
		if table, rows, err = recordsToCSV(body); err != nil {
			return err
		}
	}

	// The context ends when the client goes away, and with it the call.
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var after metadata.MD
	called := time.Now()
	response, err := s.backend.client().Predict(ctx, &predpb.Request{InputData: table}, grpc.Trailer(&after))
	o.backend, o.timing = time.Since(called), strings.Join(after.Get("server-timing"), ", ")
	if err != nil {
		return fromBackend(err)
	}
	if ignored := after.Get("ignored-columns"); len(ignored) > 0 {
		w.Header().Set("Ignored-Columns", strings.Join(ignored, ","))
	}

	if format == formatCSV {
		o.mediaType, o.body = "text/csv; charset=utf-8", []byte(response.Result)
		return nil
	}
	records, predictions, err := csvToRecords(response.Result, first(after, "prediction-dtype"))
	if err != nil {
		return err
	}
	if predictions != rows {
		return badReply("%d predictions came for %d records", predictions, rows)
	}
	o.mediaType, o.body = "application/json", records
	return nil
}

// requestTimeout returns the limit, or less if the client asks for less.
func requestTimeout(header http.Header, limit time.Duration) (time.Duration, error) {
	value := header.Get("Request-Timeout-Ms")
	if value == "" {
		return limit, nil
	}
	ms, err := strconv.ParseUint(value, 10, 64)
	if err != nil || ms == 0 {
		return 0, badRequest("Request-Timeout-Ms must be a whole number of milliseconds, 1 or more (got %s).", clip(value))
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
			return nil, badRequest("%s must be printable ASCII (got %s).", choice.header, clip(value))
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
