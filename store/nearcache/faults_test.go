package nearcache_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/memstore"
	"github.com/coatcheck/coatcheck/store/nearcache"
	"github.com/coatcheck/coatcheck/store/storetest"
)

func TestScriptsOverFaults(t *testing.T) {
	c := config()
	c.New = func(t *testing.T) store.Store { return around(t, storetest.NewFaults(memstore.New(), nil), nil) }
	storetest.RunScripts(t, c)
}

// Whatever call of the inner store fails, before its effect or after it, a Get
// returns what the store holds from then on, since nobody else writes: never
// what was kept before a write whose outcome is unknown.
func TestFaultAtEveryCall(t *testing.T) {
	lost := errors.New("answer lost")
	for _, after := range []bool{false, true} {
		for _, method := range []string{"Get", "Create", "Replace", "Touch", "Delete", "DeleteOwner"} {
			for n := 1; ; n++ {
				failed := false
				t.Run(fmt.Sprintf("%s/%d/after=%v", method, n, after), func(t *testing.T) {
					bare := memstore.New()
					faults := storetest.NewFaults(bare, storetest.Nth(method, n, storetest.Fault{Err: lost, After: after}))
					c := around(t, faults, nil)
					rng := rand.New(rand.NewPCG(1, 0))
					acknowledged := 0 // the last version whose write was
					for step := range 120 {
						k := store.Key{byte(rng.IntN(3))}
						err := anything(t, c, bare, k, rng)
						failed = failed || errors.Is(err, lost)
						if errors.Is(err, lost) && method == "Get" {
							continue
						}
						want, wantErr := bare.Get(t.Context(), k)
						got, gotErr := c.Get(t.Context(), k)
						if errors.Is(gotErr, lost) {
							failed = true
							got, gotErr = c.Get(t.Context(), k)
						}
						if got.Version != want.Version || !got.Expires.Equal(want.Expires) || errors.Is(gotErr, store.ErrNotFound) != errors.Is(wantErr, store.ErrNotFound) {
							t.Fatalf("step %d: Get = version %#x, expires %v, %v; the store holds %#x, %v, %v (last acknowledged: %d)",
								step, got.Version, got.Expires, gotErr, want.Version, want.Expires, wantErr, acknowledged)
						}
						acknowledged = int(want.Version >> 32)
					}
				})
				if !failed {
					if n == 1 {
						t.Errorf("no script calls %s", method)
					}
					break
				}
			}
		}
	}
}

// anything does something to k.
func anything(t *testing.T, c *nearcache.Cache, bare *memstore.Store, k store.Key, rng *rand.Rand) error {
	held, _ := bare.Get(t.Context(), k)
	next := version(int(held.Version>>32) + 1)
	next.Owner = "alice"
	switch rng.IntN(10) {
	case 0, 1, 2:
		_, err := c.Get(t.Context(), k)
		return err
	case 3, 4:
		return c.Create(t.Context(), k, next)
	case 5, 6, 7:
		return c.Replace(t.Context(), k, held.Version, next)
	case 8:
		return c.Touch(t.Context(), k, time.Now().Add(time.Duration(2+rng.IntN(20))*time.Hour))
	}
	if rng.IntN(3) > 0 {
		_, err := c.Delete(t.Context(), k)
		return err
	}
	idx, _ := store.As[store.OwnerIndex](store.Store(c))
	_, err := idx.DeleteOwner(t.Context(), "alice")
	return err
}

// A Get that begins when a write through the same cache has returned never
// returns anything older, whatever goes on at the same time.
func TestRace(t *testing.T) {
	in := newInner()
	in.onGet = func(_ context.Context, _ store.Key, read func() (store.Record, error)) (store.Record, error) {
		r, err := read()
		if rand.IntN(8) == 0 {
			time.Sleep(time.Duration(rand.IntN(200)) * time.Microsecond) // an answer that is long on its way
		}
		return r, err
	}
	c := around(t, in, nil)
	const keys, writes = 4, 300
	var written [keys]atomic.Uint64 // the newest version whose write has returned
	var reads [keys]atomic.Int64
	pause := func(i int) { // lets somebody read in between
		for n := reads[i].Load() + 10; reads[i].Load() < n && !t.Failed(); {
			runtime.Gosched()
		}
	}
	for i := range keys {
		create(t, in, store.Key{0: 1, 1: byte(i)}, version(1))
		written[i].Store(1)
	}
	var done atomic.Int64
	var wg sync.WaitGroup
	for i := range keys {
		k := store.Key{0: 1, 1: byte(i)}
		wg.Go(func() {
			defer done.Add(1)
			for n := 2; n < writes; n++ {
				if err := c.Replace(t.Context(), k, version(n-1).Version, version(n)); err != nil {
					t.Errorf("Replace: %v", err)
					return
				}
				written[i].Store(uint64(n))
				pause(i)
			}
		})
		for r := range 3 {
			wg.Go(func() {
				for j := 0; done.Load() < keys; j++ {
					least := written[i].Load()
					get := c.Get
					if r == 2 && j%16 == 0 {
						get = c.GetFresh
					}
					rec, err := get(t.Context(), k)
					if err != nil {
						t.Errorf("Get: %v", err)
						return
					}
					reads[i].Add(1)
					runtime.Gosched()
					if v := rec.Version >> 32; v < least {
						t.Errorf("a Get that began after version %d was written returned version %d", least, v)
						return
					}
				}
			})
		}
	}
	wg.Go(func() {
		for i := 0; done.Load() == 0 && !t.Failed(); i++ {
			switch i % 3 {
			case 0:
				nearcache.Flush(c)
			case 1:
				nearcache.Invalidate(c, store.Key{0: 1, 1: byte(i % keys)})
			case 2:
				idx, _ := store.As[store.OwnerIndex](store.Store(c))
				_, _ = idx.DeleteOwner(t.Context(), "nobody")
			}
			pause(i % keys) // or nothing is ever kept
		}
	})
	wg.Wait()
	if s := c.Stats(); s.Hits == 0 {
		t.Errorf("Stats = %+v: nothing was ever kept, this test shows nothing", s)
	} else {
		t.Logf("%+v", s)
	}
}
