package sessiontest_test

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/session/sessiontest"
	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/memstore"
	"github.com/coatcheck/coatcheck/store/storetest"
)

var visits = session.NewAttr[int]("visits")

func visit(n int) (int, error) { return n + 1, nil }

// hello is the app under test.
func hello(w http.ResponseWriter, r *http.Request) {
	s := session.From(r.Context())
	if err := visits.Update(s, visit); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	n, err := visits.Get(s)
	_, _ = fmt.Fprintln(w, s.Owner(), n, err)
}

func visited(t testing.TB, n int) func(*session.Session) {
	return func(s *session.Session) {
		if err := visits.Set(s, n); err != nil {
			t.Fatal(err)
		}
	}
}

func newManager(t testing.TB, st store.Store, opts *session.Options) *session.Manager {
	t.Helper()
	if opts == nil {
		opts = &session.Options{}
	}
	opts.Logger = slog.New(slog.DiscardHandler)
	m, err := session.New(st, opts)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func checkBody(t *testing.T, w *httptest.ResponseRecorder, want string) {
	t.Helper()
	if got := strings.TrimSpace(w.Body.String()); w.Code != http.StatusOK || got != want {
		t.Errorf("the app answered %d %q, want 200 %q", w.Code, got, want)
	}
}

func TestNew(t *testing.T) {
	s := sessiontest.New(t, nil)
	if s.Owner() != "" || s.Handle() != (session.Handle{}) {
		t.Error("a session that nobody prepared is not a new one")
	}
	s = sessiontest.New(t, visited(t, 3))
	if n, err := visits.Get(s); n != 3 || err != nil {
		t.Errorf("visits are %d, %v", n, err)
	}
	// It works like that of a request.
	ctx := t.Context()
	if err := errors.Join(visits.Update(s, visit), s.SignIn(ctx, "alice", nil), visits.Update(s, visit), s.Commit(ctx), s.Renew(ctx)); err != nil {
		t.Fatal(err)
	}
	if n, err := visits.Get(s); s.Owner() != "alice" || n != 5 || err != nil {
		t.Errorf("%q with %d visits, %v", s.Owner(), n, err)
	}
	if err := s.Destroy(ctx); err != nil || s.Owner() != "" {
		t.Errorf("after Destroy, %q: %v", s.Owner(), err)
	}
}

func TestRequest(t *testing.T) {
	r := sessiontest.Request(t, nil, httptest.NewRequest(http.MethodPost, "/hello?a=1", strings.NewReader("body")), sessiontest.SignedIn(t, "alice"))
	if body, err := io.ReadAll(r.Body); r.Method != http.MethodPost || r.URL.RawQuery != "a=1" || string(body) != "body" || err != nil {
		t.Error("the request is another one")
	}
	w := httptest.NewRecorder()
	hello(w, r)
	checkBody(t, w, "alice 1 <nil>")
	if n, err := visits.Get(session.From(r.Context())); n != 1 || err != nil {
		t.Errorf("the test sees %d visits, %v", n, err)
	}
}

func TestRequestOfManager(t *testing.T) {
	m := newManager(t, memstore.New(), nil)
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.AddCookie(sessiontest.Cookie(t, m, visited(t, 5)))
	r = sessiontest.Request(t, m, r, nil)
	w := httptest.NewRecorder()
	hello(w, r)
	checkBody(t, w, "6 <nil>")

	// Several managers, each asked by name.
	admin := newManager(t, memstore.New(), &session.Options{Cookie: session.Cookie{Name: "__Host-admin"}})
	r = sessiontest.Request(t, admin, r, sessiontest.SignedIn(t, "root"))
	if a, b := m.From(r.Context()).Owner(), admin.From(r.Context()).Owner(); a != "" || b != "root" {
		t.Errorf("owners are %q and %q", a, b)
	}
}

func TestCookie(t *testing.T) {
	for name, opts := range map[string]*session.Options{
		"default":    nil,
		"insecure":   {InsecureCookie: true},
		"named":      {Cookie: session.Cookie{Name: "__Host-mine"}},
		"persistent": {Cookie: session.Cookie{Persistent: true}},
	} {
		t.Run(name, func(t *testing.T) {
			m := newManager(t, memstore.New(), opts)
			app := m.Handler(http.HandlerFunc(hello))
			cookie := sessiontest.Cookie(t, m, func(s *session.Session) {
				visited(t, 10)(s)
				sessiontest.SignedIn(t, "alice")(s)
			})
			for i := 11; i < 14; i++ { // the app's changes are committed
				r := httptest.NewRequest(http.MethodGet, "/", nil)
				r.AddCookie(cookie)
				w := httptest.NewRecorder()
				app.ServeHTTP(w, r)
				checkBody(t, w, fmt.Sprintf("alice %d <nil>", i))
			}
		})
	}
}

// failing is a test that records that it failed.
type failing struct {
	testing.TB
	said string
}

func (f *failing) Helper() {}

func (f *failing) Fatal(args ...any) { f.Fatalf("%s", fmt.Sprint(args...)) }

func (f *failing) Fatalf(format string, args ...any) {
	f.said = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// What cannot work fails the test with what to do, and does not go on.
func TestFailures(t *testing.T) {
	down := func(t testing.TB) *session.Manager {
		st := storetest.NewFaults(memstore.New(), storetest.Every(storetest.Fault{Err: store.ErrTooLarge}, "Create"))
		return newManager(t, st, nil)
	}
	for name, tt := range map[string]struct {
		do   func(testing.TB)
		says string
	}{
		"no manager":    {func(t testing.TB) { sessiontest.Cookie(t, nil, nil) }, "needs the manager"},
		"empty session": {func(t testing.TB) { sessiontest.Cookie(t, newManager(t, memstore.New(), nil), nil) }, "sign in or set an attribute"},
		"ended session": {func(t testing.TB) {
			sessiontest.Cookie(t, newManager(t, memstore.New(), nil), func(s *session.Session) { _ = s.Destroy(t.Context()) })
		}, "sign in or set an attribute"},
		"store refuses": {func(t testing.TB) { sessiontest.Cookie(t, down(t), visited(t, 1)) }, "commit: "},
		"sign-in fails": {func(t testing.TB) { sessiontest.New(t, sessiontest.SignedIn(t, "")) }, "sign-in: "},
		"skipped": {func(t testing.TB) {
			m := newManager(t, memstore.New(), &session.Options{Skip: func(*http.Request) bool { return true }})
			sessiontest.Request(t, m, httptest.NewRequest(http.MethodGet, "/healthz", nil), nil)
		}, "Options.Skip of the manager exempts GET /healthz"},
		"store is down": {func(t testing.TB) {
			st := storetest.NewFaults(memstore.New(), nil)
			m := newManager(t, st, nil)
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.AddCookie(sessiontest.Cookie(t, m, visited(t, 1)))
			st.SetHook(storetest.Every(storetest.Fault{Err: errors.New("connection refused")}))
			sessiontest.Request(t, m, r, nil)
		}, "could not be loaded; the manager's error handler answered 503"},
	} {
		t.Run(name, func(t *testing.T) {
			f := &failing{TB: t}
			finished := make(chan bool)
			go func() {
				wentOn := false
				defer func() { finished <- wentOn }()
				tt.do(f)
				wentOn = true
			}()
			if <-finished {
				t.Error("the test went on")
			}
			if !strings.HasPrefix(f.said, "sessiontest: ") || !strings.Contains(f.said, tt.says) {
				t.Errorf("it said %q, want %q", f.said, tt.says)
			}
		})
	}
}
