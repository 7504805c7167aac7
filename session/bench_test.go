package session_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/store/memstore"
)

type profile struct {
	Name   string `json:"name"`
	Theme  string `json:"theme"`
	Visits int    `json:"visits"`
}

var (
	benchCount   = session.NewAttr[int]("count")
	benchProfile = session.NewAttr[profile]("profile")
)

// BenchmarkRead compares a handler without sessions to the same handler reading
// one attribute of a signed-in session, through the whole middleware, and that to one
// whose events are observed.
func BenchmarkRead(b *testing.B) {
	st := memstore.New()
	m := newManager(b, st, nil)
	cookie := signedInCookie(b, m)
	handlers := readHandlers(b, m)
	var events atomic.Int64
	observed := newManager(b, st, &session.Options{Observer: func(context.Context, session.Event) { events.Add(1) }})
	handlers["observed"] = readHandlers(b, observed)["int"]
	for _, name := range []string{"bare", "int", "observed", "struct"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.AddCookie(cookie)
			before := cpuTime(b)
			for b.Loop() {
				handlers[name].ServeHTTP(&discard{h: http.Header{}}, r)
			}
			b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
		})
	}
}

// readHandlers returns handlers that answer with one value: without a session,
// with an integer of one, and with a field of a struct of one.
func readHandlers(tb testing.TB, m *session.Manager) map[string]http.Handler {
	return map[string]http.Handler{
		"bare": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, strconv.Itoa(42))
		}),
		"int": m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			n, err := benchCount.Get(m.From(r.Context()))
			if err != nil || n != 42 {
				tb.Errorf("count is %d, %v", n, err)
			}
			_, _ = io.WriteString(w, strconv.Itoa(n))
		})),
		"struct": m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			p, err := benchProfile.Get(m.From(r.Context()))
			if err != nil || p.Name != "Alice" {
				tb.Errorf("profile is %v, %v", p, err)
			}
			_, _ = io.WriteString(w, p.Name)
		})),
	}
}

// discard is a response that goes nowhere.
type discard struct{ h http.Header }

func (d *discard) Header() http.Header               { return d.h }
func (d *discard) Write(b []byte) (int, error)       { return len(b), nil }
func (d *discard) WriteString(s string) (int, error) { return len(s), nil }
func (d *discard) WriteHeader(int)                   {}

// signedInCookie returns the cookie of a session that holds what the benchmarks
// read.
func signedInCookie(tb testing.TB, m *session.Manager) *http.Cookie {
	tb.Helper()
	w := httptest.NewRecorder()
	m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		s := m.From(r.Context())
		for _, err := range []error{
			benchCount.Set(s, 42),
			benchProfile.Set(s, profile{"Alice", "dark", 17}),
			s.SignIn(context.Background(), "alice", nil),
		} {
			if err != nil {
				tb.Fatal(err)
			}
		}
	})).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	cookies := w.Result().Cookies()
	if len(cookies) != 1 {
		tb.Fatalf("want one cookie, got %v", w.Result().Header)
	}
	return cookies[0]
}
