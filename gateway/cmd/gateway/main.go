// Command gateway puts HTTP in front of a Prediction server: it takes tables as CSV or JSON, asks the server over gRPC,
// and answers in kind.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"example.com/predserver/gateway/internal/metrics"
	"example.com/predserver/gateway/web"
)

func main() {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		// The default handling is back before anything stops, so that a second signal ends the process at once.
		// (signal.NotifyContext cancels first: a signal that came in between would be lost.)
		signal.Stop(signals)
		cancel()
	}()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run serves until ctx is done and returns the exit code: 0 after a graceful stop, 1 when serving is not possible, 2 when
// the command line is at fault.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	config, err := parseConfig(args, stdout)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintf(stderr, "gateway: %v\n", err)
		return 2
	}

	log := config.logger(stderr)
	certificate, tokens, err := config.protect(log)
	if err != nil {
		fmt.Fprintf(stderr, "gateway: %v\n", err)
		return 2
	}
	client, err := config.client(log)
	if err != nil {
		fmt.Fprintf(stderr, "gateway: -backend %s cannot be used: %v\n", config.backend, err)
		return 2
	}
	defer client.Close()

	var listener net.Listener
	listener, err = net.ListenTCP("tcp", config.address)
	if errors.Is(err, syscall.EADDRINUSE) {
		fmt.Fprintf(stderr, "gateway: %s is taken by another program; choose another port with -listen.\n", config.listen)
		return 1
	}
	if err != nil {
		fmt.Fprintf(stderr, "gateway: cannot listen on %s: %v\n", config.listen, err)
		return 1
	}

	var watched *metrics.Metrics
	var metricsListener net.Listener
	if config.metricsAt != nil {
		if metricsListener, err = net.ListenTCP("tcp", config.metricsAt); err != nil {
			fmt.Fprintf(stderr, "gateway: cannot listen on %s for -metrics: %v\n", config.metrics, err)
			return 1
		}
		watched = metrics.New()
		config.web.Observe = watched.Observe
	}

	if config.untilStdin {
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		go func() {
			io.Copy(io.Discard, os.Stdin)
			cancel()
		}()
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(config.web.MemoryLimit())
	}
	handler := web.New(client, config.web, log)
	if watched != nil {
		watched.Watch(handler.Load, certificate, tokens)
		server := watched.Server(log)
		go server.Serve(metricsListener)
		defer server.Close()
		fmt.Fprintf(stdout, "metrics on http://%s/metrics\n", metricsListener.Addr())
	}
	scheme := "http"
	if certificate != nil {
		scheme, listener = "https", tls.NewListener(listener, certificate.Config())
	}
	fmt.Fprintf(stdout, "gateway ready on %s://%s (backend %s)\n", scheme, listener.Addr(), config.backend)
	if err := config.serve(ctx, listener, handler, log); err != nil {
		fmt.Fprintf(stderr, "gateway: %v\n", err)
		return 1
	}
	return 0
}

// serve answers on listener until ctx is done. Then it says by /readyz that it stops, takes requests on until the drain
// delay has passed, and lets those in flight finish for as long as the drain timeout allows.
func (c *config) serve(ctx context.Context, listener net.Listener, handler *web.Handler, log *slog.Logger) error {
	server := c.web.Server(handler, log)
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()

	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}

	log.Info("stopping", slog.Duration("drain_delay", c.drainDelay), slog.Duration("drain_timeout", c.drainTimeout))
	handler.Stopping()
	select {
	case err := <-failed:
		return err
	case <-c.after(c.drainDelay):
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.drainTimeout)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		log.Warn("requests were cut off", slog.Duration("after", c.drainTimeout))
		server.Close()
	}
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
