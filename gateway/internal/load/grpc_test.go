package load

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"example.com/predserver/gateway/internal/testkit"
	"example.com/predserver/generated/predpb"
)

const hang = testkit.Hang

// server keeps what arrived, and answers as the test wants.
type server struct {
	predpb.UnimplementedPredictionServer
	mutex    sync.Mutex
	tables   []string
	metadata metadata.MD
	answer   func(ctx context.Context) error
}

func (s *server) Predict(ctx context.Context, request *predpb.Request) (*predpb.Response, error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.tables = append(s.tables, request.InputData)
	s.metadata, _ = metadata.FromIncomingContext(ctx)
	grpc.SetTrailer(ctx, metadata.Pairs("server-timing", "decode;dur=1"))
	if s.answer != nil {
		return nil, s.answer(ctx)
	}
	return &predpb.Response{Result: "0\n3\n"}, nil
}

func (s *server) PredictStream(stream grpc.BidiStreamingServer[predpb.Request, predpb.Response]) error {
	for {
		request, err := stream.Recv()
		if err == io.EOF {
			stream.SetTrailer(metadata.Pairs("server-timing", "predict;dur=2"))
			return nil
		}
		if err != nil {
			return err
		}
		if request.InputData == "bad" {
			return status.Error(codes.InvalidArgument, "a bad chunk")
		}
		stream.Send(&predpb.Response{Result: request.InputData})
	}
}

func serve(t *testing.T, s *server, options ...grpc.ServerOption) (address string) {
	served := grpc.NewServer(options...)
	predpb.RegisterPredictionServer(served, s)
	return testkit.Serve(t, served)
}

// request returns the bytes of a request, and reply how many a reply with the same text has.
func request(t *testing.T, table string) []byte {
	t.Helper()
	return append([]byte{0x0a, byte(len(table))}, table...) // field 1, of bytes
}

func to(address string, messages ...[]byte) connection {
	return connection{
		Name: "a", Address: address, Method: predpb.Prediction_Predict_FullMethodName, Messages: messages,
		Connections: 1, TimeoutS: hang.Seconds(),
	}
}

func made(t *testing.T, c connection) target {
	t.Helper()
	target, err := connect(c, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(target.close)
	return target
}

func TestCallsArriveAsTheyAre(t *testing.T) {
	s := &server{}
	message := base64.StdEncoding.EncodeToString(request(t, "x,y\n1,2\n"))
	address := serve(t, s)
	told := answers(t,
		fmt.Sprintf(`{"connect": {"name": "a", "address": %q, "method": %q, "messages": [%q], "connections": 2,
			"metadata": [["model-name", "sum"]], "timeout_s": 20}}`, address, predpb.Prediction_Predict_FullMethodName, message),
		`{"run": {"target": "a", "calls": 20, "callers": 3}}`,
	)
	if len(told[0]) != 0 {
		t.Errorf("connected with %v", told[0])
	}
	for column, want := range map[string]any{"code": ok, "reply_bytes": 6.0, "timing": "decode;dur=1", "first_ns": 0.0} {
		values := told[1][column].([]any)
		if len(values) != 20 || slices.ContainsFunc(values, func(value any) bool { return value != want }) {
			t.Errorf("%s: %v", column, values)
		}
	}
	if len(s.tables) != 20 || s.tables[19] != "x,y\n1,2\n" || !slices.Equal(s.metadata["model-name"], []string{"sum"}) {
		t.Errorf("%d calls arrived, with %q and %v", len(s.tables), s.tables[len(s.tables)-1], s.metadata)
	}
	if got := s.metadata.Get("content-type"); !slices.Equal(got, []string{"application/grpc"}) {
		t.Errorf("content type %q", got)
	}
}

func TestStreams(t *testing.T) {
	c := to(serve(t, &server{}), request(t, "one"), request(t, "three"))
	c.Method, c.Stream = predpb.Prediction_PredictStream_FullMethodName, true
	r := segment{Calls: 3, Callers: 1}.drive(made(t, c))
	for i := range 3 {
		if r.Code[i] != ok || r.ReplyBytes[i] != 12 || r.Timing[i] != "predict;dur=2" {
			t.Errorf("%s, %d bytes, %s", r.Code[i], r.ReplyBytes[i], r.Timing[i])
		}
		if r.FirstNs[i] <= r.SentNs[i] || r.FirstNs[i] > r.DoneNs[i] {
			t.Errorf("the first reply at %d, between %d and %d", r.FirstNs[i], r.SentNs[i], r.DoneNs[i])
		}
	}
	c.Messages = [][]byte{request(t, "one"), request(t, "bad"), request(t, "two")}
	if r := (segment{Calls: 1, Callers: 1}).drive(made(t, c)); r.Code[0] != "INVALID_ARGUMENT" || r.ReplyBytes[0] != 5 {
		t.Errorf("%s after %d bytes", r.Code[0], r.ReplyBytes[0])
	}
}

func TestFailuresKeepTheirCode(t *testing.T) {
	busy := serve(t, &server{answer: func(context.Context) error { return status.Error(codes.ResourceExhausted, "full") }})
	slow := to(serve(t, &server{answer: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}), nil)
	slow.TimeoutS = 0.01
	for want, c := range map[string]connection{
		"RESOURCE_EXHAUSTED": to(busy, nil), "DEADLINE_EXCEEDED": slow, "UNAVAILABLE": to("127.0.0.1:1", nil),
	} {
		r := segment{Calls: 3, Callers: 2}.drive(made(t, c))
		if slices.ContainsFunc(r.Code, func(code string) bool { return code != want }) {
			t.Errorf("%v, want %s", r.Code, want)
		}
	}
}

func TestCallsAreDealtOutOverAListOfServers(t *testing.T) {
	first, second := &server{}, &server{}
	c := to(serve(t, first)+","+serve(t, second), request(t, "x"))
	c.Connections = 2
	r := segment{Calls: 20, Callers: 3}.drive(made(t, c))
	if slices.ContainsFunc(r.Code, func(code string) bool { return code != ok }) {
		t.Error(r.Code)
	}
	if len(first.tables) != 10 || len(second.tables) != 10 {
		t.Errorf("%d and %d of 20 calls arrived", len(first.tables), len(second.tables))
	}
}

func TestCallsAreEncrypted(t *testing.T) {
	authority := testkit.NewAuthority(t)
	encrypts, err := credentials.NewServerTLSFromFile(authority.Issue(t, time.Hour, "127.0.0.1"))
	if err != nil {
		t.Fatal(err)
	}
	c := to(serve(t, &server{}, grpc.Creds(encrypts)), request(t, "x"))
	for what, believed := range map[string]struct{ ca, code string }{
		"the server's authority": {authority.File, ok},
		"another authority":      {testkit.NewAuthority(t).File, unavailable},
		"none, in plain text":    {"", unavailable},
	} {
		c.CA = believed.ca
		if r := (segment{Calls: 1, Callers: 1}).drive(made(t, c)); r.Code[0] != believed.code {
			t.Errorf("%s: %s, want %s", what, r.Code[0], believed.code)
		}
	}
	c.CA = "nowhere.pem"
	if _, err := connect(c, nil); err == nil {
		t.Error("a file that is not there is no error")
	}
}

func TestALostConnectionIsNotReplacedWithinASegment(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var stop atomic.Pointer[grpc.Server]
	begin := func(listener net.Listener) {
		served := grpc.NewServer()
		predpb.RegisterPredictionServer(served, &server{})
		stop.Store(served)
		go served.Serve(listener)
	}
	begin(listener)
	called := made(t, to(listener.Addr().String(), request(t, "x")))
	if r := (segment{Calls: 1, Callers: 1}).drive(called); r.Code[0] != ok {
		t.Fatal(r.Code)
	}
	// The server is gone, and another in its place, while the segment is under way.
	number := 0
	restart := func() {
		if number++; number == 3 {
			stop.Load().Stop()
			listener, err := net.Listen("tcp", listener.Addr().String())
			if err != nil {
				t.Error(err)
				return
			}
			begin(listener)
		}
	}
	defer func() { stop.Load().Stop() }()
	r := segment{Calls: 6, Callers: 1}.drive(before{called, restart})
	if want := []string{ok, ok, unavailable, unavailable, unavailable, unavailable}; !slices.Equal(r.Code, want) {
		t.Errorf("%v, want %v", r.Code, want)
	}
	if r := (segment{Calls: 1, Callers: 1}).drive(called); r.Code[0] != ok {
		t.Errorf("in the next segment: %v", r.Code)
	}
}

// before does something before each call of a target.
type before struct {
	target
	do func()
}

func (b before) call(number int, now func() int64) outcome {
	b.do()
	return b.target.call(number, now)
}

func TestACallThatTheServerRefusesToBeginIsNotSentAgain(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	asked := make(chan int, 1)
	go func() { asked <- refuseStreams(listener) }()
	called := made(t, to(listener.Addr().String(), request(t, "x")))
	r := segment{Calls: 2, Callers: 1}.drive(called)
	called.close()
	select {
	case n := <-asked:
		if n != 2 || r.Code[0] != unavailable || r.Code[1] != unavailable {
			t.Errorf("2 calls were sent %d times: %v", n, r.Code)
		}
	case <-time.After(hang):
		t.Fatal("the connection was not closed")
	}
}

// refuseStreams answers each call on one connection with REFUSED_STREAM, which clients may repeat. It returns how many
// there were, when the connection ends.
func refuseStreams(listener net.Listener) (asked int) {
	const preface, headers, reset, settings = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 1, 3, 4
	connection, err := listener.Accept()
	if err != nil {
		return -1
	}
	defer connection.Close()
	frame := func(kind byte, stream uint32, payload ...byte) {
		head := []byte{0, 0, byte(len(payload)), kind, 0, 0, 0, 0, 0}
		binary.BigEndian.PutUint32(head[5:], stream)
		connection.Write(append(head, payload...))
	}
	io.CopyN(io.Discard, connection, int64(len(preface)))
	frame(settings, 0)
	for {
		var head [9]byte
		if _, err := io.ReadFull(connection, head[:]); err != nil {
			return asked
		}
		length := int64(head[0])<<16 | int64(head[1])<<8 | int64(head[2])
		io.CopyN(io.Discard, connection, length)
		// A call is refused once its message is there, so that there is one to send again.
		if stream := binary.BigEndian.Uint32(head[5:]); head[3] == 0 && stream > 0 {
			frame(reset, stream, 0, 0, 0, 7)
		} else if head[3] == headers {
			asked++
		}
	}
}
