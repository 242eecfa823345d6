package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/predserver/gateway/internal/testkit"
)

// newHTTPS returns a client of HTTP that believes some authorities, and opens a connection for each request.
func newHTTPS(t *testing.T, config *tls.Config, authorities ...string) *http.Client {
	t.Helper()
	config.RootCAs = x509.NewCertPool()
	for _, file := range authorities {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		config.RootCAs.AppendCertsFromPEM(data)
	}
	transport := &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}
	return &http.Client{Transport: transport, Timeout: testkit.Hang}
}

func TestHTTPSOfTheGateway(t *testing.T) {
	ca, foreign := testkit.NewAuthority(t), testkit.NewAuthority(t)
	cert, key := ca.Issue(t, time.Hour, "127.0.0.1")
	p := startProcess(t, "-tls-cert", cert, "-tls-key", key)
	if !strings.HasPrefix(p.url, "https://") {
		t.Fatal(p.url)
	}
	alive := func(client *http.Client) (*http.Response, error) {
		reply, err := client.Get(p.url + "/healthz")
		if err == nil {
			reply.Body.Close()
		}
		return reply, err
	}
	if reply, err := alive(newHTTPS(t, &tls.Config{}, ca.File)); err != nil || reply.StatusCode != 200 || reply.Proto != "HTTP/1.1" {
		t.Error(reply, err)
	}
	if _, err := alive(newHTTPS(t, &tls.Config{}, foreign.File)); err == nil || !strings.Contains(err.Error(), "unknown authority") {
		t.Error(err)
	}
	old := newHTTPS(t, &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, ca.File)
	if _, err := alive(old); err == nil || !strings.Contains(err.Error(), "protocol version") {
		t.Error(err)
	}
	reply, err := http.Get(strings.Replace(p.url, "https", "http", 1) + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	defer reply.Body.Close()
	if said, _ := io.ReadAll(reply.Body); reply.StatusCode != 400 || !strings.Contains(string(said), "HTTP request to an HTTPS server") {
		t.Errorf("plain text: %d %s", reply.StatusCode, said)
	}
}

func TestFilesThatCannotBeUsedEndTheGatewayInOneLine(t *testing.T) {
	ca := testkit.NewAuthority(t)
	cert, key := ca.Issue(t, -time.Hour, "127.0.0.1")
	tokens := filepath.Join(t.TempDir(), "tokens")
	testkit.WriteFile(t, tokens, "web short")
	for args, want := range map[string]string{
		"-tls-cert " + cert:                                  "only together",
		"-backend-cert " + cert:                              "only together",
		"-health-token":                                      "-health-token needs -token-file",
		"-tls-cert " + cert + " -tls-key " + key:             "valid from",
		"-token-file " + tokens:                              "line 1",
		"-token-file nowhere":                                "no such file",
		"-backend-ca nowhere":                                "no such file",
		"-backend-token-file nowhere":                        "no such file",
		"-backend 192.0.2.1:1 -backend-token-file " + tokens: "unencrypted",
	} {
		if strings.Contains(want, "unencrypted") {
			testkit.WriteFile(t, tokens, "a-token")
		}
		var stdout, stderr strings.Builder
		code := run(t.Context(), append(strings.Fields(args), "-listen", "127.0.0.1:0"), &stdout, &stderr)
		if code != 2 || !strings.Contains(stderr.String(), want) || strings.Count(stderr.String(), "\n") != 1 {
			t.Errorf("%s: exit %d, %s", args, code, stderr.String())
		}
	}
}

func TestANetworkNeedsBothACertificateAndTokens(t *testing.T) {
	ca := testkit.NewAuthority(t)
	cert, key := ca.Issue(t, time.Hour, "127.0.0.1")
	withTLS := []string{"-listen=0.0.0.0:0", "-tls-cert=" + cert, "-tls-key=" + key}
	for _, c := range []struct {
		args []string
		ok   bool
	}{
		{[]string{"-listen=0.0.0.0:0"}, false},
		{withTLS, false},
		{[]string{"-listen=0.0.0.0:0", "-token-file=tokens"}, false},
		{append(withTLS, "-token-file=tokens"), true},
	} {
		_, err := parseConfig(c.args, io.Discard)
		if (err == nil) != c.ok || err != nil && !strings.Contains(err.Error(), "-expose-to-network") {
			t.Errorf("%v: %v", c.args, err)
		}
	}
}

func TestCertificatesAndTokensAreReplacedUnderLoad(t *testing.T) {
	address, _ := testkit.StartFake(t, "127.0.0.1:0", testkit.Echo)
	ca, next := testkit.NewAuthority(t), testkit.NewAuthority(t)
	cert, key := ca.Issue(t, time.Hour, "127.0.0.1")
	tokens := filepath.Join(t.TempDir(), "tokens")
	testkit.WriteFile(t, tokens, "web the-first-of-all-tokens\n")
	p := startProcess(t, "-backend", address, "-tls-cert", cert, "-tls-key", key, "-token-file", tokens)

	post := func(client *http.Client, token string) (int, error) {
		request, err := http.NewRequestWithContext(t.Context(), "POST", p.url+"/predict", strings.NewReader("x\n1\n"))
		if err != nil {
			return 0, err
		}
		request.Header.Set("Authorization", "Bearer "+token)
		reply, err := client.Do(request)
		if err != nil {
			return 0, err
		}
		defer reply.Body.Close()
		_, err = io.Copy(io.Discard, reply.Body)
		return reply.StatusCode, err
	}
	var token atomic.Value
	token.Store("the-first-of-all-tokens")
	stop, asked := make(chan struct{}), atomic.Int64{}
	failed := make(chan error, 4)
	var callers sync.WaitGroup
	for i := range 4 {
		client := newHTTPS(t, &tls.Config{}, ca.File, next.File)
		client.Transport.(*http.Transport).DisableKeepAlives = i%2 == 0 // half of them keep their connections
		callers.Go(func() {
			defer client.CloseIdleConnections()
			for {
				select {
				case <-stop:
					return
				default:
				}
				code, err := post(client, token.Load().(string))
				if err != nil || code != 200 {
					failed <- errors.Join(err, errors.New(http.StatusText(code)))
					return
				}
				asked.Add(1)
			}
		})
	}

	testkit.WriteFile(t, tokens, "web the-first-of-all-tokens\nweb the-second-of-all-tokens\n")
	probe := newHTTPS(t, &tls.Config{}, ca.File, next.File)
	testkit.Eventually(t, "the second token is taken", func() bool {
		code, err := post(probe, "the-second-of-all-tokens")
		return err == nil && code == 200
	})
	token.Store("the-second-of-all-tokens")
	before := asked.Load()
	testkit.Eventually(t, "all have heard of it", func() bool { return asked.Load() > before+8 })
	testkit.WriteFile(t, tokens, "web the-second-of-all-tokens\n")
	testkit.Eventually(t, "the first token is refused", func() bool {
		code, err := post(probe, "the-first-of-all-tokens")
		return err == nil && code == 401
	})

	newCert, newKey := next.Issue(t, time.Hour, "127.0.0.1")
	testkit.MoveFile(t, newCert, cert) // for a moment they do not fit
	testkit.MoveFile(t, newKey, key)
	onlyNext := newHTTPS(t, &tls.Config{}, next.File)
	testkit.Eventually(t, "the new certificate is shown", func() bool {
		code, err := post(onlyNext, "the-second-of-all-tokens")
		return err == nil && code == 200
	})
	close(stop)
	callers.Wait()
	select {
	case err := <-failed:
		t.Error(err)
	default:
	}
	if asked.Load() < 20 {
		t.Errorf("only %d requests", asked.Load())
	}
}

func TestTheClientOfAProtectedBackend(t *testing.T) {
	ca := testkit.NewAuthority(t)
	token := filepath.Join(t.TempDir(), "token")
	testkit.WriteFile(t, token, "a-token")
	c, err := parseConfig([]string{"-backend", "192.0.2.1:1", "-backend-ca", ca.File, "-backend-token-file", token}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	client, err := c.client(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	client.Close()
}
