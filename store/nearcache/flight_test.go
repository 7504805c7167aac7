package nearcache_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coatcheck/coatcheck/store"
)

func TestStampedeIsOneLoad(t *testing.T) {
	for _, n := range []int{0, 1} {
		synctest.Test(t, func(t *testing.T) {
			in := newInner()
			c := around(t, in, nil)
			if n > 0 {
				create(t, in, key, version(n))
			}
			release := held(in)
			reads(t, in, 1, "callers who miss one key at once share one read", func() {
				var wg sync.WaitGroup
				for range 100 {
					wg.Go(func() { wants(t, c.Get, n, "what the one who loads finds") })
				}
				synctest.Wait()
				release()
				wg.Wait()
			})
			if s := c.Stats(); s.Misses != 100 || s.Loads != 1 {
				t.Errorf("Stats = %+v; want 100 misses and a load", s)
			}
		})
	}
}

// Also when the callers come by themselves, and some of them just as the load
// ends.
func TestUnarrangedStampedeIsOneLoad(t *testing.T) {
	for range 200 {
		in := newInner()
		c := around(t, in, nil)
		create(t, in, key, version(1))
		reads(t, in, 1, "callers who miss one key at once share one read", func() {
			var wg sync.WaitGroup
			for range 16 {
				wg.Go(func() { wants(t, c.Get, 1, "the record") })
			}
			wg.Wait()
		})
	}
}

func TestWaitersOwnTheirCopies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := newInner()
		c := around(t, in, nil)
		create(t, in, key, version(1))
		release := held(in)
		for range 3 {
			go func() {
				r, err := c.Get(t.Context(), key)
				if err != nil || r.Data[0] != 1 {
					t.Errorf("Get = %v, %v; want data that nobody else has", r.Data, err)
					return
				}
				r.Data[0] = 0xff
			}()
		}
		synctest.Wait()
		release()
		wants(t, c.Get, 1, "the copy")
	})
}

func TestDistinctKeysDoNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := newInner()
		c := around(t, in, nil)
		other := key
		other[31]++ // the same shard
		create(t, in, other, version(1))
		release := held(in)
		background(t, c.Get)
		if _, err := c.Get(t.Context(), other); err != nil {
			t.Error(err)
		}
		release()
	})
}

// Who waits for another's load shares its answer, and not its fate.
func TestLeaderFails(t *testing.T) {
	for name, fail := range map[string]func(){
		"its caller hung up": nil,
		"outage":             func() {},
		"panic":              func() { panic("in the driver") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				in := newInner()
				c := around(t, in, nil)
				create(t, in, key, version(1))
				ctx, hangUp := context.WithCancel(t.Context())
				gate := make(chan struct{})
				in.onGet = func(ctx context.Context, _ store.Key, read func() (store.Record, error)) (store.Record, error) {
					in.onGet = nil
					if fail == nil {
						<-ctx.Done()
						return store.Record{}, ctx.Err()
					}
					<-gate
					fail()
					return store.Record{}, errBroken
				}
				reads(t, in, 2, "when a load fails, one of those who wait loads for the others", func() {
					go func() {
						defer func() { _ = recover() }()
						if _, err := c.Get(ctx, key); err == nil {
							t.Error("the leader's Get succeeded")
						}
					}()
					synctest.Wait()
					for range 10 {
						go wants(t, c.Get, 1, "who waits does not inherit the failure of who loads")
					}
					synctest.Wait()
					hangUp()
					close(gate)
					synctest.Wait()
				})
			})
		})
	}
}

func TestWaiterHeedsItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := newInner()
		c := around(t, in, nil)
		release := held(in)
		background(t, c.Get)
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := c.Get(ctx, key); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Get: %v; want the error of its context", err)
		}
		release()
	})
}

func TestNobodyJoinsAnOldLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := newInner()
		c := around(t, in, nil)
		create(t, in, key, version(1))
		release := held(in)
		background(t, c.Get)
		time.Sleep(time.Second)
		replace(t, in, key, 2)
		wants(t, c.Get, 2, "a load that began MaxStale ago is not joined: its answer may be that old")
		release()
		wants(t, c.Get, 2, "a load that took MaxStale is not kept")
	})
}

func TestGetFreshLeavesTheLoadToBeJoined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := newInner()
		c := around(t, in, nil)
		release := held(in)
		background(t, c.Get)
		in.onGet = func(context.Context, store.Key, func() (store.Record, error)) (store.Record, error) {
			return store.Record{}, errBroken
		}
		_, _ = c.GetFresh(t.Context(), key)
		reads(t, in, 0, "a load is joined until it ends, whatever other loads end meanwhile", func() {
			background(t, c.Get)
			release()
		})
	})
}

// A record may expire while one waits for it.
func TestWaiterGetsNoExpiredRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := newInner()
		c := around(t, in, nil)
		r := version(1)
		r.Expires = time.Now().Add(100 * time.Millisecond)
		create(t, in, key, r)
		release := held(in)
		background(t, c.Get)
		go wants(t, c.Get, 0, "a record is never returned at or after its expiry")
		synctest.Wait()
		time.Sleep(200 * time.Millisecond)
		release()
	})
}

// A load that overlaps a change may have read what was there before.
func TestOverlappedLoad(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*testing.T, store.Store, *inner)
		then   int
	}{
		{"a pushed change", func(t *testing.T, _ store.Store, in *inner) { replace(t, in, key, 2) }, 2},
		{"a pushed doubt about everything", func(t *testing.T, _ store.Store, in *inner) {
			_, _ = in.DeleteOwner(t.Context(), version(1).Owner)
		}, 0},
		{"a break of the stream", func(t *testing.T, _ store.Store, in *inner) {
			in.cut()
			synctest.Wait() // or the change might still be pushed
			replace(t, in, key, 2)
		}, 2},
		{"Replace", func(t *testing.T, c store.Store, _ *inner) { replace(t, c, key, 2) }, 2},
		{"Delete", func(t *testing.T, c store.Store, _ *inner) { _, _ = c.Delete(t.Context(), key) }, 0},
		{"DeleteOwner", func(t *testing.T, c store.Store, _ *inner) {
			idx, _ := store.As[store.OwnerIndex](c)
			_, _ = idx.DeleteOwner(t.Context(), version(1).Owner)
		}, 0},
	} {
		for _, pushed := range []bool{false, true} {
			if local := tt.name[0] < 'a'; pushed == local {
				continue // the push would do the work of the local change
			}
			t.Run(tt.name, func(t *testing.T) {
				for name, late := range map[string]bool{"is not kept": false, "is not joined": true} {
					t.Run(name, func(t *testing.T) {
						synctest.Test(t, func(t *testing.T) {
							in := newInner()
							c := around(t, in, quiet())
							create(t, in, key, version(1))
							if pushed {
								run(t, c)
							}
							release := held(in)
							background(t, c.Get)
							tt.change(t, c, in)
							synctest.Wait()
							if late {
								wants(t, c.Get, tt.then, "who comes after a change does not join a load that began before it")
							}
							release()
							wants(t, c.Get, tt.then, "a load that overlaps a change is not kept")
						})
					})
				}
			})
		}
	}
}
