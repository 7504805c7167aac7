package storetest

import (
	"context"
	"errors"
	"time"

	"github.com/coatcheck/coatcheck/store"
)

var cancellationRules = []rule{
	{
		name: "ended-context-fails-the-call",
		says: "A context that has ended before a call fails it, with an error that matches the context's, and nothing happens.",
		why:  "A cancelled read that looks like absence signs the user out; a cancelled write that happens anyway surprises everybody.",
		look: "ctx.Err() first in every method, or a driver that checks; %w.",
		run: func(x *script) {
			cancelled, cancel := context.WithCancel(x.ctx)
			cancel()
			late, cancel := context.WithDeadline(x.ctx, time.Now().Add(-time.Second))
			defer cancel()
			for _, end := range []struct {
				ctx  context.Context
				want error
			}{{cancelled, context.Canceled}, {late, context.DeadlineExceeded}} {
				r := x.session("alice")
				k, absent := x.created(r), x.key()
				for name, call := range calls(x.store, k, r, absent, x.changed(r)) {
					x.want(name+" with an ended context", call(end.ctx), end.want)
				}
				x.holds("after calls with an ended context", k, r)
				x.gone("after calls with an ended context", absent)
			}
		},
	},
	{
		name: "never-absence-or-conflict",
		says: "A call whose context ends while it runs succeeds, or fails with an error that is neither ErrNotFound nor ErrConflict; and if it is ErrUnapplied nothing was changed.",
		why:  "A client that hangs up in the wrong millisecond would be signed out, its update taken for another's, or told to make it once more.",
		look: "errors from the driver that are mapped by elimination; scans that stop early.",
		run: func(x *script) {
			began := time.Now()
			for i := range 200 {
				if i >= 60 && time.Since(began) > 2*time.Second {
					return // a connection that was given up costs some databases a process
				}
				// A write that was given up may still be on its way, and arrive when it
				// likes: each call has a record of its own.
				r := x.session("alice")
				k, next := x.created(r), x.changed(r)
				ctx, cancel := context.WithCancel(x.ctx)
				done := make(chan struct{})
				go func() {
					defer close(done)
					for range i % 20 * 10 {
						_ = ctx.Err() // from none to some microseconds
					}
					cancel()
				}()
				_, getErr := x.store.Get(ctx, k)
				var err error
				was, is := true, true // whether the record is there, before and if the call succeeds
				switch i % 4 {
				case 0, 1:
					err = x.store.Replace(ctx, k, r.Version, next)
				case 2:
					_, err = x.store.Delete(ctx, k)
					is = false
				case 3:
					k, next, was = x.key(), r, false
					err = x.store.Create(ctx, k, r)
				}
				<-done
				for _, err := range []error{getErr, err} {
					if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrConflict) {
						x.Fatalf("call %d whose context ended meanwhile: %v", i, err)
					}
				}
				// It may have happened, unless it says that it has, or has not.
				got, gotErr := x.store.Get(x.ctx, k)
				if gotErr != nil {
					x.want("Get after a call whose context ended meanwhile", gotErr, store.ErrNotFound)
				}
				happened := is == (gotErr == nil) && (!is || got.Version == next.Version)
				switch {
				case err == nil && !happened:
					x.Errorf("call %d succeeded while its context ended, and has changed nothing", i)
				case errors.Is(err, store.ErrUnapplied) && happened:
					x.Errorf("call %d whose context ended meanwhile: %v; but it was applied", i, err)
				case gotErr == nil && happened:
					x.same("after a call whose context ended meanwhile", got, next)
				case gotErr == nil:
					x.same("after a call whose context ended meanwhile", got, r)
				case !happened && was:
					x.Errorf("call %d whose context ended meanwhile has removed the record", i)
				}
				if x.Failed() {
					return
				}
			}
		},
	},
}

// calls are all methods, by name, with the arguments bound: k holds r, and next
// is what may come after it.
func calls(s store.Store, k store.Key, r store.Record, absent store.Key, next store.Record) map[string]func(context.Context) error {
	m := map[string]func(context.Context) error{
		"Get":              func(ctx context.Context) error { _, err := s.Get(ctx, k); return err },
		"Get of nothing":   func(ctx context.Context) error { _, err := s.Get(ctx, absent); return err },
		"Create":           func(ctx context.Context) error { return s.Create(ctx, absent, r) },
		"Create over it":   func(ctx context.Context) error { return s.Create(ctx, k, r) },
		"Replace":          func(ctx context.Context) error { return s.Replace(ctx, k, r.Version, next) },
		"stale Replace":    func(ctx context.Context) error { return s.Replace(ctx, k, r.Version+9, next) },
		"Touch":            func(ctx context.Context) error { return s.Touch(ctx, k, r.Expires.Add(time.Minute)) },
		"Touch of nothing": func(ctx context.Context) error { return s.Touch(ctx, absent, r.Expires) },
		"Delete":           func(ctx context.Context) error { _, err := s.Delete(ctx, k); return err },
		"Delete of nothing": func(ctx context.Context) error {
			_, err := s.Delete(ctx, absent)
			return err
		},
	}
	if idx, ok := store.As[store.OwnerIndex](s); ok {
		m["ListOwner"] = func(ctx context.Context) error { _, err := idx.ListOwner(ctx, "alice"); return err }
		m["DeleteOwner"] = func(ctx context.Context) error { _, err := idx.DeleteOwner(ctx, "alice"); return err }
	}
	if l, ok := store.As[store.Lister](s); ok {
		m["List"] = func(ctx context.Context) error {
			for _, err := range l.List(ctx) {
				if err != nil {
					return err
				}
			}
			return nil
		}
	}
	if sw, ok := store.As[store.Sweeper](s); ok {
		m["Sweep"] = func(ctx context.Context) error { _, err := sw.Sweep(ctx, 1); return err }
	}
	if many, ok := store.As[store.GetMany](s); ok {
		m["GetMany"] = func(ctx context.Context) error { _, err := many.GetMany(ctx, []store.Key{k, absent}); return err }
	}
	if p, ok := store.As[store.Pinger](s); ok {
		m["Ping"] = p.Ping
	}
	if f, ok := store.As[store.FreshReader](s); ok {
		m["GetFresh"] = func(ctx context.Context) error { _, err := f.GetFresh(ctx, k); return err }
		m["GetFresh of nothing"] = func(ctx context.Context) error { _, err := f.GetFresh(ctx, absent); return err }
	}
	return m
}
