package pred

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"

	"google.golang.org/grpc/credentials"

	"example.com/predserver/gateway/internal/access"
	"example.com/predserver/gateway/internal/kept"
)

// TLS says how a client encrypts. The files hold PEM; they are read again when they change, for the next connections.
type TLS struct {
	CAFile     string // the authorities that sign servers' certificates; "" is the system's
	CertFile   string // the client's own certificate, for a server that asks for one; may be empty
	KeyFile    string // its key
	ServerName string // the name in the server's certificate, if it is not the host of the target
}

// WithTLS has connections encrypted, with TLS 1.2 or newer; without it they are in plain text.
func WithTLS(t TLS) Option {
	return func(o *options) { o.tls = &t }
}

// WithToken sends a token with each call: "authorization: Bearer TOKEN". Without TLS, New refuses it for a target that is
// not on this machine.
func WithToken(token string) Option {
	return func(o *options) { o.token, o.tokenFile = token, "" }
}

// WithTokenFile sends the token that a file holds, and nothing else, with each call. The file is read again when it changes.
func WithTokenFile(path string) Option {
	return func(o *options) { o.token, o.tokenFile = "", path }
}

// WithLogger has the client say there when a file has changed that it uses; slog.Default() without it.
func WithLogger(log *slog.Logger) Option {
	return func(o *options) { o.log = log }
}

// secure sets the credentials that the options ask for. An error shows no token.
func (o *options) secure(target string) error {
	if o.tls != nil {
		c, err := newTLS(*o.tls, o.log)
		if err != nil {
			return fmt.Errorf("pred: %w", err)
		}
		o.credentials = c
	}
	switch {
	case o.tokenFile != "":
		v, err := kept.New("the token's file", o.log, func() (string, error) {
			data, err := kept.Read(o.tokenFile)
			if err != nil {
				return "", err
			}
			token := strings.TrimSpace(string(data))
			return token, checkToken(token)
		}, o.tokenFile)
		if err != nil {
			return fmt.Errorf("pred: %w", err)
		}
		o.bearer = v.Get
	case o.token != "":
		if err := checkToken(o.token); err != nil {
			return fmt.Errorf("pred: %w", err)
		}
		token := o.token
		o.bearer = func() string { return token }
	default:
		return nil
	}
	if o.credentials.Info().SecurityProtocol == "insecure" && !onThisMachine(target) {
		return fmt.Errorf("pred: the token would travel to %.100s unencrypted; use TLS, or a loopback address", target)
	}
	return nil
}

func checkToken(token string) error {
	odd := func(r rune) bool { return r <= ' ' || r > '~' }
	if token == "" || strings.ContainsFunc(token, odd) {
		return errors.New("the token is not one word of plain ASCII")
	}
	return nil
}

// onThisMachine reports whether no other machine is behind a target.
func onThisMachine(target string) bool {
	for address := range strings.SplitSeq(strings.TrimPrefix(target, "dns:///"), ",") {
		if strings.HasPrefix(address, "unix:") {
			continue
		}
		host, _, err := net.SplitHostPort(strings.TrimSpace(address))
		if err != nil {
			return false
		}
		ip, err := netip.ParseAddr(host)
		if !(err == nil && ip.Unmap().IsLoopback() || strings.EqualFold(host, "localhost")) {
			return false
		}
	}
	return true
}

// bearer adds a token to each call, health checks included.
type bearer func() string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + b()}, nil
}

// RequireTransportSecurity is false, since secure has looked at the target: gRPC would refuse loopback, too.
func (bearer) RequireTransportSecurity() bool { return false }

// renewedTLS is gRPC's TLS, with what the files hold at each handshake.
type renewedTLS struct {
	credentials.TransportCredentials // of the first moment; what it says of itself does not change
	config                           *kept.Value[*tls.Config]
}

func newTLS(t TLS, log *slog.Logger) (credentials.TransportCredentials, error) {
	if (t.CertFile == "") != (t.KeyFile == "") {
		return nil, errors.New("a certificate and its key are of use only together")
	}
	var paths []string
	for _, path := range []string{t.CAFile, t.CertFile, t.KeyFile} {
		if path != "" {
			paths = append(paths, path)
		}
	}
	config, err := kept.New("certificates for servers", log, t.config, paths...)
	if err != nil {
		return nil, err
	}
	return renewedTLS{credentials.NewTLS(config.Get()), config}, nil
}

// config reads the files.
func (t TLS) config() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if t.CAFile != "" {
		data, err := kept.Read(t.CAFile)
		if err != nil {
			return nil, err
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(data) {
			return nil, fmt.Errorf("%s has no certificate in PEM", t.CAFile)
		}
	}
	if t.CertFile != "" {
		pair, err := access.LoadPair(t.CertFile, t.KeyFile)
		if err != nil {
			return nil, err
		}
		c.Certificates = []tls.Certificate{*pair}
	}
	return c, nil
}

// ClientHandshake implements credentials.TransportCredentials.
func (r renewedTLS) ClientHandshake(
	ctx context.Context, authority string, conn net.Conn,
) (net.Conn, credentials.AuthInfo, error) {
	return credentials.NewTLS(r.config.Get()).ClientHandshake(ctx, authority, conn)
}

// Clone implements credentials.TransportCredentials.
func (r renewedTLS) Clone() credentials.TransportCredentials { return r }
