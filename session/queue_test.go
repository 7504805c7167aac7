package session

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/memstore"
)

// A line exists as long as somebody stands in it: or a server would keep one
// for each session it ever saw.
func TestLinesAreRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var qs queues
		k := store.Key{1}
		var first line
		if err := first.join(t.Context(), &qs, k); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() {
			var impatient line
			if impatient.join(ctx, &qs, k) == nil {
				t.Error("two have their turn at once")
			}
			impatient.leave() // of no line
		})
		all.Go(func() {
			var second line
			if err := second.join(t.Context(), &qs, k); err != nil {
				t.Error(err)
			}
			if second.newest().Version != 7 {
				t.Error("what the one in front wrote was not handed on")
			}
			second.leave()
		})
		synctest.Wait()
		cancel()
		synctest.Wait()
		if len(qs.m) != 1 || qs.m[k].members != 2 {
			t.Errorf("%d lines, %d in it; want one with two", len(qs.m), qs.m[k].members)
		}
		first.handOn(store.Record{Version: 7})
		first.leave()
		first.leave() // once is enough
		all.Wait()
		if len(qs.m) != 0 {
			t.Errorf("%d lines are left with nobody in them", len(qs.m))
		}
	})
}

// After its requests a manager holds nothing of their sessions.
func TestManagerHoldsNoLines(t *testing.T) {
	m, err := New(memstore.New(), &Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	count := NewAttr[int]("count")
	h := m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if err := count.Update(From(r.Context()), func(n int) (int, error) { return n + 1, nil }); err != nil {
			t.Error(err)
		}
	}))
	for range 10 {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		for _, c := range w.Result().Cookies() {
			r.AddCookie(c)
		}
		h.ServeHTTP(httptest.NewRecorder(), r)
	}
	if n := len(m.queues.m); n != 0 {
		t.Errorf("%d lines are left after 10 sessions", n)
	}
}
