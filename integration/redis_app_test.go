package integration

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/breaker"
)

// The shop of the tests that use sessions over HTTP: a cart that counts, a note,
// and an account.
var (
	shopCart = session.NewAttr[int]("cart")
	shopNote = session.NewAttr[string]("note")
)

// shopState is what the shop knows of a visitor, and answers to each request.
type shopState struct {
	Owner  string
	Handle string
	Cart   int
	Note   string
}

// shop is a web server.
type shop struct {
	*session.Manager
	url string

	// A request for /held has loaded its session when it is told of in arrived,
	// and changes it when gate is closed.
	arrived, gate chan struct{}
}

// openShop serves the shop from st until the test ends.
func openShop(t testing.TB, st store.Store, opts session.Options) *shop {
	t.Helper()
	opts.InsecureCookie = true
	opts.Logger = slog.New(slog.DiscardHandler)
	opts.ErrorHandler = func(w http.ResponseWriter, r *http.Request, err error) {
		switch {
		case errors.Is(err, store.ErrAmbiguous):
			w.Header().Set("Outcome", "ambiguous")
		case errors.Is(err, breaker.ErrOpen):
			w.Header().Set("Outcome", "refused")
		}
		session.DefaultErrorHandler(w, r, err)
	}
	m, err := session.New(st, &opts)
	if err != nil {
		t.Fatal(err)
	}
	s := &shop{Manager: m, arrived: make(chan struct{}, 1000), gate: make(chan struct{})}
	add := func(_ context.Context, s *session.Session, _ string) error {
		return shopCart.Update(s, func(n int) (int, error) { return n + 1, nil })
	}
	actions := map[string]func(context.Context, *session.Session, string) error{
		"/":    func(context.Context, *session.Session, string) error { return nil },
		"/add": add,
		"/held": func(ctx context.Context, sess *session.Session, v string) error {
			s.arrived <- struct{}{}
			<-s.gate
			return add(ctx, sess, v)
		},
		"/note":   func(_ context.Context, s *session.Session, v string) error { return shopNote.Set(s, v) },
		"/signin": func(ctx context.Context, s *session.Session, v string) error { return s.SignIn(ctx, v, nil) },
		"/renew":  func(ctx context.Context, s *session.Session, _ string) error { return s.Renew(ctx) },
		"/logout": func(ctx context.Context, s *session.Session, _ string) error { return s.Destroy(ctx) },
	}
	mux := http.NewServeMux()
	for path, act := range actions {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			s := session.From(r.Context())
			err := act(r.Context(), s, r.URL.Query().Get("v"))
			if err == nil {
				err = s.Commit(r.Context()) // or the cart may be another by the time it is stored
			}
			state := shopState{Owner: s.Owner(), Handle: s.Handle().String()}
			if err == nil {
				state.Cart, err = shopCart.Get(s)
			}
			if err == nil {
				state.Note, err = shopNote.Get(s)
			}
			if err != nil {
				m.HandleError(w, r, err)
				return
			}
			_ = json.NewEncoder(w).Encode(state)
		})
	}
	srv := httptest.NewServer(m.Handler(mux))
	t.Cleanup(srv.Close)
	s.url = srv.URL
	return s
}

// browser is somebody with a jar of cookies, which is one for all ports of a
// host.
type browser struct {
	http *http.Client
}

func newBrowser(t testing.TB, transport http.RoundTripper) *browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &browser{&http.Client{Transport: transport, Jar: jar, Timeout: time.Minute}} // a guard: nothing may hang
}

// shopTransport keeps enough connections for everybody.
func shopTransport(t testing.TB) *http.Transport {
	tr := &http.Transport{MaxIdleConnsPerHost: 1000}
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

// cookie returns the cookie by which the shop knows the session, "" if there is none.
func (b *browser) cookie(s *shop) string {
	u, _ := url.Parse(s.url)
	for _, c := range b.http.Jar.Cookies(u) {
		if c.Name == "session" {
			return c.Value
		}
	}
	return ""
}

// copied returns another browser with a copy of the session's cookie, and no other.
func (b *browser) copied(t testing.TB, s *shop) *browser {
	t.Helper()
	c := newBrowser(t, b.http.Transport)
	u, _ := url.Parse(s.url)
	c.http.Jar.SetCookies(u, []*http.Cookie{{Name: "session", Value: b.cookie(s), Path: "/"}})
	return c
}

// forgetful is a jar that keeps the cookie of the version, and sends it to nobody.
type forgetful struct{ http.CookieJar }

func (j forgetful) Cookies(u *url.URL) []*http.Cookie {
	return slices.DeleteFunc(j.CookieJar.Cookies(u), func(c *http.Cookie) bool { return strings.HasSuffix(c.Name, "-v") })
}

// reply is an answer of the shop.
type reply struct {
	shopState
	status  int
	outcome string // of one that failed: see openShop
	cookies int    // how many were set
	began   time.Time
	took    time.Duration
}

// ask sends a request, and reports an error if there is no answer.
func (b *browser) ask(t testing.TB, s *shop, path string) reply {
	method := http.MethodPost
	if path == "/" {
		method = http.MethodGet
	}
	req, err := http.NewRequestWithContext(context.Background(), method, s.url+path, nil)
	if err != nil {
		t.Error(err)
		return reply{}
	}
	r := reply{began: time.Now()}
	res, err := b.http.Do(req)
	if err != nil {
		t.Errorf("no answer to %s: %v", path, err)
		return r
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	r.took = time.Since(r.began)
	r.status, r.outcome, r.cookies = res.StatusCode, res.Header.Get("Outcome"), len(res.Cookies())
	if err == nil && r.status == http.StatusOK {
		err = json.Unmarshal(body, &r.shopState)
	}
	if err != nil {
		t.Errorf("%s: %v", path, err)
	}
	return r
}

// must is ask for a request that has to succeed.
func (b *browser) must(t testing.TB, s *shop, path string) reply {
	t.Helper()
	r := b.ask(t, s, path)
	if r.status != http.StatusOK {
		t.Errorf("%s: status %d %s; want 200", path, r.status, r.outcome)
	}
	return r
}

// eventually polls, without a bound that anybody should meet.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !done(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("a minute has passed without %s", what)
		}
	}
}

// spread describes durations: how many, the median, the 99th of a hundred, and
// the greatest.
func spread(ds []time.Duration) string {
	if len(ds) == 0 {
		return "none"
	}
	slices.Sort(ds)
	at := func(p int) time.Duration { return ds[(len(ds)-1)*p/100].Round(10 * time.Microsecond) }
	return strconv.Itoa(len(ds)) + ", median " + at(50).String() + ", p99 " + at(99).String() + ", max " + at(100).String()
}
