package balancer

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// A State says where an upstream is in its life.
type State string

// The states of an upstream. Only a Ready one that is not ejected is in the rotation.
const (
	Starting State = "starting" // has not passed its health check yet
	Ready    State = "ready"
	Down     State = "down"     // failed its health check; used only if no upstream is better, and not if it is silent
	Draining State = "draining" // gets no new request, for ever
	Dead     State = "dead"     // known to be dead, or removed
)

// An upstream is one worker process. The fields below the line are guarded by Balancer.mu.
type upstream struct {
	name, host string
	transport  *http.Transport // of its own, so that its idle connections can be dropped when it dies
	drained    chan struct{}   // closed when it is retired and nothing is in flight
	kick       chan struct{}   // asks for a probe now
	retired    context.Context // ends when it starts to drain or is dead
	cancel     context.CancelFunc
	fails      atomic.Int64 // consecutive broken connections

	// ----

	state        State
	mute         int             // consecutive probes without any answer
	alive        context.Context // of requests that wait for an answer; ends when the upstream falls mute
	giveUp       context.CancelCauseFunc
	requests     uint64
	inFlight     int
	failures     uint64
	good, bad    int // consecutive probes
	ejectedAt    time.Time
	ejectedUntil time.Time // zero: not ejected
}

func newUpstream(b *Balancer, name, host string) *upstream {
	up := &upstream{
		name:    name,
		host:    host,
		state:   Starting,
		drained: make(chan struct{}),
		kick:    make(chan struct{}, 1),
	}
	up.retired, up.cancel = context.WithCancel(context.Background())
	up.alive, up.giveUp = context.WithCancelCause(context.Background())
	up.transport = &http.Transport{
		// Proxy is nil: the environment's proxy must not come between the balancer and its workers.
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := b.dial(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return &conn{Conn: c}, nil
		},
		MaxIdleConnsPerHost: 512, // the default of 2 would dial for nearly every request under load
		// Shorter than any sane server's own, for the server that closes an idle connection races with the next request on it.
		IdleConnTimeout:        30 * time.Second,
		ResponseHeaderTimeout:  b.opts.ResponseHeaderTimeout,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: 256 << 10,
		DisableCompression:     true, // what the client and the worker agree on passes as it is
	}
	return up
}

// errMute is why a request is taken away from an upstream.
var errMute = errors.New("balancer: the upstream does not answer its health checks")

// silent reports whether the upstream is down because it gives no answer at all, as a process that hangs or is stopped. The caller holds
// Balancer.mu.
func (up *upstream) silent() bool { return up.alive.Err() != nil }

// recovered ends the silence. The caller holds Balancer.mu.
func (up *upstream) recovered() {
	if up.silent() {
		up.alive, up.giveUp = context.WithCancelCause(context.Background())
	}
}

// ejected reports whether the upstream is ejected at this moment. The caller holds Balancer.mu.
func (up *upstream) ejected() bool {
	if up.ejectedUntil.IsZero() {
		return false
	}
	if time.Now().Before(up.ejectedUntil) {
		return true
	}
	up.ejectedUntil = time.Time{}
	up.fails.Store(0)
	return false
}

// retire takes the upstream out for ever. The caller holds Balancer.mu.
func (up *upstream) retire(s State) {
	first := up.retired.Err() == nil
	up.state = s
	up.cancel()
	if first && up.inFlight == 0 {
		close(up.drained)
	}
	up.transport.CloseIdleConnections()
}
