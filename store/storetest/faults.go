package storetest

import (
	"context"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/coatcheck/coatcheck/store"
)

// Call is one call of a store's method.
type Call struct {
	Method string    // its name: "Get", "Replace", "DeleteOwner", …
	N      int       // how many calls of Method there were, this one included
	Key    store.Key // the key it is about; zero for a method that takes none, or several
}

// Fault is what becomes of a call. The zero Fault lets it pass.
type Fault struct {
	// Err is what the call returns.
	//
	// If zero, the call passes.
	Err error

	// After lets the call take effect before it fails: the answer was lost.
	//
	// If zero, the call fails before its effect.
	After bool

	// Block makes the call wait until its context ends, and then return that
	// context's error in place of Err: a server that does not answer. With
	// After, it takes effect first. A context that never ends is waited for
	// for ever.
	//
	// If zero, the call fails at once.
	Block bool
}

// Faults is a store around a store whose calls fail when a hook says so. It has
// the capabilities of the inner store, and those calls can fail too. All of its
// methods are safe for concurrent use. Create one with [NewFaults].
type Faults struct {
	inner store.Store

	mu    sync.Mutex
	hook  func(Call) Fault
	count map[string]int
}

var _ store.Wrapper = (*Faults)(nil)

// NewFaults returns a store that asks hook before each call of inner what to do
// with it. If hook is nil, every call passes.
//
// The hook runs in the goroutine of the call, outside of all locks, and may be
// run by several at once. It may use the inner store: what it does happens
// right before the call's effect, so that a test can force an interleaving. It
// must not use the Faults that it is the hook of, but for [Faults.Count] and
// [Faults.SetHook].
func NewFaults(inner store.Store, hook func(Call) Fault) *Faults {
	return &Faults{inner: inner, hook: hook, count: make(map[string]int)}
}

// Nth returns a hook that applies fault to the nth call of method, counted from
// 1, and lets all others pass. To fail each call in turn, loop over n until
// [Faults.Count] stays below it.
func Nth(method string, n int, fault Fault) func(Call) Fault {
	return func(c Call) Fault {
		if c.Method == method && c.N == n {
			return fault
		}
		return Fault{}
	}
}

// Every returns a hook that applies fault to all calls of the methods named, or
// of every method if none is.
func Every(fault Fault, methods ...string) func(Call) Fault {
	return func(c Call) Fault {
		if len(methods) == 0 {
			return fault
		}
		for _, m := range methods {
			if m == c.Method {
				return fault
			}
		}
		return Fault{}
	}
}

// SetHook replaces the hook and counts calls from zero again. If hook is nil,
// every call passes.
func (f *Faults) SetHook(hook func(Call) Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hook = hook
	clear(f.count)
}

// Count returns how many calls of method there were since the last SetHook,
// those that failed included.
func (f *Faults) Count(method string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.count[method]
}

// do runs effect as a call of method, with the fault that the hook orders.
func (f *Faults) do(ctx context.Context, method string, k store.Key, effect func() error) error {
	f.mu.Lock()
	f.count[method]++
	call := Call{Method: method, N: f.count[method], Key: k}
	hook := f.hook
	f.mu.Unlock()

	var fault Fault
	if hook != nil {
		fault = hook(call)
	}
	if fault.Err == nil && !fault.Block {
		return effect()
	}
	if fault.After {
		_ = effect() // its answer is what gets lost
	}
	if fault.Block {
		<-ctx.Done()
		return fmt.Errorf("storetest: %s blocked: %w", method, ctx.Err())
	}
	return fault.Err
}

// Get implements [store.Store].
func (f *Faults) Get(ctx context.Context, k store.Key) (r store.Record, err error) {
	err = f.do(ctx, "Get", k, func() error {
		r, err = f.inner.Get(ctx, k)
		return err
	})
	if err != nil {
		return store.Record{}, err
	}
	return r, nil
}

// Create implements [store.Store].
func (f *Faults) Create(ctx context.Context, k store.Key, r store.Record) error {
	return f.do(ctx, "Create", k, func() error { return f.inner.Create(ctx, k, r) })
}

// Replace implements [store.Store].
func (f *Faults) Replace(ctx context.Context, k store.Key, old uint64, r store.Record) error {
	return f.do(ctx, "Replace", k, func() error { return f.inner.Replace(ctx, k, old, r) })
}

// Touch implements [store.Store].
func (f *Faults) Touch(ctx context.Context, k store.Key, expires time.Time) error {
	return f.do(ctx, "Touch", k, func() error { return f.inner.Touch(ctx, k, expires) })
}

// Delete implements [store.Store].
func (f *Faults) Delete(ctx context.Context, k store.Key) (existed bool, err error) {
	err = f.do(ctx, "Delete", k, func() error {
		existed, err = f.inner.Delete(ctx, k)
		return err
	})
	return existed && err == nil, err
}

// Capability implements [store.Wrapper]: it forwards every capability that this
// package knows, each through the hook.
func (f *Faults) Capability(target any) bool {
	switch t := target.(type) {
	case *store.OwnerIndex:
		if inner, ok := store.As[store.OwnerIndex](f.inner); ok {
			*t = faultyOwnerIndex{f, inner}
			return true
		}
	case *store.Lister:
		if inner, ok := store.As[store.Lister](f.inner); ok {
			*t = faultyLister{f, inner}
			return true
		}
	case *store.Sweeper:
		if inner, ok := store.As[store.Sweeper](f.inner); ok {
			*t = faultySweeper{f, inner}
			return true
		}
	case *store.GetMany:
		if inner, ok := store.As[store.GetMany](f.inner); ok {
			*t = faultyGetMany{f, inner}
			return true
		}
	case *store.Pinger:
		if inner, ok := store.As[store.Pinger](f.inner); ok {
			*t = faultyPinger{f, inner}
			return true
		}
	case *store.Watcher:
		if inner, ok := store.As[store.Watcher](f.inner); ok {
			*t = faultyWatcher{f, inner}
			return true
		}
	case *store.FreshReader:
		if inner, ok := store.As[store.FreshReader](f.inner); ok {
			*t = faultyFreshReader{f, inner}
			return true
		}
	case *store.Inspector:
		if inner, ok := store.As[store.Inspector](f.inner); ok {
			*t = faultyInspector{f, inner}
			return true
		}
	case *store.Sharded: // it cannot fail
		if inner, ok := store.As[store.Sharded](f.inner); ok {
			*t = inner
			return true
		}
	case *store.Confirmer: // nor can this
		if inner, ok := store.As[store.Confirmer](f.inner); ok {
			*t = inner
			return true
		}
	}
	return false
}

type faultyOwnerIndex struct {
	f     *Faults
	inner store.OwnerIndex
}

func (o faultyOwnerIndex) ListOwner(ctx context.Context, owner string) (list []store.Keyed, err error) {
	err = o.f.do(ctx, "ListOwner", store.Key{}, func() error {
		list, err = o.inner.ListOwner(ctx, owner)
		return err
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

func (o faultyOwnerIndex) DeleteOwner(ctx context.Context, owner string, keep ...store.Handle) (n int, err error) {
	err = o.f.do(ctx, "DeleteOwner", store.Key{}, func() error {
		n, err = o.inner.DeleteOwner(ctx, owner, keep...)
		return err
	})
	if err != nil {
		return 0, err
	}
	return n, nil
}

type faultyLister struct {
	f     *Faults
	inner store.Lister
}

// List fails before the first record, or, if the fault is After, in place of
// the last one's end: all were yielded, and then comes the error.
func (l faultyLister) List(ctx context.Context) iter.Seq2[store.Keyed, error] {
	return func(yield func(store.Keyed, error) bool) {
		ended := false // the caller's loop, or the sequence by an error of its own
		err := l.f.do(ctx, "List", store.Key{}, func() error {
			for kr, err := range l.inner.List(ctx) {
				if !yield(kr, err) || err != nil {
					ended = true
					break
				}
			}
			return nil
		})
		if err != nil && !ended {
			yield(store.Keyed{}, err)
		}
	}
}

type faultySweeper struct {
	f     *Faults
	inner store.Sweeper
}

func (s faultySweeper) Sweep(ctx context.Context, limit int) (n int, err error) {
	err = s.f.do(ctx, "Sweep", store.Key{}, func() error {
		n, err = s.inner.Sweep(ctx, limit)
		return err
	})
	if err != nil {
		return 0, err
	}
	return n, nil
}

type faultyGetMany struct {
	f     *Faults
	inner store.GetMany
}

func (g faultyGetMany) GetMany(ctx context.Context, ks []store.Key) (found map[store.Key]store.Record, err error) {
	err = g.f.do(ctx, "GetMany", store.Key{}, func() error {
		found, err = g.inner.GetMany(ctx, ks)
		return err
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

type faultyPinger struct {
	f     *Faults
	inner store.Pinger
}

func (p faultyPinger) Ping(ctx context.Context) error {
	return p.f.do(ctx, "Ping", store.Key{}, func() error { return p.inner.Ping(ctx) })
}

type faultyWatcher struct {
	f     *Faults
	inner store.Watcher
}

// Watch with a fault that is After watches until the inner store's Watch ends.
func (w faultyWatcher) Watch(ctx context.Context, ready func(asOf time.Time), changed func([]store.Key)) error {
	return w.f.do(ctx, "Watch", store.Key{}, func() error { return w.inner.Watch(ctx, ready, changed) })
}

type faultyFreshReader struct {
	f     *Faults
	inner store.FreshReader
}

func (g faultyFreshReader) GetFresh(ctx context.Context, k store.Key) (r store.Record, err error) {
	err = g.f.do(ctx, "GetFresh", k, func() error {
		r, err = g.inner.GetFresh(ctx, k)
		return err
	})
	if err != nil {
		return store.Record{}, err
	}
	return r, nil
}

type faultyInspector struct {
	f     *Faults
	inner store.Inspector
}

func (i faultyInspector) Inspect(ctx context.Context) (found []store.Finding, err error) {
	err = i.f.do(ctx, "Inspect", store.Key{}, func() error {
		found, err = i.inner.Inspect(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}
