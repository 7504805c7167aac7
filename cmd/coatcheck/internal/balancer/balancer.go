// Package balancer spreads HTTP requests over the worker processes of a fleet, in strict rotation, so that a visitor does not notice when
// a worker starts, drains or dies.
//
// A [Balancer] is an [http.Handler] over [httputil.ReverseProxy]. It promises:
//
//   - A request that never reached a worker goes to another one, whatever its method. One that may have reached a worker is repeated only
//     if it is safe (GET, HEAD, OPTIONS or TRACE, without a body); otherwise it is answered 502 with [UnrepeatableHeader], and is never
//     delivered twice.
//   - A worker that falls silent, as one that is stopped or hangs, keeps nobody waiting: once its health checks have had no answer for a while
//     ([Options.Fall] of them), requests that wait for it go to another worker if they are safe, and are answered 504 otherwise.
//   - A worker enters the rotation once its health check passes, and leaves it when checks fail, when connections to it fail, when it
//     drains, or when the caller says that it is dead. A worker's own 5xx and a client that hangs up are no reason to leave.
//   - The answer of a worker that breaks off is not passed on in part if it is short and says its length; then it is as if there was none.
//   - Other bodies are streamed; WebSockets and server-sent events pass through and count as in flight until they end.
//   - X-Forwarded-* and [SecretHeader] come from the balancer alone, never from outside.
package balancer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/latency"
)

// Options tune a [Balancer]. A nil *Options means all defaults.
type Options struct {
	// Secret is sent to the workers in [SecretHeader], for [RequireSecret] to check. If zero, the header is not sent.
	Secret string

	// Logger receives changes of state and, at a bounded rate, failures. If zero, slog.Default() is used.
	Logger *slog.Logger

	// HealthPath is the path that is probed with GET; any 2xx status is a pass. If zero, it is "/readyz".
	HealthPath string

	// NoHealthChecks turns active health checks off. If zero, they are on, and an upstream gets no request before Run saw it pass.
	NoHealthChecks bool

	// HealthInterval is the time between two probes of an upstream in the rotation; one that is not is probed more often. If zero,
	// it is one second.
	HealthInterval time.Duration

	// HealthTimeout bounds one probe. If zero, it is one second.
	HealthTimeout time.Duration

	// Rise is the number of consecutive passes that bring an upstream in. If zero, it is 2.
	Rise int

	// Fall is the number of consecutive failed probes that take an upstream out. If zero, it is 3.
	Fall int

	// MaxFails is the number of consecutive connections broken by an upstream, without any answer between them, that eject it. A
	// failed dial ejects at once. If zero, it is 3: an application that aborts its connection now and then is not a dead one.
	MaxFails int

	// EjectFor is how long an ejected upstream is left out when no probe brings it back earlier. If zero, it is 5 seconds.
	EjectFor time.Duration

	// QueueTimeout is how long a request that has reached no upstream may wait for one to become ready. If zero, it does not wait
	// and is answered 503 at once.
	QueueTimeout time.Duration

	// Sticky, if not "", is the name of a cookie by which a client comes back to the upstream that answered it first, for as long as that is
	// ready: what apps need whose sessions are in the memory of one server. The rotation decides for everybody else.
	Sticky string

	// DialTimeout bounds connecting to an upstream. If zero, it is one second: upstreams are near.
	DialTimeout time.Duration

	// ResponseHeaderTimeout bounds the wait for an upstream's response headers once the request was sent. If zero, it is one minute.
	ResponseHeaderTimeout time.Duration
}

func (o *Options) withDefaults() Options {
	var d Options
	if o != nil {
		d = *o
	}
	if d.Logger == nil {
		d.Logger = slog.Default()
	}
	if d.HealthPath == "" {
		d.HealthPath = "/readyz"
	}
	defaultTo(&d.HealthInterval, time.Second)
	defaultTo(&d.HealthTimeout, time.Second)
	defaultTo(&d.Rise, 2)
	defaultTo(&d.Fall, 3)
	defaultTo(&d.MaxFails, 3)
	defaultTo(&d.EjectFor, 5*time.Second)
	defaultTo(&d.DialTimeout, time.Second)
	defaultTo(&d.ResponseHeaderTimeout, time.Minute)
	return d
}

func defaultTo[T int | time.Duration](v *T, def T) {
	if *v <= 0 {
		*v = def
	}
}

// ErrUnknownUpstream is returned for a name that was never added, or was removed.
var ErrUnknownUpstream = errors.New("balancer: no upstream of that name")

// A Balancer is an [http.Handler] that spreads requests over upstreams. Its methods may be called concurrently.
type Balancer struct {
	opts  Options
	log   *limitedLog
	proxy httputil.ReverseProxy // copied per request: each has its own Transport
	dial  func(ctx context.Context, network, addr string) (net.Conn, error)

	requests, retries, noUpstream, unrepeatable, clientGone atomic.Uint64

	waiting atomic.Int64 // requests in the queue for an upstream
	load    gauge        // requests, in flight or in that queue
	waits   latency.Histogram

	mu      sync.Mutex
	ring    []*upstream   // in the order of Add
	next    int           // index into ring where the rotation goes on
	changed chan struct{} // closed and replaced whenever the set of upstreams or a state changes
	run     context.Context
	probers sync.WaitGroup
}

// New returns a balancer without upstreams. Unless [Options.NoHealthChecks] is set, [Balancer.Run] must run for upstreams to come in.
func New(opts *Options) *Balancer {
	b := &Balancer{opts: opts.withDefaults(), changed: make(chan struct{})}
	b.log = &limitedLog{logger: b.opts.Logger}
	b.dial = (&net.Dialer{Timeout: b.opts.DialTimeout}).DialContext
	b.proxy = newProxy(b.opts.Secret)
	return b
}

// Add adds an upstream: an http URL with a host and nothing else. It enters the rotation after the last one once it is ready. The name must
// be new, and is what the other methods and the status call it.
func (b *Balancer) Add(name string, u *url.URL) error {
	if u == nil || u.Scheme != "http" || u.Host == "" || (u.Path != "" && u.Path != "/") || u.RawQuery != "" || u.User != nil {
		return fmt.Errorf("balancer: add %q: the URL must be http://host:port with nothing after it", name)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.find(name) != nil {
		return fmt.Errorf("balancer: add %q: the name is in use; remove that upstream first or choose another name", name)
	}
	up := newUpstream(b, name, u.Host)
	if b.opts.NoHealthChecks {
		up.state = Ready
	}
	b.ring = append(b.ring, up)
	b.watch(up)
	b.broadcast()
	return nil
}

// Remove forgets the upstream: it gets no new request, and those in flight go on. Drain it first to wait for them.
func (b *Balancer) Remove(name string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := slices.IndexFunc(b.ring, func(up *upstream) bool { return up.name == name })
	if i < 0 {
		return fmt.Errorf("balancer: remove %q: %w", name, ErrUnknownUpstream)
	}
	up := b.ring[i]
	b.ring = slices.Delete(b.ring, i, i+1)
	if i < b.next {
		b.next-- // the rotation goes on where it was
	}
	up.retire(Dead)
	b.broadcast()
	return nil
}

// MarkDead says that the upstream's process is known to be dead: no new request is routed to it from now on. Requests in flight find out by
// their connections. It stays in the status until it is removed.
func (b *Balancer) MarkDead(name string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	up := b.find(name)
	if up == nil {
		return fmt.Errorf("balancer: mark dead %q: %w", name, ErrUnknownUpstream)
	}
	up.retire(Dead)
	b.broadcast()
	return nil
}

// Drain stops routing requests to the upstream at once and waits until none is in flight there, WebSockets and event streams included. On
// return without an error nothing reaches the process any more, and it can be told to end. If ctx ends first, the error wraps ctx's and the
// upstream goes on draining. A drained upstream never comes back; remove it.
func (b *Balancer) Drain(ctx context.Context, name string) error {
	b.mu.Lock()
	up := b.find(name)
	if up == nil {
		b.mu.Unlock()
		return fmt.Errorf("balancer: drain %q: %w", name, ErrUnknownUpstream)
	}
	if up.state != Dead {
		up.retire(Draining)
		b.broadcast()
	}
	b.mu.Unlock()

	select {
	case <-up.drained:
	case <-ctx.Done():
		b.mu.Lock()
		left := up.inFlight
		b.mu.Unlock()
		if left > 0 {
			return fmt.Errorf("balancer: drain %q: %d requests still in flight: %w", name, left, context.Cause(ctx))
		}
	}
	up.transport.CloseIdleConnections() // connections of the last requests
	return nil
}

// WaitReady waits until the upstream is in the rotation.
func (b *Balancer) WaitReady(ctx context.Context, name string) error {
	return b.wait(ctx, name, Ready)
}

// WaitDown waits until the upstream, which was ready, is held down because its health checks fail. The error is as that of
// [Balancer.WaitReady].
func (b *Balancer) WaitDown(ctx context.Context, name string) error {
	return b.wait(ctx, name, Down)
}

// wait waits until the upstream is in the state.
func (b *Balancer) wait(ctx context.Context, name string, want State) error {
	for {
		b.mu.Lock()
		up, changed := b.find(name), b.changed
		if up == nil {
			b.mu.Unlock()
			return fmt.Errorf("balancer: wait for %q: %w", name, ErrUnknownUpstream)
		}
		state := up.state
		b.mu.Unlock()
		switch state {
		case want:
			return nil
		case Draining, Dead:
			return fmt.Errorf("balancer: wait for %q: it is %s and will not be %s again", name, state, want)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("balancer: wait for %q: %w", name, context.Cause(ctx))
		}
	}
}

// ServeHTTP forwards the request to the upstream whose turn it is.
func (b *Balancer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.requests.Add(1)
	began := b.load.add(1)
	defer b.load.add(-1)
	if r.Method == http.MethodConnect { // a tunnel to wherever the client likes is no business of ours
		w.Header().Set("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
		writeError(w, r, http.StatusMethodNotAllowed)
		return
	}
	ex := &exchange{b: b, began: began}
	// Deferred, for ReverseProxy panics when a response breaks off. It returns only after a WebSocket or an event stream has ended, so
	// those are in flight until then.
	defer ex.release()
	proxy := b.proxy
	proxy.Transport = ex
	proxy.ErrorHandler = ex.fail
	proxy.ServeHTTP(&interim{w, r}, r)
}

// find returns the upstream of that name or nil. The caller holds b.mu.
func (b *Balancer) find(name string) *upstream {
	for _, up := range b.ring {
		if up.name == name {
			return up
		}
	}
	return nil
}

// broadcast wakes those who wait for a change. The caller holds b.mu.
func (b *Balancer) broadcast() {
	close(b.changed)
	b.changed = make(chan struct{})
}
