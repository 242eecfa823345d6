package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"time"
)

// config is what the command line says.
type config struct {
	listen      string
	address     *net.TCPAddr // listen, resolved
	expose      bool
	backend     string
	connections int
	untilStdin  bool

	timeout        time.Duration
	maxBodyBytes   int64
	maxStreamBytes int64
	chunkBytes     int
	backlogBytes   int
	stallTimeout   time.Duration
	maxHeaderBytes int
	headerTimeout  time.Duration
	readTimeout    time.Duration
	writeTimeout   time.Duration
	idleTimeout    time.Duration
	readyTimeout   time.Duration
	drainTimeout   time.Duration

	logLevel  slog.Level
	logFormat string
}

// parseConfig reads and checks the command line. Its errors name the flag at fault; a request for help is answered on
// help and returned as flag.ErrHelp.
func parseConfig(args []string, help io.Writer) (*config, error) {
	c := &config{}
	flags := flag.NewFlagSet("gateway", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&c.listen, "listen", "127.0.0.1:8080", "`address` to serve HTTP on; port 0 picks a free port")
	flags.BoolVar(&c.expose, "expose-to-network", false,
		"allow a -listen address that other machines reach; anyone who reaches it may ask for predictions, unencrypted")
	flags.StringVar(&c.backend, "backend", "127.0.0.1:50051", "`address` of the prediction server")
	flags.IntVar(&c.connections, "connections", 1, "TCP connections to the prediction server, used in turn")
	flags.BoolVar(&c.untilStdin, "until-stdin-closes", false,
		"stop when standard input ends, as it does when the program at the other end of the pipe is gone")
	flags.DurationVar(&c.timeout, "timeout", 30*time.Second, "longest time for a prediction of a table that is not streamed")
	flags.Int64Var(&c.maxBodyBytes, "max-body-bytes", 64<<20,
		"largest request body that is held whole: JSON, or CSV for a prediction server without streams; also the largest row of any")
	flags.Int64Var(&c.maxStreamBytes, "max-stream-bytes", 16<<30, "largest request body that is streamed: CSV longer than a chunk")
	flags.IntVar(&c.chunkBytes, "chunk-bytes", 1<<20, "about the size of the chunks in which CSV is streamed")
	flags.IntVar(&c.backlogBytes, "backlog-bytes", 8<<20,
		"most predictions, in bytes, that a stream holds for a client that does not read them yet")
	flags.DurationVar(&c.stallTimeout, "stall-timeout", time.Minute,
		"in a stream, longest time for a chunk to arrive, for its predictions to be made, and for the client to take them")
	flags.IntVar(&c.maxHeaderBytes, "max-header-bytes", 32<<10, "largest request header")
	flags.DurationVar(&c.headerTimeout, "header-timeout", 5*time.Second, "longest time to receive a request's header")
	flags.DurationVar(&c.readTimeout, "read-timeout", time.Minute, "longest time to receive a whole request, or a stream's first chunk")
	flags.DurationVar(&c.writeTimeout, "write-timeout", time.Minute, "longest time to send a reply")
	flags.DurationVar(&c.idleTimeout, "idle-timeout", 2*time.Minute, "how long an idle connection is kept")
	flags.DurationVar(&c.readyTimeout, "ready-timeout", 2*time.Second, "longest time that /readyz waits for the prediction server")
	flags.DurationVar(&c.drainTimeout, "drain-timeout", 10*time.Second, "how long a stop waits for requests in flight")
	flags.TextVar(&c.logLevel, "log-level", slog.LevelInfo, "least `level` that is logged: debug, info, warn or error")
	flags.StringVar(&c.logFormat, "log-format", "json", "json or text")

	err := flags.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(help, "Usage: gateway [flags]")
		flags.SetOutput(help)
		flags.PrintDefaults()
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("%w (gateway -help lists the flags)", err)
	}
	if flags.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q: everything is said with flags (gateway -help lists them)", flags.Arg(0))
	}
	return c, c.check()
}

// check resolves the address to listen on and refuses values that cannot work.
func (c *config) check() error {
	address, err := net.ResolveTCPAddr("tcp", c.listen)
	if err != nil {
		return fmt.Errorf("-listen must be HOST:PORT, for example 127.0.0.1:8080: %w", err)
	}
	if !address.IP.IsLoopback() && !c.expose {
		return fmt.Errorf("-listen %s would let other machines in; choose a loopback address such as 127.0.0.1:8080, "+
			"or add -expose-to-network if that is what you want", c.listen)
	}
	c.address = address

	if _, port, err := net.SplitHostPort(c.backend); err != nil || port == "" {
		return fmt.Errorf("-backend must be HOST:PORT, for example 127.0.0.1:50051 (got %q)", c.backend)
	}
	if c.connections < 1 || c.connections > 1024 {
		return fmt.Errorf("-connections must be between 1 and 1024 (got %d)", c.connections)
	}
	// A protobuf message cannot be larger than 2 GiB.
	if c.maxBodyBytes < 1 || c.maxBodyBytes > math.MaxInt32-messageOverhead {
		return fmt.Errorf("-max-body-bytes must be between 1 and %d (got %d)", math.MaxInt32-messageOverhead, c.maxBodyBytes)
	}
	if c.maxStreamBytes < c.maxBodyBytes {
		return fmt.Errorf("-max-stream-bytes must be at least -max-body-bytes, %d (got %d)", c.maxBodyBytes, c.maxStreamBytes)
	}
	if c.chunkBytes < 1 || c.chunkBytes > math.MaxInt32-messageOverhead {
		return fmt.Errorf("-chunk-bytes must be between 1 and %d (got %d)", math.MaxInt32-messageOverhead, c.chunkBytes)
	}
	// A chunk is held whole, and so is a table that fits in one.
	c.chunkBytes = min(c.chunkBytes, int(c.maxBodyBytes))
	if c.backlogBytes < 1 {
		return fmt.Errorf("-backlog-bytes must be 1 or more (got %d)", c.backlogBytes)
	}
	if c.maxHeaderBytes < 1<<10 || c.maxHeaderBytes > 1<<20 {
		return fmt.Errorf("-max-header-bytes must be between 1024 and 1048576 (got %d)", c.maxHeaderBytes)
	}
	for _, d := range []struct {
		flag  string
		value time.Duration
	}{
		{"-timeout", c.timeout},
		{"-stall-timeout", c.stallTimeout},
		{"-header-timeout", c.headerTimeout},
		{"-read-timeout", c.readTimeout},
		{"-write-timeout", c.writeTimeout},
		{"-idle-timeout", c.idleTimeout},
		{"-ready-timeout", c.readyTimeout},
		{"-drain-timeout", c.drainTimeout},
	} {
		if d.value < time.Millisecond || d.value > 24*time.Hour {
			return fmt.Errorf("%s must be between 1ms and 24h (got %v)", d.flag, d.value)
		}
	}
	if c.logFormat != "json" && c.logFormat != "text" {
		return fmt.Errorf("-log-format must be json or text (got %q)", c.logFormat)
	}
	return nil
}

// logger returns the log that the command line asks for.
func (c *config) logger(w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: c.logLevel}
	if c.logFormat == "text" {
		return slog.New(slog.NewTextHandler(w, options))
	}
	return slog.New(slog.NewJSONHandler(w, options))
}
