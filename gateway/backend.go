package main

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"predserver/generated/predpb"
)

// messageOverhead is more than protobuf adds around the one string of a message.
const messageOverhead = 1 << 10

// windowBytes is how much of its answers the prediction server may send ahead.
const windowBytes = 4 << 20

// dialOptions hold for every connection to the prediction server.
var dialOptions = []grpc.DialOption{
	grpc.WithTransportCredentials(insecure.NewCredentials()),
	// A proxy that the environment names is meant for the web, not for the server next door.
	grpc.WithNoProxy(),
	// Windows of a fixed size, so that gRPC does not ping to find out one with each reply.
	grpc.WithInitialWindowSize(windowBytes),
	grpc.WithInitialConnWindowSize(windowBytes),
	// A server that comes back is found within a second: 800 ms and 20 % jitter.
	grpc.WithConnectParams(grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 800 * time.Millisecond},
		MinConnectTimeout: 2 * time.Second,
	}),
	// No ping is ever due, since gRPC servers close connections that ping often. What this is for is Timeout: it becomes
	// the socket's TCP_USER_TIMEOUT, so that a connection to a machine that vanished is given up after 20 seconds, not
	// after a quarter of an hour.
	grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 48 * time.Hour, Timeout: 20 * time.Second}),
}

// backend is the prediction server, reached over connections that live as long as the process.
//
// Each grpc.ClientConn has a socket of its own, also when several have the same target (unlike Python's channels, which
// share one unless told otherwise), so N of them are N TCP connections.
type backend struct {
	conns   []*grpc.ClientConn
	clients []predpb.PredictionClient
	turn    atomic.Uint64

	// Whether the server has PredictStream is found out by asking, with the first table that is worth a stream. Until
	// then nothing of a table is read beyond its first chunk, so that it can still be sent as one message, which every
	// server takes, also the article's. A yes is remembered until the server says otherwise: it allows the next tables
	// to be read on at once. A no is remembered for some time only, since another server may come up at the address.
	streams   atomic.Bool
	noStreams atomic.Int64 // until when, as Unix nanoseconds
}

// noStreamsFor is how long a server without PredictStream is not asked for it again.
const noStreamsFor = time.Minute

// mayStream reports whether PredictStream is worth a try.
func (b *backend) mayStream() bool {
	return time.Now().UnixNano() >= b.noStreams.Load()
}

// remember keeps whether the server has PredictStream.
func (b *backend) remember(streams bool) {
	b.streams.Store(streams)
	if !streams {
		b.noStreams.Store(time.Now().Add(noStreamsFor).UnixNano())
	}
}

// newBackend starts to connect, and does not wait: the prediction server may come up later.
func newBackend(c *config) (*backend, error) {
	options := append([]grpc.DialOption{grpc.WithDefaultCallOptions(
		grpc.MaxCallSendMsgSize(int(c.maxBodyBytes)+messageOverhead),
		// A short table may well have long predictions, so replies never get less room than gRPC's own default.
		grpc.MaxCallRecvMsgSize(int(max(c.maxBodyBytes, 4<<20))+messageOverhead),
	)}, dialOptions...)

	b := &backend{}
	for range c.connections {
		conn, err := grpc.NewClient(c.backend, options...)
		if err != nil {
			b.close()
			return nil, err
		}
		conn.Connect()
		b.conns = append(b.conns, conn)
		b.clients = append(b.clients, predpb.NewPredictionClient(conn))
	}
	return b, nil
}

// client returns the client of the connection whose turn it is.
func (b *backend) client() predpb.PredictionClient {
	return b.clients[(b.turn.Add(1)-1)%uint64(len(b.clients))]
}

// errNotServing is what ready returns for a server that answers, and says that it takes no calls.
var errNotServing = errors.New("the prediction server's health is not SERVING")

// ready waits until every connection is usable and the server behind it says that it serves. It gives up when a
// connection cannot be made, or when ctx is done.
func (b *backend) ready(ctx context.Context) error {
	for _, conn := range b.conns {
		if err := connected(ctx, conn); err != nil {
			return err
		}
		health, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
		switch {
		case status.Code(err) == codes.Unimplemented:
			// A server without a health service, such as the article's, has nothing to say against it.
		case err != nil:
			return err
		case health.Status != grpc_health_v1.HealthCheckResponse_SERVING:
			return errNotServing
		}
	}
	return nil
}

// connected waits until a connection is usable.
func connected(ctx context.Context, conn *grpc.ClientConn) error {
	for state := conn.GetState(); state != connectivity.Ready; state = conn.GetState() {
		if state == connectivity.TransientFailure {
			return errors.New("the connection failed and is being tried again")
		}
		conn.Connect()
		if !conn.WaitForStateChange(ctx, state) {
			return ctx.Err()
		}
	}
	return nil
}

// close ends the connections and with them the calls in flight.
func (b *backend) close() {
	for _, conn := range b.conns {
		conn.Close()
	}
}
