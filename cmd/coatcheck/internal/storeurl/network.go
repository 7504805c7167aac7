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
	"github.com/coatcheck/coatcheck/store/dynamostore"
	"github.com/coatcheck/coatcheck/store/mongostore"
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
	breaker  *breaker.Breaker
	topology func() string // of Redis
	close    func() error
	// Of a store that has a schema.
	verify, migrate func(context.Context) error
	// warm makes connections before they are needed; nil if there is no pool of them.
	warm func(context.Context)
}

var (
	_ store.Wrapper    = (*network)(nil)
	_ store.OwnerIndex = (*network)(nil)
	_ store.Lister     = (*network)(nil)
	_ store.Sweeper    = (*network)(nil)
	_ store.GetMany    = (*network)(nil)
	_ store.Pinger     = (*network)(nil)
	_ store.Watcher    = (*network)(nil)
	_ store.Confirmer  = (*network)(nil)
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
	err := n.connect(ctx, opts.probe())
	if err == nil {
		l := n.link.Load()
		o.close, o.verify, o.migrate, o.try = l.close, l.verify, l.migrate, n.try
		if opts.Patient {
			o.try = func(ctx context.Context) error {
				if err := n.try(ctx); err != nil {
					n.logger.Error("the session store answers, but a session could not be kept; requests with one may get 503", "store", u, "error", err)
				} else if l.warm != nil {
					ctx, cancel := context.WithTimeout(ctx, connectTimeout)
					defer cancel()
					l.warm(ctx)
				}
				return nil
			}
		}
		return o, nil
	}
	if !opts.Patient {
		return nil, fmt.Errorf("the session store %v cannot be used: %w", u, err)
	}
	if ctx.Err() == nil { // else it was not the store that was in the way
		n.logger.Error("the session store cannot be reached; requests with a session get 503 until it is", "store", u, "error", err)
	}
	trying, stop := context.WithCancel(context.Background())
	tried := make(chan struct{})
	go func() {
		defer close(tried)
		n.keepTrying(trying, err, !opts.Create)
	}()
	o.close = func() error {
		stop()
		<-tried
		if l := n.link.Load(); l != nil {
			return l.close()
		}
		return nil
	}
	return o, nil
}

// probe returns what a patient server does before it relies on a store that it could sign
// in to: it looks whether that still answers. What it answers is looked at later.
func (o Options) probe() func(context.Context, *link) error {
	if !o.Patient {
		return nil
	}
	return func(ctx context.Context, l *link) error {
		if l.verify == nil {
			return nil
		}
		if err := l.verify(ctx); errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		return nil
	}
}

// connect is one attempt. prepare, if not nil, is done before anybody uses the
// link.
func (n *network) connect(ctx context.Context, prepare func(context.Context, *link) error) error {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	dial := n.dialRedis
	switch {
	case n.url.sql():
		dial = n.dialSQL
	case n.url.kind == mongoDB:
		dial = n.dialMongo
	case n.url.kind == dynamoDB:
		dial = n.dialDynamo
	}
	l, err := dial(ctx)
	if err == nil && prepare != nil {
		if err = prepare(ctx, l); err != nil {
			err = errors.Join(err, l.close())
		}
	}
	if err != nil {
		n.problem.Store(&err)
		return err
	}
	n.link.Store(l)
	close(n.connected)
	return nil
}

func (n *network) dialRedis(ctx context.Context) (*link, error) {
	st, err := redisstore.OpenURL(ctx, n.url.raw, nil)
	if err != nil {
		return nil, err
	}
	return n.guard(st, link{topology: st.Topology, close: st.Close})
}

func (n *network) dialMongo(ctx context.Context) (*link, error) {
	st, err := mongostore.OpenURL(ctx, n.url.raw, nil)
	if err != nil {
		return nil, err
	}
	return n.guard(st, link{close: st.Close, verify: st.Verify, migrate: st.Migrate})
}

func (n *network) dialDynamo(ctx context.Context) (*link, error) {
	st, err := dynamostore.OpenURL(ctx, n.url.raw, nil)
	if err != nil {
		return nil, err
	}
	// Nothing has been asked yet, and there may be no table.
	if _, err := st.Inspect(ctx); err != nil {
		return nil, errors.Join(err, st.Close())
	}
	return n.guard(st, link{close: st.Close, verify: st.Verify, migrate: st.Migrate})
}

// guard completes l by a breaker around st.
func (n *network) guard(st store.Store, l link) (*link, error) {
	b, err := breaker.New(st, &breaker.Options{OnStateChange: (&circuits{logger: n.logger}).change})
	if err != nil {
		return nil, errors.Join(err, l.close())
	}
	l.breaker = b
	return &l, nil
}

// keepTrying connects, or ends with ctx. It logs what stops it now, where first
// was told: a server that was away may want a password when it is back.
func (n *network) keepTrying(ctx context.Context, first error, verifyOnly bool) {
	prepare := func(ctx context.Context, l *link) error {
		migrated, err := setUp(ctx, l.verify, l.migrate, verifyOnly)
		if migrated {
			n.logger.Info("set up the session store", "store", n.url)
		}
		if err == nil && l.warm != nil {
			l.warm(ctx)
		}
		return err
	}
	told := make(reasons)
	told.add(first)
	for pause := minPause; ; pause = min(2*pause, maxPause) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		err := n.connect(ctx, prepare)
		switch {
		case err == nil:
			n.logger.Info("the session store is connected", "store", n.url)
			return
		case ctx.Err() == nil && told.add(err):
			n.logger.Error("the session store is still not connected, now for another reason", "store", n.url, "error", err)
		}
	}
}

// reasons are the texts of errors, but for the digits in them: each attempt has a
// port of its own, which some errors name.
type reasons map[string]bool

// add reports whether err is of a new kind.
func (r reasons) add(err error) bool {
	text := strings.Map(func(c rune) rune {
		if '0' <= c && c <= '9' {
			return -1
		}
		return c
	}, err.Error())
	known := r[text]
	r[text] = true
	return !known
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
			c.logger.Error("the session store does not answer: the circuit is open, and requests that need it get 503 until it closes", "error", inOurWords(ch.Err))
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

// topology returns what the store says of its servers, or what its URL does; where
// one server looks like another, it is "".
func (n *network) topology() string {
	if !n.url.redis() {
		return ""
	}
	if l := n.link.Load(); l != nil {
		return l.topology()
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
			level := slog.LevelWarn
			if f.Severity >= store.SeverityCritical {
				level = slog.LevelError
			}
			logger.Log(ctx, level, "session store: "+f.Check, "severity", f.Severity, "found", f.Evidence, "fix", f.Fix)
		}
	}
}

// try does with a session of nobody what servers do with sessions: what the
// store's user may not do, or a server that takes no writes, must come to light
// before visitors come.
func (n *network) try(ctx context.Context) error {
	err := n.doAll(ctx)
	if errors.Is(err, store.ErrUnconfirmed) {
		return fmt.Errorf("%w: connect as many replicas as min-replicas in the store URL asks for, or ask for fewer; if they are connected, they need a longer replica-timeout", err)
	}
	return err
}

func (n *network) doAll(ctx context.Context) error {
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

// Capability implements [store.Wrapper]. What there is follows from the URL: the
// store may not be connected yet.
func (n *network) Capability(target any) bool {
	switch t := target.(type) {
	case *store.OwnerIndex:
		*t = n
	case *store.Lister:
		*t = n
	case *store.GetMany:
		*t = n
	case *store.Pinger:
		*t = n
	case *store.Sweeper:
		if !n.url.sql() {
			return false
		}
		*t = n
	case *store.Watcher:
		if !n.url.redis() {
			return false
		}
		*t = n
	case *store.Confirmer:
		if !n.url.redis() {
			return false
		}
		*t = n
	default:
		return false
	}
	return true
}

// now returns the store, or why there is none yet. What stopped an attempt to
// connect did not stop the caller, so it is not wrapped.
func (n *network) now() (*breaker.Breaker, error) {
	if l := n.link.Load(); l != nil {
		return l.breaker, nil
	}
	return nil, fmt.Errorf("%w: it is not connected yet: %v", store.ErrNotAsked, *n.problem.Load())
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

// told is err in the words of the command, if it is not one of every day.
func (n *network) told(err error) error {
	if err == nil || n.url.redis() || errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrConflict) {
		return err
	}
	return inOurWords(err)
}

func (n *network) Get(ctx context.Context, k store.Key) (store.Record, error) {
	b, err := n.now()
	if err != nil {
		return store.Record{}, err
	}
	r, err := b.Get(ctx, k)
	return r, n.told(err)
}

func (n *network) Create(ctx context.Context, k store.Key, r store.Record) error {
	b, err := n.now()
	if err != nil {
		return err
	}
	return n.told(b.Create(ctx, k, r))
}

func (n *network) Replace(ctx context.Context, k store.Key, old uint64, r store.Record) error {
	b, err := n.now()
	if err != nil {
		return err
	}
	return n.told(b.Replace(ctx, k, old, r))
}

func (n *network) Touch(ctx context.Context, k store.Key, expires time.Time) error {
	b, err := n.now()
	if err != nil {
		return err
	}
	return n.told(b.Touch(ctx, k, expires))
}

func (n *network) Delete(ctx context.Context, k store.Key) (existed bool, err error) {
	b, err := n.now()
	if err != nil {
		return false, err
	}
	existed, err = b.Delete(ctx, k)
	return existed, n.told(err)
}

func (n *network) ListOwner(ctx context.Context, owner string) ([]store.Keyed, error) {
	c, err := capability[store.OwnerIndex](n)
	if err != nil {
		return nil, err
	}
	rs, err := c.ListOwner(ctx, owner)
	return rs, n.told(err)
}

func (n *network) DeleteOwner(ctx context.Context, owner string, keep ...store.Handle) (int, error) {
	c, err := capability[store.OwnerIndex](n)
	if err != nil {
		return 0, err
	}
	ended, err := c.DeleteOwner(ctx, owner, keep...)
	return ended, n.told(err)
}

func (n *network) List(ctx context.Context) iter.Seq2[store.Keyed, error] {
	return func(yield func(store.Keyed, error) bool) {
		c, err := capability[store.Lister](n)
		if err != nil {
			yield(store.Keyed{}, err)
			return
		}
		c.List(ctx)(func(r store.Keyed, err error) bool { return yield(r, n.told(err)) })
	}
}

func (n *network) GetMany(ctx context.Context, ks []store.Key) (map[store.Key]store.Record, error) {
	c, err := capability[store.GetMany](n)
	if err != nil {
		return nil, err
	}
	rs, err := c.GetMany(ctx, ks)
	return rs, n.told(err)
}

func (n *network) Sweep(ctx context.Context, limit int) (int, error) {
	c, err := capability[store.Sweeper](n)
	if err != nil {
		return 0, err
	}
	removed, err := c.Sweep(ctx, limit)
	return removed, n.told(err)
}

func (n *network) Ping(ctx context.Context) error {
	c, err := capability[store.Pinger](n)
	if err != nil {
		return err
	}
	return n.told(c.Ping(ctx))
}

// Confirms says no as long as there is no store. Nothing was read from it then.
func (n *network) Confirms() bool {
	c, err := capability[store.Confirmer](n)
	return err == nil && c.Confirms()
}

// Watch waits until there is something to watch.
func (n *network) Watch(ctx context.Context, ready func(asOf time.Time), changed func([]store.Key)) error {
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
