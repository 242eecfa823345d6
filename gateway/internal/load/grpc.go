package load

import (
	"context"
	"errors"
	"io"
	"math"
	"net"
	"strings"
	"sync/atomic"

	rpccode "google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// grpcTarget calls a gRPC method over connections that it takes in turn. They lead to the addresses of a list in turn, too:
// so calls are balanced one by one, as round_robin does it.
type grpcTarget struct {
	connection
	context     context.Context // with the metadata
	addresses   []string
	credentials credentials.TransportCredentials
	connections []*grpc.ClientConn
}

func newGRPC(c connection) (target, error) {
	t := &grpcTarget{connection: c, context: context.Background(), credentials: insecure.NewCredentials()}
	if c.CA != "" {
		made, err := credentials.NewClientTLSFromFile(c.CA, "")
		if err != nil {
			return nil, err
		}
		t.credentials = made
	}
	for _, pair := range c.Metadata {
		t.context = metadata.AppendToOutgoingContext(t.context, pair[0], pair[1])
	}
	t.addresses = strings.Split(c.Address, ",")
	t.connections = make([]*grpc.ClientConn, len(t.addresses)*c.Connections)
	t.renew()
	return t, nil
}

func (t *grpcTarget) renew() {
	for i, connection := range t.connections {
		if connection != nil && connection.GetState() == connectivity.Ready {
			continue
		}
		if connection != nil {
			connection.Close()
		}
		t.connections[i] = dial(t.addresses[i%len(t.addresses)], t.credentials)
	}
}

var errLost = errors.New("the connection was lost, and no call makes another")

// dial returns a connection that is ready, or whose calls fail. It connects once: a connection that is lost stays lost.
func dial(address string, credentials credentials.TransportCredentials) *grpc.ClientConn {
	var dialled atomic.Bool
	once := func(ctx context.Context, address string) (net.Conn, error) {
		if dialled.Swap(true) {
			return nil, errLost
		}
		network, path := "tcp", address
		if socket, is := strings.CutPrefix(address, "unix:"); is {
			network, path = "unix", socket
		}
		return new(net.Dialer).DialContext(ctx, network, path)
	}
	made, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(credentials),
		grpc.WithContextDialer(once),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(),
		grpc.WithIdleTimeout(0),
		grpc.WithDefaultCallOptions(
			grpc.ForceCodecV2(raw{}),
			grpc.MaxCallRecvMsgSize(math.MaxInt32),
			grpc.MaxCallSendMsgSize(math.MaxInt32),
			// Retries or not, gRPC sends a call again that the server refused to begin, unless it has not kept the message.
			grpc.MaxRetryRPCBufferSize(0),
		),
	)
	if err != nil {
		panic(err) // only options and the scheme are looked at
	}
	made.Connect()
	ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
	defer cancel()
	for state := made.GetState(); state != connectivity.Ready && state != connectivity.TransientFailure; state = made.GetState() {
		if !made.WaitForStateChange(ctx, state) {
			break
		}
	}
	return made
}

func (t *grpcTarget) call(number int, now func() int64) outcome {
	ctx, cancel := context.WithTimeout(t.context, t.timeout())
	defer cancel()
	connection := t.connections[number%len(t.connections)]
	if t.Stream {
		return t.stream(ctx, connection, now)
	}
	var reply size
	var trailer metadata.MD
	err := connection.Invoke(ctx, t.Method, t.Messages[0], &reply, grpc.Trailer(&trailer))
	return outcome{code: codeOf(err), replyBytes: int(reply), timing: timingOf(trailer)}
}

var bothWays = &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}

func (t *grpcTarget) stream(ctx context.Context, connection *grpc.ClientConn, now func() int64) (o outcome) {
	stream, err := connection.NewStream(ctx, bothWays, t.Method)
	if err != nil {
		return outcome{code: codeOf(err)}
	}
	go func() {
		for _, message := range t.Messages {
			if stream.SendMsg(message) != nil {
				return // the reason is what reading says
			}
		}
		stream.CloseSend()
	}()
	for {
		var reply size
		if err = stream.RecvMsg(&reply); err != nil {
			break
		}
		if o.firstNs == 0 {
			o.firstNs = now()
		}
		o.replyBytes += int(reply)
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	o.code, o.timing = codeOf(err), timingOf(stream.Trailer())
	return o
}

func (t *grpcTarget) redials() int64 { return 0 }

func (t *grpcTarget) close() {
	for _, connection := range t.connections {
		connection.Close()
	}
}

// codeOf names a status as all languages but Go do: DEADLINE_EXCEEDED.
func codeOf(err error) string { return rpccode.Code(status.Code(err)).String() }

func timingOf(trailer metadata.MD) string {
	if values := trailer.Get("server-timing"); len(values) > 0 {
		return values[0]
	}
	return ""
}

// raw sends ready bytes, and counts those of a reply: nothing is encoded or decoded in the measured time.
type raw struct{}

type size int

// Name is empty, so that the content type is application/grpc as from other clients.
func (raw) Name() string { return "" }

func (raw) Marshal(message any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(message.([]byte))}, nil
}

func (raw) Unmarshal(data mem.BufferSlice, reply any) error {
	*reply.(*size) = size(data.Len())
	return nil
}
