package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"
	"unicode"

	"example.com/predserver/gateway/pred"
	"example.com/predserver/gateway/web"
)

// config is what the command line says.
type config struct {
	listen       string
	address      *net.TCPAddr // listen, resolved
	expose       bool
	backend      string
	connections  int
	retries      int
	untilStdin   bool
	drainDelay   time.Duration
	drainTimeout time.Duration
	web          web.Options
	after        func(time.Duration) <-chan time.Time // time.After, but in tests

	logLevel  slog.Level
	logFormat string
}

// parseConfig reads and checks the command line. Its errors name the flag at fault; a request for help is answered on
// help and returned as flag.ErrHelp.
func parseConfig(args []string, help io.Writer) (*config, error) {
	c := &config{web: web.DefaultOptions(), after: time.After}
	flags := flag.NewFlagSet("gateway", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&c.listen, "listen", "127.0.0.1:8080", "`address` to serve HTTP on; port 0 picks a free port")
	flags.BoolVar(&c.expose, "expose-to-network", false,
		"allow a -listen address that other machines reach; anyone who reaches it may ask for predictions, unencrypted")
	flags.StringVar(&c.backend, "backend", "127.0.0.1:50051",
		"`address` of the prediction server: HOST:PORT; of several: a list HOST:PORT,HOST:PORT, or dns:///HOST:PORT for all that the name has; unix:/PATH for a socket")
	flags.IntVar(&c.connections, "connections", 1, "TCP connections to each prediction server, used in turn")
	flags.IntVar(&c.retries, "retries", 1,
		"how often a call is tried again whose server is away or was lost, 0 to 4; the first time after 0.25 s, then after 0.75 s, 2.25 s and 4 s")
	flags.BoolVar(&c.untilStdin, "until-stdin-closes", false,
		"stop when standard input ends, as it does when the program at the other end of the pipe is gone")
	flags.DurationVar(&c.drainDelay, "drain-delay", 0,
		"how long a stop goes on taking requests, while /readyz is 503: as long as a balancer needs to hear of it")
	flags.DurationVar(&c.drainTimeout, "drain-timeout", 0,
		"how long a stop waits, behind -drain-delay, for requests in flight; without it as long as one may take: -timeout and 10s")
	c.web.RegisterFlags(flags)
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
	if c.drainTimeout == 0 && !given(flags, "drain-timeout") {
		c.drainTimeout = c.web.Timeout + 10*time.Second
	}
	return c, c.check()
}

// given reports whether the command line has the flag.
func given(flags *flag.FlagSet, name string) (found bool) {
	flags.Visit(func(f *flag.Flag) { found = found || f.Name == name })
	return found
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
	if host, _, err := net.SplitHostPort(c.listen); err == nil && host != "" && net.ParseIP(host) == nil {
		c.web.AllowHosts = append(c.web.AllowHosts, host) // the name that the gateway listens as is one of its own
	}

	if err := pred.CheckTarget(c.backend); err != nil {
		return fmt.Errorf("-backend: %w", err)
	}
	if c.connections < 1 || c.connections > pred.MaxConnections {
		return fmt.Errorf("-connections must be between 1 and %d (got %d)", pred.MaxConnections, c.connections)
	}
	if c.retries < 0 || c.retries > pred.MaxRetries {
		return fmt.Errorf("-retries must be between 0 and %d (got %d)", pred.MaxRetries, c.retries)
	}
	if err := web.CheckDuration("-drain-timeout", c.drainTimeout); err != nil {
		return err
	}
	if c.drainDelay < 0 || c.drainDelay > 24*time.Hour {
		return fmt.Errorf("-drain-delay must be between 0 and 24h (got %v)", c.drainDelay)
	}
	if c.logFormat != "json" && c.logFormat != "text" {
		return fmt.Errorf("-log-format must be json or text (got %q)", c.logFormat)
	}
	return c.web.Check()
}

// client returns the client that the command line asks for.
func (c *config) client() (*pred.Client, error) {
	return pred.New(c.backend,
		pred.WithConnections(c.connections), pred.WithRetries(c.retries), pred.WithMaxMessageBytes(c.web.MaxMessageBytes()))
}

// logger returns the log that the command line asks for.
func (c *config) logger(w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: c.logLevel, ReplaceAttr: escape}
	if c.logFormat == "text" {
		return slog.New(slog.NewTextHandler(w, options))
	}
	return slog.New(slog.NewJSONHandler(w, options))
}

// escape has the log show what a terminal would obey, or would not show: control characters of all kinds, marks that turn
// the direction of text. slog itself lets those beyond ASCII through.
func escape(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() != slog.KindString {
		return a
	}
	text := a.Value.String()
	odd := func(r rune) bool { return !unicode.IsPrint(r) && r != '\n' && r != '\t' } // which slog escapes, and a stack has
	if strings.IndexFunc(text, odd) < 0 {
		return a
	}
	var out strings.Builder
	for _, r := range text {
		if odd(r) {
			out.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
		} else {
			out.WriteRune(r)
		}
	}
	return slog.String(a.Key, out.String())
}
