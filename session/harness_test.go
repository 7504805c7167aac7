package session_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/memstore"
)

var (
	count  = session.NewAttr[int]("count")
	name   = session.NewAttr[string]("name")
	notice = session.NewFlash[string]("notice")
)

// calls is a store in memory that tells of each call before and after it.
type calls struct {
	*memstore.Store
	// before may fail a call before its effect, after one that had it. Both may
	// block. Either may be nil.
	before, after func(op string, k store.Key) error

	mu sync.Mutex
	n  map[string]int
}

func newCalls() *calls { return &calls{Store: memstore.New(), n: map[string]int{}} }

func (c *calls) count(op string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n[op]
}

func (c *calls) enter(op string, k store.Key) error {
	c.mu.Lock()
	c.n[op]++
	c.mu.Unlock()
	if c.before != nil {
		return c.before(op, k)
	}
	return nil
}

func (c *calls) leave(op string, k store.Key, err error) error {
	if c.after != nil {
		if lost := c.after(op, k); lost != nil {
			return lost
		}
	}
	return err
}

func (c *calls) Get(ctx context.Context, k store.Key) (store.Record, error) {
	if err := c.enter("get", k); err != nil {
		return store.Record{}, err
	}
	r, err := c.Store.Get(ctx, k)
	return r, c.leave("get", k, err)
}

func (c *calls) Create(ctx context.Context, k store.Key, r store.Record) error {
	if err := c.enter("create", k); err != nil {
		return err
	}
	return c.leave("create", k, c.Store.Create(ctx, k, r))
}

func (c *calls) Replace(ctx context.Context, k store.Key, old uint64, r store.Record) error {
	op := "replace"
	if r.IsMarker() {
		op = "retire"
	}
	if err := c.enter(op, k); err != nil {
		return err
	}
	return c.leave(op, k, c.Store.Replace(ctx, k, old, r))
}

func (c *calls) Delete(ctx context.Context, k store.Key) (bool, error) {
	if err := c.enter("delete", k); err != nil {
		return false, err
	}
	ok, err := c.Store.Delete(ctx, k)
	return ok, c.leave("delete", k, err)
}

func (c *calls) Touch(ctx context.Context, k store.Key, expires time.Time) error {
	if err := c.enter("touch", k); err != nil {
		return err
	}
	return c.leave("touch", k, c.Store.Touch(ctx, k, expires))
}

// DeleteOwner reads the index first and deletes one by one, so it misses what
// is created meanwhile, as the contract allows and as databases do.
func (c *calls) DeleteOwner(ctx context.Context, owner string, keep ...store.Handle) (int, error) {
	var keys []store.Key
	for r, err := range c.List(ctx) {
		if err != nil {
			return 0, err
		}
		if r.Owner == owner && !slices.Contains(keep, r.Handle) {
			keys = append(keys, r.Key)
		}
	}
	n := 0
	for _, k := range keys {
		if err := c.enter("delete owner", k); err != nil {
			return n, err
		}
		r, err := c.Store.Get(ctx, k)
		if err == nil && !r.IsMarker() {
			n++
		}
		if _, err := c.Store.Delete(ctx, k); err != nil {
			return n, err
		}
	}
	return n, nil
}

func (c *calls) ListOwner(ctx context.Context, owner string) ([]store.Keyed, error) {
	if err := c.enter("list owner", store.Key{}); err != nil {
		return nil, err
	}
	recs, err := c.Store.ListOwner(ctx, owner)
	return recs, c.leave("list owner", store.Key{}, err)
}

// live returns the records in the store that are sessions.
func (c *calls) live(t *testing.T) []store.Keyed {
	t.Helper()
	var out []store.Keyed
	for r, err := range c.List(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if !r.IsMarker() {
			out = append(out, r)
		}
	}
	return out
}

func newManager(t testing.TB, st store.Store, opts *session.Options) *session.Manager {
	t.Helper()
	o := session.Options{}
	if opts != nil {
		o = *opts
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	m, err := session.New(st, &o)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// browser is a visitor with a real cookie jar.
type browser struct {
	t   testing.TB
	jar http.CookieJar
}

var site = &url.URL{Scheme: "https", Host: "shop.example", Path: "/"}

func newBrowser(t testing.TB) *browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &browser{t, jar}
}

// same returns another browser with a copy of the cookies, as a second device
// with a stolen ID or a request that was sent earlier.
func (b *browser) same() *browser {
	c := newBrowser(b.t)
	c.jar.SetCookies(site, b.jar.Cookies(site))
	return c
}

func (b *browser) id() string {
	for _, c := range b.jar.Cookies(site) {
		if c.Name == "__Host-session" {
			return c.Value
		}
	}
	return ""
}

// do sends a request to the server that runs m, where f handles it, and takes
// the cookies of the response.
func (b *browser) do(m *session.Manager, f func(s *session.Session)) *http.Response {
	return b.serve(m, func(_ http.ResponseWriter, r *http.Request) { f(m.From(r.Context())) })
}

func (b *browser) serve(m *session.Manager, h http.HandlerFunc) *http.Response {
	b.t.Helper()
	resp := b.send(m, h)
	b.take(resp)
	return resp
}

// send is serve without taking the cookies: the response is still on its way.
func (b *browser) send(m *session.Manager, h http.HandlerFunc) *http.Response {
	r := httptest.NewRequestWithContext(context.Background(), http.MethodGet, site.String(), nil)
	for _, c := range b.jar.Cookies(site) {
		r.AddCookie(c)
	}
	w := httptest.NewRecorder()
	m.Handler(h).ServeHTTP(w, r)
	return w.Result()
}

func (b *browser) take(resp *http.Response) { b.jar.SetCookies(site, resp.Cookies()) }

// look returns what a request of this browser sees.
func (b *browser) look(m *session.Manager) (owner string, n int) {
	b.t.Helper()
	b.do(m, func(s *session.Session) {
		owner = s.Owner()
		n = must(count.Get(s))(b.t)
	})
	return owner, n
}

func (b *browser) signIn(m *session.Manager, owner string) {
	b.t.Helper()
	b.do(m, func(s *session.Session) { check(b.t, s.SignIn(b.t.Context(), owner, nil)) })
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		check(t, err)
		return v
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func add(n int) func(int) (int, error) {
	return func(old int) (int, error) { return old + n, nil }
}
