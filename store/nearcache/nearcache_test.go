package nearcache_test

import (
	"bytes"
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/memstore"
	"github.com/coatcheck/coatcheck/store/nearcache"
	"github.com/coatcheck/coatcheck/store/storetest"
)

// around returns a cache around st that must have finished all it began when the
// test ends.
func around(t testing.TB, st store.Store, opts *nearcache.Options) *nearcache.Cache {
	t.Helper()
	c, err := nearcache.New(st, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if n := nearcache.Spans(c); n != 0 {
			t.Errorf("%d keys are said to be read or written when nobody does: memory leaks", n)
		}
	})
	return c
}

func config() storetest.Config {
	return storetest.Config{
		New:      func(t *testing.T) store.Store { return around(t, memstore.New(), nil) },
		Synctest: true,
	}
}

func TestContract(t *testing.T) { storetest.Run(t, config()) }

func TestScripts(t *testing.T) {
	var seeds []uint64
	for seed := range uint64(100) {
		seeds = append(seeds, seed)
	}
	storetest.RunScripts(t, config(), seeds...)
}

func TestOptions(t *testing.T) {
	for _, tt := range []struct {
		name   string
		inner  store.Store
		opts   *nearcache.Options
		advice string // "" for none
	}{
		{"nil", memstore.New(), nil, ""},
		{"zero", memstore.New(), &nearcache.Options{}, ""},
		{"no store", nil, nil, "give it the store"},
		{"negative bytes", memstore.New(), &nearcache.Options{MaxBytes: -1}, "leave it zero for 67108864"},
		{"few bytes", memstore.New(), &nearcache.Options{MaxBytes: 1<<20 - 1}, "give it 1048576 or more"},
		{"enough bytes", memstore.New(), &nearcache.Options{MaxBytes: 1 << 20}, ""},
		{"negative unknown", memstore.New(), &nearcache.Options{MaxUnknown: -1}, "leave it zero for 16384"},
		{"negative staleness", memstore.New(), &nearcache.Options{MaxStale: -1}, "leave it zero for 1s"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := nearcache.New(tt.inner, tt.opts)
			if (err == nil) != (tt.advice == "") || err != nil && !strings.Contains(err.Error(), tt.advice) {
				t.Errorf("New: %v; want advice %q", err, tt.advice)
			}
		})
	}
}

func TestHit(t *testing.T) {
	in := newInner()
	c := around(t, in, nil)
	create(t, in, key, version(1))
	want, err := in.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		r, err := c.Get(t.Context(), key)
		if err != nil || !reflect.DeepEqual(r, want) {
			t.Fatalf("Get = %#v, %v; want what the store has", r, err)
		}
		r.Data[0], r.Label[0] = 0xff, 0xff // ours
		_ = append(r.Label, bytes.Repeat([]byte{0xff}, 10)...)
	}
	if s := c.Stats(); s.Hits != 2 || s.Misses != 1 || s.Loads != 1 || s.Entries != 1 {
		t.Errorf("Stats = %+v; want 2 hits, a miss, a load and an entry", s)
	}
}

// What is kept belongs to the cache, also if the first caller writes to what it
// was given.
func TestFirstReaderOwnsItsCopy(t *testing.T) {
	in := newInner()
	c := around(t, in, nil)
	create(t, in, key, version(1))
	r, err := c.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	r.Data[0] = 0xff
	if again, err := c.Get(t.Context(), key); err != nil || again.Data[0] != 1 {
		t.Errorf("Get = %v, %v; want the data unharmed by who was given it before", again.Data, err)
	}
}

// Age counts from the start of the load: what the store had said by then may
// have changed while its answer was on its way.
func TestStaleFromStartOfLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := newInner()
		c := around(t, in, nil)
		create(t, in, key, version(1))
		in.onGet = func(_ context.Context, _ store.Key, read func() (store.Record, error)) (store.Record, error) {
			r, err := read()
			time.Sleep(400 * time.Millisecond)
			return r, err
		}
		wants(t, c.Get, 1, "the first read")
		replace(t, in, key, 2)
		time.Sleep(600*time.Millisecond - time.Nanosecond)
		wants(t, c.Get, 1, "a copy is used until it is a second old")
		time.Sleep(time.Nanosecond)
		wants(t, c.Get, 2, "a copy is not used once its load began a second ago")
	})
}

func TestMaxStaleIsObeyed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := newInner()
		c := around(t, in, &nearcache.Options{MaxStale: time.Minute})
		create(t, in, key, version(1))
		wants(t, c.Get, 1, "the first read")
		replace(t, in, key, 2)
		time.Sleep(time.Minute - time.Nanosecond)
		wants(t, c.Get, 1, "MaxStale is a minute")
		time.Sleep(time.Nanosecond)
		wants(t, c.Get, 2, "MaxStale is a minute")
	})
}

func TestExpiredCopyIsReadThrough(t *testing.T) {
	for _, touched := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			in := newInner()
			c := around(t, in, nil)
			r := version(1)
			r.Expires = time.Now().Add(100 * time.Millisecond)
			create(t, in, key, r)
			wants(t, c.Get, 1, "the first read")
			if touched {
				if err := in.Touch(t.Context(), key, time.Now().Add(time.Hour)); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(200 * time.Millisecond)
			if !touched {
				wants(t, c.Get, 0, "a record is never returned at or after its expiry")
				return
			}
			wants(t, c.Get, 1, "before a copy is said to have expired, the store is asked: it may have been touched elsewhere")
			if r, _ := c.Get(t.Context(), key); !r.Live(time.Now()) {
				t.Error("a copy that has expired was returned")
			}
		})
	}
}

func TestUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := newInner()
		c := around(t, in, nil)
		reads(t, in, 1, "that a key is unknown is remembered", func() {
			for range 10 {
				wants(t, c.Get, 0, "there is none")
			}
		})
		if s := c.Stats(); s.UnknownHits != 9 || s.Unknown != 1 {
			t.Errorf("Stats = %+v; want 9 unknown hits of 1 key", s)
		}
		create(t, c, key, version(1))
		wants(t, c.Get, 1, "a Create through the cache is seen at once")

		if _, err := c.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
		wants(t, c.Get, 0, "a Delete through the cache is seen at once")
		create(t, in, key, version(1))
		time.Sleep(time.Second - time.Nanosecond)
		wants(t, c.Get, 0, "that a key is unknown is remembered until it is a second old")
		time.Sleep(time.Nanosecond)
		wants(t, c.Get, 1, "a Create elsewhere is seen within MaxStale")
	})
}

func TestErrorsAreNotKept(t *testing.T) {
	for _, want := range []error{store.ErrCorrupt, context.Canceled, context.DeadlineExceeded, errBroken} {
		in := newInner()
		c := around(t, in, nil)
		create(t, in, key, version(1))
		in.onGet = func(context.Context, store.Key, func() (store.Record, error)) (store.Record, error) {
			return store.Record{}, want
		}
		if _, err := c.Get(t.Context(), key); !errors.Is(err, want) {
			t.Errorf("Get: %v; want %v", err, want)
		}
		in.onGet = nil
		wants(t, c.Get, 1, "only a record, or that there is none, is kept; not: "+want.Error())
	}
}

func TestGetFresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := newInner()
		c := around(t, in, nil)
		create(t, in, key, version(1))
		wants(t, c.Get, 1, "the first read")
		replace(t, in, key, 2)
		wants(t, c.GetFresh, 2, "GetFresh reads through")
		reads(t, in, 0, "what GetFresh read is kept", func() { wants(t, c.Get, 2, "what GetFresh read is kept") })

		release := held(in)
		time.Sleep(time.Second)
		background(t, c.Get)
		replace(t, in, key, 3)
		wants(t, c.GetFresh, 3, "GetFresh joins no load that began before it")
		release()
	})
}

// fresh is a store that may itself be stale.
type fresh struct{ store.Store }

func (f fresh) Get(context.Context, store.Key) (store.Record, error) { return version(1), nil }

func (f fresh) GetFresh(context.Context, store.Key) (store.Record, error) { return version(2), nil }

func TestGetFreshPassesOn(t *testing.T) {
	c := around(t, fresh{memstore.New()}, nil)
	wants(t, c.Get, 1, "Get is a Get")
	wants(t, c.GetFresh, 2, "GetFresh is a GetFresh of an inner store that has it")
}

// Whatever becomes of a write, what was kept before is not used after it.
func TestWritesDropTheCopy(t *testing.T) {
	writes := map[string]func(*nearcache.Cache, context.Context) error{
		"Create": func(c *nearcache.Cache, ctx context.Context) error { return c.Create(ctx, key, version(1)) },
		"Replace": func(c *nearcache.Cache, ctx context.Context) error {
			return c.Replace(ctx, key, version(1).Version, version(2))
		},
		"Touch": func(c *nearcache.Cache, ctx context.Context) error {
			return c.Touch(ctx, key, time.Now().Add(2*time.Hour))
		},
		"Delete": func(c *nearcache.Cache, ctx context.Context) error {
			_, err := c.Delete(ctx, key)
			return err
		},
		"DeleteOwner": func(c *nearcache.Cache, ctx context.Context) error {
			idx, _ := store.As[store.OwnerIndex](store.Store(c))
			_, err := idx.DeleteOwner(ctx, version(1).Owner)
			return err
		},
	}
	outcomes := map[string]func(do func() error) error{
		"success":   func(do func() error) error { return do() },
		"ambiguous": func(do func() error) error { _ = do(); return store.ErrAmbiguous },
		"conflict":  func(func() error) error { return store.ErrConflict },
		"panic":     func(do func() error) error { _ = do(); panic("in the driver") },
	}
	for name, write := range writes {
		for outcome, on := range outcomes {
			t.Run(name+"/"+outcome, func(t *testing.T) {
				in := newInner()
				c := around(t, in, nil)
				create(t, in, key, version(1))
				wants(t, c.Get, 1, "the first read")
				in.onWrite = on
				func() {
					defer func() { _ = recover() }()
					_ = write(c, t.Context())
				}()
				reads(t, in, 1, "after a write the store is asked, whatever the write said", func() { _, _ = c.Get(t.Context(), key) })
			})
		}
	}
}

// A write may take effect long before its answer comes.
func TestNothingIsKeptDuringAWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := newInner()
		c := around(t, in, nil)
		create(t, in, key, version(1))
		wants(t, c.Get, 1, "the first read")
		step := make(chan struct{})
		in.onWrite = func(do func() error) error {
			<-step
			err := do()
			<-step
			return err
		}
		go replace(t, c, key, 2)
		synctest.Wait()
		reads(t, in, 3, "nothing is kept while a write is under way", func() {
			for range 3 {
				wants(t, c.Get, 1, "the write has not happened")
			}
		})
		step <- struct{}{}
		synctest.Wait()
		wants(t, c.Get, 2, "the write has happened, though it has not returned")
		// Another write begins and ends meanwhile.
		in.onWrite = nil
		if err := c.Touch(t.Context(), key, time.Now().Add(2*time.Hour)); err != nil {
			t.Fatal(err)
		}
		reads(t, in, 2, "nothing is kept while one of two writes is under way", func() {
			wants(t, c.Get, 2, "nothing has changed")
			wants(t, c.Get, 2, "nothing has changed")
		})
		close(step)
		synctest.Wait()
		reads(t, in, 1, "after the last write copies are kept again", func() {
			wants(t, c.Get, 2, "nothing has changed")
			wants(t, c.Get, 2, "nothing has changed")
		})
	})
}

func TestDeleteOwnerLeavesOthers(t *testing.T) {
	in := newInner()
	c := around(t, in, nil)
	create(t, in, key, version(1))
	wants(t, c.Get, 1, "the first read")
	idx, _ := store.As[store.OwnerIndex](store.Store(c))
	if n, err := idx.DeleteOwner(t.Context(), "bob"); n != 0 || err != nil {
		t.Fatalf("DeleteOwner = %d, %v; want 0", n, err)
	}
	reads(t, in, 0, "the copies of others stay", func() { wants(t, c.Get, 1, "alice's") })
}

// Of two loads that land in the wrong order the better one is kept.
func TestOldNewsReplaceNoNewer(t *testing.T) {
	touched := version(1)
	touched.Expires = touched.Expires.Add(time.Hour)
	for _, tt := range []struct {
		name   string
		first  int // version at first; 0: none
		change func(*testing.T, *inner)
		then   int
		rule   string
	}{
		{"a newer version", 1, func(t *testing.T, in *inner) { replace(t, in, key, 2) }, 2, "a copy is not replaced by an older version"},
		{"created", 0, func(t *testing.T, in *inner) { create(t, in, key, version(1)) }, 1, "a record is not replaced by an earlier answer that there is none"},
		{"deleted", 1, func(t *testing.T, in *inner) { _, _ = in.Delete(t.Context(), key) }, 0, "that a record is gone is not replaced by an earlier answer"},
		{"touched", 1, func(t *testing.T, in *inner) { _ = in.Touch(t.Context(), key, touched.Expires) }, 1, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				in := newInner()
				c := around(t, in, nil)
				if tt.first != 0 {
					create(t, in, key, version(tt.first))
				}
				release := held(in)
				background(t, c.Get)
				time.Sleep(time.Nanosecond)
				tt.change(t, in)
				want, _ := in.Store.Get(t.Context(), key)
				wants(t, c.GetFresh, tt.then, "GetFresh reads through")
				release()
				reads(t, in, 0, "a copy is kept", func() { wants(t, c.Get, tt.then, tt.rule) })
				if r, _ := c.Get(t.Context(), key); r.Expires != want.Expires {
					t.Error("of two copies of one version the later read must be kept: it may have been touched between them")
				}
			})
		})
	}
}

// A key is in one of the two memories at most.
func TestNewsReplaceTheOpposite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := newInner()
		c := around(t, in, nil)
		wants(t, c.Get, 0, "there is none")
		r := version(1)
		r.Expires = time.Now().Add(100 * time.Millisecond)
		create(t, in, key, r)
		wants(t, c.GetFresh, 1, "GetFresh reads through")
		_ = in.Touch(t.Context(), key, time.Now().Add(time.Hour))
		time.Sleep(200 * time.Millisecond)
		wants(t, c.Get, 1, "that there was none is forgotten once there is one")
		_, _ = in.Delete(t.Context(), key)
		wants(t, c.GetFresh, 0, "GetFresh reads through")
		wants(t, c.Get, 0, "a copy is dropped once the record is found to be gone")
	})
}

// A failover that lost writes takes a store back; a copy stays as it is, until
// it is too old to be used.
func TestRegressionWaitsForMaxStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := newInner()
		c := around(t, in, nil)
		create(t, in, key, version(5))
		wants(t, c.Get, 5, "the first read")
		_, _ = in.Delete(t.Context(), key)
		create(t, in, key, version(1))
		time.Sleep(time.Second - time.Nanosecond)
		wants(t, c.GetFresh, 1, "GetFresh reads through")
		wants(t, c.Get, 5, "a young copy is not replaced by an older version")
		time.Sleep(time.Nanosecond)
		wants(t, c.GetFresh, 1, "GetFresh reads through")
		reads(t, in, 0, "a copy past MaxStale is replaced by any", func() {
			wants(t, c.Get, 1, "a copy past MaxStale is replaced by any")
		})
	})
}

// Who is told of a change by the cache, and reads through the cache, reads it,
// also if Run has not been told yet, or does not run.
func TestWatchThroughTheCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := newInner()
		c := around(t, in, nil)
		create(t, in, key, version(1))
		w, _ := store.As[store.Watcher](store.Store(c))
		told := 0
		go func() {
			_ = w.Watch(t.Context(), func(time.Time) {}, func([]store.Key) {
				told++
				wants(t, c.Get, told+1, "who is told of a change reads it")
			})
		}()
		synctest.Wait()
		wants(t, c.Get, 1, "the first read")
		replace(t, in, key, 2)
		synctest.Wait()
		_ = in.Store.Replace(t.Context(), key, version(2).Version, version(3))
		in.tell() // anything may have changed
		synctest.Wait()
		if told != 2 {
			t.Errorf("told %d times; want twice", told)
		}
	})
}

func TestCapabilities(t *testing.T) {
	var full, bare store.Store = around(t, newInner(), nil), around(t, struct{ store.Store }{memstore.New()}, nil)
	has := func(name string, full, bare, want bool) {
		t.Helper()
		if !full || bare != want {
			t.Errorf("%s: of a store that has it %v, want true; of one that lacks it %v, want %v", name, full, bare, want)
		}
	}
	has("FreshReader", is[store.FreshReader](full), is[store.FreshReader](bare), true)
	has("OwnerIndex", is[store.OwnerIndex](full), is[store.OwnerIndex](bare), false)
	has("Lister", is[store.Lister](full), is[store.Lister](bare), false)
	has("Sweeper", is[store.Sweeper](full), is[store.Sweeper](bare), false)
	has("GetMany", is[store.GetMany](full), is[store.GetMany](bare), false)
	has("Pinger", is[store.Pinger](full), is[store.Pinger](bare), false)
	has("Watcher", is[store.Watcher](full), is[store.Watcher](bare), false)

	var both store.Store = around(t, struct {
		store.Store
		store.Inspector
		store.Sharded
		store.Confirmer
	}{Store: memstore.New()}, nil)
	has("Inspector", is[store.Inspector](both), is[store.Inspector](full), false)
	has("Confirmer", is[store.Confirmer](both), is[store.Confirmer](full), false)
	has("Sharded", is[store.Sharded](both), is[store.Sharded](full), false)
	if is[interface{ Unheard() }](full) {
		t.Error("the cache claims a capability that it does not know")
	}
}

func is[T any](st store.Store) bool {
	_, ok := store.As[T](st)
	return ok
}
