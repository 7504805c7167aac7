package session_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/memstore"
)

// pinged is a store that tells how often it was asked, and how it answers.
type pinged struct {
	*memstore.Store
	asked  atomic.Int32
	answer func(context.Context) error
}

func (p *pinged) Ping(ctx context.Context) error {
	p.asked.Add(1)
	if p.answer == nil {
		return nil
	}
	return p.answer(ctx)
}

func askReadiness(ctx context.Context, h http.Handler) (status int, body string) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "/readyz", nil))
	return w.Code, w.Body.String()
}

// An outage is told and empties no balancer; a drain does.
func TestReadinessIsTheServersAndNotTheStores(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := &pinged{Store: memstore.New()}
		var draining atomic.Bool
		breaker := "closed"
		h := newManager(t, st, nil).Readiness(&session.ReadinessOptions{
			Draining: draining.Load,
			Details: func() map[string]string {
				return map[string]string{"zone": `"a"`, "breaker": breaker, "status": "x", "store": "y"}
			},
		})
		want := func(status int, state, stored string) {
			t.Helper()
			body := fmt.Sprintf(`{"status":"%s","store":"%s","breaker":"%s","zone":"\"a\""}`+"\n", state, stored, breaker)
			if gotStatus, got := askReadiness(t.Context(), h); gotStatus != status || got != body {
				t.Errorf("answer %d %s, want %d %s", gotStatus, got, status, body)
			}
		}
		want(200, "ready", "ok")
		st.answer = func(context.Context) error { breaker = "open"; return errLost }
		time.Sleep(time.Second)
		breaker = "open"
		want(200, "ready", "unavailable")
		draining.Store(true)
		want(503, "draining", "unavailable")
		st.answer = nil
		time.Sleep(time.Second)
		want(503, "draining", "ok")
	})
}

// However many ask, the store is asked once a second at most.
func TestReadinessSparesTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := &pinged{Store: memstore.New()}
		h := newManager(t, st, nil).Readiness(nil)
		ask := func() {
			var wg sync.WaitGroup
			for range 50 {
				wg.Go(func() { _, _ = askReadiness(t.Context(), h) })
			}
			wg.Wait()
		}
		ask()
		if n := st.asked.Load(); n != 1 {
			t.Errorf("50 questions at once asked the store %d times", n)
		}
		for range 10 { // a balancer that asks every second
			time.Sleep(time.Second)
			ask()
		}
		if n := st.asked.Load(); n != 11 {
			t.Errorf("ten seconds later the store was asked %d times; want once for each second", n)
		}
	})
}

// A store that hangs delays the answer by less than a balancer waits, and who asks and
// hangs up does not make it look dead to the others.
func TestReadinessDoesNotHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := &pinged{Store: memstore.New(), answer: func(ctx context.Context) error {
			<-ctx.Done()
			return context.Cause(ctx)
		}}
		h := newManager(t, st, nil).Readiness(nil)
		began := time.Now()
		if status, body := askReadiness(t.Context(), h); status != 200 || body != `{"status":"ready","store":"unavailable"}`+"\n" {
			t.Errorf("a store that hangs: %d %s", status, body)
		}
		if took := time.Since(began); took > 500*time.Millisecond {
			t.Errorf("a store that hangs held the answer up for %v", took)
		}
		time.Sleep(time.Second)
		synctest.Wait() // for the question that nobody waits for any more
		st.answer = func(ctx context.Context) error {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(100 * time.Millisecond):
				return nil
			}
		}
		impatient, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		if _, body := askReadiness(impatient, h); body != `{"status":"ready","store":"ok"}`+"\n" {
			t.Errorf("after a client that hung up: %s", body)
		}
	})
}

// So it is with a store that does not even heed its context. It is not asked again
// meanwhile, and nobody waits for it any more.
func TestReadinessOfAStoreThatIgnoresItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		st := &pinged{Store: memstore.New(), answer: func(context.Context) error { <-release; return nil }}
		var draining atomic.Bool
		h := newManager(t, st, nil).Readiness(&session.ReadinessOptions{Draining: draining.Load})
		time.AfterFunc(time.Minute, func() { close(release) })
		for second := range 10 {
			draining.Store(second >= 5)
			want := `503 {"status":"draining","store":"unavailable"}` + "\n"
			if second < 5 {
				want = `200 {"status":"ready","store":"unavailable"}` + "\n"
			}
			most := time.Duration(0)
			if second == 0 {
				most = 300 * time.Millisecond
			}
			var all sync.WaitGroup
			began := time.Now()
			for range 5 {
				all.Go(func() {
					if status, body := askReadiness(t.Context(), h); fmt.Sprintf("%d %s", status, body) != want {
						t.Errorf("after %d s: %d %s, want %s", second, status, body, want)
					}
					if took := time.Since(began); took > most {
						t.Errorf("after %d s the answer took %v, want %v", second, took, most)
					}
				})
			}
			all.Wait()
			time.Sleep(time.Second)
		}
		if n := st.asked.Load(); n != 1 {
			t.Errorf("a store that did not answer was asked %d times", n)
		}
		time.Sleep(2 * time.Minute)
		draining.Store(false)
		if _, body := askReadiness(t.Context(), h); body != `{"status":"ready","store":"ok"}`+"\n" {
			t.Errorf("when it has answered: %s", body)
		}
	})
}

// A store that panics is one that is unavailable, and may be well again a second later. The
// server goes on, as after a panic in a handler.
func TestReadinessOfAStoreThatPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logged bytes.Buffer
		st := &pinged{Store: memstore.New(), answer: func(context.Context) error { panic("a bug") }}
		h := newManager(t, st, &session.Options{Logger: slog.New(slog.NewTextHandler(&logged, nil))}).Readiness(nil)
		if status, body := askReadiness(t.Context(), h); status != 200 || body != `{"status":"ready","store":"unavailable"}`+"\n" {
			t.Errorf("a store that panics: %d %s", status, body)
		}
		if !strings.Contains(logged.String(), "a bug") || !strings.Contains(logged.String(), "readiness_test.go") {
			t.Errorf("the log does not tell of the panic: %s", &logged)
		}
		st.answer = func(context.Context) error { return nil }
		time.Sleep(time.Second)
		if _, body := askReadiness(t.Context(), h); body != `{"status":"ready","store":"ok"}`+"\n" {
			t.Errorf("a second later: %s", body)
		}
	})
}

var _ store.Pinger = (*pinged)(nil)
