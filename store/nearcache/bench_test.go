package nearcache_test

import (
	"context"
	"encoding/binary"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/memstore"
	"github.com/coatcheck/coatcheck/store/nearcache"
)

// endless is a store in which every key leads to the same record.
type endless struct {
	*memstore.Store
	record store.Record
}

func (e endless) Get(context.Context, store.Key) (store.Record, error) { return e.record, nil }

// number returns the nth key, as spread as real ones.
func number(n uint64) (k store.Key) {
	binary.LittleEndian.PutUint64(k[:], n*0x9e3779b97f4a7c15)
	binary.LittleEndian.PutUint64(k[8:], n)
	return k
}

func session(data int) store.Record {
	now := time.Now().Truncate(time.Millisecond)
	return store.Record{
		Version:  1 << 32,
		Owner:    "alice@example.org",
		Created:  now,
		Deadline: now.Add(24 * time.Hour),
		Expires:  now.Add(time.Hour),
		Label:    []byte("Firefox on Linux"),
		Data:     make([]byte, data),
	}
}

// filled returns a cache full of sessions of 300 bytes, the last of which have
// not been evicted.
func filled(b *testing.B) (*nearcache.Cache, int) {
	c := around(b, endless{memstore.New(), session(300)}, &nearcache.Options{MaxStale: time.Hour})
	for n := uint64(0); c.Stats().Bytes < 60<<20; n += 1000 {
		for i := range uint64(1000) {
			if _, err := c.Get(b.Context(), number(n+i)); err != nil {
				b.Fatal(err)
			}
		}
	}
	return c, c.Stats().Entries
}

func BenchmarkHit(b *testing.B) {
	c, n := filled(b)
	keys := make([]store.Key, 4096)
	for i := range keys {
		keys[i] = number(uint64(i) % uint64(n))
	}
	var seed atomic.Uint64
	run := func(b *testing.B, keys []store.Key) {
		before := c.Stats()
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for i := seed.Add(7919); pb.Next(); i++ {
				if _, err := c.Get(b.Context(), keys[i%uint64(len(keys))]); err != nil {
					b.Error(err)
				}
			}
		})
		if s := c.Stats(); s.Misses != before.Misses {
			b.Logf("%d of %d reads missed", s.Misses-before.Misses, b.N)
		}
	}
	b.Run("4096 keys", func(b *testing.B) { run(b, keys) })
	b.Run("one key", func(b *testing.B) { run(b, keys[:1]) })
}

// What a cache costs where it does not help.
func BenchmarkMiss(b *testing.B) {
	c := around(b, endless{memstore.New(), session(300)}, &nearcache.Options{MaxStale: time.Hour})
	b.ReportAllocs()
	for n := range uint64(b.N) {
		if _, err := c.Get(b.Context(), number(n)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUnknown(b *testing.B) {
	c := around(b, memstore.New(), &nearcache.Options{MaxStale: time.Hour})
	b.ReportAllocs()
	for b.Loop() {
		_, _ = c.Get(b.Context(), store.Key{})
	}
}

func BenchmarkTouch(b *testing.B) {
	inner := memstore.New()
	r := session(300)
	if err := inner.Create(b.Context(), store.Key{}, r); err != nil {
		b.Fatal(err)
	}
	for name, st := range map[string]store.Store{"bare": inner, "cached": around(b, inner, nil)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := st.Touch(b.Context(), store.Key{}, r.Expires); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkDeleteOwner(b *testing.B) {
	c, n := filled(b)
	idx, _ := store.As[store.OwnerIndex](store.Store(c))
	b.ReportMetric(float64(n), "entries")
	for b.Loop() {
		if _, err := idx.DeleteOwner(b.Context(), "bob"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkFlush(b *testing.B) {
	c := around(b, memstore.New(), nil)
	b.ReportAllocs()
	for b.Loop() {
		nearcache.Flush(c)
	}
}
