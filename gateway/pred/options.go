package pred

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
)

// What holds unless an option says otherwise, and the most that options take.
const (
	DefaultTimeout         = 30 * time.Second
	DefaultRetries         = MaxRetries
	DefaultMaxMessageBytes = 64 << 20

	MaxRetries     = 4 // the most that gRPC does
	MaxConnections = 1024
)

// Option configures a Client.
type Option func(*options)

type options struct {
	timeout         time.Duration
	retries         int
	connections     int
	maxMessageBytes int
	credentials     credentials.TransportCredentials
	tls             *TLS
	token           string
	tokenFile       string
	bearer          bearer // nil without a token
	log             *slog.Logger
	call            []CallOption
	dialOptions     []grpc.DialOption
}

func defaults() options {
	return options{
		timeout:         DefaultTimeout,
		retries:         DefaultRetries,
		connections:     1,
		maxMessageBytes: DefaultMaxMessageBytes,
		credentials:     insecure.NewCredentials(),
		log:             slog.Default(),
	}
}

func (o *options) check() error {
	if o.timeout <= 0 {
		return fmt.Errorf("pred: the timeout must be positive (got %v)", o.timeout)
	}
	if o.retries < 0 || o.retries > MaxRetries {
		return fmt.Errorf("pred: retries must be between 0 and %d (got %d)", MaxRetries, o.retries)
	}
	if o.connections < 1 || o.connections > MaxConnections {
		return fmt.Errorf("pred: connections must be between 1 and %d (got %d)", MaxConnections, o.connections)
	}
	if o.maxMessageBytes < 1 || o.maxMessageBytes > math.MaxInt32 {
		return fmt.Errorf("pred: the largest message must be between 1 and %d bytes (got %d)", math.MaxInt32, o.maxMessageBytes)
	}
	_, err := withMetadata(context.Background(), o.call, nil)
	return err
}

// WithTimeout sets the deadline of calls whose context has none; DefaultTimeout without it. Streams have no deadline but
// their context's.
func WithTimeout(d time.Duration) Option {
	return func(o *options) { o.timeout = d }
}

// WithRetries sets how often a call is tried again whose server is UNAVAILABLE: away, stopping, or lost on the way; from
// 0 to MaxRetries. Predicting changes nothing, so that trying again is safe. The pauses between tries are 0.25, 0.75,
// 2.25 and 4 seconds, about: time to start a server anew. A stream is retried until its first answer has come.
func WithRetries(n int) Option {
	return func(o *options) { o.retries = n }
}

// WithConnections sets how many connections there are to each server, used in turn; 1 without it.
func WithConnections(n int) Option {
	return func(o *options) { o.connections = n }
}

// WithMaxMessageBytes limits messages in both directions; DefaultMaxMessageBytes without it, as the server's own limit
// is. gRPC's limit of 4 MiB for replies would refuse half a million predictions.
func WithMaxMessageBytes(n int) Option {
	return func(o *options) { o.maxMessageBytes = n }
}

// WithCallOptions sets what all calls ask for, unless a call's own option says otherwise.
func WithCallOptions(opts ...CallOption) Option {
	return func(o *options) { o.call = append(o.call, opts...) }
}

// WithTransportCredentials has connections encrypted in a way of one's own; WithTLS is easier.
func WithTransportCredentials(c credentials.TransportCredentials) Option {
	return func(o *options) { o.credentials = c }
}

// WithDialOptions adds options of gRPC's own, such as interceptors. They come after the client's, and may override them.
func WithDialOptions(opts ...grpc.DialOption) Option {
	return func(o *options) { o.dialOptions = append(o.dialOptions, opts...) }
}

// CallOption says what a call asks for.
type CallOption func(map[string]string)

// Model asks for the model of that name. Without it, the server's first model answers.
func Model(name string) CallOption {
	return func(metadata map[string]string) { metadata["model-name"] = name }
}

// Version asks for that version of the model. Without it, the server chooses.
func Version(version string) CallOption {
	return func(metadata map[string]string) { metadata["model-version"] = version }
}

// Probabilities asks a classifier for the probability of each class in place of its label: the predictions then have a
// column for each class.
func Probabilities() CallOption {
	return func(metadata map[string]string) { metadata["output"] = "probabilities" }
}

// ExpectSchema asks the server to refuse the call, before anything is predicted, unless the model's schema has this hash
// (Identity.SchemaHash). Without it, a call expects the schema that the client's Describe last gave for the model, if it
// gave one; when that is refused, the client describes the model anew and asks once more.
func ExpectSchema(hash string) CallOption {
	return func(metadata map[string]string) { metadata[keyExpect] = hash }
}

// RequestID names the call in the server's log.
func RequestID(id string) CallOption {
	return func(metadata map[string]string) { metadata["x-request-id"] = id }
}

// withMetadata returns ctx with what the options ask for; later options win.
func withMetadata(ctx context.Context, common, own []CallOption) (context.Context, error) {
	if len(common)+len(own) == 0 {
		return ctx, nil
	}
	asked := map[string]string{}
	for _, opts := range [][]CallOption{common, own} {
		for _, opt := range opts {
			opt(asked)
		}
	}
	for key, value := range asked {
		for _, b := range []byte(value) {
			if b < ' ' || b > '~' {
				return nil, &Error{
					Code:       codes.InvalidArgument,
					Message:    fmt.Sprintf("%s must be printable ASCII (got %.60q)", key, value),
					Violations: []Violation{{key, "must be printable ASCII"}},
				}
			}
		}
		ctx = metadata.AppendToOutgoingContext(ctx, key, value)
	}
	return ctx, nil
}
