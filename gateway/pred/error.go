package pred

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Reasons of an Error. TOO_LARGE and OVERLOADED come with the code ResourceExhausted, SCHEMA_CHANGED with
// FailedPrecondition. A server may have others, such as one for its memory; they arrive as it names them.
const (
	ReasonTooLarge      = "TOO_LARGE"      // it will never fit; send fewer rows at a time
	ReasonOverloaded    = "OVERLOADED"     // too much at once; come back later
	ReasonSchemaChanged = "SCHEMA_CHANGED" // the model's columns are not those that the call expected

	// ReasonServerDeadline comes with DeadlineExceeded where the server's own limit passed, and not the caller's.
	ReasonServerDeadline = "SERVER_DEADLINE"
)

// Error is what a call comes to that has no predictions. It is errors.Is a context error where one is the cause.
type Error struct {
	Code       codes.Code
	Message    string            // a sentence of the server's, or of gRPC's
	Reason     string            // for a program to read; may be empty
	Metadata   map[string]string // beside the reason: the limit that was reached, and its flag; may be nil
	Violations []Violation       // the fields at fault, if the table is
	RetryAfter time.Duration     // when the server expects to have time; 0 if it did not say
}

// Violation names a field at fault: a column, or a field of the message.
type Violation struct {
	Field       string
	Description string
}

// Error implements error.
func (e *Error) Error() string {
	return fmt.Sprintf("%s: %s", e.CodeName(), e.Message)
}

// CodeName returns the code as the gRPC specification spells it, such as INVALID_ARGUMENT.
func (e *Error) CodeName() string {
	return code.Code(e.Code).String()
}

// TooLarge reports whether the table, or its predictions, are larger than a limit: to try again is no use.
func (e *Error) TooLarge() bool {
	return e.Code == codes.ResourceExhausted && e.Reason == ReasonTooLarge
}

// Is makes errors.Is(err, context.DeadlineExceeded) and errors.Is(err, context.Canceled) true for these codes.
func (e *Error) Is(target error) bool {
	return target == context.DeadlineExceeded && e.Code == codes.DeadlineExceeded ||
		target == context.Canceled && e.Code == codes.Canceled
}

// GRPCStatus lets status.FromError and status.Code see the code and the message.
func (e *Error) GRPCStatus() *status.Status {
	return status.New(e.Code, e.Message)
}

// FromError returns err as an *Error, whatever it is; an error that has no gRPC status is Unknown. A nil err is nil.
func FromError(err error) *Error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	st, ok := status.FromError(err)
	if !ok {
		st = status.FromContextError(err) // Unknown, unless it is one of a context
	}
	e := &Error{Code: st.Code(), Message: st.Message()}
	for _, detail := range st.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			e.Reason, e.Metadata = detail.GetReason(), detail.GetMetadata()
		case *errdetails.RetryInfo:
			e.RetryAfter = detail.GetRetryDelay().AsDuration()
		case *errdetails.BadRequest:
			for _, v := range detail.GetFieldViolations() {
				e.Violations = append(e.Violations, Violation{v.GetField(), v.GetDescription()})
			}
		}
	}
	if e.Code == codes.ResourceExhausted && e.Reason == "" && strings.Contains(e.Message, "larger than max") {
		e.Reason = ReasonTooLarge // gRPC's own words, in Go and in Python, when a message is over a limit
	}
	return e
}

// invalid returns the error for a table that cannot be sent.
func invalid(field, format string, args ...any) *Error {
	description := fmt.Sprintf(format, args...)
	return &Error{Code: codes.InvalidArgument, Message: field + ": " + description, Violations: []Violation{{field, description}}}
}

// fault returns the error for a response that makes no sense.
func fault(format string, args ...any) *Error {
	return &Error{Code: codes.Internal, Message: "the server's answer " + fmt.Sprintf(format, args...)}
}
