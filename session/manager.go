package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/coatcheck/coatcheck/session/internal/format"
	"github.com/coatcheck/coatcheck/store"
)

// Manager gives the requests of a web app their sessions. Create one with
// [New] for each session cookie of an app, usually one. It holds no session
// itself, so any number of processes may run one over the same store. It is
// safe for concurrent use.
type Manager struct {
	store store.Store
	// fresh reads what is in the store where store.Get may answer from a copy; nil
	// where it never does.
	fresh store.FreshReader
	// confirms is nil where a write that can be read back is done.
	confirms store.Confirmer
	opts     Options
	cookie   transport
	queues   queues
	keys     format.Keys
}

// New returns a manager that keeps its sessions in st. It returns an error that
// says what to change if opts, which may be nil, make no sense.
func New(st store.Store, opts *Options) (*Manager, error) {
	if st == nil {
		return nil, errors.New("session: New needs a store; memstore.New() will do for a first try")
	}
	o, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	fresh, copies := store.As[store.FreshReader](st)
	cookie, err := newCookieTransport(o.Cookie, o.InsecureCookie, copies)
	if err != nil {
		return nil, err
	}
	confirms, _ := store.As[store.Confirmer](st)
	return &Manager{store: st, fresh: fresh, confirms: confirms, opts: o, cookie: cookie}, nil
}

// Policy returns the timeouts in force, for an app's documentation of them
// (ASVS 7.1.1).
func (m *Manager) Policy() Policy { return m.opts.Policy }

const (
	sweepInterval = time.Minute
	sweepBatch    = 50                    // a few milliseconds of a database, which its users wait for
	sweepPause    = 10 * time.Millisecond // between full batches at least, to leave the store to the users
	sweepRest     = 3                     // and at least so many times as long as the batch took, when the store is busy
)

// Run removes expired sessions from the store, about once a minute and in small
// batches, until ctx ends; then it returns ctx's error. One process of a fleet
// is enough, several do no harm. If the store removes them by itself, Run only
// waits. An error of the store is logged and the work tried again.
func (m *Manager) Run(ctx context.Context) error {
	sweeper, ok := store.As[store.Sweeper](m.store)
	if !ok {
		<-ctx.Done()
		return ctx.Err()
	}
	for {
		pause := sweepInterval/2 + rand.N(sweepInterval) // so that a fleet does not march in step
		began := time.Now()
		n, err := m.sweep(ctx, sweeper)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			m.log().WarnContext(ctx, "session: sweeping expired sessions failed", "error", err)
			m.observe(ctx, Event{Kind: EventSweepFailed, Err: err})
			if errors.Is(err, context.DeadlineExceeded) { // there was more to do than time
				pause = sweepRest * time.Since(began)
			}
		case n == sweepBatch:
			pause = max(sweepPause, sweepRest*time.Since(began))
		}
		if n > 0 {
			m.observe(ctx, Event{Kind: EventSwept, N: n})
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

func (m *Manager) sweep(ctx context.Context, s store.Sweeper) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, m.opts.StoreTimeout)
	defer cancel()
	began := m.now()
	n, err := s.Sweep(ctx, sweepBatch)
	m.called(ctx, "sweep", began, 0, err)
	return n, err
}

// Ping reports whether the store answers, as ErrUnavailable if not, for the
// body of a readiness check. Keep it out of the check's status: an outage of
// the store would empty the balancer of all servers at once.
func (m *Manager) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, m.opts.StoreTimeout)
	defer cancel()
	began := m.now()
	err := m.ping(ctx)
	m.called(ctx, "ping", began, 0, err)
	if err != nil {
		return unavailable(err)
	}
	return nil
}

func (m *Manager) ping(ctx context.Context) error {
	if p, ok := store.As[store.Pinger](m.store); ok {
		return p.Ping(ctx)
	}
	get := m.store.Get
	if m.fresh != nil {
		get = m.fresh.GetFresh
	}
	_, err := get(ctx, store.Key{})
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}

func (m *Manager) log() *slog.Logger {
	if m.opts.Logger != nil {
		return m.opts.Logger
	}
	return slog.Default()
}

// contextKey is the key of a manager's session in a request's context; that of
// nil is any manager's.
type contextKey struct{ m *Manager }

// requestContext carries a session in the context of its request.
type requestContext struct {
	context.Context
	session *Session
}

func (c *requestContext) Value(key any) any {
	if k, ok := key.(contextKey); ok && (k.m == nil || k.m == c.session.m) {
		return c.session
	}
	return c.Context.Value(key)
}

// Lookup returns the session of the request that ctx belongs to, and whether
// there is one.
func (m *Manager) Lookup(ctx context.Context) (*Session, bool) {
	s, ok := ctx.Value(contextKey{m}).(*Session)
	if ok {
		s.used.Store(true)
	}
	return s, ok
}

const notWrapped = "session: this request has no session: wrap its handler with Manager.Handler, and see that Options.Skip does not exempt it"

// From returns the session of the request that ctx belongs to. It panics if the
// request did not come through [Manager.Handler] or was exempt by
// [Options.Skip].
func (m *Manager) From(ctx context.Context) *Session {
	s, ok := m.Lookup(ctx)
	if !ok {
		panic(notWrapped)
	}
	return s
}

// From is [Manager.From] for an app with one manager. It panics if the request
// has the sessions of several managers.
func From(ctx context.Context) *Session {
	s, ok := ctx.Value(contextKey{}).(*Session)
	if !ok {
		panic(notWrapped)
	}
	if s.nested {
		panic("session: this request has sessions of several managers: use the From method of the one you mean")
	}
	s.used.Store(true)
	return s
}

// call gives one store operation its deadline. The parent is what the caller
// may wait for in all; cancellation of the request reaches reads only. size is of the
// values that are written.
func (m *Manager) call(ctx context.Context, op string, size int, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, m.opts.StoreTimeout)
	defer cancel()
	began := m.now()
	err := f(ctx)
	m.called(ctx, op, began, size, err)
	return err
}

// get reads the record under k, never from a copy: only the load of a request
// may be stale.
func (m *Manager) get(ctx context.Context, k store.Key) (store.Record, error) {
	ctx, cancel := context.WithTimeout(ctx, m.opts.StoreTimeout)
	defer cancel()
	return m.read(ctx, k)
}

// read is get without a deadline of its own.
func (m *Manager) read(ctx context.Context, k store.Key) (store.Record, error) {
	if m.fresh == nil {
		return m.readAny(ctx, k)
	}
	began := m.now()
	rec, err := m.fresh.GetFresh(ctx, k)
	m.called(ctx, "get_fresh", began, len(rec.Data), err)
	return rec, err
}

// readAny is read, from a copy perhaps.
func (m *Manager) readAny(ctx context.Context, k store.Key) (store.Record, error) {
	began := m.now()
	rec, err := m.store.Get(ctx, k)
	m.called(ctx, "get", began, len(rec.Data), err)
	return rec, err
}

// remove deletes the record under k.
func (m *Manager) remove(ctx context.Context, k store.Key) error {
	return m.call(ctx, "delete", 0, func(ctx context.Context) error {
		_, err := m.store.Delete(ctx, k)
		return err
	})
}

// nextVersion returns the version that follows v: higher in its upper half and
// random in its lower, so that two histories that a failover tore apart never
// share one.
func nextVersion(v uint64) uint64 {
	return (v>>32+1)<<32 | uint64(rand.Uint32())
}

// errorf is fmt.Errorf with the package's name in front.
func errorf(format string, args ...any) error { return fmt.Errorf("session: "+format, args...) }
