package nearcache_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/memstore"
	"github.com/coatcheck/coatcheck/store/nearcache"
)

func quiet() *nearcache.Options {
	return &nearcache.Options{Logger: slog.New(slog.DiscardHandler)}
}

// pair returns two caches over one store, as two servers have them.
func pair(t *testing.T) (in *inner, a, b *nearcache.Cache) {
	t.Helper()
	in = newInner()
	return in, around(t, in, quiet()), around(t, in, quiet())
}

func TestRevocationIsPushed(t *testing.T) {
	for _, how := range []string{"Delete", "DeleteOwner"} {
		synctest.Test(t, func(t *testing.T) {
			_, a, b := pair(t)
			run(t, a)
			run(t, b)
			create(t, a, key, version(1))
			wants(t, b.Get, 1, "the session")
			if how == "Delete" {
				_, _ = a.Delete(t.Context(), key)
			} else {
				idx, _ := store.As[store.OwnerIndex](store.Store(a))
				_, _ = idx.DeleteOwner(t.Context(), version(1).Owner)
			}
			wants(t, a.Get, 0, "a session that was ended on this server is dead at once")
			synctest.Wait()
			wants(t, b.Get, 0, "a session that was ended on another server is dead once the change was pushed")
		})
	}
}

func TestRevocationWithoutPush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b := pair(t)
		create(t, a, key, version(1))
		wants(t, b.Get, 1, "the session")
		_, _ = a.Delete(t.Context(), key)
		time.Sleep(time.Second)
		wants(t, b.Get, 0, "a session that was ended on another server is dead within MaxStale")
	})
}

func TestPushDropsOneKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, _, b := pair(t)
		run(t, b)
		other := store.Key{0: key[0]}
		create(t, in, key, version(1))
		create(t, in, other, version(1))
		synctest.Wait()
		wants(t, b.Get, 1, "the session")
		_, _ = in.Delete(t.Context(), other)
		synctest.Wait()
		reads(t, in, 0, "the change of one key costs no other its copy", func() { wants(t, b.Get, 1, "the session") })
		if s := b.Stats(); s.Invalidations != 3 || s.Flushes != 1 {
			t.Errorf("Stats = %+v; want 3 invalidations, and a flush when the stream began", s)
		}
	})
}

// Until the stream is ready, changes may have been missed; while it is broken,
// they are.
func TestStreamBeginsAndEndsWithAFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, _, b := pair(t)
		pushing := func(want bool) {
			t.Helper()
			if got := b.Stats().Pushing; got != want {
				t.Errorf("Pushing = %v; want %v", got, want)
			}
		}
		create(t, in, key, version(1))
		wants(t, b.Get, 1, "the session")
		replace(t, in, key, 2)
		wants(t, b.Get, 1, "the change was not pushed")
		pushing(false)
		run(t, b)
		wants(t, b.Get, 2, "what was kept before the stream was ready is dropped")
		pushing(true)

		in.cut()
		synctest.Wait()
		pushing(false)
		if err := in.Store.Replace(t.Context(), key, version(2).Version, version(3)); err != nil {
			t.Fatal(err)
		}
		wants(t, b.Get, 3, "what was kept when the stream broke is dropped")
		if err := in.Store.Replace(t.Context(), key, version(3).Version, version(4)); err != nil {
			t.Fatal(err)
		}
		in.mend()
		time.Sleep(maxFirstPause)
		synctest.Wait()
		pushing(true)
		wants(t, b.Get, 4, "what was kept while the stream was broken is dropped when it is back")
	})
}

// A copy that no change was told of is as young as the last moment at which the
// stream of changes was whole.
func TestCopiesStayYoungWhileTheStreamIsWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := newInner()
		c := around(t, in, quiet())
		run(t, c)
		absent := store.Key{9}
		create(t, in, key, version(1))
		synctest.Wait()
		read := func(n int, rule string) {
			t.Helper()
			reads(t, in, n, rule, func() {
				wants(t, c.Get, 1, rule)
				if _, err := c.Get(t.Context(), absent); !errors.Is(err, store.ErrNotFound) {
					t.Errorf("an absent record: %v", err)
				}
			})
		}
		read(2, "the first reads are the store's")
		whole := func(d time.Duration) {
			for ; d > 0; d -= 900 * time.Millisecond {
				time.Sleep(900 * time.Millisecond)
				in.whole <- time.Now()
				synctest.Wait()
			}
		}
		for range 60 {
			whole(900 * time.Millisecond)
			read(0, "copies are used for as long as the stream is whole")
		}
		whole(7 * time.Second)
		read(2, "no copy is used for longer than a minute, whatever the stream says")

		// A change that is told of nobody, as by a server that was replaced.
		if err := in.Store.Replace(t.Context(), key, version(1).Version, version(2)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(900 * time.Millisecond)
		in.whole <- time.Now().Add(-600 * time.Millisecond) // asked then, answered now
		synctest.Wait()
		time.Sleep(300 * time.Millisecond)
		wants(t, c.Get, 1, "what counts is when the stream was asked, less than MaxStale ago")
		time.Sleep(100 * time.Millisecond)
		wants(t, c.Get, 2, "no copy is used for longer than MaxStale after the stream was last seen to be whole")

		time.Sleep(500 * time.Millisecond)
		in.whole <- time.Now()
		synctest.Wait()
		in.cut()
		synctest.Wait()
		wants(t, c.Get, 2, "the session")
		if err := in.Store.Replace(t.Context(), key, version(2).Version, version(3)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		wants(t, c.Get, 3, "what was loaded after the stream broke grows old")
	})
}

// maxFirstPause is how long Run waits at most before it tries again.
const maxFirstPause = 150 * time.Millisecond

func TestRunTriesAgainLessAndLessOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		in := newInner()
		c := around(t, in, &nearcache.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
		in.cut()
		run(t, c)
		time.Sleep(maxFirstPause)
		synctest.Wait()
		if in.watches.Load() != 2 {
			t.Errorf("%d attempts within %v; want 2", in.watches.Load(), maxFirstPause)
		}
		time.Sleep(time.Hour)
		if n := in.watches.Load(); n < 1200 || n > 3600 {
			t.Errorf("%d attempts in an hour of failure; want one in two seconds or so", n)
		}
		in.mend()
		time.Sleep(3 * time.Second)
		if !c.Stats().Pushing {
			t.Error("three seconds after the store is back nothing is pushed")
		}
		time.Sleep(time.Minute)
		before := in.watches.Load()
		in.cut()
		in.mend()
		time.Sleep(maxFirstPause)
		synctest.Wait()
		if in.watches.Load() != before+1 {
			t.Error("after a stream that lasted, the first pause must be short again")
		}
		if warn, info := strings.Count(log.String(), "level=WARN"), strings.Count(log.String(), "level=INFO"); warn != 2 || info != 2 {
			t.Errorf("logged %d breaks and %d returns; want 2 each, not one per attempt:\n%s", warn, info, log.String())
		}
	})
}

// unsupported is a store that has a Watcher that never works.
type unsupported struct{ *memstore.Store }

func (unsupported) Watch(context.Context, func(), func([]store.Key)) error {
	return fmt.Errorf("test: watch: %w", errors.ErrUnsupported)
}

func TestRunWithoutWatcher(t *testing.T) {
	for name, st := range map[string]store.Store{"none": struct{ store.Store }{memstore.New()}, "one that never works": unsupported{memstore.New()}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log bytes.Buffer
				c := around(t, st, &nearcache.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
				run(t, c)
				time.Sleep(time.Hour)
				if n := strings.Count(log.String(), "\n"); n != 1 || !strings.Contains(log.String(), "level=INFO") {
					t.Errorf("logged %d lines; want one, as information:\n%s", n, log.String())
				}
				if c.Stats().Pushing {
					t.Error("Pushing, from a store that does not")
				}
			})
		})
	}
}

func TestRunTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := around(t, newInner(), nil)
		run(t, c)
		if err := c.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "once for each cache") {
			t.Errorf("a second Run: %v; want an error that says what to do", err)
		}
		if !c.Stats().Pushing {
			t.Error("a second Run ended the first")
		}
	})
}

// Users who go back and forth between two servers read their own writes if they
// say which version they know of, whether changes are pushed or not.
func TestAlternatingUsers(t *testing.T) {
	for _, pushed := range []bool{false, true} {
		for seed := range uint64(5) {
			synctest.Test(t, func(t *testing.T) {
				rng := rand.New(rand.NewPCG(seed, 0))
				in, a, b := pair(t)
				if pushed {
					run(t, a)
					run(t, b)
				}
				servers := []*nearcache.Cache{a, b}
				const users = 50
				var known [users]int
				for u := range users {
					create(t, in, store.Key{byte(u)}, version(1))
					known[u] = 1
				}
				stale := 0
				for step := range 5000 {
					u, c := rng.IntN(users), servers[rng.IntN(2)]
					k := store.Key{byte(u)}
					r, err := c.Get(t.Context(), k)
					if err == nil && int(r.Version>>32) < known[u] {
						stale++
						r, err = c.GetFresh(t.Context(), k)
					}
					if err != nil || int(r.Version>>32) != known[u] {
						t.Fatalf("seed %d, pushed %v, step %d: user %d read version %d, %v; their own last write was %d",
							seed, pushed, step, u, r.Version>>32, err, known[u])
					}
					if rng.IntN(4) == 0 {
						next := version(known[u] + 1)
						if err := c.Replace(t.Context(), k, r.Version, next); err != nil {
							t.Fatalf("seed %d, pushed %v, step %d: Replace of the newest version: %v", seed, pushed, step, err)
						}
						known[u]++
					}
					time.Sleep(time.Duration(rng.IntN(int(20 * time.Millisecond))))
					if pushed {
						synctest.Wait()
					}
				}
				if pushed && stale > 0 {
					t.Errorf("seed %d: %d reads were stale although every change had been pushed", seed, stale)
				}
				if !pushed && stale == 0 {
					t.Errorf("seed %d: no read was ever stale: this test shows nothing", seed)
				}
			})
		}
	}
}
