package pred

import (
	"context"
	"errors"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"example.com/predserver/generated/predpb"
)

// Client asks one prediction server, or several that serve the same models.
type Client struct {
	options options
	conns   []*grpc.ClientConn
	stubs   []predpb.PredictionClient
	turn    atomic.Uint64

	described described
}

// New returns a client of the server, or the servers, at target:
//
//   - HOST:PORT is one server.
//   - HOST:PORT,HOST:PORT is a list of servers.
//   - dns:///HOST:PORT is every server whose address the name service has for HOST, such as the pods behind a headless
//     service.
//
// With a list, or with dns:///, calls go to all servers in turn (round robin), and none to a server that is away or
// whose health service says that it does not serve.
//
// New starts to connect, and does not wait: a server may come up later. See Client.Ready.
func New(target string, opts ...Option) (*Client, error) {
	o := defaults()
	for _, opt := range opts {
		opt(&o)
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	address, dialOptions, err := o.dial(target)
	if err != nil {
		return nil, err
	}
	c := &Client{options: o}
	for range o.connections {
		// Each ClientConn has sockets of its own, also when several have the same target.
		conn, err := grpc.NewClient(address, dialOptions...)
		if err != nil {
			c.Close()
			return nil, err
		}
		conn.Connect()
		c.conns = append(c.conns, conn)
		c.stubs = append(c.stubs, predpb.NewPredictionClient(conn))
	}
	return c, nil
}

// Predict returns one prediction for each row of the table, in the same order. The table travels as one message: as a
// tensor if all its columns hold numbers of one type and none is missing, and else as columns. A table that is too
// large for a message is an error whose TooLarge is true; PredictStream takes it.
//
// If ctx has no deadline, the client's own holds (WithTimeout).
func (c *Client) Predict(ctx context.Context, table Table, opts ...CallOption) (*Predictions, error) {
	request, err := table.request()
	if err != nil {
		return nil, err
	}
	response, beside, err := c.Call(ctx, request, opts...)
	if err != nil {
		return nil, err
	}
	return decode(request, response, table.Rows(), beside)
}

// Describe returns what the model takes and gives. The client remembers the schema: later calls for that model expect it
// (see ExpectSchema).
func (c *Client) Describe(ctx context.Context, opts ...CallOption) (*predpb.DescribeResponse, error) {
	ctx, cancel, err := c.outgoing(ctx, opts)
	if err != nil {
		return nil, err
	}
	defer cancel()
	return c.describe(ctx)
}

// Inspect returns what Describe does, and which model that is. No later call expects the schema: Inspect is for programs
// that show a model, and make no tables after what they see.
func (c *Client) Inspect(ctx context.Context, opts ...CallOption) (*predpb.DescribeResponse, Identity, error) {
	ctx, cancel, err := c.outgoing(ctx, opts)
	if err != nil {
		return nil, Identity{}, err
	}
	defer cancel()
	return c.inspect(ctx)
}

// Call sends a request as it is, and returns the response and the metadata that came beside it, also beside an error.
// It is for callers that write messages themselves, in CSV or Arrow; Predict is easier.
func (c *Client) Call(
	ctx context.Context, request *predpb.Request, opts ...CallOption,
) (*predpb.Response, metadata.MD, error) {
	ctx, cancel, err := c.outgoing(ctx, opts)
	if err != nil {
		return nil, nil, err
	}
	defer cancel()
	var response *predpb.Response
	predict := func(ctx context.Context, s *asking) (err error) {
		response, err = s.stub.Predict(ctx, request, s.options()...)
		return err
	}
	expecting, ours := c.expecting(ctx)
	beside, err := c.ask(expecting, predict)
	if e, ok := errors.AsType[*Error](err); ok && ours && e.SchemaChanged() {
		c.describeAnew(ctx)
		expecting, _ = c.expecting(ctx)
		beside, err = c.ask(expecting, predict)
	}
	if err != nil {
		return nil, beside, err
	}
	return response, beside, nil
}

// CallStream opens a stream of requests, to be sent as they are; the server answers each with one response, in order.
// The stream ends with ctx, and must end: cancel ctx if it is not read to its last response. Its errors are gRPC's;
// FromCall makes an *Error of one.
func (c *Client) CallStream(
	ctx context.Context, opts ...CallOption,
) (grpc.BidiStreamingClient[predpb.Request, predpb.Response], error) {
	ctx, err := withMetadata(ctx, c.options.call, opts)
	if err != nil {
		return nil, err
	}
	return c.open(ctx)
}

// open opens a stream with the metadata of ctx.
func (c *Client) open(ctx context.Context) (grpc.BidiStreamingClient[predpb.Request, predpb.Response], error) {
	stream, err := c.stubs[c.next()].PredictStream(ctx)
	if err != nil {
		return nil, FromError(err)
	}
	return stream, nil
}

// ErrNotServing is what Ready returns for a server that answers and says that it takes no calls: it is starting, or
// stopping.
var ErrNotServing = errors.New("the server's health is not SERVING")

// Ready waits until every connection is usable and a server behind it says that it serves. It returns an error when a
// connection cannot be made, or when ctx is done. A server without a health service is taken for one that serves.
func (c *Client) Ready(ctx context.Context) error {
	for _, conn := range c.conns {
		if err := connected(ctx, conn); err != nil {
			return err
		}
		health, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
		switch {
		case status.Code(err) == codes.Unimplemented:
		case err != nil:
			return FromError(err)
		case health.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING:
			return ErrNotServing
		}
	}
	return nil
}

// connected waits until a connection is usable.
func connected(ctx context.Context, conn *grpc.ClientConn) error {
	for state := conn.GetState(); state != connectivity.Ready; state = conn.GetState() {
		if state == connectivity.TransientFailure {
			return &Error{Code: codes.Unavailable, Message: "the connection failed and is being tried again"}
		}
		conn.Connect()
		if !conn.WaitForStateChange(ctx, state) {
			return FromError(status.FromContextError(ctx.Err()).Err())
		}
	}
	return nil
}

// Close ends the connections, and with them the calls in flight.
func (c *Client) Close() error {
	var errs []error
	for _, conn := range c.conns {
		errs = append(errs, conn.Close())
	}
	return errors.Join(errs...)
}

// next returns the index of the connection whose turn it is.
func (c *Client) next() int {
	return int((c.turn.Add(1) - 1) % uint64(len(c.stubs)))
}

// outgoing returns the context of a unary call: with a deadline, and with the metadata that the options ask for.
func (c *Client) outgoing(ctx context.Context, opts []CallOption) (context.Context, context.CancelFunc, error) {
	ctx, err := withMetadata(ctx, c.options.call, opts)
	if err != nil {
		return nil, nil, err
	}
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, c.options.timeout)
	return ctx, cancel, nil
}
