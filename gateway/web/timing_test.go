package web

import (
	"context"
	"regexp"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"example.com/predserver/gateway/internal/testkit"
)

func TestServerTiming(t *testing.T) {
	const own = `backend;dur=2.500;desc="whole gRPC call", gateway;dur=0.001;desc="HTTP body and conversion"`
	for sent, want := range map[string]string{
		"":                                  own,
		`decode;dur=1, batch;desc="1 rows"`: `decode;dur=1, batch;desc="1 rows", ` + own,
	} {
		if got := serverTiming(sent, 2500*time.Microsecond, 2501*time.Microsecond); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestServerTimingOfReplies(t *testing.T) {
	const sent = `decode;dur=0.1, predict;dur=2, batch;desc="3 rows"`
	own := `backend;dur=\d+\.\d{3};desc="[\w ]+", gateway;dur=\d+\.\d{3};desc="[\w ]+"$`
	timed := func(result string, err error) testkit.Answer {
		return func(ctx context.Context, _ string) (string, error) {
			grpc.SetTrailer(ctx, metadata.Pairs("server-timing", sent))
			return result, err
		}
	}
	tests := []struct {
		name   string
		answer testkit.Answer
		body   string
		status int
		want   string
	}{
		{"CSV", timed("p\n1\n", nil), "x\n1\n", 200, "^" + sent + ", " + own},
		{"JSON", timed("p\n1\n", nil), `[{"x": 1}]`, 200, "^" + sent + ", " + own},
		{"the article's server sends none", testkit.Constant("p\n1\n"), "x\n1\n", 200, "^" + own},
		{"an error", timed("", status.Error(codes.NotFound, "no such model")), "x\n1\n", 404, "^" + sent + ", " + own},
		{"an error without metadata", testkit.Failing(status.Error(codes.NotFound, "no such model")), "x\n1\n", 404, "^" + own},
		{"a reply that makes no sense", timed("p\n1\n2\n", nil), `[{"x": 1}]`, 502, "^" + sent + ", " + own},
		{"no call was made", timed("p\n1\n", nil), "[]", 400, "^$"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			address, _ := testkit.StartFake(t, "127.0.0.1:0", test.answer)
			mediaType := "text/csv"
			if test.body[0] == '[' {
				mediaType = "application/json"
			}
			r := startGateway(t, address).Post(t, test.body, "Content-Type: "+mediaType)
			if got := r.Header.Get("Server-Timing"); r.Status != test.status || !regexp.MustCompile(test.want).MatchString(got) {
				t.Errorf("got %d %q, want %d %s", r.Status, got, test.status, test.want)
			}
		})
	}
}

func TestServerTimingInSeveralPieces(t *testing.T) {
	address, _ := testkit.StartFake(t, "127.0.0.1:0", func(ctx context.Context, _ string) (string, error) {
		grpc.SetTrailer(ctx, metadata.Pairs("server-timing", "decode;dur=1", "server-timing", "predict;dur=2"))
		return "p\n1\n", nil
	})
	got := startGateway(t, address).Post(t, "x\n1\n").Header.Get("Server-Timing")
	if want := regexp.MustCompile("^decode;dur=1, predict;dur=2, backend;"); !want.MatchString(got) {
		t.Errorf("got %q", got)
	}
}
