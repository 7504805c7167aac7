package session_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/store"
)

// A request that is made with the context of another, as by a batch endpoint or
// a reverse proxy in the same process, has the session of its own cookie.
func TestSubRequestHasItsOwnSession(t *testing.T) {
	m := newManager(t, newCalls(), nil)
	alice, bob := newBrowser(t), newBrowser(t)
	alice.signIn(m, "alice")
	bob.signIn(m, "bob")
	for _, tt := range []struct {
		by   *browser
		want string
	}{{bob, "bob"}, {alice, "alice"}, {newBrowser(t), ""}} {
		sub := m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s := session.From(r.Context())
			if got := m.From(r.Context()).Owner(); got != tt.want || s.Owner() != tt.want {
				t.Errorf("a request with the cookie of %q found the session of %q", tt.want, got)
			}
			check(t, count.Update(s, add(1)))
		}))
		for name, outer := range map[string]*browser{"alice": alice, "": newBrowser(t)} {
			outer.serve(m, func(_ http.ResponseWriter, r *http.Request) {
				inner := httptest.NewRequestWithContext(r.Context(), http.MethodGet, site.String(), nil)
				for _, c := range tt.by.jar.Cookies(site) {
					inner.AddCookie(c)
				}
				w := httptest.NewRecorder()
				sub.ServeHTTP(w, inner)
				if w.Code != http.StatusOK {
					t.Errorf("the request in the request was answered %d", w.Code)
				}
				if got := m.From(r.Context()).Owner(); got != name {
					t.Errorf("the outer request is %q's now, want %q's", got, name)
				}
			})
		}
	}
	for owner, b := range map[string]*browser{"alice": alice, "bob": bob} {
		if got, n := b.look(m); got != owner || n != 2 {
			t.Errorf("%s's session is %q's with %d, want 2, of the requests with that cookie", owner, got, n)
		}
	}
}

// wrapping is the writer of a middleware, such as one that compresses.
type wrapping struct{ http.ResponseWriter }

func (w wrapping) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// hiding is one that does not tell what it wraps.
type hiding struct{ w http.ResponseWriter }

func (h hiding) Header() http.Header         { return h.w.Header() }
func (h hiding) Write(b []byte) (int, error) { return h.w.Write(b) }
func (h hiding) WriteHeader(code int)        { h.w.WriteHeader(code) }

// A Handler inside of itself is no second one, whatever stands in between: one
// session, one cookie, one load.
func TestHandlerTwiceAroundWrapper(t *testing.T) {
	for what, wrap := range map[string]func(http.ResponseWriter) http.ResponseWriter{
		"unwraps": func(w http.ResponseWriter) http.ResponseWriter { return wrapping{w} },
		"hides":   func(w http.ResponseWriter) http.ResponseWriter { return hiding{w} },
	} {
		for _, signedIn := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, signed in %t", what, signedIn), func(t *testing.T) {
				st := newCalls()
				m := newManager(t, st, nil)
				b := newBrowser(t)
				if signedIn {
					b.signIn(m, "alice")
				}
				inner := m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					check(t, count.Update(session.From(r.Context()), add(1)))
					_, _ = io.WriteString(w, page)
				}))
				gets := st.count("get")
				resp := b.serve(m, func(w http.ResponseWriter, r *http.Request) {
					if what == "unwraps" { // else a newcomer's answer cannot be told from that of a sub-request
						check(t, name.Set(session.From(r.Context()), "outer"))
					}
					inner.ServeHTTP(wrap(w), r)
					if n := must(count.Get(session.From(r.Context())))(t); what == "unwraps" && n != 1 {
						t.Errorf("the outer handler sees %d, want the inner one's change", n)
					}
				})
				if got := st.count("get") - gets; got > 1 {
					t.Errorf("the session was loaded %d times", got)
				}
				cookies := 1
				if signedIn {
					cookies = 0
				}
				checkCookies(t, resp, cookies)
				if _, n := b.look(m); n != 1 || len(st.live(t)) != 1 {
					t.Errorf("the next request finds %d, and %d sessions live; want 1 and 1", n, len(st.live(t)))
				}
			})
		}
	}
}

// Each of several managers tells the browser of what it has done, also if the
// commit of another fails and its error is the answer.
func TestNestedManagersFailAlone(t *testing.T) {
	names := []string{"__Host-outer", "__Host-middle", "__Host-inner"}
	for failed := range names {
		t.Run(names[failed]+" fails", func(t *testing.T) {
			var stores []*calls
			var managers []*session.Manager
			for _, n := range names {
				stores = append(stores, newCalls())
				managers = append(managers, newManager(t, stores[len(stores)-1], &session.Options{Cookie: session.Cookie{Name: n}}))
			}
			var h http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				for i, m := range managers {
					if i != failed {
						check(t, m.From(r.Context()).SignIn(r.Context(), "alice", nil))
					}
				}
				check(t, count.Set(managers[failed].From(r.Context()), 1))
				stores[failed].before = func(string, store.Key) error { return store.ErrTooLarge }
				_, _ = io.WriteString(w, page)
			})
			for _, m := range slices.Backward(managers) {
				h = m.Handler(h)
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, site.String(), nil))
			if w.Code != http.StatusInternalServerError {
				t.Errorf("status %d, want 500", w.Code)
			}
			var got, want []string
			for _, c := range w.Result().Cookies() {
				got = append(got, c.Name)
			}
			for i, n := range names {
				if i != failed {
					want = append(want, n)
				}
			}
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("the browser is told of %v; want %v, where alice is signed in", got, want)
			}
		})
	}
}
