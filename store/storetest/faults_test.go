package storetest

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/memstore"
)

var errFault = errors.New("connection reset")

// Every method fails, before its effect and after it.
func TestFaultsAtEveryCall(t *testing.T) {
	now := time.Now()
	r := store.Record{Version: 1, Owner: "alice", Created: now, Deadline: now.Add(time.Hour), Expires: now.Add(time.Minute), Data: []byte("old")}
	next := r
	next.Version, next.Data = 2, []byte("new")
	k, absent := store.Key{1}, store.Key{2}
	for name, happened := range map[string]func(inner store.Store) bool{
		"Create":      func(s store.Store) bool { _, err := s.Get(t.Context(), absent); return err == nil },
		"Replace":     func(s store.Store) bool { got, _ := s.Get(t.Context(), k); return got.Version == 2 },
		"Touch":       func(s store.Store) bool { got, _ := s.Get(t.Context(), k); return got.Expires.After(r.Expires) },
		"Delete":      func(s store.Store) bool { _, err := s.Get(t.Context(), k); return err != nil },
		"DeleteOwner": func(s store.Store) bool { _, err := s.Get(t.Context(), k); return err != nil },
		"Get":         nil,
		"GetMany":     nil,
		"List":        nil,
		"ListOwner":   nil,
		"Ping":        nil,
		"Sweep":       nil,
		"GetFresh":    nil,
		"Inspect":     nil,
		"Watch":       nil,
	} {
		for _, after := range []bool{false, true} {
			inner := new(naive) // it has every capability
			if err := inner.Create(t.Context(), k, r); err != nil {
				t.Fatal(err)
			}
			f := NewFaults(inner, Nth(name, 1, Fault{Err: errFault, After: after}))
			call := calls(f, k, r, absent, next)[name]
			if w, ok := store.As[store.Watcher](f); ok && name == "Watch" {
				call = func(ctx context.Context) error {
					ctx, cancel := context.WithCancel(ctx)
					return w.Watch(ctx, func(time.Time) { cancel() }, nil)
				}
			}
			if i, ok := store.As[store.Inspector](f); ok && name == "Inspect" {
				call = func(ctx context.Context) error { _, err := i.Inspect(ctx); return err }
			}
			if err := call(t.Context()); !errors.Is(err, errFault) {
				t.Errorf("%s, after %v: got error %v; want %v", name, after, err, errFault)
			}
			if happened != nil && happened(inner) != after {
				t.Errorf("%s, after %v: it happened: %v", name, after, !after)
			}
			if n := f.Count(name); n != 1 {
				t.Errorf("Count(%q) = %d; want 1", name, n)
			}
		}
	}
}

func TestFaultsList(t *testing.T) {
	inner := memstore.New()
	now := time.Now()
	for i := range 3 {
		if err := inner.Create(t.Context(), store.Key{byte(i)}, store.Record{Created: now, Deadline: now.Add(time.Hour), Expires: now.Add(time.Hour)}); err != nil {
			t.Fatal(err)
		}
	}
	for after, want := range map[bool]int{false: 0, true: 3} {
		f := NewFaults(inner, Every(Fault{Err: errFault, After: after}, "List"))
		l, _ := store.As[store.Lister](f)
		n := 0
		var last error
		for _, err := range l.List(t.Context()) {
			if last = err; err == nil {
				n++
			}
		}
		if n != want || !errors.Is(last, errFault) {
			t.Errorf("List with a fault, after %v: %d records, then error %v; want %d, then %v", after, n, last, want, errFault)
		}
	}
}

func TestFaultsBlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := NewFaults(memstore.New(), Every(Fault{Block: true}))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		begin := time.Now()
		_, err := f.Get(ctx, store.Key{1})
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != time.Minute {
			t.Errorf("Get of a store that blocks: error %v after %v; want the deadline's, after a minute", err, time.Since(begin))
		}
	})
}

func TestNthAndSetHook(t *testing.T) {
	f := NewFaults(memstore.New(), Nth("Ping", 2, Fault{Err: errFault}))
	p, _ := store.As[store.Pinger](f)
	ping := func() (failed []bool) {
		for range 3 {
			failed = append(failed, p.Ping(t.Context()) != nil)
		}
		return failed
	}
	if got := ping(); !slices.Equal(got, []bool{false, true, false}) {
		t.Errorf("with the second call to fail: failed %v", got)
	}
	f.SetHook(nil)
	if got := ping(); slices.Contains(got, true) || f.Count("Ping") != 3 {
		t.Errorf("without a hook: failed %v, counted %d", got, f.Count("Ping"))
	}
	if sh, ok := store.As[store.Sharded](NewFaults(new(naive), nil)); !ok || sh.Shards() != 3 {
		t.Error("the shards of the inner store were not found")
	}
	if c, ok := store.As[store.Confirmer](NewFaults(struct {
		*memstore.Store
		confirmer
	}{Store: memstore.New()}, nil)); !ok || !c.Confirms() {
		t.Error("that the inner store confirms writes was not found")
	}
	if _, ok := store.As[store.Sweeper](NewFaults(bare{memstore.New()}, nil)); ok {
		t.Error("a capability that the inner store lacks was found")
	}
}

type confirmer struct{}

func (confirmer) Confirms() bool { return true }
