package integration

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/internal/testserver"
	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/redisstore"
)

// redisWatch is what a Watch in the background has told.
type redisWatch struct {
	cancel func()
	end    chan error

	mu    sync.Mutex
	keys  []store.Key
	all   int // how often anything may have changed
	after atomic.Bool
}

func redisStartWatch(t *testing.T, s *redisstore.Store) *redisWatch {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w := &redisWatch{cancel: cancel, end: make(chan error, 1)}
	ready := make(chan struct{})
	go func() {
		err := s.Watch(ctx, func() { close(ready) }, func(ks []store.Key) {
			if w.after.Load() {
				t.Error("Watch tells of changes after it has returned")
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			w.keys = append(w.keys, ks...)
			if len(ks) == 0 {
				w.all++
			}
		})
		w.after.Store(true)
		w.end <- err
	}()
	t.Cleanup(cancel)
	select {
	case <-ready:
	case err := <-w.end:
		t.Fatalf("Watch: %v", err)
	}
	return w
}

// told waits until k, or anything, is told, and forgets it.
func (w *redisWatch) told(t *testing.T, what string, k store.Key) {
	t.Helper()
	redisEventually(t, what+" to be told", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		i := slices.Index(w.keys, k)
		if i < 0 {
			return false
		}
		w.keys = nil
		return true
	})
}

// ended waits for Watch to end by itself.
func (w *redisWatch) ended(t *testing.T, what string) {
	t.Helper()
	select {
	case err := <-w.end:
		if err == nil || errors.Is(err, context.Canceled) {
			t.Errorf("after %s Watch returned %v; want an error of its own", what, err)
		}
	case <-time.After(30 * time.Second):
		t.Fatalf("Watch goes on for half a minute after %s: a cache would keep what has changed", what)
	}
}

// TestRedisWatch: every kind of change is told, on all primaries, by whomever, and
// nothing after the end.
func TestRedisWatch(t *testing.T) {
	redisEach(t, append(redisKindsShort, redisKinds...), func(t *testing.T, srv *testserver.Server) {
		f := redisFix(t, srv)
		other := redisOpen(t, srv.URL, &redisstore.Options{Prefix: f.prefix})
		stranger := redisOpen(t, srv.URL, &redisstore.Options{Prefix: redisPrefix()})
		ctx := t.Context()
		w := redisStartWatch(t, f.Store)
		for i := range 12 { // over all slots
			k, r := numberedKey(i), redisSession(i, "alice")
			redisMust(t, "Create", other.Create(ctx, k, r))
			w.told(t, "Create", k)
			next := r
			next.Version = 2
			redisMust(t, "Replace", other.Replace(ctx, k, 1, next))
			w.told(t, "Replace", k)
			redisMust(t, "Touch", other.Touch(ctx, k, time.Now().Add(3*time.Hour)))
			w.told(t, "Touch", k)
			if i%2 == 0 {
				_, err := other.Delete(ctx, k)
				redisMust(t, "Delete", err)
			} else if _, err := other.DeleteOwner(ctx, "alice"); err != nil {
				t.Fatal(err)
			}
			w.told(t, "the end of a session", k)
		}
		// What one does oneself is told, too: it may be from another goroutine.
		redisMust(t, "Create", f.Create(ctx, numberedKey(50), redisSession(50, "")))
		w.told(t, "one's own change", numberedKey(50))
		// Of other apps nothing is told: the last change is, and theirs came before.
		redisMust(t, "Create", stranger.Create(ctx, numberedKey(60), redisSession(60, "")))
		redisMust(t, "Touch", other.Touch(ctx, numberedKey(50), time.Now().Add(2*time.Hour)))
		redisEventually(t, "the change after the stranger's", func() bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			if slices.Contains(w.keys, numberedKey(60)) {
				t.Fatal("a change of another app was told")
			}
			return slices.Contains(w.keys, numberedKey(50))
		})
		w.cancel()
		if err := <-w.end; !errors.Is(err, context.Canceled) {
			t.Errorf("Watch ended with %v; want context.Canceled", err)
		}
		for i := range 20 {
			redisMust(t, "Create", other.Create(ctx, numberedKey(200+i), redisSession(200+i, "")))
		}
	})
}

// TestRedisWatchEnds: whatever makes that changes may be missed ends it.
func TestRedisWatchEnds(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"redis", "redis-cluster"} {
		if testing.Short() && kind != "redis" {
			continue
		}
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			srv := testserver.Start(t, kind, nil)
			s := redisOpen(t, srv.URL, nil)
			admin := redisAdmin(t, srv, "")
			primary := redisPrimaries(t, admin)[0]

			t.Run("everything is deleted", func(t *testing.T) {
				w := redisStartWatch(t, s)
				redisDo(t, primary, "FLUSHALL")
				redisEventually(t, "a change of everything", func() bool {
					w.mu.Lock()
					defer w.mu.Unlock()
					return w.all > 0
				})
			})
			t.Run("the connection is killed", func(t *testing.T) {
				w := redisStartWatch(t, s)
				redisDo(t, primary, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
				w.ended(t, "CLIENT KILL")
				redisEventually(t, "Watch to be taken up again", func() bool { return redisTryWatch(t, s) != nil })
			})
			t.Run("the server stops", func(t *testing.T) {
				w := redisStartWatch(t, s)
				name := srv.Nodes[0].Name
				srv.Freeze(t, name)
				w.ended(t, "the server has stopped without a word")
				srv.Thaw(t, name)
			})
			t.Run("the server dies", func(t *testing.T) {
				redisEventually(t, "the servers to be back", func() bool {
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					defer cancel()
					return s.Ping(ctx) == nil
				})
				var w *redisWatch
				redisEventually(t, "Watch to begin", func() bool {
					w = redisTryWatch(t, s)
					return w != nil
				})
				// The one that had stopped may be a replica now.
				for name, c := range redisAdmin(t, srv, "") {
					if text, err := redisDo(t, c, "INFO", "replication").ToString(); err == nil && strings.Contains(text, "role:master") {
						srv.Kill(t, name)
						break
					}
				}
				w.ended(t, "the death of a server")
			})
		})
	}
}

// redisTryWatch is redisStartWatch where servers may be changing; nil says no.
func redisTryWatch(t *testing.T, s *redisstore.Store) *redisWatch {
	ctx, cancel := context.WithCancel(t.Context())
	w := &redisWatch{cancel: cancel, end: make(chan error, 1)}
	ready := make(chan struct{})
	go func() { w.end <- s.Watch(ctx, func() { close(ready) }, func([]store.Key) {}) }()
	t.Cleanup(cancel)
	select {
	case <-ready:
		return w
	case <-w.end:
		return nil
	}
}

// TestRedisWatchFailover: a primary that others have replaced tells of no changes
// any more, although its connection is well.
func TestRedisWatchFailover(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	t.Parallel()
	t.Run("sentinel", func(t *testing.T) {
		t.Parallel()
		srv := testserver.Start(t, "redis-sentinel", nil)
		w := redisStartWatch(t, redisOpen(t, srv.URL, nil))
		for _, n := range srv.Nodes {
			if n.Role == "sentinel" {
				redisDo(t, redisClient(t, srv, n.Addr, ""), "SENTINEL", "FAILOVER", "primary")
				break
			}
		}
		w.ended(t, "a failover")
	})
	t.Run("cluster", func(t *testing.T) {
		t.Parallel()
		srv := testserver.Start(t, "redis-cluster", nil)
		w := redisStartWatch(t, redisOpen(t, srv.URL, nil))
		for _, n := range srv.Nodes {
			c := redisClient(t, srv, n.Addr, "")
			text, err := redisDo(t, c, "ROLE").ToArray()
			if err != nil {
				t.Fatal(err)
			}
			if role, _ := text[0].ToString(); role == "slave" {
				redisDo(t, c, "CLUSTER", "FAILOVER")
				break
			}
		}
		w.ended(t, "a failover")
	})
}
