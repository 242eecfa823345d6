// Package problem holds the error that a request over HTTP comes to.
package problem

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc/codes"
)

// What the web reads of faults that are not its own. The reasons are for the log.
const (
	GatewayFailed = "The gateway failed; its log has the reason under this request id."
	ServerFailed  = "The prediction server failed; the gateway's log has the reason under this request id."
)

// Error is an error as the web sees it.
type Error struct {
	Status     int
	Code       codes.Code
	Message    string
	Violations []Violation
	RetryAfter int    // seconds; 0 is none
	Name       string // the reason for a program to read, such as OVERLOADED; may be empty
	Reason     string // for the log alone
}

// Violation names a field at fault.
type Violation struct {
	Field       string `json:"field"`
	Description string `json:"description"`
}

// Error returns what the log is to say.
func (e *Error) Error() string {
	if e.Reason != "" {
		return e.Reason
	}
	return e.Message
}

// CodeName returns the code as the gRPC specification spells it, such as INVALID_ARGUMENT.
func (e *Error) CodeName() string {
	return code.Code(e.Code).String()
}

// Refusal returns the error for a request that the gateway does not pass on.
func Refusal(status int, code codes.Code, format string, args ...any) *Error {
	return &Error{Status: status, Code: code, Message: fmt.Sprintf(format, args...)}
}

// BadRequest returns the error for a request whose content is at fault.
func BadRequest(format string, args ...any) *Error {
	return Refusal(http.StatusBadRequest, codes.InvalidArgument, format, args...)
}

// Unsupported returns the error for a request of a kind that the gateway does not take.
func Unsupported(format string, args ...any) *Error {
	return Refusal(http.StatusUnsupportedMediaType, codes.InvalidArgument, format, args...)
}

// TooLarge returns the error for a body over a limit.
func TooLarge(limit int64) *Error {
	e := Refusal(http.StatusRequestEntityTooLarge, codes.ResourceExhausted,
		"The body is larger than %d bytes; send fewer rows at a time.", limit)
	e.Name = "TOO_LARGE"
	return e
}

// Empty returns the error for a body that has nothing in it.
func Empty() *Error {
	return BadRequest("The body is empty; send a table as CSV, or as a JSON array of records.")
}

// NotText returns the error for a body that is no text.
func NotText() *Error {
	return BadRequest("The body is not UTF-8 text; save the table as UTF-8.")
}

// BrokenOff returns the error for a body that cannot be read to its end.
func BrokenOff(err error) error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e // of a reader that found the body at fault
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return Refusal(http.StatusRequestTimeout, codes.DeadlineExceeded, "The body came too slowly.")
	}
	e := BadRequest("The body breaks off before its end.")
	e.Reason = err.Error()
	return e
}

// BadReply returns the error for a reply of the prediction server that makes no sense. The reason is only logged.
func BadReply(format string, args ...any) *Error {
	return &Error{
		Status: http.StatusBadGateway, Code: codes.Internal, Message: ServerFailed, Reason: fmt.Sprintf(format, args...),
	}
}

// Failure returns the error for a fault of the gateway itself. The reason is only logged.
func Failure(format string, args ...any) *Error {
	return &Error{
		Status: http.StatusInternalServerError, Code: codes.Internal,
		Message: GatewayFailed, Reason: fmt.Sprintf(format, args...),
	}
}

// Clip quotes text for an error message, without its end if it is long.
func Clip(text string) string {
	const limit = 60
	if len(text) > limit {
		text = strings.ToValidUTF8(text[:limit], "") + "…"
	}
	return strconv.Quote(text)
}
