package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"example.com/predserver/gateway/internal/problem"
	"example.com/predserver/gateway/internal/stream"
	"example.com/predserver/gateway/pred"
)

// statusClientClosedRequest is what nginx's users know for a client that went away. No client sees it, logs do.
const statusClientClosedRequest = 499

// answers says how each gRPC code looks on the web. Where there is a sentence it stands in place of the prediction
// server's own message, which may tell what is not the public's business, and which only the log keeps.
var answers = map[codes.Code]struct {
	status   int
	sentence string
}{
	codes.OK:                 {http.StatusInternalServerError, ownFaultSentence}, // an error that says OK is no answer
	codes.Canceled:           {statusClientClosedRequest, "The request was cancelled before its answer came."},
	codes.Unknown:            {http.StatusBadGateway, failedSentence},
	codes.InvalidArgument:    {http.StatusBadRequest, ""},
	codes.DeadlineExceeded:   {http.StatusGatewayTimeout, "No answer came in time; send fewer rows, or allow more time."},
	codes.NotFound:           {http.StatusNotFound, ""},
	codes.AlreadyExists:      {http.StatusConflict, ""},
	codes.PermissionDenied:   {http.StatusBadGateway, refusedSentence},
	codes.ResourceExhausted:  {http.StatusTooManyRequests, ""},
	codes.FailedPrecondition: {http.StatusBadRequest, ""},
	codes.Aborted:            {http.StatusConflict, ""},
	codes.OutOfRange:         {http.StatusBadRequest, ""},
	codes.Unimplemented:      {http.StatusBadGateway, refusedSentence},
	codes.Internal:           {http.StatusBadGateway, failedSentence},
	codes.Unavailable:        {http.StatusServiceUnavailable, "The prediction server cannot be reached; try again in a few seconds."},
	codes.DataLoss:           {http.StatusBadGateway, failedSentence},
	codes.Unauthenticated:    {http.StatusBadGateway, refusedSentence},
}

const (
	ownFaultSentence = problem.GatewayFailed
	failedSentence   = problem.ServerFailed
	// The prediction server knows the gateway, and not the user: what it does not allow is the gateway's trouble.
	refusedSentence  = "The prediction server does not take the gateway's calls; the gateway's log has the reason under this request id."
	tooLargeSentence = "The table or its predictions are larger than the prediction server allows; send fewer rows at a time."
)

// problemOf returns any error of a handler as the web sees it.
func problemOf(err error) *problem.Error {
	if e, ok := errors.AsType[*problem.Error](err); ok {
		return e
	}
	if e, ok := errors.AsType[*pred.Error](err); ok {
		return fromServer(e)
	}
	return problem.Failure("%v", err)
}

// fromServer translates the error of a call.
func fromServer(err *pred.Error) *problem.Error {
	code := err.Code
	if _, known := answers[code]; !known {
		code = codes.Unknown
	}
	answer := answers[code]
	e := &problem.Error{Status: answer.status, Code: code, Message: err.Message, Name: err.Reason}
	if err.SchemaChanged() {
		e.Status = http.StatusPreconditionFailed
	}
	if answer.sentence != "" {
		e.Message, e.Reason = answer.sentence, err.Message
	}
	for _, v := range err.Violations {
		e.Violations = append(e.Violations, problem.Violation{Field: v.Field, Description: v.Description})
	}
	if code != codes.ResourceExhausted {
		return e
	}

	// gRPC has one code for "too much at once" and "too much altogether".
	if !err.TooLarge() {
		e.RetryAfter = max(1, int(math.Ceil(err.RetryAfter.Seconds())))
		return e
	}
	e.Status = http.StatusRequestEntityTooLarge
	if strings.Contains(e.Message, "larger than max") { // gRPC's own words say little to a user
		e.Message, e.Reason = tooLargeSentence, e.Message
	}
	return e
}

// whoseDeadline says, in an error about a deadline, whose it was: the request's, the gateway's, or the prediction server's.
// The limit is the deadline of ctx; it is the caller's, or the gateway's own.
func whoseDeadline(ctx context.Context, err error, callers bool, limit time.Duration) error {
	e, ok := errors.AsType[*pred.Error](err)
	if !ok || e.Code != codes.DeadlineExceeded {
		return err
	}
	// The prediction server keeps the same deadline, and its clock may be the first, by a little.
	const little = 20 * time.Millisecond
	deadline, ok := ctx.Deadline()
	passed := ok && time.Until(deadline) < little
	p := fromServer(e)
	switch {
	case e.Reason == stream.ReasonStall:
		p.Message = "No answer came in time: the prediction server took too long for a chunk (-stall-timeout); try again."
	case !passed:
		p.Message = "No answer came in time: the prediction server's own limit passed; send fewer rows."
	case callers:
		p.Message = fmt.Sprintf("No answer came in time: the request allows %v (Request-Timeout-Ms); send fewer rows, or allow more time.", limit)
	default:
		p.Message = fmt.Sprintf("No answer came in time: the gateway allows %v (-timeout); send fewer rows.", limit)
	}
	if strings.Contains(e.Message, "could not be reached") {
		p.Message += " The prediction server could not be reached meanwhile."
	}
	return p
}

// identityOf returns which model answered, or nothing where the prediction server does not say.
func identityOf(beside metadata.MD) string {
	if identity := first(beside, "model-identity"); printable(identity) {
		return identity
	}
	return ""
}

// errorBody returns an error as programs read it.
func errorBody(e *problem.Error, requestID string) answer {
	type detail struct {
		Code       string              `json:"code"`
		Reason     string              `json:"reason,omitempty"`
		Message    string              `json:"message"`
		RequestID  string              `json:"request_id"`
		Violations []problem.Violation `json:"violations,omitempty"`
	}
	body, err := json.Marshal(map[string]detail{
		"error": {e.CodeName(), e.Name, e.Message, requestID, e.Violations},
	})
	if err != nil {
		panic(err) // strings always marshal
	}
	return whole(mediaJSON, string(body)+"\n")
}

// writeError sends an error as a reply with that body.
func writeError(w http.ResponseWriter, header http.Header, e *problem.Error, body answer) {
	setHeader(w, header)
	setHeader(w, body.header)
	if e.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(e.RetryAfter))
	}
	if e.Status == http.StatusUnsupportedMediaType {
		w.Header().Set("Accept-Encoding", "gzip, identity") // what a body may be coded in; RFC 9110, 12.5.3
	}
	w.WriteHeader(e.Status)
	io.WriteString(w, body.body) // an error here means that the client is gone
}
