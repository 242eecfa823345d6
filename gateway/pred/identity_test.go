package pred_test

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"example.com/predserver/gateway/internal/testkit"
	"example.com/predserver/gateway/pred"
	"example.com/predserver/generated/predpb"
)

// versioned is a server whose model a test replaces. Its predictions are all the number of the model.
type versioned struct {
	predpb.UnimplementedPredictionServer
	mu        sync.Mutex
	hash      string
	flip      bool // every refusal brings another model
	expected  []string
	describes int
	drawn     func() // called with each chunk of a stream
}

func (v *versioned) replace(hash string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.hash = hash
}

func (v *versioned) identity() metadata.MD {
	if v.hash == "" {
		return nil // a server from before the identity
	}
	return metadata.Pairs("model-identity", "flights/2/"+v.hash+"/d1")
}

// admit refuses a call that expects another schema.
func (v *versioned) admit(ctx context.Context) (metadata.MD, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	expected := testkit.Incoming(ctx, "expect-schema")
	v.expected = append(v.expected, expected)
	if expected == "" || expected == v.hash || v.hash == "" {
		return v.identity(), nil
	}
	if v.flip {
		v.hash += "x"
	}
	st, err := status.New(codes.FailedPrecondition, "the model has another schema").WithDetails(
		&errdetails.ErrorInfo{Reason: "SCHEMA_CHANGED", Domain: "pred-server"})
	if err != nil {
		return nil, err
	}
	return v.identity(), st.Err()
}

func (v *versioned) Describe(ctx context.Context, _ *predpb.DescribeRequest) (*predpb.DescribeResponse, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.describes++
	grpc.SetTrailer(ctx, v.identity())
	return &predpb.DescribeResponse{Name: "flights"}, nil
}

func (v *versioned) Predict(ctx context.Context, request *predpb.Request) (*predpb.Response, error) {
	identity, err := v.admit(ctx)
	grpc.SetTrailer(ctx, identity)
	if err != nil {
		return nil, err
	}
	return firstColumn(ctx, request)
}

func (v *versioned) PredictStream(stream serverStream) error {
	identity, err := v.admit(stream.Context())
	stream.SetTrailer(identity)
	if err != nil {
		return err
	}
	for {
		request, err := stream.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if v.drawn != nil {
			v.drawn()
		}
		response, _ := firstColumn(stream.Context(), request)
		if err := stream.Send(response); err != nil {
			return err
		}
	}
}

// asked returns what calls expected since it was last asked, and how often the model was described.
func (v *versioned) asked() (expected []string, describes int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	expected, describes = v.expected, v.describes
	v.expected, v.describes = nil, 0
	return expected, describes
}

func startVersioned(t *testing.T, v *versioned) (address string) {
	t.Helper()
	server := grpc.NewServer()
	predpb.RegisterPredictionServer(server, v)
	return testkit.Serve(t, server)
}

var oneRow = pred.Table{pred.NewColumn("x", []float64{1})}

func TestModelThatIsReplacedIsDescribedAnewAndAskedOnceMore(t *testing.T) {
	v := &versioned{hash: "s1"}
	client := connect(t, startVersioned(t, v))
	check := func(what string, wantExpected []string, wantDescribes int, opts ...pred.CallOption) {
		t.Helper()
		predictions, err := client.Predict(t.Context(), oneRow, opts...)
		expected, describes := v.asked()
		if err != nil || !slices.Equal(expected, wantExpected) || describes != wantDescribes {
			t.Errorf("%s: %v, expected %q after %d descriptions", what, err, expected, describes)
		}
		if err == nil && predictions.Model.SchemaHash != v.hash {
			t.Errorf("%s: answered by %v, want %s", what, predictions.Model, v.hash)
		}
	}
	check("nothing was described", []string{""}, 0)
	if _, err := client.Describe(t.Context()); err != nil {
		t.Fatal(err)
	}
	v.asked()
	check("described", []string{"s1"}, 0)
	check("another model's schema is not this one's", []string{""}, 0, pred.Model("other"))
	v.replace("s2")
	check("replaced", []string{"s1", "s2"}, 1)
	check("after that", []string{"s2"}, 0)
	v.replace("")
	check("replaced by a server without identities", []string{"s2"}, 0)
}

// Inspect tells which model is there, and binds no later call to it.
func TestInspectIsNotRemembered(t *testing.T) {
	v := &versioned{hash: "s1"}
	client := connect(t, startVersioned(t, v))
	about, model, err := client.Inspect(t.Context())
	if err != nil || about.Name != "flights" || model != (pred.Identity{Name: "flights", Version: "2", SchemaHash: "s1", ContentDigest: "d1"}) {
		t.Errorf("%v: %v, %v", err, about, model)
	}
	v.replace("s2")
	if _, err := client.Predict(t.Context(), oneRow); err != nil {
		t.Error(err)
	}
	if expected, describes := v.asked(); !slices.Equal(expected, []string{""}) || describes != 1 {
		t.Errorf("expected %q after %d descriptions", expected, describes)
	}
	if _, err := client.Describe(t.Context()); err != nil {
		t.Fatal(err)
	}
	v.asked()
	if _, _, err := client.Inspect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Predict(t.Context(), oneRow); err != nil {
		t.Error(err)
	}
	if expected, _ := v.asked(); !slices.Equal(expected, []string{"s2"}) {
		t.Errorf("what Describe remembered became %q", expected)
	}
}

// A caller that says itself what it expects gets the refusal, and so does one that meets a new model each time: but the
// latter's next call expects nothing.
func TestRefusalsThatReachTheCaller(t *testing.T) {
	v := &versioned{hash: "s1"}
	client := connect(t, startVersioned(t, v))
	refused := func(err error) bool {
		e, ok := errors.AsType[*pred.Error](err)
		return ok && e.SchemaChanged()
	}
	_, err := client.Predict(t.Context(), oneRow, pred.ExpectSchema("s0"))
	if expected, describes := v.asked(); !refused(err) || len(expected) != 1 || describes != 0 {
		t.Errorf("its own expectation: %v, %q, %d descriptions", err, expected, describes)
	}
	if _, err := client.Describe(t.Context()); err != nil {
		t.Fatal(err)
	}
	v.replace("s2")
	v.flip = true
	_, err = client.Predict(t.Context(), oneRow)
	if expected, describes := v.asked(); err != nil && (!refused(err) || len(expected) != 2 || describes > 2) {
		t.Errorf("a new model each time: %v, %q, %d descriptions", err, expected, describes)
	}
}

func TestStreamsExpectTheSchemaToo(t *testing.T) {
	var drawn, served atomic.Int64
	v := &versioned{hash: "s1", drawn: func() { served.Add(1) }}
	client := connect(t, startVersioned(t, v))
	if _, err := client.Describe(t.Context()); err != nil {
		t.Fatal(err)
	}
	v.replace("s2")
	v.asked()
	chunks := func(yield func(pred.Table, error) bool) {
		for at := range 100 {
			drawn.Add(1)
			if !yield(pred.Table{pred.NewColumn("x", []float64{float64(at)})}, nil) {
				return
			}
		}
	}
	stream := client.PredictStream(t.Context(), chunks)
	got, err := collect(stream)
	if expected, describes := v.asked(); err != nil || !slices.Equal(expected, []string{"s1", "s2"}) || describes != 1 {
		t.Fatalf("%v, expected %q after %d descriptions", err, expected, describes)
	}
	if len(got) != 100 || !slices.IsSorted(got) || got[99] != 99 || drawn.Load() != 100 || served.Load() != 100 {
		t.Errorf("%d predictions, %d chunks drawn, %d served: %v", len(got), drawn.Load(), served.Load(), got)
	}
	if stream.Model() != (pred.Identity{Name: "flights", Version: "2", SchemaHash: "s2", ContentDigest: "d1"}) {
		t.Errorf("answered by %v", stream.Model())
	}
}

// An error among the chunks is not lost when they are sent once more: the table would seem to end there.
func TestChunksThatFailWhileTheStreamIsAskedOnceMore(t *testing.T) {
	errOdd := errors.New("odd")
	for range 20 {
		v := &versioned{hash: "s1"}
		client := connect(t, startVersioned(t, v))
		if _, err := client.Describe(t.Context()); err != nil {
			t.Fatal(err)
		}
		v.replace("s2")
		_, err := collect(client.PredictStream(t.Context(), func(yield func(pred.Table, error) bool) {
			for range 2 {
				if !yield(oneRow, nil) {
					return
				}
			}
			yield(nil, errOdd)
		}))
		if !errors.Is(err, errOdd) {
			t.Fatalf("got %v", err)
		}
	}
}

func TestIdentities(t *testing.T) {
	for value, want := range map[string]pred.Identity{
		"flights/1/abc/def": {"flights", "1", "abc", "def"},
		"a/b/1/abc/def":     {"a/b", "1", "abc", "def"},
		"":                  {},
		"flights/1":         {},
		"flights/1//def":    {},
	} {
		address, _ := start(t, "127.0.0.1:0", fake{predict: func(ctx context.Context, request *predpb.Request) (*predpb.Response, error) {
			grpc.SetTrailer(ctx, metadata.Pairs("model-identity", value))
			return firstColumn(ctx, request)
		}})
		predictions, err := connect(t, address).Predict(t.Context(), oneRow)
		if err != nil || predictions.Model != want {
			t.Errorf("%q: got %v, %v", value, predictions, err)
		} else if want != (pred.Identity{}) && want.String() != value {
			t.Errorf("%q is written %q", value, want)
		}
	}
}

func TestWhoseDeadline(t *testing.T) {
	late, err := status.New(codes.DeadlineExceeded, "this took longer than the server allows (--max-deadline-s is 1)").WithDetails()
	if err != nil {
		t.Fatal(err)
	}
	servers, _ := start(t, "127.0.0.1:0", fake{predict: func(context.Context, *predpb.Request) (*predpb.Response, error) { return nil, late.Err() }})
	silent, _ := start(t, "127.0.0.1:0", fake{predict: func(ctx context.Context, _ *predpb.Request) (*predpb.Response, error) {
		<-ctx.Done()
		return nil, late.Err()
	}})
	for _, test := range []struct {
		name, address string
		timeout       time.Duration
		reason        string
		in, notIn     string
	}{
		{"the server's", servers, time.Hour, pred.ReasonServerDeadline, "--max-deadline-s", "caller"},
		{"the caller's", silent, 50 * time.Millisecond, "", "the caller's deadline passed", "max-deadline"},
		{"the caller's, and nobody is there", testkit.DeadAddress(t), 100 * time.Millisecond, "", "connection refused", "max-deadline"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := connect(t, test.address, pred.WithTimeout(test.timeout)).Predict(context.Background(), oneRow)
			e, ok := errors.AsType[*pred.Error](err)
			if !ok || e.Code != codes.DeadlineExceeded || e.Reason != test.reason {
				t.Fatalf("got %#v", err)
			}
			if !strings.Contains(e.Message, test.in) || strings.Contains(e.Message, test.notIn) {
				t.Errorf("got %q", e.Message)
			}
		})
	}
}

// gRPC's core drops calls without a word when more come than it can queue. Nobody has cancelled them.
func TestCallThatTheServerDropsIsNotCancelledByTheCaller(t *testing.T) {
	address, _ := start(t, "127.0.0.1:0", fake{predict: func(context.Context, *predpb.Request) (*predpb.Response, error) {
		return nil, status.Error(codes.Canceled, "CANCELLED")
	}})
	client := connect(t, address)
	_, err := client.Predict(t.Context(), oneRow)
	e, ok := errors.AsType[*pred.Error](err)
	if !ok || e.Code != codes.ResourceExhausted || e.Reason != pred.ReasonOverloaded || errors.Is(err, context.Canceled) {
		t.Errorf("got %#v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := client.Predict(ctx, oneRow); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled by the caller: %v", err)
	}
}
