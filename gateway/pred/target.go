package pred

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/resolver"
)

// windowBytes is how much of its answers a server may send ahead.
const windowBytes = 4 << 20

// dial returns the target as gRPC takes it, and the options of every connection.
func (o *options) dial(target string) (string, []grpc.DialOption, error) {
	address, resolvers, several, err := resolve(target)
	if err != nil {
		return "", nil, fmt.Errorf("pred: %w", err)
	}
	if err := o.secure(target); err != nil {
		return "", nil, err
	}
	dialOptions := []grpc.DialOption{
		grpc.WithTransportCredentials(o.credentials),
		grpc.WithResolvers(resolvers...),
		grpc.WithDefaultServiceConfig(serviceConfig(o.retries, several)),
		// The name service gives addresses. What calls are to do is said here alone.
		grpc.WithDisableServiceConfig(),
		// A proxy that the environment names is meant for the web, not for the server next door.
		grpc.WithNoProxy(),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallSendMsgSize(o.maxMessageBytes),
			grpc.MaxCallRecvMsgSize(o.maxMessageBytes),
			// A request of over 256 KiB would not be kept, and so not sent again, without a word.
			grpc.MaxRetryRPCBufferSize(o.maxMessageBytes),
		),
		// Windows of a fixed size, so that gRPC does not ping to find out one with each reply.
		grpc.WithInitialWindowSize(windowBytes),
		grpc.WithInitialConnWindowSize(windowBytes),
		// A server that comes back is found within a second: 800 ms and 20 % jitter.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 800 * time.Millisecond},
			MinConnectTimeout: 2 * time.Second,
		}),
		// No ping is ever due, since gRPC servers close connections that ping often. What this is for is Timeout: it
		// becomes the socket's TCP_USER_TIMEOUT, so that a connection to a machine that vanished is given up after 20
		// seconds, not after a quarter of an hour.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 48 * time.Hour, Timeout: 20 * time.Second}),
	}
	if o.bearer != nil {
		dialOptions = append(dialOptions, grpc.WithPerRPCCredentials(o.bearer))
	}
	return address, append(dialOptions, o.dialOptions...), nil
}

// serviceConfig says how gRPC retries and balances; https://github.com/grpc/grpc/blob/master/doc/service_config.md.
func serviceConfig(retries int, several bool) string {
	var parts []string
	if retries > 0 {
		parts = append(parts, fmt.Sprintf(`"methodConfig": [{
			"name": [{"service": "prediction.Prediction"}],
			"retryPolicy": {
				"maxAttempts": %d, "initialBackoff": "0.25s", "backoffMultiplier": 3, "maxBackoff": "4s",
				"retryableStatusCodes": ["UNAVAILABLE"]
			}
		}]`, 1+retries))
	}
	balancer := renewOne
	if several {
		balancer = renewAll
	}
	parts = append(parts, fmt.Sprintf(`"loadBalancingConfig": [{%q: {}}]`, balancer))
	return "{" + strings.Join(parts, ", ") + "}"
}

// CheckTarget returns an error for a target that New cannot use.
func CheckTarget(target string) error {
	_, _, _, err := resolve(target)
	return err
}

// resolve reads a target as New describes it. It reports whether there may be several servers behind it.
func resolve(target string) (address string, resolvers []resolver.Builder, several bool, err error) {
	if strings.HasPrefix(target, "unix:/") {
		return target, nil, false, checkSocket(target)
	}
	if name, ok := strings.CutPrefix(target, "dns:///"); ok {
		return target, nil, true, checkAddress(target, name)
	}
	addresses := strings.Split(target, ",")
	for i, one := range addresses {
		addresses[i] = strings.TrimSpace(one)
		if err := checkAddress(target, addresses[i]); err != nil {
			return "", nil, false, err
		}
	}
	if len(addresses) == 1 {
		return "dns:///" + addresses[0], nil, false, nil
	}
	return listScheme + ":///servers", []resolver.Builder{newList(addresses)}, true, nil
}

// checkAddress returns an error unless an address, which is target or a part of it, is HOST:PORT.
func checkAddress(target, address string) error {
	host, port, err := net.SplitHostPort(address)
	number, portErr := strconv.ParseUint(port, 10, 16)
	if err != nil || portErr != nil || number == 0 || host == "" || strings.ContainsAny(host, "/@ ") {
		return fmt.Errorf("the target must be HOST:PORT, a list HOST:PORT,HOST:PORT, dns:///HOST:PORT, or unix:/PATH, "+
			"for example 127.0.0.1:50051 (got %.100q)", target)
	}
	return nil
}

// maxPathBytes is how long the path of a Unix socket may be, without the byte that ends it.
const maxPathBytes = 107

// checkSocket returns an error unless target is unix:/PATH, which may also be written unix:///PATH.
func checkSocket(target string) error {
	path := strings.TrimPrefix(strings.TrimPrefix(target, "unix:"), "//")
	odd := func(r rune) bool { return !unicode.IsPrint(r) || strings.ContainsRune(" %?#,\\", r) } // in a URI, or a list
	switch {
	case !strings.HasPrefix(path, "/") || strings.HasPrefix(path, "//"):
		return fmt.Errorf("the path of the socket's file must begin with one /, as in unix:/tmp/pred.sock (got %.100q)", target)
	case strings.ContainsFunc(path, odd) || !utf8.ValidString(path):
		return fmt.Errorf("the path of the socket's file must have no white space, and none of %%?#,\\ (got %.100q)", target)
	case len(path) > maxPathBytes:
		return fmt.Errorf("the path of a socket's file may have %d bytes (%.100q has %d)", maxPathBytes, target, len(path))
	}
	return nil
}

// listScheme is how gRPC calls a list of addresses.
const listScheme = "list"

// list resolves to the same addresses for ever.
type list struct{ resolver.State }

func newList(addresses []string) list {
	var l list
	for _, address := range addresses {
		// ServerName is what a server's certificate is checked against, and what it is told that it was called.
		one := resolver.Address{Addr: address, ServerName: address}
		l.Endpoints = append(l.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{one}})
	}
	return l
}

func (list) Scheme() string { return listScheme }

func (l list) Build(_ resolver.Target, conn resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	return l, conn.UpdateState(l.State)
}

func (list) ResolveNow(resolver.ResolveNowOptions) {}

func (list) Close() {}
