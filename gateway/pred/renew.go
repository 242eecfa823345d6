package pred

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/base"
	"google.golang.org/grpc/balancer/endpointsharding"
	"google.golang.org/grpc/balancer/pickfirst"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"
)

// Behind one address there may be several servers, one after the other: a forwarder or a load balancer leads new connections
// to a healthy one, and a server's successor takes over its port. But a connection stays with the server that it was made
// to. While that one stops, and a stream or a slow call keeps the connection open, it refuses every new call.
//
// So these balancers watch the server's health (https://github.com/grpc/grpc/blob/master/doc/health-checking.md). Once
// that is not SERVING they make another connection beside the first, again and again. As soon as one leads to a server
// that serves, new calls go there; those in flight end where they began. Until then:
//
//   - renewOne, for a client of one address, asks the first server on, whatever it says of itself: it may be the only one.
//   - renewAll, for several addresses, leaves that address out, and has the others asked in turn.
const (
	renewOne = "pred_renew_one"
	renewAll = "pred_renew_all"
)

// The pauses between two tries to reach a server that serves; each is twice the one before.
const (
	firstPause   = 500 * time.Millisecond
	longestPause = 5 * time.Second
)

// A connection that others have taken over from stays open so long. A call may have chosen it, and not begun on it: if the
// connection were closed at that moment, gRPC would have the call wait until all others on it have ended.
const handover = time.Second

func init() {
	balancer.Register(renewBuilder{renewOne, func(cc balancer.ClientConn, o balancer.BuildOptions) balancer.Balancer {
		return &renewer{cc: cc, options: o}
	}})
	balancer.Register(renewBuilder{renewAll, func(cc balancer.ClientConn, o balancer.BuildOptions) balancer.Balancer {
		return endpointsharding.NewBalancer(cc, o, func(cc balancer.ClientConn, o balancer.BuildOptions) balancer.Balancer {
			return &renewer{cc: cc, options: o, leaveOut: true}
		}, endpointsharding.Options{})
	}})
}

// renewBuilder builds one of the balancers.
type renewBuilder struct {
	name  string
	build func(balancer.ClientConn, balancer.BuildOptions) balancer.Balancer
}

func (b renewBuilder) Name() string { return b.name }

func (b renewBuilder) Build(cc balancer.ClientConn, o balancer.BuildOptions) balancer.Balancer {
	return b.build(cc, o)
}

// renewer is the balancer of one address. Its mutex is not held while a generation is called, which may call back.
type renewer struct {
	cc       balancer.ClientConn
	options  balancer.BuildOptions
	leaveOut bool // a server that does not serve is not asked

	mu      sync.Mutex
	target  balancer.ClientConnState
	current *generation // which calls go to
	next    *generation // which takes over if it serves; nil while the current one serves
	pause   time.Duration
	timer   *time.Timer
	closed  bool
}

// generation is a connection to one of the servers behind the address. gRPC's own balancer for one address makes it, and
// makes it anew when it breaks.
type generation struct {
	balancer.ClientConn
	owner    *renewer
	balancer balancer.Balancer
	state    balancer.State
	known    bool // the server has said how it is, or has no health service
	refusing bool // that it does not serve
}

func (r *renewer) generation() *generation {
	g := &generation{ClientConn: r.cc, owner: r}
	g.balancer = balancer.Get(pickfirst.Name).Build(g, r.options)
	return g
}

// UpdateClientConnState implements balancer.Balancer.
func (r *renewer) UpdateClientConnState(s balancer.ClientConnState) error {
	s.BalancerConfig = nil // it is ours, and empty
	r.mu.Lock()
	r.target = s
	if r.current == nil {
		r.current = r.generation()
	}
	current, next := r.current, r.next
	r.mu.Unlock()
	if next != nil {
		_ = next.balancer.UpdateClientConnState(s) // as the current one says below
	}
	return current.balancer.UpdateClientConnState(s)
}

// ResolverError implements balancer.Balancer.
func (r *renewer) ResolverError(err error) {
	r.mu.Lock()
	if r.current == nil {
		r.current = r.generation()
	}
	current := r.current
	r.mu.Unlock()
	current.balancer.ResolverError(err)
}

// UpdateSubConnState implements balancer.Balancer, for versions of gRPC that are gone.
func (*renewer) UpdateSubConnState(balancer.SubConn, balancer.SubConnState) {}

// ExitIdle implements balancer.Balancer.
func (r *renewer) ExitIdle() {
	r.mu.Lock()
	current := r.current
	r.mu.Unlock()
	if current != nil {
		current.balancer.ExitIdle()
	}
}

// Close implements balancer.Balancer.
func (r *renewer) Close() {
	r.mu.Lock()
	r.closed = true
	left := []*generation{r.current, r.next}
	r.current, r.next = nil, nil
	r.stopTimer()
	r.mu.Unlock()
	closeAll(left...)
}

func closeAll(generations ...*generation) {
	for _, g := range generations {
		if g != nil {
			g.balancer.Close()
		}
	}
}

// UpdateState implements balancer.ClientConn for the balancer of a generation.
func (g *generation) UpdateState(s balancer.State) {
	r := g.owner
	r.mu.Lock()
	defer r.mu.Unlock()
	g.state = s
	if s.ConnectivityState != connectivity.Ready {
		g.known, g.refusing = false, false // of the next connection nothing is known
	}
	if g == r.current {
		r.publish()
	}
}

// errRefusing is why a server is left out.
var errRefusing = status.Error(codes.Unavailable, "the connection stands, and the server's health is not SERVING")

// publish has calls go to the current generation.
func (r *renewer) publish() {
	state := r.current.state
	if r.leaveOut && state.ConnectivityState == connectivity.Ready {
		switch {
		case r.current.refusing:
			state = balancer.State{ConnectivityState: connectivity.TransientFailure, Picker: base.NewErrPicker(errRefusing)}
		case !r.current.known:
			state = balancer.State{
				ConnectivityState: connectivity.Connecting, Picker: base.NewErrPicker(balancer.ErrNoSubConnAvailable),
			}
		}
	}
	r.cc.UpdateState(state)
}

// NewSubConn implements balancer.ClientConn for the balancer of a generation: it has the health watched.
func (g *generation) NewSubConn(addresses []resolver.Address, o balancer.NewSubConnOptions) (balancer.SubConn, error) {
	listener := o.StateListener
	var conn balancer.SubConn
	o.StateListener = func(s balancer.SubConnState) {
		listener(s)
		if s.ConnectivityState == connectivity.Ready {
			// gRPC closes it with the connection.
			conn.GetOrBuildProducer(&healthWatch{heard: g.heard})
		}
	}
	var err error
	//lint:ignore SA1019 what is deprecated is a list of several addresses, and pick_first gives it one
	conn, err = g.ClientConn.NewSubConn(addresses, o)
	return conn, err
}

// heard takes what a server says of its health.
func (g *generation) heard(serving bool) {
	r := g.owner
	r.mu.Lock()
	g.known, g.refusing = true, !serving
	var left *generation
	renew := false
	switch {
	case g == r.current:
		if serving {
			left, r.next = r.next, nil
			r.stopTimer()
		} else if r.timer == nil {
			renew, r.pause = true, firstPause
		}
		r.publish()
	case g == r.next && serving:
		// Its connection goes once its calls have ended.
		time.AfterFunc(handover, r.current.balancer.Close)
		r.current, r.next = r.next, nil
		r.stopTimer()
		r.publish()
	}
	r.mu.Unlock()
	closeAll(left)
	if renew {
		r.renew()
	}
}

// renew tries to reach another server, if the current one still refuses, and comes back after a pause.
func (r *renewer) renew() {
	r.mu.Lock()
	left := r.next
	r.next = nil
	r.stopTimer()
	var next *generation
	if !r.closed && r.current.refusing {
		next = r.generation()
		r.next = next
		r.timer = time.AfterFunc(r.pause, r.renew)
		r.pause = min(2*r.pause, longestPause)
	}
	target := r.target
	r.mu.Unlock()
	closeAll(left)
	if next != nil {
		_ = next.balancer.UpdateClientConnState(target) // an error is one of the name, which the current one has too
	}
}

func (r *renewer) stopTimer() {
	if r.timer != nil {
		r.timer.Stop()
		r.timer = nil
	}
}

// healthWatch asks a server for its health, and hears of each change, for as long as the connection lasts.
type healthWatch struct{ heard func(serving bool) }

// Build implements balancer.ProducerBuilder.
func (w *healthWatch) Build(conn any) (balancer.Producer, func()) {
	ctx, cancel := context.WithCancel(context.Background())
	go w.run(ctx, conn.(grpc.ClientConnInterface))
	return w, cancel
}

// run watches until ctx is done, or the server turns out to have no health service. A server that has none, or that refuses
// to tell us, is taken for one that serves: if it does not, calls get its error.
func (w *healthWatch) run(ctx context.Context, conn grpc.ClientConnInterface) {
	for pause := firstPause; ctx.Err() == nil; pause = min(2*pause, longestPause) {
		watch, err := grpc_health_v1.NewHealthClient(conn).Watch(ctx, &grpc_health_v1.HealthCheckRequest{})
		for err == nil {
			var health *grpc_health_v1.HealthCheckResponse
			if health, err = watch.Recv(); err == nil && ctx.Err() == nil {
				w.heard(health.GetStatus() == grpc_health_v1.HealthCheckResponse_SERVING)
				pause = firstPause
			}
		}
		switch status.Code(err) {
		case codes.Unimplemented:
			w.heard(true)
			return
		case codes.Unauthenticated, codes.PermissionDenied:
			w.heard(true)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}
