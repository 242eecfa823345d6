package web

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"strings"
	"time"

	"example.com/predserver/gateway/internal/presence"
)

// messageOverhead is more than protobuf adds around the one string of a message.
const messageOverhead = 1 << 10

// Options are the limits of a handler, and of the server around it. Begin with DefaultOptions.
type Options struct {
	Timeout        time.Duration // longest time for a prediction of a table that is not streamed
	MaxBodyBytes   int64         // largest body that is held whole, and largest row of any
	MaxStreamBytes int64         // largest body that is streamed
	ChunkBytes     int           // about the size of a stream's chunks
	BacklogBytes   int           // most predictions that a stream holds for a client that does not read them yet
	StallTimeout   time.Duration // longest time for a chunk to arrive, to be predicted, and to be taken
	ReadyTimeout   time.Duration // longest time that /readyz waits, and the page for the description of a model
	MaxBytesHeld   int64         // most that all requests hold together, in bytes; 0 is four times MaxBodyBytes, or more
	MaxRequests    int           // most requests that the prediction server is asked at the same time
	AllowHosts     []string      // names as which the gateway may be called, beside those of this machine
	Page           bool          // whether people and their tools are told what is served: /, /models and /openapi.json

	// Of the server around the handler; see Server.
	MaxHeaderBytes int
	HeaderTimeout  time.Duration
	ReadTimeout    time.Duration

	BodyIdleTimeout time.Duration // longest time between two pieces of a body that is held whole
	WriteTimeout    time.Duration
	IdleTimeout     time.Duration
}

// DefaultOptions returns what holds unless a flag says otherwise.
func DefaultOptions() Options {
	return Options{
		Timeout:        30 * time.Second,
		MaxBodyBytes:   64 << 20,
		MaxStreamBytes: 16 << 30,
		ChunkBytes:     1 << 20,
		BacklogBytes:   8 << 20,
		StallTimeout:   time.Minute,
		ReadyTimeout:   2 * time.Second,
		MaxRequests:    1000,
		Page:           true,
		MaxHeaderBytes: 32 << 10,
		HeaderTimeout:  5 * time.Second,
		ReadTimeout:    time.Minute,

		BodyIdleTimeout: 15 * time.Second,
		WriteTimeout:    time.Minute,
		IdleTimeout:     2 * time.Minute,
	}
}

// RegisterFlags has the flags set the options; their values at present are the defaults.
func (o *Options) RegisterFlags(flags *flag.FlagSet) {
	flags.DurationVar(&o.Timeout, "timeout", o.Timeout, "longest time for a prediction of a table that is not streamed")
	flags.Int64Var(&o.MaxBodyBytes, "max-body-bytes", o.MaxBodyBytes,
		"largest request body that is held whole: JSON, or CSV for a prediction server without streams; also the largest row of any")
	flags.Int64Var(&o.MaxStreamBytes, "max-stream-bytes", o.MaxStreamBytes, "largest request body that is streamed: CSV longer than a chunk")
	flags.IntVar(&o.ChunkBytes, "chunk-bytes", o.ChunkBytes, "about the size of the chunks in which CSV is streamed")
	flags.IntVar(&o.BacklogBytes, "backlog-bytes", o.BacklogBytes,
		"most predictions, in bytes, that a stream holds for a client that does not read them yet")
	flags.DurationVar(&o.StallTimeout, "stall-timeout", o.StallTimeout,
		"in a stream, longest time for a chunk to arrive, for its predictions to be made, and for the client to take them")
	flags.Int64Var(&o.MaxBytesHeld, "max-bytes-held", o.MaxBytesHeld,
		"most `bytes` that the bodies, messages and replies of all requests take together; "+
			"0 is four times -max-body-bytes, and 256 MiB at the least")
	flags.IntVar(&o.MaxRequests, "max-requests-in-flight", o.MaxRequests, "most requests that the prediction server is asked at the same time")
	flags.Func("allow-host", "`name` as which the gateway may be called (the Host header), beside localhost and its addresses; "+
		"several are separated by commas; * is any", func(names string) error {
		for name := range strings.SplitSeq(names, ",") {
			if name = strings.TrimSpace(name); name == "" || strings.ContainsAny(name, "/:@ ") {
				return errors.New("want names without a port, such as predictions.example.com")
			}
			o.AllowHosts = append(o.AllowHosts, name)
		}
		return nil
	})
	flags.BoolVar(&o.Page, "page", o.Page, "have a page for people at /, and what it says as JSON at /models and /openapi.json")
	flags.DurationVar(&o.BodyIdleTimeout, "body-idle-timeout", o.BodyIdleTimeout,
		"longest time between two pieces of a request body that is held whole")
	flags.IntVar(&o.MaxHeaderBytes, "max-header-bytes", o.MaxHeaderBytes, "largest request header")
	flags.DurationVar(&o.HeaderTimeout, "header-timeout", o.HeaderTimeout, "longest time to receive a request's header")
	flags.DurationVar(&o.ReadTimeout, "read-timeout", o.ReadTimeout, "longest time to receive a whole request, or a stream's first chunk")
	flags.DurationVar(&o.WriteTimeout, "write-timeout", o.WriteTimeout, "longest time to send a reply")
	flags.DurationVar(&o.IdleTimeout, "idle-timeout", o.IdleTimeout, "how long an idle connection is kept")
	flags.DurationVar(&o.ReadyTimeout, "ready-timeout", o.ReadyTimeout, "longest time that /readyz and the page wait for the prediction server")
}

// Check returns an error for values that cannot work. It names the flag at fault.
func (o Options) Check() error {
	// A protobuf message cannot be larger than 2 GiB.
	if o.MaxBodyBytes < 1 || o.MaxBodyBytes > math.MaxInt32-messageOverhead {
		return fmt.Errorf("-max-body-bytes must be between 1 and %d (got %d)", math.MaxInt32-messageOverhead, o.MaxBodyBytes)
	}
	if o.MaxStreamBytes < o.MaxBodyBytes {
		return fmt.Errorf("-max-stream-bytes must be at least -max-body-bytes, %d (got %d)", o.MaxBodyBytes, o.MaxStreamBytes)
	}
	if o.ChunkBytes < 1 || o.ChunkBytes > math.MaxInt32-messageOverhead {
		return fmt.Errorf("-chunk-bytes must be between 1 and %d (got %d)", math.MaxInt32-messageOverhead, o.ChunkBytes)
	}
	if o.BacklogBytes < 1 {
		return fmt.Errorf("-backlog-bytes must be 1 or more (got %d)", o.BacklogBytes)
	}
	if least := o.leastBytesHeld(); o.MaxBytesHeld != 0 && o.MaxBytesHeld < least {
		return fmt.Errorf("-max-bytes-held must be 0, or at least %d, so that one table of -max-body-bytes or -chunk-bytes has room (got %d)", least, o.MaxBytesHeld)
	}
	if o.MaxRequests < 1 {
		return fmt.Errorf("-max-requests-in-flight must be 1 or more (got %d)", o.MaxRequests)
	}
	if o.MaxHeaderBytes < 1<<10 || o.MaxHeaderBytes > 1<<20 {
		return fmt.Errorf("-max-header-bytes must be between 1024 and 1048576 (got %d)", o.MaxHeaderBytes)
	}
	for _, d := range []struct {
		flag  string
		value time.Duration
	}{
		{"-timeout", o.Timeout},
		{"-stall-timeout", o.StallTimeout},
		{"-header-timeout", o.HeaderTimeout},
		{"-read-timeout", o.ReadTimeout},
		{"-body-idle-timeout", o.BodyIdleTimeout},
		{"-write-timeout", o.WriteTimeout},
		{"-idle-timeout", o.IdleTimeout},
		{"-ready-timeout", o.ReadyTimeout},
	} {
		if err := CheckDuration(d.flag, d.value); err != nil {
			return err
		}
	}
	return nil
}

// CheckDuration returns an error for a time that cannot be meant. It names the flag.
func CheckDuration(flag string, d time.Duration) error {
	if d < time.Millisecond || d > 24*time.Hour {
		return fmt.Errorf("%s must be between 1ms and 24h (got %v)", flag, d)
	}
	return nil
}

// chunkBytes returns the size of chunks. A chunk is held whole, and so is a table that fits in one.
func (o Options) chunkBytes() int {
	return min(o.ChunkBytes, int(o.MaxBodyBytes))
}

// leastBytesHeld returns how many bytes the largest table takes for which all limits are right: held whole, with its
// message, or the chunks of a stream; and the eighth that is for small requests alone.
func (o Options) leastBytesHeld() int64 {
	return max(2*o.MaxBodyBytes, (ahead+2)*int64(o.chunkBytes()), 1<<20) * 8 / 7
}

// maxBytesHeld returns how many bytes all requests may hold together.
func (o Options) maxBytesHeld() int64 {
	if o.MaxBytesHeld > 0 {
		return o.MaxBytesHeld
	}
	return max(4*o.MaxBodyBytes, o.leastBytesHeld(), 256<<20)
}

// MemoryLimit returns how much memory the process may take before it looks harder for what is not used any more: for what
// is held, and for the connections.
func (o Options) MemoryLimit() int64 {
	return o.maxBytesHeld() + 128<<20
}

// MaxMessageBytes returns the largest message that the handler exchanges with the prediction server: what its client
// needs as pred.WithMaxMessageBytes.
func (o Options) MaxMessageBytes() int {
	// A short table may well have long predictions, so replies never get less room than gRPC's own default.
	return int(max(o.MaxBodyBytes, 4<<20)) + messageOverhead
}

// Server returns an HTTP server for the handler with every limit set: none of net/http's timeouts has a default.
func (o Options) Server(handler http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: o.HeaderTimeout,
		ReadTimeout:       o.ReadTimeout,
		// This clock starts when the header has been read, so it runs while the body arrives and the backend computes.
		WriteTimeout:   o.ReadTimeout + o.Timeout + o.WriteTimeout,
		IdleTimeout:    o.IdleTimeout,
		ConnContext:    presence.Connection,
		MaxHeaderBytes: o.MaxHeaderBytes,
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
}
