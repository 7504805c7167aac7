package breaker_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/breaker"
	"github.com/coatcheck/coatcheck/store/memstore"
	"github.com/coatcheck/coatcheck/store/storetest"
)

// shards is a memstore that pretends to be spread over n servers, with every
// capability. A shard that is down fails, or hangs, all calls about its keys,
// and those about all shards.
type shards struct {
	*memstore.Store
	n     int
	fault map[int]error // nil hangs
}

func newShards(n int) *shards { return &shards{memstore.New(), n, make(map[int]error)} }

func (s *shards) Shards() int           { return s.n }
func (s *shards) Shard(k store.Key) int { return int(k[0]) % s.n }
func (s *shards) Confirms() bool        { return true }

func (s *shards) fails(ctx context.Context, shard int) error {
	err, down := s.fault[shard]
	if down && err == nil {
		<-ctx.Done()
		return ctx.Err()
	}
	return err
}

func (s *shards) failsAny(ctx context.Context) error {
	for i := range s.n {
		if err := s.fails(ctx, i); err != nil {
			return err
		}
	}
	return nil
}

func (s *shards) Get(ctx context.Context, k store.Key) (store.Record, error) {
	if err := s.fails(ctx, s.Shard(k)); err != nil {
		return store.Record{}, err
	}
	return s.Store.Get(ctx, k)
}

func (s *shards) GetFresh(ctx context.Context, k store.Key) (store.Record, error) {
	return s.Get(ctx, k)
}

func (s *shards) GetMany(ctx context.Context, ks []store.Key) (map[store.Key]store.Record, error) {
	for _, k := range ks {
		if err := s.fails(ctx, s.Shard(k)); err != nil {
			return nil, err
		}
	}
	return s.Store.GetMany(ctx, ks)
}

func (s *shards) DeleteOwner(ctx context.Context, owner string, keep ...store.Handle) (int, error) {
	n, err := s.Store.DeleteOwner(ctx, owner, keep...)
	if err == nil {
		err = s.failsAny(ctx)
	}
	return n, err
}

func (s *shards) Ping(ctx context.Context) error {
	if err := s.failsAny(ctx); err != nil {
		return err
	}
	return s.Store.Ping(ctx)
}

func (s *shards) Inspect(ctx context.Context) ([]store.Finding, error) {
	return []store.Finding{{Check: "tls", Evidence: "on"}}, ctx.Err()
}

// One shard's outage is its own.
func TestShardsAreApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := newShards(3)
		b := wrap(t, inner, nil)
		ctx := t.Context()
		get := func(shard byte) error { _, err := b.Get(ctx, store.Key{shard}); return err }
		r := record()
		if err := b.Create(ctx, store.Key{0}, r); err != nil {
			t.Fatal(err)
		}

		inner.fault[1] = errDown
		for range 5 {
			time.Sleep(25 * time.Millisecond)
			_ = get(1)
		}
		if err := get(1); !errors.Is(err, breaker.ErrOpen) {
			t.Fatalf("Get on the shard that is down: %v; want a refusal", err)
		}
		for _, up := range []byte{0, 2} {
			if err := get(up); errors.Is(err, breaker.ErrOpen) || errors.Is(err, errDown) {
				t.Errorf("Get on shard %d, which is up: %v", up, err)
			}
		}
		if got, want := b.Status(), "shard 2 of 3 open since 2000-01-01T00:00:00Z"; got != want {
			t.Errorf("Status = %q; want %q", got, want)
		}
		wantState(t, b, breaker.Open, "with one shard open, as the worst of them,")
		var text []string
		for _, s := range b.States() {
			text = append(text, fmt.Sprint(s.Shard, s.State))
		}
		if got := fmt.Sprint(text); got != "[0 closed 1 open 2 closed]" {
			t.Errorf("States = %v", got)
		}

		many, _ := store.As[store.GetMany](b)
		if _, err := many.GetMany(ctx, []store.Key{{0}, {2}}); err != nil {
			t.Errorf("GetMany of the shards that are up: %v", err)
		}
		inner.fault[1] = nil // hangs from now on
		begin := time.Now()
		for _, ks := range [][]store.Key{{{0}, {1}}, {{1}, {4}}, {{1}}} {
			if _, err := many.GetMany(ctx, ks); !errors.Is(err, breaker.ErrOpen) {
				t.Errorf("GetMany with the shard that is down: %v; want a refusal", err)
			}
		}
		p, _ := store.As[store.Pinger](b)
		if err := p.Ping(ctx); !errors.Is(err, breaker.ErrOpen) {
			t.Errorf("Ping with one shard open: %v; want a refusal", err)
		}
		if d := time.Since(begin); d != 0 {
			t.Errorf("refusals took %v; want none", d)
		}

		// Signing out everywhere does what it can, within the deadline.
		idx, _ := store.As[store.OwnerIndex](b)
		if _, err := idx.DeleteOwner(ctx, "alice"); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != time.Second {
			t.Errorf("DeleteOwner: %v after %v; want it tried, and the deadline after 1 s", err, time.Since(begin))
		}
		if err := get(0); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("DeleteOwner did not reach the shard that is up: %v", err)
		}
		for range 20 {
			_, _ = idx.DeleteOwner(ctx, "alice")
		}
		for _, s := range b.States() {
			if s.Shard != 1 && s.State != breaker.Closed {
				t.Errorf("shard %d is %v after calls over all shards; want them to count for none", s.Shard, s.State)
			}
		}
	})
}

// When every shard is open, a call over all of them could only hang.
func TestAllShardsOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := newShards(2)
		inner.fault[0], inner.fault[1] = errDown, errDown
		b := wrap(t, inner, nil)
		for i := range 10 {
			time.Sleep(25 * time.Millisecond)
			_, _ = b.Get(t.Context(), store.Key{byte(i)})
		}
		idx, _ := store.As[store.OwnerIndex](b)
		if _, err := idx.ListOwner(t.Context(), "alice"); !errors.Is(err, breaker.ErrOpen) {
			t.Errorf("ListOwner: %v; want a refusal", err)
		}
	})
}

// Ping is the probe of shards that nothing else asks for.
func TestPingProbesShards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := newShards(3)
		inner.fault[1], inner.fault[2] = errDown, errDown
		b := wrap(t, inner, nil)
		for i := range 30 {
			time.Sleep(25 * time.Millisecond)
			_, _ = b.Get(t.Context(), store.Key{byte(i)})
		}
		time.Sleep(501 * time.Millisecond)
		p, _ := store.As[store.Pinger](b)
		if err := p.Ping(t.Context()); !errors.Is(err, errDown) {
			t.Errorf("Ping while two shards are down: %v; want the probe's error", err)
		}
		time.Sleep(501 * time.Millisecond)
		clear(inner.fault)
		if err := p.Ping(t.Context()); err != nil {
			t.Errorf("Ping when they are back: %v", err)
		}
		wantState(t, b, breaker.Closed, "after a Ping")
	})
}

func TestSharedFaultsForward(t *testing.T) {
	b := wrap(t, storetest.NewFaults(newShards(4), nil), nil)
	if n := len(b.States()); n != 4 {
		t.Errorf("%d circuits around a wrapper of 4 shards; want 4", n)
	}
	if s, ok := store.As[store.Sharded](b); !ok || s.Shards() != 4 {
		t.Error("the shards are not forwarded")
	}
}
