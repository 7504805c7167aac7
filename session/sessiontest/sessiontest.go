// Package sessiontest gives an app's own tests the sessions that its handlers
// expect, without a browser and without a store to set up.
//
// There are three ways, from the smallest test to the largest:
//
//   - [New] returns a bare session, for code that takes a *session.Session.
//   - [Request] returns a request with a session in its context, for a handler
//     that is called without the middleware around it.
//   - [Cookie] returns the cookie of a session in the store of a manager, for
//     requests through the whole app, [session.Manager.Handler] included.
//
// Each takes a function that prepares the session, such as [SignedIn].
package sessiontest

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/store/memstore"
)

// New returns a session that setup, which may be nil, has prepared. It works
// like that of a request, Commit, SignIn and Destroy included, on a store of its
// own in memory. It fails the test if what setup did cannot be committed.
func New(t testing.TB, setup func(*session.Session)) *session.Session {
	t.Helper()
	m := manager(t)
	r := Request(t, m, httptest.NewRequest(http.MethodGet, "/", nil), setup)
	return m.From(r.Context())
}

// Request returns r with a session of m in its context, where
// [session.Manager.From] finds it: the one that the cookies of r lead to, or a
// new one. setup, which may be nil, prepares it and is committed. If m is nil,
// the session is that of a new manager over a store in memory, which is enough
// for [session.From]; call Request once for each manager of an app that has
// several.
//
// What the handler under test does to the session is seen by the test, in the
// session that r's context carries, but is committed only if the handler calls
// Commit, or when the test ends: that is the middleware's work. To test with it,
// use [Cookie].
//
// It fails the test if [session.Options.Skip] exempts r, if the session cannot
// be loaded or if what setup did cannot be committed.
func Request(t testing.TB, m *session.Manager, r *http.Request, setup func(*session.Session)) *http.Request {
	t.Helper()
	if m == nil {
		m = manager(t)
	}
	inner, _ := serve(t, m, r, setup)
	return inner
}

// Cookie returns the cookie of a session that setup has prepared and that is in
// m's store: add it to any number of requests to the app's handler, or put it
// into a client's jar.
//
//	r.AddCookie(sessiontest.Cookie(t, m, sessiontest.SignedIn(t, "alice")))
//
// It fails the test if setup puts nothing into the session, since there is no
// cookie then; if m's options exempt "POST /"; or if the session cannot be
// committed.
func Cookie(t testing.TB, m *session.Manager, setup func(*session.Session)) *http.Cookie {
	t.Helper()
	if m == nil {
		t.Fatal("sessiontest: Cookie needs the manager of the app under test: a cookie leads to nothing in the store of another")
	}
	_, end := serve(t, m, httptest.NewRequest(http.MethodPost, "https://example.com/", nil), setup)
	for _, c := range end().Cookies() {
		if c.MaxAge >= 0 {
			return c
		}
	}
	t.Fatal("sessiontest: the session has no cookie, because setup left nothing in it; sign in or set an attribute")
	return nil
}

// SignedIn returns a setup function that signs in owner. It fails the test if
// that does not work.
func SignedIn(t testing.TB, owner string) func(*session.Session) {
	return func(s *session.Session) {
		t.Helper()
		if err := s.SignIn(context.Background(), owner, nil); err != nil {
			t.Fatalf("sessiontest: sign-in: %v", err)
		}
	}
}

func manager(t testing.TB) *session.Manager {
	t.Helper()
	m, err := session.New(memstore.New(), &session.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatalf("sessiontest: %v", err)
	}
	return m
}

// serve sends r through m's middleware to a handler that stays, so that its
// session takes changes, until end is called. It runs setup and commits. It
// returns the request as the handler got it; end returns the response.
func serve(t testing.TB, m *session.Manager, r *http.Request, setup func(*session.Session)) (inner *http.Request, end func() *http.Response) {
	t.Helper()
	requests := make(chan *http.Request)
	ended, done := make(chan struct{}), make(chan struct{})
	w := httptest.NewRecorder()
	go func() {
		defer close(done)
		m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			requests <- r
			<-ended
		})).ServeHTTP(w, r)
	}()
	end = sync.OnceValue(func() *http.Response {
		close(ended)
		<-done
		return w.Result()
	})
	t.Cleanup(func() { end() })
	select {
	case inner = <-requests:
	case <-done:
		t.Fatalf("sessiontest: the session could not be loaded; the manager's error handler answered %d", w.Code)
	}
	s, ok := m.Lookup(inner.Context())
	if !ok {
		t.Fatalf("sessiontest: Options.Skip of the manager exempts %s %s, so it has no session", r.Method, r.URL.Path)
	}
	if setup != nil {
		setup(s)
	}
	if err := s.Commit(inner.Context()); err != nil {
		t.Fatalf("sessiontest: commit: %v", err)
	}
	return inner, end
}
