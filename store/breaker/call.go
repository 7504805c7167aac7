package breaker

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/coatcheck/coatcheck/store"
)

// through makes a call through the circuit s, which counts what comes of it.
func through[T any](b *Breaker, ctx context.Context, op string, s *shard, call func(context.Context) (T, error)) (v T, err error) {
	began := time.Now()
	if b.onCall != nil {
		defer func() { b.onCall(Call{op, s.number, time.Since(began), err}) }()
	}
	if err := ctx.Err(); err != nil {
		return v, fmt.Errorf("breaker: %s: %w", op, err)
	}
	done, err := s.allow(op)
	if err != nil {
		return v, err
	}
	outcome := errNeutral // of a call that panics: a bug, not an outage
	limit, d := limited(ctx, began.Add(b.timeout))
	defer func() {
		d.stop()
		done(outcome)
		s.tell()
	}()
	v, err = call(limit)
	outcome = judge(err, ctx.Err(), began, b.timeout)
	return v, err
}

// past makes a call that counts for no circuit: it is about several shards, or
// says nothing of their health. If all of them are open it could only hang.
func past[T any](b *Breaker, ctx context.Context, op string, call func(context.Context) (T, error)) (v T, err error) {
	began := time.Now()
	if b.onCall != nil {
		defer func() { b.onCall(Call{op, b.noShard(), time.Since(began), err}) }()
	}
	if err := b.refuses(ctx, op); err != nil {
		return v, err
	}
	limit, d := limited(ctx, began.Add(b.timeout))
	defer d.stop()
	return call(limit)
}

// refuses returns the error of a call that past does not make.
func (b *Breaker) refuses(ctx context.Context, op string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("breaker: %s: %w", op, err)
	}
	for _, s := range b.shards {
		if s.current().State != Open {
			return nil
		}
	}
	return b.shards[0].refusal(op)
}

func (b *Breaker) noShard() int {
	if len(b.shards) == 1 {
		return 0
	}
	return -1
}

// anyKey makes a call about no key in particular.
func anyKey[T any](b *Breaker, ctx context.Context, op string, call func(context.Context) (T, error)) (T, error) {
	if len(b.shards) == 1 {
		return through(b, ctx, op, b.shards[0], call)
	}
	return past(b, ctx, op, call)
}

type none = struct{}

// Get implements [store.Store].
func (b *Breaker) Get(ctx context.Context, k store.Key) (store.Record, error) {
	return through(b, ctx, "get", b.of(k), func(ctx context.Context) (store.Record, error) {
		return b.inner.Get(ctx, k)
	})
}

// Create implements [store.Store].
func (b *Breaker) Create(ctx context.Context, k store.Key, r store.Record) error {
	_, err := through(b, ctx, "create", b.of(k), func(ctx context.Context) (none, error) {
		return none{}, b.inner.Create(ctx, k, r)
	})
	return err
}

// Replace implements [store.Store].
func (b *Breaker) Replace(ctx context.Context, k store.Key, old uint64, r store.Record) error {
	_, err := through(b, ctx, "replace", b.of(k), func(ctx context.Context) (none, error) {
		return none{}, b.inner.Replace(ctx, k, old, r)
	})
	return err
}

// Touch implements [store.Store].
func (b *Breaker) Touch(ctx context.Context, k store.Key, expires time.Time) error {
	_, err := through(b, ctx, "touch", b.of(k), func(ctx context.Context) (none, error) {
		return none{}, b.inner.Touch(ctx, k, expires)
	})
	return err
}

// Delete implements [store.Store].
func (b *Breaker) Delete(ctx context.Context, k store.Key) (existed bool, err error) {
	return through(b, ctx, "delete", b.of(k), func(ctx context.Context) (bool, error) {
		return b.inner.Delete(ctx, k)
	})
}

type freshReader struct {
	b     *Breaker
	inner store.FreshReader
}

func (f freshReader) GetFresh(ctx context.Context, k store.Key) (store.Record, error) {
	return through(f.b, ctx, "get fresh", f.b.of(k), func(ctx context.Context) (store.Record, error) {
		return f.inner.GetFresh(ctx, k)
	})
}

type ownerIndex struct {
	b     *Breaker
	inner store.OwnerIndex
}

func (o ownerIndex) ListOwner(ctx context.Context, owner string) ([]store.Keyed, error) {
	return anyKey(o.b, ctx, "list owner", func(ctx context.Context) ([]store.Keyed, error) {
		return o.inner.ListOwner(ctx, owner)
	})
}

func (o ownerIndex) DeleteOwner(ctx context.Context, owner string, keep ...store.Handle) (int, error) {
	return anyKey(o.b, ctx, "delete owner", func(ctx context.Context) (int, error) {
		return o.inner.DeleteOwner(ctx, owner, keep...)
	})
}

type getMany struct {
	b     *Breaker
	inner store.GetMany
}

func (g getMany) GetMany(ctx context.Context, ks []store.Key) (map[store.Key]store.Record, error) {
	call := func(ctx context.Context) (map[store.Key]store.Record, error) { return g.inner.GetMany(ctx, ks) }
	only := g.b.shards[0]
	for i, k := range ks {
		s := g.b.of(k)
		if i == 0 {
			only = s
		}
		if s == only {
			continue
		}
		for _, k := range ks { // of several shards
			if s := g.b.of(k); s.current().State == Open {
				return nil, s.refusal("get many")
			}
		}
		return past(g.b, ctx, "get many", call)
	}
	return through(g.b, ctx, "get many", only, call)
}

type sweeper struct {
	b     *Breaker
	inner store.Sweeper
}

func (s sweeper) Sweep(ctx context.Context, limit int) (int, error) {
	return past(s.b, ctx, "sweep", func(ctx context.Context) (int, error) { return s.inner.Sweep(ctx, limit) })
}

type inspector struct {
	b     *Breaker
	inner store.Inspector
}

func (i inspector) Inspect(ctx context.Context) ([]store.Finding, error) {
	return past(i.b, ctx, "inspect", i.inner.Inspect)
}

type lister struct {
	b     *Breaker
	inner store.Lister
}

var errSilent = errors.New("no record within the timeout")

// List ends when the inner store is silent for all of the timeout. The time that
// the caller takes for a record is its own.
func (l lister) List(ctx context.Context) iter.Seq2[store.Keyed, error] {
	return func(yield func(store.Keyed, error) bool) {
		if err := l.b.refuses(ctx, "list"); err != nil {
			yield(store.Keyed{}, err)
			return
		}
		limit, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		timer := time.AfterFunc(l.b.timeout, func() { cancel(errSilent) })
		defer timer.Stop()
		for kr, err := range l.inner.List(limit) {
			timer.Stop()
			if err != nil && context.Cause(limit) == errSilent {
				err = fmt.Errorf("breaker: list: %w: %w (%v)", errSilent, context.DeadlineExceeded, err)
			}
			if !yield(kr, err) || err != nil {
				return
			}
			timer.Reset(l.b.timeout)
		}
	}
}

type pinger struct {
	b     *Breaker
	inner store.Pinger
}

// Ping does not wait for a circuit that is open. It is a probe of one that is
// half-open; with several shards it asks those for a record that nobody has.
func (p pinger) Ping(ctx context.Context) error {
	ping := func(ctx context.Context) (none, error) { return none{}, p.inner.Ping(ctx) }
	if len(p.b.shards) == 1 {
		_, err := through(p.b, ctx, "ping", p.b.shards[0], ping)
		return err
	}
	for _, s := range p.b.shards {
		if s.absent == nil || s.current().State != HalfOpen {
			continue
		}
		_, err := through(p.b, ctx, "ping", s, func(ctx context.Context) (store.Record, error) {
			return p.b.inner.Get(ctx, *s.absent)
		})
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
	for _, s := range p.b.shards {
		if s.current().State == Open {
			return s.refusal("ping")
		}
	}
	_, err := past(p.b, ctx, "ping", ping)
	return err
}
