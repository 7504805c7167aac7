package integration

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/internal/testserver"
	"github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/breaker"
	"github.com/coatcheck/coatcheck/store/nearcache"
	"github.com/coatcheck/coatcheck/store/redisstore"
)

// redisFrozenReplicas returns a store with MinReplicas on a server whose replicas
// have all stopped, and what thaws them.
func redisFrozenReplicas(t *testing.T, timeout time.Duration) (s *redisstore.Store, before store.Record, thaw func()) {
	t.Helper()
	srv := testserver.Start(t, "redis-sentinel", nil)
	s = redisOpen(t, srv.URL, &redisstore.Options{MinReplicas: 1, ReplicaTimeout: timeout})
	before = redisSession(1, "alice")
	redisMust(t, "Create with replicas", s.Create(t.Context(), numberedKey(1), before))
	redisMust(t, "Create with replicas", s.Create(t.Context(), numberedKey(2), redisSession(2, "bob")))
	var replicas []string
	for _, n := range srv.Nodes {
		if n.Role == "replica" {
			srv.Freeze(t, n.Name)
			replicas = append(replicas, n.Name)
		}
	}
	return s, before, sync.OnceFunc(func() {
		for _, name := range replicas {
			srv.Thaw(t, name)
		}
	})
}

// TestRedisUnconfirmed: with no replica to take it, a write is done and not
// confirmed; once there is one again, a Replace by itself confirms it.
func TestRedisUnconfirmed(t *testing.T) {
	notShort(t)
	t.Parallel()
	s, r, thaw := redisFrozenReplicas(t, 50*time.Millisecond)
	ctx := t.Context()
	next := r
	next.Version = 2
	_, deleteErr := s.Delete(ctx, numberedKey(2))
	for op, err := range map[string]error{
		"Replace": s.Replace(ctx, numberedKey(1), 1, next),
		"Create":  s.Create(ctx, numberedKey(3), redisSession(3, "")),
		"Delete":  deleteErr,
	} {
		if !errors.Is(err, store.ErrUnconfirmed) {
			t.Errorf("%s without a replica: %v; want ErrUnconfirmed", op, err)
		}
		if errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s: %v is also another answer", op, err)
		}
	}
	if got, err := s.Get(ctx, numberedKey(1)); err != nil || got.Version != 2 {
		t.Errorf("a write that is not confirmed reads as version %d, %v; want 2", got.Version, err)
	}
	if err := s.Replace(ctx, numberedKey(1), 2, next); !errors.Is(err, store.ErrUnconfirmed) {
		t.Errorf("Replace by itself without a replica: %v; want ErrUnconfirmed", err)
	}
	if err := s.Touch(ctx, numberedKey(1), time.Now().Add(2*time.Hour)); err != nil {
		t.Errorf("Touch: %v; want that it does not wait for replicas", err)
	}
	thaw()
	redisEventually(t, "a Replace by itself to confirm", func() bool { return s.Replace(ctx, numberedKey(1), 2, next) == nil })
}

// TestRedisWaitingHoldsUpNobody: while many writes wait for a replica, reads of the
// same client are answered before any of those.
func TestRedisWaitingHoldsUpNobody(t *testing.T) {
	t.Parallel()
	s, r, thaw := redisFrozenReplicas(t, time.Minute)
	defer thaw()
	var waiting sync.WaitGroup
	var returned atomic.Int32
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	const writers = 200 // more than wait at once
	for i := range writers {
		waiting.Go(func() {
			err := s.Create(ctx, numberedKey(100+i), redisSession(100+i, ""))
			if err != nil && strings.Contains(err.Error(), " within ") {
				returned.Add(1) // having waited, and not for want of a connection
			}
			if err == nil {
				t.Error("a write was confirmed by a replica that has stopped")
			}
		})
	}
	// Some have written and wait, which is seen by others.
	redisEventually(t, "writes to wait", func() bool {
		found := 0
		for i := range writers {
			if _, err := s.Get(t.Context(), numberedKey(100+i)); err == nil {
				found++
			}
		}
		return found >= 100
	})
	for range 500 {
		if got, err := s.Get(t.Context(), numberedKey(1)); err != nil || got.Version != r.Version {
			t.Fatalf("Get: version %d, %v", got.Version, err)
		}
	}
	if n := returned.Load(); n != 0 {
		t.Errorf("%d writes have returned, with a minute to wait, before the reads had: nothing was shown", n)
	}
	// Those that have not got a turn leave with their context, and have done nothing.
	present := 0
	for i := range writers {
		if _, err := s.Get(t.Context(), numberedKey(100+i)); err == nil {
			present++
		}
	}
	if present == writers {
		t.Errorf("all %d writes were sent: nothing bounds the connections that wait", writers)
	}
	late, cancelLate := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Create(late, numberedKey(99), redisSession(99, "")) }()
	cancelLate()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("a write that waits for its turn, with a context that has ended: %v; want its error", err)
	}
	cancel()
	waiting.Wait()
}

// TestRedisSameFormAgain: who sends a form again after a 503 gets another, as long
// as no replica has what the first one wrote.
func TestRedisSameFormAgain(t *testing.T) {
	notShort(t)
	t.Parallel()
	srv := testserver.Start(t, "redis-sentinel", nil)
	b, err := breaker.New(redisOpen(t, srv.URL, &redisstore.Options{MinReplicas: 1, ReplicaTimeout: 50 * time.Millisecond}), nil)
	redisMust(t, "breaker", err)
	cache, err := nearcache.New(b, nil)
	redisMust(t, "near cache", err)
	m, err := session.New(cache, &session.Options{CommitTimeout: time.Second, Logger: slog.New(slog.DiscardHandler)})
	redisMust(t, "manager", err)
	street := session.NewAttr[string]("street")
	h := m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if err := street.Set(m.From(r.Context()), r.URL.Query().Get("street")); err != nil {
			t.Error(err)
		}
	}))
	var cookies []*http.Cookie
	send := func(street string) int {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/?street="+street, nil)
		for _, c := range cookies {
			r.AddCookie(c)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if set := w.Result().Cookies(); len(set) > 0 {
			cookies = set
		}
		return w.Code
	}
	redisEventually(t, "a session that is confirmed", func() bool { return send("old") == http.StatusOK })
	for _, n := range srv.Nodes {
		if n.Role == "replica" {
			srv.Freeze(t, n.Name)
		}
	}
	for range 2 {
		if code := send("new"); code != http.StatusServiceUnavailable {
			t.Errorf("status %d for a change that no replica has, want 503", code)
		}
	}
	for _, n := range srv.Nodes {
		if n.Role == "replica" {
			srv.Thaw(t, n.Name)
		}
	}
	redisEventually(t, "the form to be confirmed", func() bool { return send("new") == http.StatusOK })
}
