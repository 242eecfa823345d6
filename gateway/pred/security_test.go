package pred_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"example.com/predserver/gateway/internal/testkit"
	"example.com/predserver/gateway/pred"
	"example.com/predserver/generated/predpb"
)

// startTLS serves with a configuration until the test ends; seen gets the authorization of each call.
func startTLS(t *testing.T, config *tls.Config, seen func(string)) (address string) {
	t.Helper()
	check := func(ctx context.Context, request *predpb.Request) (*predpb.Response, error) {
		if seen != nil {
			md, _ := metadata.FromIncomingContext(ctx)
			seen(strings.Join(md.Get("authorization"), "|"))
		}
		return echo(ctx, request)
	}
	var opts []grpc.ServerOption
	if config != nil {
		opts = append(opts, grpc.Creds(credentials.NewTLS(config)))
	}
	server := grpc.NewServer(opts...)
	predpb.RegisterPredictionServer(server, fake{predict: check})
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	return testkit.Serve(t, server)
}

func pair(t *testing.T, cert, key string) tls.Certificate {
	t.Helper()
	p, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func pool(t *testing.T, files ...string) *x509.CertPool {
	t.Helper()
	p := x509.NewCertPool()
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		p.AppendCertsFromPEM(data)
	}
	return p
}

// ask makes one call, and no further one.
func ask(t *testing.T, target string, opts ...pred.Option) error {
	t.Helper()
	client := connect(t, target, append(opts, pred.WithRetries(0))...)
	ctx, cancel := context.WithTimeout(t.Context(), testkit.Hang)
	defer cancel()
	_, _, err := client.Call(ctx, &predpb.Request{InputData: "x\n1\n"})
	return err
}

func TestCertificatesOfServersAndClients(t *testing.T) {
	ca, foreign := testkit.NewAuthority(t), testkit.NewAuthority(t)
	cert, key := ca.Issue(t, time.Hour, "127.0.0.1")
	server := &tls.Config{Certificates: []tls.Certificate{pair(t, cert, key)}}
	named, namedKey := ca.Issue(t, time.Hour, "predictions.example")
	old, oldKey := ca.Issue(t, -time.Hour, "127.0.0.1")
	asking := server.Clone()
	asking.ClientAuth, asking.ClientCAs = tls.RequireAndVerifyClientCert, pool(t, ca.File)
	ours, oursKey := ca.Issue(t, time.Hour, "web")
	theirs, theirsKey := foreign.Issue(t, time.Hour, "web")

	for name, c := range map[string]struct {
		server *tls.Config
		client pred.TLS
		plain  bool
		words  string // in the error; "" is none. Who has no certificate may be hung up on before the reason arrives
	}{
		"trusted":             {server: server, client: pred.TLS{CAFile: ca.File}},
		"another CA":          {server: server, client: pred.TLS{CAFile: foreign.File}, words: "unknown authority"},
		"the system's CAs":    {server: server, words: "unknown authority"},
		"another host":        {server: &tls.Config{Certificates: []tls.Certificate{pair(t, named, namedKey)}}, client: pred.TLS{CAFile: ca.File}, words: "certificate"},
		"named":               {server: &tls.Config{Certificates: []tls.Certificate{pair(t, named, namedKey)}}, client: pred.TLS{CAFile: ca.File, ServerName: "predictions.example"}},
		"expired":             {server: &tls.Config{Certificates: []tls.Certificate{pair(t, old, oldKey)}}, client: pred.TLS{CAFile: ca.File}, words: "expired"},
		"TLS 1.1":             {server: &tls.Config{Certificates: server.Certificates, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}, client: pred.TLS{CAFile: ca.File}, words: "protocol version"},
		"plain to encrypted":  {server: server, plain: true, words: "connection"},
		"encrypted to plain":  {client: pred.TLS{CAFile: ca.File}, words: "first record does not look like a TLS handshake"},
		"no certificate":      {server: asking, client: pred.TLS{CAFile: ca.File}, words: "UNAVAILABLE"},
		"a foreign one":       {server: asking, client: pred.TLS{CAFile: ca.File, CertFile: theirs, KeyFile: theirsKey}, words: "UNAVAILABLE"},
		"one of the right CA": {server: asking, client: pred.TLS{CAFile: ca.File, CertFile: ours, KeyFile: oursKey}},
	} {
		t.Run(name, func(t *testing.T) {
			var opts []pred.Option
			if !c.plain {
				opts = append(opts, pred.WithTLS(c.client))
			}
			err := ask(t, startTLS(t, c.server, nil), opts...)
			if c.words == "" && err != nil {
				t.Fatal(err)
			}
			if c.words != "" && (status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), c.words)) {
				t.Errorf("got %v, want UNAVAILABLE with %q", err, c.words)
			}
		})
	}
}

func TestAListOfEncryptedServersIsCheckedOneByOne(t *testing.T) {
	ca := testkit.NewAuthority(t)
	cert, key := ca.Issue(t, time.Hour, "127.0.0.1")
	config := &tls.Config{Certificates: []tls.Certificate{pair(t, cert, key)}}
	target := startTLS(t, config, nil) + "," + startTLS(t, config, nil)
	if err := ask(t, target, pred.WithTLS(pred.TLS{CAFile: ca.File})); err != nil {
		t.Error(err)
	}
}

func TestATokenGoesWithEachCallAndItsFileIsReadAgain(t *testing.T) {
	var mu sync.Mutex
	var last string
	address := startTLS(t, nil, func(sent string) { mu.Lock(); defer mu.Unlock(); last = sent })
	path := filepath.Join(t.TempDir(), "token")
	testkit.WriteFile(t, path, "first-token\n")
	client := connect(t, address, pred.WithTokenFile(path))
	sends := func(want string) bool {
		if _, _, err := client.Call(t.Context(), &predpb.Request{InputData: "x\n1\n"}); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		defer mu.Unlock()
		return last == want
	}
	if !sends("Bearer first-token") {
		t.Error(last)
	}
	testkit.WriteFile(t, path, "second-token")
	testkit.Eventually(t, "the new token is sent", func() bool { return sends("Bearer second-token") })
	if err := ask(t, address, pred.WithToken("one-by-hand")); err != nil || last != "Bearer one-by-hand" {
		t.Error(err, last)
	}
}

func TestATokenDoesNotLeaveTheMachineUnencrypted(t *testing.T) {
	const token = "secret-token"
	for _, target := range []string{
		"192.0.2.1:50051", "predictions.example:50051", "dns:///predictions.example:50051", "127.0.0.1:1,192.0.2.1:1",
		"[2001:db8::1]:50051", "localhost.example:50051",
	} {
		_, err := pred.New(target, pred.WithToken(token))
		if err == nil || !strings.Contains(err.Error(), "unencrypted") || strings.Contains(err.Error(), token) {
			t.Errorf("%s: %v", target, err)
		}
		client, err := pred.New(target, pred.WithToken(token), pred.WithTLS(pred.TLS{}))
		if err != nil {
			t.Errorf("%s, encrypted: %v", target, err)
			continue
		}
		client.Close()
	}
	for _, target := range []string{"127.0.0.1:1", "localhost:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "127.0.0.1:1,127.0.0.2:1", "unix:/a.sock"} {
		connect(t, target, pred.WithToken(token))
	}
}

func TestOptionsOfSecurityThatAreRefused(t *testing.T) {
	ca := testkit.NewAuthority(t)
	cert, key := ca.Issue(t, time.Hour, "web")
	_, otherKey := ca.Issue(t, time.Hour, "web")
	empty := filepath.Join(t.TempDir(), "empty")
	testkit.WriteFile(t, empty, "")
	for words, option := range map[string]pred.Option{
		"only together":     pred.WithTLS(pred.TLS{CertFile: cert}),
		"does not match":    pred.WithTLS(pred.TLS{CertFile: cert, KeyFile: otherKey}),
		"no certificate":    pred.WithTLS(pred.TLS{CAFile: key}),
		"no such file":      pred.WithTLS(pred.TLS{CAFile: "nowhere.pem"}),
		"one word":          pred.WithToken("two words"),
		"one word of plain": pred.WithTokenFile(empty),
		"the token's file":  pred.WithTokenFile("nowhere"),
	} {
		client, err := pred.New("127.0.0.1:50051", option)
		if err == nil {
			client.Close()
			t.Errorf("%s: taken", words)
		} else if !strings.Contains(err.Error(), words) || strings.Contains(err.Error(), "two words") {
			t.Errorf("got %v, want %q", err, words)
		}
	}
}

func TestNewConnectionsBelieveTheAuthoritiesThatTheFileNamesNow(t *testing.T) {
	ca, next := testkit.NewAuthority(t), testkit.NewAuthority(t)
	cert, key := next.Issue(t, time.Hour, "127.0.0.1")
	address := startTLS(t, &tls.Config{Certificates: []tls.Certificate{pair(t, cert, key)}}, nil)
	client := connect(t, address, pred.WithTLS(pred.TLS{CAFile: ca.File}), pred.WithRetries(0))
	if _, _, err := client.Call(t.Context(), &predpb.Request{InputData: "x\n1\n"}); err == nil {
		t.Fatal("the wrong authority is believed")
	}
	testkit.MoveFile(t, next.File, ca.File)
	testkit.Eventually(t, "the new authority is believed", func() bool {
		_, _, err := client.Call(t.Context(), &predpb.Request{InputData: "x\n1\n"})
		return err == nil
	})
}

func TestHealthIsAskedForWithTheToken(t *testing.T) {
	var refused error
	interceptor := func(ctx context.Context, request any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		md, _ := metadata.FromIncomingContext(ctx)
		if got := strings.Join(md.Get("authorization"), "|"); got != "Bearer the-token" {
			refused = fmt.Errorf("%s with %q", info.FullMethod, got)
			return nil, status.Error(codes.Unauthenticated, "no")
		}
		return next(ctx, request)
	}
	server := grpc.NewServer(grpc.UnaryInterceptor(interceptor))
	predpb.RegisterPredictionServer(server, fake{predict: echo})
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	client := connect(t, testkit.Serve(t, server), pred.WithToken("the-token"))
	if err := client.Ready(t.Context()); err != nil || refused != nil {
		t.Error(err, refused)
	}
}
