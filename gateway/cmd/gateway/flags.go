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

	"example.com/predserver/gateway/internal/access"
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
	tlsCert      string
	tlsKey       string
	tokenFile    string
	metrics      string
	metricsAt    *net.TCPAddr // metrics, resolved; nil for none
	backendTLS   bool         // the files alone imply it
	backendFiles pred.TLS
	backendToken string
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
	flags.StringVar(&c.tlsCert, "tls-cert", "", "serve HTTPS with the certificate in this `file`, and those between it and its CA, in PEM")
	flags.StringVar(&c.tlsKey, "tls-key", "", "the certificate's key, a `file` in PEM")
	flags.StringVar(&c.tokenFile, "token-file", "",
		"ask each request for one of the tokens in this `file`: NAME TOKEN on each line; a request has it as Authorization: Bearer TOKEN")
	flags.BoolVar(&c.web.HealthToken, "health-token", false, "ask for a token also at /healthz and /readyz")
	flags.StringVar(&c.metrics, "metrics", "", "let Prometheus read what happens at this `address`; port 0 picks a free port")
	flags.StringVar(&c.backend, "backend", "127.0.0.1:50051",
		"`address` of the prediction server: HOST:PORT; of several: a list HOST:PORT,HOST:PORT, or dns:///HOST:PORT for all that the name has; unix:/PATH for a socket")
	flags.BoolVar(&c.backendTLS, "backend-tls", false, "the prediction server is encrypted; without -backend-ca the system's authorities are believed")
	flags.StringVar(&c.backendFiles.CAFile, "backend-ca", "", "it is encrypted, with a certificate that the authority in this `file` signed")
	flags.StringVar(&c.backendFiles.CertFile, "backend-cert", "", "the certificate to show the prediction server if it asks, a `file` in PEM")
	flags.StringVar(&c.backendFiles.KeyFile, "backend-key", "", "the key of -backend-cert, a `file` in PEM")
	flags.StringVar(&c.backendFiles.ServerName, "backend-name", "", "the `name` in the prediction server's certificate, if it is not the host of -backend")
	flags.StringVar(&c.backendToken, "backend-token-file", "", "the prediction server asks for a token: the one in this `file`")
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
	for _, pair := range [][4]string{
		{"-tls-cert", c.tlsCert, "-tls-key", c.tlsKey},
		{"-backend-cert", c.backendFiles.CertFile, "-backend-key", c.backendFiles.KeyFile},
	} {
		if (pair[1] == "") != (pair[3] == "") {
			return fmt.Errorf("%s and %s are of use only together", pair[0], pair[2])
		}
	}
	if c.web.HealthToken && c.tokenFile == "" {
		return errors.New("-health-token needs -token-file")
	}
	protected := c.tlsCert != "" && c.tokenFile != ""
	if !address.IP.IsLoopback() && !protected && !c.expose {
		return fmt.Errorf("-listen %s would let other machines in; choose a loopback address such as 127.0.0.1:8080, "+
			"or give -tls-cert, -tls-key and -token-file, or add -expose-to-network if that is what you want", c.listen)
	}
	c.address = address
	if c.metrics != "" {
		if c.metricsAt, err = net.ResolveTCPAddr("tcp", c.metrics); err != nil {
			return fmt.Errorf("-metrics must be HOST:PORT, for example 127.0.0.1:9465: %w", err)
		}
		if !c.metricsAt.IP.IsLoopback() && !c.expose {
			return fmt.Errorf("-metrics %s: anyone in the network could read it, since it is neither encrypted nor closed; "+
				"choose a loopback address, or add -expose-to-network if that is what you want", c.metrics)
		}
	}
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
func (c *config) client(log *slog.Logger) (*pred.Client, error) {
	opts := []pred.Option{
		pred.WithConnections(c.connections), pred.WithRetries(c.retries), pred.WithMaxMessageBytes(c.web.MaxMessageBytes()),
		pred.WithLogger(log),
	}
	if c.backendTLS || c.backendFiles != (pred.TLS{}) {
		opts = append(opts, pred.WithTLS(c.backendFiles))
	}
	if c.backendToken != "" {
		opts = append(opts, pred.WithTokenFile(c.backendToken))
	}
	return pred.New(c.backend, opts...)
}

// protect reads the certificate and the tokens that the command line names; what it does not name is nil.
func (c *config) protect(log *slog.Logger) (certificate *access.Certificate, tokens *access.Tokens, err error) {
	if c.tokenFile != "" {
		if tokens, err = access.ReadTokens(c.tokenFile, log); err != nil {
			return nil, nil, err
		}
		c.web.Authorize = tokens.Name
	}
	if c.tlsCert != "" {
		certificate, err = access.ReadCertificate(c.tlsCert, c.tlsKey, log)
	}
	return certificate, tokens, err
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
