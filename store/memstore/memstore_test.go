package memstore_test

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/memstore"
	"github.com/coatcheck/coatcheck/store/storetest"
)

func config() storetest.Config {
	return storetest.Config{
		New:      func(*testing.T) store.Store { return memstore.New() },
		Second:   func(_ *testing.T, s store.Store) store.Store { return s },
		Synctest: true,
		Count:    func(_ *testing.T, s store.Store) int { return memstore.Entries(s.(*memstore.Store)) },
	}
}

func TestContract(t *testing.T) { storetest.Run(t, config()) }

func record(data int) store.Record {
	now := time.Now()
	return store.Record{
		Version:  1,
		Owner:    "alice",
		Created:  now,
		Deadline: now.Add(24 * time.Hour),
		Expires:  now.Add(time.Hour),
		Label:    []byte("Firefox on Linux"),
		Data:     make([]byte, data),
	}
}

// A watcher that is busy for too long is told that anything may have changed, and
// then again of each change.
func TestWatchWhenBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := memstore.New()
		ctx, cancel := context.WithCancel(t.Context())
		ready, busy := make(chan struct{}), make(chan struct{})
		var told []int
		done := make(chan error)
		go func() {
			done <- st.Watch(ctx, func(time.Time) { close(ready) }, func(ks []store.Key) {
				told = append(told, len(ks))
				<-busy
			})
		}()
		<-ready
		create := func(n int) {
			for i := range n {
				k := store.Key{byte(len(told)), byte(i >> 16), byte(i >> 8), byte(i)}
				if err := st.Create(t.Context(), k, record(0)); err != nil {
					t.Fatal(err)
				}
			}
			synctest.Wait()
		}
		create(1)
		create(10_001)
		close(busy)
		synctest.Wait()
		create(1)
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Watch: %v; want context.Canceled", err)
		}
		if want := []int{1, 0, 1}; !slices.Equal(told, want) {
			t.Errorf("told of %v keys; want %v, where 0 is all", told, want)
		}
	})
}

// A read costs the copy that belongs to the caller, and no other allocation.
func TestGetAllocatesOnce(t *testing.T) {
	st := memstore.New()
	if err := st.Create(t.Context(), store.Key{1}, record(200)); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	if n := testing.AllocsPerRun(100, func() { _, _ = st.Get(ctx, store.Key{1}) }); n > 1 {
		t.Errorf("Get of a record with label and data: %v allocations; want 1", n)
	}
}

// filled returns a store with a hundred thousand sessions of as many owners.
func filled(b *testing.B) (*memstore.Store, []store.Key) {
	st := memstore.New()
	keys := make([]store.Key, 100_000)
	for i := range keys {
		binary.BigEndian.PutUint64(keys[i][:], uint64(i))
		r := record(200)
		r.Owner = string(keys[i][:8])
		if err := st.Create(b.Context(), keys[i], r); err != nil {
			b.Fatal(err)
		}
	}
	return st, keys
}

func BenchmarkGet(b *testing.B) {
	st, keys := filled(b)
	ctx := b.Context()
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			if _, err := st.Get(ctx, keys[i%len(keys)]); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

func BenchmarkReplace(b *testing.B) {
	st, keys := filled(b)
	ctx := b.Context()
	r := record(200)
	r.Version = 1 // the one that is stored: each replaces itself
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			if err := st.Replace(ctx, keys[i%len(keys)], 1, r); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
