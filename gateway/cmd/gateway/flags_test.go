package main

import (
	"errors"
	"flag"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"
	"unicode"
)

func TestFlagsThatAreRefused(t *testing.T) {
	for _, args := range []string{
		"-listen=nowhere",
		"-listen=127.0.0.1:port",
		"-listen=127.0.0.1:70000",
		"-backend=nowhere",
		"-backend=",
		"-backend=xds:///predictions",
		"-backend=127.0.0.1:50051,",
		"-retries=-1",
		"-retries=5",
		"-connections=0",
		"-connections=many",
		"-timeout=0",
		"-timeout=-1s",
		"-timeout=30",
		"-max-body-bytes=0",
		"-max-body-bytes=2147483647",
		"-max-stream-bytes=1000",
		"-chunk-bytes=0",
		"-chunk-bytes=2147483647",
		"-backlog-bytes=0",
		"-stall-timeout=0s",
		"-max-header-bytes=1",
		"-header-timeout=0s",
		"-read-timeout=0s",
		"-write-timeout=0s",
		"-idle-timeout=0s",
		"-ready-timeout=0s",
		"-drain-timeout=0s",
		"-drain-delay=-1s",
		"-max-bytes-held=1",
		"-max-requests-in-flight=0",
		"-allow-host=http://a",
		"-allow-host=a,",
		"-body-idle-timeout=0s",
		"-log-level=loud",
		"-log-format=xml",
		"-no-such-flag",
	} {
		name, _, _ := strings.Cut(args, "=")
		if _, err := parseConfig([]string{args}, io.Discard); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", args, err)
		}
	}
	if _, err := parseConfig([]string{"serve"}, io.Discard); err == nil {
		t.Error("an argument that is no flag was taken")
	}
}

func TestOnlyLoopbackUnlessExposed(t *testing.T) {
	for address, loopback := range map[string]bool{
		"127.0.0.1:0":    true,
		"127.1.2.3:0":    true,
		"[::1]:0":        true,
		"localhost:0":    true,
		":0":             false,
		"0.0.0.0:0":      false,
		"[::]:0":         false,
		"192.0.2.1:0":    false,
		"[2001:db8::]:0": false,
	} {
		_, err := parseConfig([]string{"-listen", address}, io.Discard)
		if (err == nil) != loopback {
			t.Errorf("%s: %v", address, err)
		}
		if err != nil && !strings.Contains(err.Error(), "-expose-to-network") {
			t.Errorf("%s: the way out is not named: %v", address, err)
		}
		if _, err := parseConfig([]string{"-listen", address, "-expose-to-network"}, io.Discard); err != nil {
			t.Errorf("%s exposed: %v", address, err)
		}
	}
}

func TestBackendsThatAreTaken(t *testing.T) {
	for _, backend := range []string{"127.0.0.1:50051", "localhost:1", "[::1]:1", "a:1,b:2", "dns:///predictions:50051", "unix:/tmp/pred.sock"} {
		c, err := parseConfig([]string{"-backend", backend}, io.Discard)
		if err != nil {
			t.Errorf("%s: %v", backend, err)
			continue
		}
		client, err := c.client(slog.New(slog.DiscardHandler))
		if err != nil {
			t.Errorf("%s: %v", backend, err)
			continue
		}
		client.Close()
	}
}

// A request that is accepted just before a stop has all the time that it would have had.
func TestDrainIsLongerThanARequest(t *testing.T) {
	for args, want := range map[string]time.Duration{
		"":                                40 * time.Second,
		"-timeout=5m":                     5*time.Minute + 10*time.Second,
		"-timeout=5m -drain-timeout=1s":   time.Second,
		"-drain-timeout=10m -timeout=10s": 10 * time.Minute,
	} {
		c, err := parseConfig(strings.Fields(args), io.Discard)
		if err != nil || c.drainTimeout != want {
			t.Errorf("%s: got %v, %v, want %v", args, c.drainTimeout, err, want)
		}
	}
}

// Nothing that a client sends writes a line of its own into the log, or tells a terminal what to do.
func TestLogsEscapeWhatClientsSend(t *testing.T) {
	const hostile = "a\nb\rc\x1b[2J\u009b31m\u202e\x7f\u2028é"
	for _, format := range []string{"json", "text"} {
		c, err := parseConfig([]string{"-log-format", format}, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		c.logger(&out).Info("request", slog.String("error", hostile))
		line := strings.TrimSuffix(out.String(), "\n")
		if strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }) || !strings.Contains(line, "é") {
			t.Errorf("%s: %q", format, line)
		}
	}
}

func TestHelp(t *testing.T) {
	var help strings.Builder
	_, err := parseConfig([]string{"-help"}, &help)
	if !errors.Is(err, flag.ErrHelp) || !strings.Contains(help.String(), "-expose-to-network") {
		t.Errorf("%v\n%s", err, help.String())
	}
}
