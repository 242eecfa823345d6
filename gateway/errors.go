package main

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
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
	codes.PermissionDenied:   {http.StatusForbidden, ""},
	codes.ResourceExhausted:  {http.StatusTooManyRequests, ""},
	codes.FailedPrecondition: {http.StatusBadRequest, ""},
	codes.Aborted:            {http.StatusConflict, ""},
	codes.OutOfRange:         {http.StatusBadRequest, ""},
	codes.Unimplemented:      {http.StatusNotImplemented, ""},
	codes.Internal:           {http.StatusBadGateway, failedSentence},
	codes.Unavailable:        {http.StatusServiceUnavailable, "The prediction server cannot be reached; try again in a few seconds."},
	codes.DataLoss:           {http.StatusBadGateway, failedSentence},
	codes.Unauthenticated:    {http.StatusUnauthorized, ""},
}

const (
	ownFaultSentence = "The gateway failed; its log has the reason under this request id."
	failedSentence   = "The prediction server failed; the gateway's log has the reason under this request id."
	tooLargeSentence = "The table or its predictions are larger than the prediction server allows; send fewer rows at a time."
)

// httpError is an error as the web sees it.
type httpError struct {
	status     int
	code       codes.Code
	message    string
	violations []violation
	retryAfter int    // seconds; 0 is none
	reason     string // for the log alone
	finish     func() // what remains to be done once the reply is written; may be nil
}

// violation names a field at fault.
type violation struct {
	Field       string `json:"field"`
	Description string `json:"description"`
}

// Error returns what the log is to say.
func (e *httpError) Error() string {
	if e.reason != "" {
		return e.reason
	}
	return e.message
}

// codeName returns the code as the gRPC specification spells it, such as INVALID_ARGUMENT.
func (e *httpError) codeName() string {
	return code.Code(e.code).String()
}

// refuse returns the error for a request that the gateway does not pass on.
func refuse(status int, code codes.Code, format string, args ...any) *httpError {
	return &httpError{status: status, code: code, message: fmt.Sprintf(format, args...)}
}

// badRequest returns the error for a request whose content is at fault.
func badRequest(format string, args ...any) *httpError {
	return refuse(http.StatusBadRequest, codes.InvalidArgument, format, args...)
}

// badReply returns the error for a reply of the prediction server that makes no sense. The reason is only logged.
func badReply(format string, args ...any) *httpError {
	return &httpError{
		status: http.StatusBadGateway, code: codes.Internal,
		message: failedSentence, reason: fmt.Sprintf(format, args...),
	}
}

// failure returns the error for a fault of the gateway itself. The reason is only logged.
func failure(format string, args ...any) *httpError {
	return &httpError{
		status: http.StatusInternalServerError, code: codes.Internal,
		message: ownFaultSentence, reason: fmt.Sprintf(format, args...),
	}
}

// fromBackend translates the error of a call.
func fromBackend(err error) *httpError {
	st := status.Convert(err)
	code := st.Code()
	if _, known := answers[code]; !known {
		code = codes.Unknown
	}
	answer := answers[code]
	e := &httpError{status: answer.status, code: code, message: st.Message()}
	if answer.sentence != "" {
		e.message, e.reason = answer.sentence, st.Message()
	}

	reason := ""
	retryAfter := 1
	for _, detail := range st.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			reason = detail.GetReason()
		case *errdetails.RetryInfo:
			retryAfter = max(1, int(math.Ceil(detail.GetRetryDelay().AsDuration().Seconds())))
		case *errdetails.BadRequest:
			for _, v := range detail.GetFieldViolations() {
				e.violations = append(e.violations, violation{v.GetField(), v.GetDescription()})
			}
		}
	}
	if e.code != codes.ResourceExhausted {
		return e
	}

	// gRPC has one code for "too much at once" and "too much altogether".
	switch {
	case reason == "TOO_LARGE":
		e.status = http.StatusRequestEntityTooLarge
	case reason != "OVERLOADED" && strings.Contains(e.message, "larger than max"):
		// gRPC's own words, in Go and in Python, when a message is over a limit.
		e.status, e.message, e.reason = http.StatusRequestEntityTooLarge, tooLargeSentence, e.message
	default:
		e.retryAfter = retryAfter
	}
	return e
}

// write sends the error as a reply.
func (e *httpError) write(w http.ResponseWriter, requestID string) {
	type detail struct {
		Code       string      `json:"code"`
		Message    string      `json:"message"`
		RequestID  string      `json:"request_id"`
		Violations []violation `json:"violations,omitempty"`
	}
	body, err := json.Marshal(map[string]detail{
		"error": {e.codeName(), e.message, requestID, e.violations},
	})
	if err != nil {
		panic(err) // strings always marshal
	}
	if e.retryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(e.retryAfter))
	}
	reply(w, e.status, "application/json", append(body, '\n'))
}
