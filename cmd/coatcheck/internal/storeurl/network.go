package storeurl

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/breaker"
	"github.com/coatcheck/coatcheck/store/redisstore"
)

// network is a store on the network behind a circuit breaker. A server that
// starts during an outage has one that is not connected yet: its calls fail at
// once, and visitors without a session are served.
type network struct {
	url       URL
	logger    *slog.Logger
	link      atomic.Pointer[link]
	connected chan struct{}         // closed when link is set
	problem   atomic.Pointer[error] // why the last attempt to connect failed
}

// link is what there is when a store was reached.
type link struct {
	store   *redisstore.Store
	breaker *breaker.Breaker
}

var (
	_ store.Store      = (*network)(nil)
	_ store.OwnerIndex = (*network)(nil)
	_ store.Lister     = (*network)(nil)
	_ store.GetMany    = (*network)(nil)
	_ store.Pinger     = (*network)(nil)
	_ store.Watcher    = (*network)(nil)
)

const (
	// connectTimeout bounds one attempt to reach a store. A worker's first comes
	// before it is ready.
	connectTimeout = 3 * time.Second
	// Pauses between attempts.
	minPause = 100 * time.Millisecond
	maxPause = time.Second
)

func (u URL) openNetwork(ctx context.Context, opts Options) (*Opened, error) {
	n := &network{url: u, logger: opts.Logger, connected: make(chan struct{})}
	o := &Opened{Store: n, network: n}
	err := n.connect(ctx)
	if err == nil {
		o.close = n.link.Load().store.Close
		if !opts.Patient {
			o.verify = n.try
		} else if err := n.try(ctx); err != nil {
			n.logger.Error("the session store answers, but a session could not be kept; requests with one may get 503", "store", u, "error", err)
		}
		return o, nil
	}
	if !opts.Patient {
		return nil, fmt.Errorf("the session store %v cannot be used: %w", u, err)
	}
	n.logger.Error("the session store cannot be reached; requests with a session get 503 until it is", "store", u, "error", err)
	trying, stop := context.WithCancel(context.Background())
	tried := make(chan struct{})
	go func() {
		defer close(tried)
		n.keepTrying(trying)
	}()
	o.close = func() error {
		stop()
		<-tried
		if l := n.link.Load(); l != nil {
			return l.store.Close()
		}
		return nil
	}
	return o, nil
}

// connect is one attempt.
func (n *network) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	st, err := redisstore.OpenURL(ctx, n.url.raw, nil)
	if err != nil {
		n.problem.Store(&err)
		return err
	}
	b, err := breaker.New(st, &breaker.Options{OnStateChange: (&circuits{logger: n.logger}).change})
	if err != nil {
		err = errors.Join(err, st.Close())
		n.problem.Store(&err)
		return err
	}
	n.link.Store(&link{st, b})
	close(n.connected)
	return nil
}

// keepTrying connects, or ends with ctx.
func (n *network) keepTrying(ctx context.Context) {
	for pause := minPause; ; pause = min(2*pause, maxPause) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		if n.connect(ctx) == nil {
			n.logger.Info("the session store is connected", "store", n.url)
			return
		}
	}
}

// circuits logs when the first circuit opens and when the last one closes. In
// between, each probe of each shard changes something.
type circuits struct {
	logger *slog.Logger
	faulty atomic.Int32
}

func (c *circuits) change(ch breaker.Change) {
	switch {
	case ch.From == breaker.Closed:
		if c.faulty.Add(1) == 1 {
			c.logger.Error("the session store does not answer: the circuit is open, and requests that need it get 503 until it closes", "error", ch.Err)
		}
	case ch.To == breaker.Closed:
		if c.faulty.Add(-1) == 0 {
			c.logger.Info("the session store answers again: the circuit is closed")
		}
	}
}

func (n *network) state() string {
	l := n.link.Load()
	if l == nil {
		return "connecting"
	}
	return l.breaker.State().String()
}

// topology returns what the store says of its servers, or what its URL does.
func (n *network) topology() string {
	if l := n.link.Load(); l != nil {
		return l.store.Topology()
	}
	scheme, _, _ := strings.Cut(n.url.raw, ":")
	if _, kind, ok := strings.Cut(scheme, "+"); ok {
		return kind
	}
	return "standalone"
}

// advise logs each thing that an inspection finds to be wrong.
func (n *network) advise(ctx context.Context, logger *slog.Logger) {
	select {
	case <-n.connected:
	case <-ctx.Done():
		return
	}
	inspector, err := capability[store.Inspector](n)
	if err != nil {
		return
	}
	findings, err := inspector.Inspect(ctx)
	if err != nil {
		return // there is an outage, which others tell
	}
	for _, f := range findings {
		if f.Severity >= store.SeverityWarning {
			logger.Warn("session store: "+f.Check, "severity", f.Severity, "found", f.Evidence, "fix", f.Fix)
		}
	}
}

// try does with a session of nobody what servers do with sessions: what the
// store's user may not do, or a server that takes no writes, must come to light
// before visitors come.
func (n *network) try(ctx context.Context) error {
	b, err := n.now()
	if err != nil {
		return err
	}
	var k store.Key
	_, _ = rand.Read(k[:]) // never fails
	now := time.Now()
	r := store.Record{Version: 1, Owner: "coatcheck start-up", Created: now, Deadline: now.Add(time.Minute), Expires: now.Add(time.Minute)}
	if err := b.Create(ctx, k, r); err != nil {
		return err
	}
	r.Version = 2
	err = b.Replace(ctx, k, 1, r)
	if err == nil {
		err = b.Touch(ctx, k, r.Expires)
	}
	if err == nil {
		_, err = b.Get(ctx, k)
	}
	if owners, ok := store.As[store.OwnerIndex](b); err == nil && ok {
		_, err = owners.ListOwner(ctx, r.Owner)
	}
	if _, deleteErr := b.Delete(ctx, k); err == nil {
		err = deleteErr
	}
	return err
}

// now returns the store, or why there is none yet. What stopped an attempt to
// connect did not stop the caller, so it is not wrapped.
func (n *network) now() (*breaker.Breaker, error) {
	if l := n.link.Load(); l != nil {
		return l.breaker, nil
	}
	return nil, fmt.Errorf("the session store is not connected yet: %v", *n.problem.Load())
}

func capability[T any](n *network) (T, error) {
	var c T
	b, err := n.now()
	if err != nil {
		return c, err
	}
	c, ok := store.As[T](b)
	if !ok {
		return c, errors.ErrUnsupported
	}
	return c, nil
}

func (n *network) Get(ctx context.Context, k store.Key) (store.Record, error) {
	b, err := n.now()
	if err != nil {
		return store.Record{}, err
	}
	return b.Get(ctx, k)
}

func (n *network) Create(ctx context.Context, k store.Key, r store.Record) error {
	b, err := n.now()
	if err != nil {
		return err
	}
	return b.Create(ctx, k, r)
}

func (n *network) Replace(ctx context.Context, k store.Key, old uint64, r store.Record) error {
	b, err := n.now()
	if err != nil {
		return err
	}
	return b.Replace(ctx, k, old, r)
}

func (n *network) Touch(ctx context.Context, k store.Key, expires time.Time) error {
	b, err := n.now()
	if err != nil {
		return err
	}
	return b.Touch(ctx, k, expires)
}

func (n *network) Delete(ctx context.Context, k store.Key) (existed bool, err error) {
	b, err := n.now()
	if err != nil {
		return false, err
	}
	return b.Delete(ctx, k)
}

func (n *network) ListOwner(ctx context.Context, owner string) ([]store.Keyed, error) {
	c, err := capability[store.OwnerIndex](n)
	if err != nil {
		return nil, err
	}
	return c.ListOwner(ctx, owner)
}

func (n *network) DeleteOwner(ctx context.Context, owner string, keep ...store.Handle) (int, error) {
	c, err := capability[store.OwnerIndex](n)
	if err != nil {
		return 0, err
	}
	return c.DeleteOwner(ctx, owner, keep...)
}

func (n *network) List(ctx context.Context) iter.Seq2[store.Keyed, error] {
	return func(yield func(store.Keyed, error) bool) {
		c, err := capability[store.Lister](n)
		if err != nil {
			yield(store.Keyed{}, err)
			return
		}
		c.List(ctx)(yield)
	}
}

func (n *network) GetMany(ctx context.Context, ks []store.Key) (map[store.Key]store.Record, error) {
	c, err := capability[store.GetMany](n)
	if err != nil {
		return nil, err
	}
	return c.GetMany(ctx, ks)
}

func (n *network) Ping(ctx context.Context) error {
	c, err := capability[store.Pinger](n)
	if err != nil {
		return err
	}
	return c.Ping(ctx)
}

// Watch waits until there is something to watch.
func (n *network) Watch(ctx context.Context, ready func(), changed func([]store.Key)) error {
	select {
	case <-n.connected:
	case <-ctx.Done():
		return ctx.Err()
	}
	c, err := capability[store.Watcher](n)
	if err != nil {
		return err
	}
	return c.Watch(ctx, ready, changed)
}
