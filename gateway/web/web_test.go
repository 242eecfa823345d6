package web

import (
	"flag"
	"io"
	"log/slog"
	"net/http/httptest"
	"testing"

	"example.com/predserver/gateway/internal/testkit"
	"example.com/predserver/gateway/pred"
)

// newHandler returns a handler as the gateway's flags would have it, and its log.
func newHandler(t *testing.T, backend string, args ...string) (*Handler, *testkit.LockedBuffer) {
	t.Helper()
	options := DefaultOptions()
	flags := flag.NewFlagSet("", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	options.RegisterFlags(flags)
	connections := flags.Int("connections", 1, "")
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	if err := options.Check(); err != nil {
		t.Fatal(err)
	}
	client, err := pred.New(backend, pred.WithConnections(*connections), pred.WithRetries(0), pred.WithMaxMessageBytes(options.MaxMessageBytes()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	log := &testkit.LockedBuffer{}
	return New(client, options, slog.New(slog.NewJSONHandler(log, nil))), log
}

// startGateway serves with the given flags, on a free port, until the test ends.
func startGateway(t *testing.T, backend string, args ...string) *testkit.Gateway {
	t.Helper()
	h, log := newHandler(t, backend, args...)
	return serveHandler(t, h, log)
}

// serveHandler serves on a free port until the test ends.
func serveHandler(t *testing.T, h *Handler, log *testkit.LockedBuffer) *testkit.Gateway {
	t.Helper()
	server := httptest.NewUnstartedServer(nil)
	server.Config = h.options.Server(h, h.log)
	server.Start()
	t.Cleanup(func() {
		h.client.Close() // ends the calls that a test left behind
		server.Close()
		if t.Failed() {
			t.Log("gateway's log:\n" + log.String())
		}
	})
	return &testkit.Gateway{URL: server.URL, Log: log}
}
