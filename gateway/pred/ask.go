package pred

import (
	"cmp"
	"context"
	"errors"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"example.com/predserver/generated/predpb"
)

// asking is one try of a unary call: whom it asks, and what comes back beside the answer.
type asking struct {
	stub            predpb.PredictionClient
	header, trailer metadata.MD
}

// options have gRPC write what comes beside the answer.
func (s *asking) options() []grpc.CallOption {
	return []grpc.CallOption{grpc.Header(&s.header), grpc.Trailer(&s.trailer)}
}

// ask makes a unary call, and returns the metadata that came beside its answer, also beside an error. An error is an
// *Error that says whose deadline passed.
func (c *Client) ask(ctx context.Context, call func(context.Context, *asking) error) (metadata.MD, error) {
	for again := c.options.retries > 0; ; again = false {
		at := c.next()
		s := &asking{stub: c.stubs[at]}
		err := call(ctx, s)
		if err == nil {
			return metadata.Join(s.header, s.trailer), nil
		}
		// gRPC retries by itself until a part of an answer has come, be it the headers (see serviceConfig). A server
		// that is killed behind its headers leaves the rest to us.
		if again && len(s.header) > 0 && status.Code(err) == codes.Unavailable {
			continue
		}
		return metadata.Join(s.header, s.trailer), explain(ctx, c.conns[at], err)
	}
}

// FromCall returns the error of a stream that CallStream opened with ctx, as an *Error that says whose deadline passed.
func FromCall(ctx context.Context, err error) *Error {
	if err == nil {
		return nil
	}
	return explain(ctx, nil, err)
}

// explain returns the error of a call, and says what the code alone does not: whose deadline passed and why, and that
// nobody here cancelled a call that is CANCELLED.
func explain(ctx context.Context, conn *grpc.ClientConn, err error) *Error {
	e := FromError(err)
	switch {
	case e.Code == codes.DeadlineExceeded && passed(ctx):
		// gRPC's own words tell of contexts, and some of what it last tried.
		e.Message = "no answer came in time: the caller's deadline passed"
		if reason := unreachable(conn); reason != "" {
			e.Message += " while the server could not be reached: " + reason
		}
	case e.Code == codes.DeadlineExceeded:
		e.Reason = cmp.Or(e.Reason, ReasonServerDeadline)
	case e.Code == codes.Canceled && ctx.Err() == nil && (conn == nil || conn.GetState() != connectivity.Shutdown):
		// gRPC in C, which Python has, drops calls without a word when more come than it can queue.
		*e = Error{
			Code: codes.ResourceExhausted, Reason: ReasonOverloaded,
			Message: "the server dropped the call, as it does when too many come at once; come back later",
		}
	}
	return e
}

// passed reports whether the deadline of ctx has passed. The server keeps the same deadline by its own clock, and may be
// the first to say so, by a little.
func passed(ctx context.Context) bool {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return true
	}
	const little = 20 * time.Millisecond
	deadline, ok := ctx.Deadline()
	return ok && time.Until(deadline) < little
}

// unreachable returns why a connection is not usable at present, or nothing if it is.
func unreachable(conn *grpc.ClientConn) string {
	if conn == nil {
		return ""
	}
	switch conn.GetState() {
	case connectivity.Connecting:
		return "the connection is still being made"
	case connectivity.TransientFailure:
		// A call fails at once in this state, with the reason why the last connection could not be made.
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		_, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
		if status.Code(err) == codes.Unavailable {
			return status.Convert(err).Message()
		}
		return "the connection failed and is being tried again"
	}
	return ""
}
