package load

import (
	"errors"
	"fmt"
	"time"
)

// order has one of its fields.
type order struct {
	Connect *connection `json:"connect"`
	Run     *segment    `json:"run"`
}

// connection says where the calls to a target go, and what each sends.
type connection struct {
	Name        string      `json:"name"`
	Address     string      `json:"address"`      // HOST:PORT, a list of them, or unix:/PATH; of the pipe and in process a folder
	CA          string      `json:"ca"`           // of gRPC: the file of the authority that signs the server's certificate, or nothing
	Hand        string      `json:"hand"`         // the way to call at the caller's hand, or nothing for ready bytes; see hand.go
	Method      string      `json:"method"`       // of gRPC: /package.Service/Method; or else Path
	Stream      bool        `json:"stream"`       // send the messages as a stream, and read replies to the end
	Path        string      `json:"path"`         // of HTTP, to which the message is posted
	ContentType string      `json:"content_type"` // of HTTP
	Metadata    [][2]string `json:"metadata"`     // of gRPC; headers of HTTP
	Messages    [][]byte    `json:"messages"`     // ready bytes
	Like        string      `json:"like"`         // in place of messages: the target that has the same
	Connections int         `json:"connections"`  // to each address
	TimeoutS    float64     `json:"timeout_s"`
}

func (c connection) ready() [][]byte { return c.Messages }

func (c connection) timeout() time.Duration { return time.Duration(c.TimeoutS * float64(time.Second)) }

// connect makes the connections of a target. A server that cannot be reached is no error here: the calls say it.
func connect(c connection, own Ways) (target, error) {
	switch {
	case c.Hand != "" && c.TimeoutS > 0 && c.Connections > 0 && len(c.Messages) == 1:
		return newHand(c, own)
	case (c.Method == "") == (c.Path == ""):
		return nil, errors.New("a target has a method of gRPC, or a path of HTTP")
	case c.Connections < 1:
		return nil, fmt.Errorf("a target needs at least one connection (got %d)", c.Connections)
	case c.TimeoutS <= 0:
		return nil, fmt.Errorf("timeout_s must be above 0 (got %g)", c.TimeoutS)
	case len(c.Messages) != 1 && !c.Stream:
		return nil, fmt.Errorf("a call that is no stream sends one message (got %d)", len(c.Messages))
	case c.Method != "":
		return newGRPC(c)
	}
	return newHTTP(c), nil
}

// segment is a stretch of calls to one target: a closed loop of callers, or an open loop if a rate is given.
type segment struct {
	Target   string  `json:"target"`
	Calls    int     `json:"calls"`
	Callers  int     `json:"callers"`    // of a closed loop; each waits for its answer before it asks again
	RatePerS float64 `json:"rate_per_s"` // of an open loop
	Arrivals string  `json:"arrivals"`   // of an open loop: poisson or constant
	Seed     uint64  `json:"seed"`
}

func (s segment) check() error {
	switch {
	case s.Calls < 1:
		return fmt.Errorf("a segment has at least one call (got %d)", s.Calls)
	case s.RatePerS < 0:
		return fmt.Errorf("rate_per_s must not be below 0 (got %g)", s.RatePerS)
	case s.RatePerS == 0 && s.Callers < 1:
		return fmt.Errorf("a closed loop has at least one caller (got %d)", s.Callers)
	case s.RatePerS > 0 && s.Arrivals != poisson && s.Arrivals != constant:
		return fmt.Errorf("arrivals must be %s or %s (got %q)", poisson, constant, s.Arrivals)
	}
	return nil
}

// report is the answer to a segment. Each column has a value for each call; times are nanoseconds from the start.
type report struct {
	ScheduledNs []int64  `json:"scheduled_ns"`
	SentNs      []int64  `json:"sent_ns"`
	FirstNs     []int64  `json:"first_ns"` // when a stream's first reply came; 0 if none did
	DoneNs      []int64  `json:"done_ns"`
	Code        []string `json:"code"`
	ReplyBytes  []int    `json:"reply_bytes"`
	Timing      []string `json:"timing"`

	CPUS      float64 `json:"cpu_s"`      // what this process computed, seconds
	SpunS     float64 `json:"spun_s"`     // as much of it was spent waiting for the schedule
	ElapsedS  float64 `json:"elapsed_s"`  // by the clock
	Cores     int     `json:"cores"`      // that this process may use
	BusyShare float64 `json:"busy_share"` // of these cores
	Redials   int64   `json:"redials"`    // connections made anew during the segment, within the time of calls
}

// failure is the answer to an order that cannot be carried out.
type failure struct {
	Error string `json:"error"`
}
