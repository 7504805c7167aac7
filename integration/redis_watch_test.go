package integration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"

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
	var once sync.Once
	go func() {
		err := s.Watch(ctx, func(time.Time) { once.Do(func() { close(ready) }) }, func(ks []store.Key) {
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
			t.Run("the server refuses reads", func(t *testing.T) {
				refuse, allow := []string{"ACL", "SETUSER", "default", "-get"}, []string{"ACL", "SETUSER", "default", "+@all"}
				if kind == "redis-cluster" { // as one does that has lost sight of the others
					slot := redisFirstSlot(t, primary)
					refuse, allow = []string{"CLUSTER", "DELSLOTS", slot}, []string{"CLUSTER", "ADDSLOTS", slot}
				}
				w := redisStartWatch(t, s)
				redisMust(t, "refuse", redisDo(t, primary, refuse...).Error())
				w.ended(t, "the server refuses reads")
				redisMust(t, "allow", redisDo(t, primary, allow...).Error())
				redisEventually(t, "reads to be answered", func() bool { return redisTryWatch(t, s) != nil })
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

// redisFirstSlot returns a slot of the primary that c leads to.
func redisFirstSlot(t *testing.T, c rueidis.Client) string {
	t.Helper()
	text, err := redisDo(t, c, "CLUSTER", "NODES").ToString()
	redisMust(t, "CLUSTER NODES", err)
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > 8 && strings.Contains(f[2], "myself") {
			first, _, _ := strings.Cut(f[8], "-")
			return first
		}
	}
	t.Fatalf("no slots in %q", text)
	return ""
}

// redisTryWatch is redisStartWatch where servers may be changing; nil says no.
func redisTryWatch(t *testing.T, s *redisstore.Store) *redisWatch {
	ctx, cancel := context.WithCancel(t.Context())
	w := &redisWatch{cancel: cancel, end: make(chan error, 1)}
	ready := make(chan struct{})
	var once sync.Once
	go func() {
		w.end <- s.Watch(ctx, func(time.Time) { once.Do(func() { close(ready) }) }, func([]store.Key) {})
	}()
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
	notShort(t)
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

// TestRedisWatchSwitch: no change counts as told after the client has gone over to
// another primary than the one that tells.
func TestRedisWatchSwitch(t *testing.T) {
	notShort(t)
	t.Parallel()
	srv := testserver.Start(t, "redis-sentinel", nil)
	var sentinels []string
	for _, n := range srv.Nodes {
		if n.Role == "sentinel" {
			sentinels = append(sentinels, n.Addr)
		}
	}
	client, err := rueidis.NewClient(rueidis.ClientOption{
		InitAddress: sentinels, Sentinel: rueidis.SentinelOption{MasterSet: "primary"}, DisableCache: true,
	})
	redisMust(t, "connect", err)
	t.Cleanup(client.Close)
	s, err := redisstore.New(client, nil)
	redisMust(t, "New", err)
	primary := func() string {
		for addr := range client.Nodes() {
			return addr
		}
		return ""
	}

	for round := range 3 {
		before := primary()
		began, end := make(chan struct{}), make(chan error, 1)
		var last time.Time
		var once sync.Once
		go func() {
			end <- s.Watch(t.Context(), func(asOf time.Time) {
				last = asOf
				once.Do(func() { close(began) })
			}, func([]store.Key) {})
		}()
		select {
		case <-began:
		case err := <-end:
			t.Fatal(err)
		}
		redisEventually(t, "a failover", func() bool {
			c := redisClient(t, srv, sentinels[0], "")
			return c.Do(t.Context(), c.B().SentinelFailover().Master("primary").Build()).Error() == nil
		})
		var switched time.Time
		redisEventually(t, "the client to go over to the new primary", func() bool {
			gone := primary() != before
			switched = time.Now()
			return gone
		})
		if err := <-end; err == nil {
			t.Fatal("Watch ended without an error")
		}
		if d := last.Sub(switched); d > 0 {
			t.Errorf("round %d: what was changed %v after the client had gone over to another primary counts as told by the old one", round, d)
		}
	}
}

// TestRedisWatchFrozenReplica: a replica that hangs, whichever it is, does not end a
// Watch, which it has no part in.
func TestRedisWatchFrozenReplica(t *testing.T) {
	notShort(t)
	t.Parallel()
	srv := testserver.Start(t, "redis-cluster", nil)
	s := redisOpen(t, srv.URL, nil)
	admin := redisAdmin(t, srv, "")
	// The addresses are asked in order where nothing speaks for another: freeze the first.
	first := slices.MinFunc(srv.Nodes, func(a, b testserver.Node) int { return strings.Compare(a.Addr, b.Addr) })
	replica := func(name string) (of string, ok bool) {
		role, err := redisDo(t, admin[name], "ROLE").ToArray()
		redisMust(t, "ROLE", err)
		if kind, _ := role[0].ToString(); kind != "slave" {
			return "", false
		}
		port, _ := role[2].AsInt64()
		return fmt.Sprint(port), true
	}
	if _, ok := replica(first.Name); !ok {
		for name, c := range admin {
			if port, ok := replica(name); ok && strings.HasSuffix(first.Addr, ":"+port) {
				redisDo(t, c, "CLUSTER", "FAILOVER")
			}
		}
		redisEventually(t, "the first node to be a replica", func() bool { _, ok := replica(first.Name); return ok })
	}
	var w *redisWatch
	redisEventually(t, "Watch to begin", func() bool { w = redisTryWatch(t, s); return w != nil })
	w.cancel()
	<-w.end

	for range 3 { // while the others agree on who has become what, one may end
		var began, last time.Time
		err := func() error {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			frozen := false
			return s.Watch(ctx, func(asOf time.Time) {
				if began.IsZero() {
					began = asOf
				}
				if last = asOf; !frozen && last.Sub(began) > time.Second {
					frozen, began = true, last
					srv.Freeze(t, first.Name)
				} else if frozen && last.Sub(began) > 3*time.Second {
					cancel()
				}
			}, func([]store.Key) {})
		}()
		srv.Thaw(t, first.Name)
		if errors.Is(err, context.Canceled) {
			return
		}
		t.Logf("Watch ended %v after its last proof: %v", time.Since(last), err)
	}
	t.Error("Watch ends when a replica hangs")
}
