package pred_test

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"example.com/predserver/gateway/internal/testkit"
	"example.com/predserver/gateway/pred"
	"example.com/predserver/generated/predpb"
)

func TestTargets(t *testing.T) {
	for _, good := range []string{
		"127.0.0.1:50051", "localhost:1", "[::1]:65535", "a.b:1,c:2", "127.0.0.1:1, 127.0.0.1:2", "dns:///predictions:50051",
		"unix:/tmp/socket", "unix:///tmp/socket", "unix:/home/müller/pred.sock", "unix:/" + strings.Repeat("a", 106),
	} {
		if err := pred.CheckTarget(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
		connect(t, good)
	}
	for _, bad := range []string{
		"", ":1", "localhost", "localhost:", "localhost:http", "localhost:0", "localhost:65536", "::1:1", "a:1,", ",a:1", "a:1,,b:1",
		"xds:///predictions", "xds:///predictions:1", "unix:socket", "unix-abstract:socket", "unix:@socket", "127.0.0.1:1,unix:/tmp/socket", "passthrough:///127.0.0.1:1",
		"ipv4:127.0.0.1:1", "http://127.0.0.1:1", "dns:///predictions", "dns:///a:1,b:1", "dns://8.8.8.8/predictions:1", "user@host:1",
	} {
		_, err := pred.New(bad)
		if err == nil || !strings.Contains(err.Error(), "HOST:PORT") || pred.CheckTarget(bad) == nil {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestSocketsThatAreRefused(t *testing.T) {
	for bad, why := range map[string]string{
		"unix://host/socket":                "begin with one /",
		"unix:////tmp/socket":               "begin with one /",
		"unix:/a,unix:/b":                   "white space",
		"unix:/a b":                         "white space",
		"unix:/a%20b":                       "white space",
		"unix:/a\x00":                       "white space",
		"unix:/" + strings.Repeat("a", 107): "may have 107 bytes",
	} {
		_, err := pred.New(bad)
		if err == nil || !strings.Contains(err.Error(), why) || pred.CheckTarget(bad) == nil {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestOptionsThatAreRefused(t *testing.T) {
	for name, option := range map[string]pred.Option{
		"timeout":     pred.WithTimeout(0),
		"retries":     pred.WithRetries(5),
		"fewer":       pred.WithRetries(-1),
		"connections": pred.WithConnections(0),
		"message":     pred.WithMaxMessageBytes(0),
		"model-name":  pred.WithCallOptions(pred.Model("é")),
	} {
		if _, err := pred.New("127.0.0.1:1", option); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

// What goes out as a tensor, and what as columns.
func TestEncodings(t *testing.T) {
	floats, ints := []float64{1.5, math.NaN()}, []int64{1, -2}
	tests := []struct {
		name   string
		table  pred.Table
		tensor string // its type; nothing for columns
	}{
		{"float64", pred.Table{pred.NewColumn("a", floats), pred.NewColumn("b", floats)}, "float64"},
		{"float32", pred.Table{pred.NewColumn("a", []float32{1.5, 2})}, "float32"},
		{"int64", pred.Table{pred.NewColumn("a", ints), pred.NewColumn("b", []int{3, 4})}, "int64"},
		{"numbers of two types", pred.Table{pred.NewColumn("a", floats), pred.NewColumn("b", ints)}, ""},
		{"a number that is missing", pred.Table{pred.NewColumn("a", ints).WithMissing(1)}, ""},
		{"text", pred.Table{pred.NewColumn("a", []string{"x", "y"}).WithMissing(0)}, ""},
		{"truths", pred.Table{pred.NewColumn("a", []bool{true, false})}, ""},
		{"unsigned", pred.Table{pred.NewColumn("a", []uint64{1, math.MaxUint64}), pred.NewColumn("b", []uint8{1, 255})}, ""},
		{"small integers", pred.Table{pred.NewColumn("a", []int8{-128, 127}), pred.NewColumn("b", []int16{1, 2}), pred.NewColumn("c", []int32{1, 2})}, "int64"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var got *predpb.Request
			address, _ := start(t, "127.0.0.1:0", fake{predict: func(ctx context.Context, request *predpb.Request) (*predpb.Response, error) {
				got = request
				return echo(ctx, request)
			}})
			predictions, err := connect(t, address).Predict(t.Context(), test.table)
			if err != nil || got.GetTensor().GetDtype() != test.tensor || (got.Columns == nil) != (test.tensor != "") {
				t.Fatalf("%v, sent %v", err, got)
			}
			if predictions.Len() != 2 || len(predictions.Columns) != len(test.table) {
				t.Fatalf("got %v", predictions)
			}
			for i, want := range test.table {
				if got := predictions.Columns[i]; !same(got, want) {
					t.Errorf("%v came back as %v", want, got)
				}
			}
		})
	}
}

// same reports whether two columns are equal to the bit.
func same(a, b pred.Column) bool {
	return a.Name() == b.Name() && slices.Equal(a.Missing(), b.Missing()) &&
		equal(a, b, pred.Column.Float64s, func(x, y float64) bool { return math.Float64bits(x) == math.Float64bits(y) }) &&
		equal(a, b, pred.Column.Int64s, func(x, y int64) bool { return x == y }) &&
		equal(a, b, pred.Column.Bools, func(x, y bool) bool { return x == y }) &&
		equal(a, b, pred.Column.Strings, func(x, y string) bool { return x == y })
}

func equal[T any](a, b pred.Column, values func(pred.Column) ([]T, error), eq func(T, T) bool) bool {
	x, errX := values(a)
	y, errY := values(b)
	return (errX == nil) == (errY == nil) && slices.EqualFunc(x, y, eq)
}

func TestTablesThatAreRefused(t *testing.T) {
	address, _ := start(t, "127.0.0.1:0", fake{predict: func(context.Context, *predpb.Request) (*predpb.Response, error) {
		t.Error("the server was asked")
		return nil, nil
	}})
	client := connect(t, address)
	for name, table := range map[string]pred.Table{
		"b": {pred.NewColumn("a", []int{1, 2}), pred.NewColumn("b", []int{1})},
		"c": {pred.NewColumn("c", []string{"x"}).WithMissing(1)},
		"d": {pred.NewColumn("d", []string{"x"}).WithMissing(-1)},
	} {
		_, err := client.Predict(t.Context(), table)
		e, ok := errors.AsType[*pred.Error](err)
		if !ok || e.Code != codes.InvalidArgument || len(e.Violations) != 1 || e.Violations[0].Field != name {
			t.Errorf("%s: %v", name, err)
		}
		for _, err := range client.PredictStream(t.Context(), table.Chunks(1)).All() {
			if status.Code(err) != codes.InvalidArgument {
				t.Errorf("%s in chunks: %v", name, err)
			}
		}
	}
}

func TestKindsOfPredictions(t *testing.T) {
	reply := func(response *predpb.Response) *pred.Predictions {
		t.Helper()
		address, _ := start(t, "127.0.0.1:0", fake{predict: func(context.Context, *predpb.Request) (*predpb.Response, error) { return response, nil }})
		table := pred.Table{pred.NewColumn("x", []float64{1, 2})}
		if response.Columns != nil {
			table = pred.Table{pred.NewColumn("x", []string{"a", "b"})}
		}
		predictions, err := connect(t, address).Predict(t.Context(), table)
		if err != nil {
			t.Fatal(err)
		}
		return predictions
	}
	labels := reply(&predpb.Response{Tensor: &predpb.Tensor{
		Dtype: "int32", Shape: []int64{2, 1}, Names: []string{"species"}, Data: []byte{1, 0, 0, 0, 0, 0, 0, 0}, Categories: []string{"cat", "dog"},
	}})
	if got, err := labels.Strings(); err != nil || !slices.Equal(got, []string{"dog", "cat"}) || labels.Columns[0].Name() != "species" {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := labels.Float64s(); err == nil || !strings.Contains(err.Error(), "species") {
		t.Errorf("text as floats: %v", err)
	}
	small := reply(&predpb.Response{Tensor: &predpb.Tensor{Dtype: "int16", Shape: []int64{2, 1}, Names: []string{"n"}, Data: []byte{255, 255, 1, 0}}})
	if got, err := small.Int64s(); err != nil || !slices.Equal(got, []int64{-1, 1}) {
		t.Errorf("got %v, %v", got, err)
	}
	truths := reply(&predpb.Response{Tensor: &predpb.Tensor{Dtype: "bool", Shape: []int64{2, 1}, Names: []string{"late"}, Data: []byte{1, 0}}})
	if got, err := truths.Bools(); err != nil || !slices.Equal(got, []bool{true, false}) {
		t.Errorf("got %v, %v", got, err)
	}
	// By rows, as Python writes it, and of 32 bits.
	chances := reply(&predpb.Response{Tensor: &predpb.Tensor{
		Dtype: "float32", Shape: []int64{2, 2}, Names: []string{"cat", "dog"}, Data: []byte{0, 0, 128, 62, 0, 0, 64, 63, 0, 0, 128, 63, 0, 0, 0, 0},
	}})
	if got, err := chances.Columns[1].Float64s(); err != nil || !slices.Equal(got, []float64{0.75, 0}) {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := chances.Float64s(); err == nil {
		t.Error("two columns were taken for one")
	}
	large := reply(&predpb.Response{Columns: &predpb.Columns{Columns: []*predpb.Column{{Name: "n", Uint64: []uint64{1, math.MaxUint64}}}}})
	if got, err := large.Int64s(); err == nil {
		t.Errorf("got %v", got)
	}
}

func TestResponsesThatMakeNoSense(t *testing.T) {
	tensor := func(dtype string, names []string, data int, shape ...int64) *predpb.Response {
		return &predpb.Response{Tensor: &predpb.Tensor{Dtype: dtype, Shape: shape, Names: names, Data: make([]byte, data)}}
	}
	one := []string{"p"}
	for name, response := range map[string]*predpb.Response{
		"nothing":          {},
		"CSV":              {Result: "p\n1\n2\n"},
		"columns":          {Columns: &predpb.Columns{Columns: []*predpb.Column{{Name: "p", Float64: []float64{1, 2}}}}},
		"too few":          tensor("float64", one, 8, 1, 1),
		"too many":         tensor("float64", one, 24, 3, 1),
		"too short":        tensor("float64", one, 15, 2, 1),
		"more than it has": tensor("float64", one, 16, 1<<61, 1),
		"another type":     tensor("complex128", one, 32, 2, 1),
		"no names":         tensor("float64", nil, 0, 2, 0),
		"three dimensions": tensor("float64", one, 16, 2, 1, 1),
		"negative":         tensor("float64", one, 0, -1, 1),
		"a wrong order":    {Tensor: &predpb.Tensor{Dtype: "float64", Shape: []int64{2, 1}, Names: one, Data: make([]byte, 16), Order: 7}},
		"no such category": {Tensor: &predpb.Tensor{Dtype: "int8", Shape: []int64{2, 1}, Names: one, Data: []byte{0, 1}, Categories: []string{"a"}}},
		"float categories": {Tensor: &predpb.Tensor{Dtype: "float64", Shape: []int64{2, 1}, Names: one, Data: make([]byte, 16), Categories: []string{"a"}}},
	} {
		address, _ := start(t, "127.0.0.1:0", fake{predict: func(context.Context, *predpb.Request) (*predpb.Response, error) { return response, nil }})
		predictions, err := connect(t, address).Predict(t.Context(), pred.Table{pred.NewColumn("x", []float64{1, 2})})
		if status.Code(err) != codes.Internal {
			t.Errorf("%s: got %v, %v", name, predictions, err)
		}
	}
	for name, columns := range map[string][]*predpb.Column{
		"no column":        {},
		"no values":        {{Name: "p"}},
		"two lists":        {{Name: "p", Float64: []float64{1, 2}, Str: []string{"a", "b"}}},
		"missing too far":  {{Name: "p", Float64: []float64{1, 2}, Missing: []uint32{2}}},
		"missing unsorted": {{Name: "p", Float64: []float64{1, 2}, Missing: []uint32{1, 1}}},
		"uneven":           {{Name: "p", Float64: []float64{1, 2}}, {Name: "q", Float64: []float64{1}}},
	} {
		response := &predpb.Response{Columns: &predpb.Columns{Columns: columns}}
		address, _ := start(t, "127.0.0.1:0", fake{predict: func(context.Context, *predpb.Request) (*predpb.Response, error) { return response, nil }})
		predictions, err := connect(t, address).Predict(t.Context(), pred.Table{pred.NewColumn("x", []string{"a", "b"})})
		if status.Code(err) != codes.Internal {
			t.Errorf("%s: got %v, %v", name, predictions, err)
		}
	}
}

func TestMetadataGoesBothWays(t *testing.T) {
	var asked []string
	address, _ := start(t, "127.0.0.1:0", fake{predict: func(ctx context.Context, request *predpb.Request) (*predpb.Response, error) {
		asked = asked[:0]
		for _, key := range []string{"model-name", "model-version", "output", "x-request-id"} {
			asked = append(asked, testkit.Incoming(ctx, key))
		}
		grpc.SetTrailer(ctx, metadata.Pairs("ignored-columns", "tail%20num,,a%2Cb",
			"server-timing", `decode;dur=0.5, queue;dur=0, predict;dur=2.25, encode;dur=1, batch;desc="7 rows"`))
		return firstColumn(ctx, request)
	}})
	client := connect(t, address, pred.WithCallOptions(pred.Model("flights"), pred.Version("1")))
	table := pred.Table{pred.NewColumn("x", []float64{1})}
	predictions, err := client.Predict(t.Context(), table, pred.Version("2"), pred.Probabilities(), pred.RequestID("order 66"))
	if err != nil || !slices.Equal(asked, []string{"flights", "2", "probabilities", "order 66"}) {
		t.Fatalf("%v, asked %q", err, asked)
	}
	want := pred.Timings{Decode: 500 * time.Microsecond, Predict: 2250 * time.Microsecond, Encode: time.Millisecond, BatchRows: 7}
	if predictions.Timings != want || !slices.Equal(predictions.IgnoredColumns, []string{"tail num", "", "a,b"}) {
		t.Errorf("got %+v", predictions.Info)
	}
	if _, err := client.Predict(t.Context(), table, pred.RequestID("a\nb")); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a line end in metadata: %v", err)
	}
	if about, err := client.Describe(t.Context()); err != nil || about.Name != "fake" {
		t.Errorf("%v, %v", about, err)
	}
}

func TestErrors(t *testing.T) {
	st, err := status.New(codes.ResourceExhausted, "the queue is full").WithDetails(
		&errdetails.ErrorInfo{Reason: "OVERLOADED", Metadata: map[string]string{"flag": "--max-queued-rows"}},
		&errdetails.RetryInfo{RetryDelay: durationpb.New(2500 * time.Millisecond)})
	if err != nil {
		t.Fatal(err)
	}
	e := pred.FromError(st.Err())
	if e.Code != codes.ResourceExhausted || e.Reason != pred.ReasonOverloaded || e.RetryAfter != 2500*time.Millisecond || e.Metadata["flag"] == "" || e.TooLarge() {
		t.Errorf("got %+v", e)
	}
	if e.Error() != "RESOURCE_EXHAUSTED: the queue is full" || status.Code(e) != codes.ResourceExhausted {
		t.Errorf("got %v", e)
	}
	for _, words := range []string{"grpc: received message larger than max (5 vs. 4)", "SERVER: Sent message larger than max (5 vs. 4)"} {
		if e := pred.FromError(status.Error(codes.ResourceExhausted, words)); !e.TooLarge() {
			t.Errorf("got %+v", e)
		}
	}
	if e := pred.FromError(status.Error(codes.DeadlineExceeded, "late")); !errors.Is(e, context.DeadlineExceeded) || errors.Is(e, context.Canceled) {
		t.Errorf("got %+v", e)
	}
	if e := pred.FromError(context.Canceled); e.Code != codes.Canceled || !errors.Is(e, context.Canceled) {
		t.Errorf("got %+v", e)
	}
	if e := pred.FromError(errors.New("odd")); e.Code != codes.Unknown {
		t.Errorf("got %+v", e)
	}
	if pred.FromError(nil) != nil {
		t.Error("nothing became an error")
	}
}

func TestDeadlines(t *testing.T) {
	address, _ := start(t, "127.0.0.1:0", fake{predict: func(ctx context.Context, _ *predpb.Request) (*predpb.Response, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	table := pred.Table{pred.NewColumn("x", []float64{1})}
	if _, err := connect(t, address, pred.WithTimeout(50*time.Millisecond)).Predict(context.Background(), table); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the client's own: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := connect(t, address, pred.WithTimeout(time.Hour)).Predict(ctx, table); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the context's: %v", err)
	}
}

func TestMessageLimits(t *testing.T) {
	address, _ := start(t, "127.0.0.1:0", fake{predict: echo})
	table := pred.Table{pred.NewColumn("x", make([]float64, 1_000_000))}
	if predictions, err := connect(t, address).Predict(t.Context(), table); err != nil || predictions.Len() != 1_000_000 {
		t.Errorf("8 MB: %v", err)
	}
	_, err := connect(t, address, pred.WithMaxMessageBytes(1000)).Predict(t.Context(), table)
	if e, ok := errors.AsType[*pred.Error](err); !ok || !e.TooLarge() {
		t.Errorf("got %v", err)
	}
}

// A call whose server is away, or stops, or is lost on the way, is tried again; other errors are not.
func TestRetries(t *testing.T) {
	table := pred.Table{pred.NewColumn("x", []float64{1})}
	for _, test := range []struct {
		name    string
		code    codes.Code
		failing int64
		header  bool
		retries int
		calls   int64
		want    codes.Code
	}{
		{"once", codes.Unavailable, 1, false, 4, 2, codes.OK},
		{"behind a header", codes.Unavailable, 1, true, 4, 2, codes.OK},
		{"without retries", codes.Unavailable, 1, false, 0, 1, codes.Unavailable},
		{"for ever", codes.Unavailable, 1_000, false, 1, 2, codes.Unavailable},
		{"another error", codes.Internal, 1, false, 4, 1, codes.Internal},
		{"overloaded", codes.ResourceExhausted, 1, false, 4, 1, codes.ResourceExhausted},
	} {
		t.Run(test.name, func(t *testing.T) {
			var calls atomic.Int64
			address, _ := start(t, "127.0.0.1:0", fake{predict: func(ctx context.Context, request *predpb.Request) (*predpb.Response, error) {
				if calls.Add(1) <= test.failing {
					if test.header {
						grpc.SendHeader(ctx, metadata.Pairs("a", "b"))
					}
					return nil, status.Error(test.code, "not now")
				}
				return firstColumn(ctx, request)
			}})
			client := connect(t, address, pred.WithRetries(test.retries))
			if _, err := client.Predict(t.Context(), table); status.Code(err) != test.want || calls.Load() != test.calls {
				t.Errorf("%d calls, %v", calls.Load(), err)
			}
			if test.header {
				return
			}
			calls.Store(0)
			var last error
			for _, err := range client.PredictStream(t.Context(), table.Chunks(1)).All() {
				last = err
			}
			if status.Code(last) != test.want || calls.Load() != test.calls {
				t.Errorf("a stream: %d calls, %v", calls.Load(), last)
			}
		})
	}
}

func TestServerThatComesUpLater(t *testing.T) {
	address := testkit.DeadAddress(t)
	client := connect(t, address)
	result := make(chan error, 1)
	go func() {
		_, err := client.Predict(t.Context(), pred.Table{pred.NewColumn("x", []float64{1})})
		result <- err
	}()
	start(t, address, fake{predict: firstColumn})
	if err := testkit.Receive(t, "the answer", result); err != nil {
		t.Error(err)
	}
}

// servers starts several, and returns their addresses, and what each was asked.
func servers(t *testing.T, n int, register func(i int, s *grpc.Server)) (addresses []string, calls []*atomic.Int64, kills []func()) {
	for i := range n {
		count := &atomic.Int64{}
		address, kill := start(t, "127.0.0.1:0", fake{predict: func(ctx context.Context, request *predpb.Request) (*predpb.Response, error) {
			count.Add(1)
			return firstColumn(ctx, request)
		}}, func(s *grpc.Server) { register(i, s) })
		addresses, calls, kills = append(addresses, address), append(calls, count), append(kills, kill)
	}
	return addresses, calls, kills
}

func TestCallsGoToAllServersInTurn(t *testing.T) {
	checks := []*health.Server{health.NewServer(), health.NewServer(), health.NewServer()}
	addresses, calls, kills := servers(t, 3, func(i int, s *grpc.Server) { grpc_health_v1.RegisterHealthServer(s, checks[i]) })
	client := connect(t, strings.Join(addresses, ","))
	if err := client.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	table := pred.Table{pred.NewColumn("x", []float64{1})}
	// asked calls until the servers that are asked are these, and every one of them often.
	asked := func(what string, wanted ...int) {
		t.Helper()
		testkit.Eventually(t, what, func() bool {
			for _, n := range calls {
				n.Store(0)
			}
			for range 30 {
				if _, err := client.Predict(t.Context(), table); err != nil {
					t.Fatal(err)
				}
			}
			for i, n := range calls {
				if got := n.Load(); slices.Contains(wanted, i) != (got > 0) || got > 0 && got < int64(30/len(wanted)-3) {
					return false
				}
			}
			return true
		})
	}
	asked("all", 0, 1, 2)
	checks[0].SetServingStatus("", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	asked("those that serve", 1, 2)
	kills[1]()
	asked("the last", 2)
	checks[0].SetServingStatus("", grpc_health_v1.HealthCheckResponse_SERVING)
	asked("the one that is back, too", 0, 2)
	start(t, addresses[1], fake{predict: func(ctx context.Context, request *predpb.Request) (*predpb.Response, error) {
		calls[1].Add(1)
		return firstColumn(ctx, request)
	}})
	asked("the one that was started again at its address, too", 0, 1, 2)
}

func TestReady(t *testing.T) {
	table := pred.Table{pred.NewColumn("x", []float64{1})}
	check := health.NewServer()
	address, kill := start(t, "127.0.0.1:0", fake{predict: firstColumn}, func(s *grpc.Server) { grpc_health_v1.RegisterHealthServer(s, check) })
	client := connect(t, address, pred.WithConnections(2), pred.WithRetries(0))
	if err := client.Ready(t.Context()); err != nil {
		t.Error(err)
	}
	check.SetServingStatus("", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	if err := client.Ready(t.Context()); !errors.Is(err, pred.ErrNotServing) {
		t.Errorf("got %v", err)
	}
	if _, err := client.Predict(t.Context(), table); err != nil {
		t.Errorf("a single server is asked, whatever its health: %v", err)
	}
	kill()
	testkit.Eventually(t, "the connections to break", func() bool { return client.Ready(t.Context()) != nil })
	if _, err := client.Predict(t.Context(), table); status.Code(err) != codes.Unavailable {
		t.Errorf("got %v", err)
	}
	client.Close()
	if _, err := client.Predict(t.Context(), table); err == nil {
		t.Error("a closed client has predictions")
	}
}

func TestConnectionsTakeTurns(t *testing.T) {
	var mu sync.Mutex
	ports := map[string]int{}
	address, _ := start(t, "127.0.0.1:0", fake{predict: func(ctx context.Context, request *predpb.Request) (*predpb.Response, error) {
		mu.Lock()
		defer mu.Unlock()
		from, _ := peer.FromContext(ctx)
		ports[from.Addr.String()]++
		return firstColumn(ctx, request)
	}})
	client := connect(t, address, pred.WithConnections(3))
	for range 9 {
		if _, err := client.Predict(t.Context(), pred.Table{pred.NewColumn("x", []float64{1})}); err != nil {
			t.Fatal(err)
		}
	}
	if len(ports) != 3 {
		t.Errorf("calls by connection: %v", ports)
	}
}
