package shop_test

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/shop"
	"github.com/coatcheck/coatcheck/store"
)

// fleet is servers over one store behind one address, taken in turn.
type fleet struct {
	base      string            // of the address
	transport http.RoundTripper // nil is the network's
	next      atomic.Uint64
	logs      *logs
}

func (f *fleet) URL(path string) string { return f.base + path }

// serve starts a fleet whose servers have the names given.
func serve(t *testing.T, st store.Store, names ...string) *fleet {
	t.Helper()
	f := &fleet{logs: new(logs)}
	f.start(t, f.handler(t, st, names))
	return f
}

// serveInProcess is serve without a network, so that a bubble's time passes.
func serveInProcess(t *testing.T, st store.Store, names ...string) *fleet {
	t.Helper()
	f := &fleet{base: "http://shop.example", logs: new(logs)}
	f.transport = inProcess{f.handler(t, st, names)}
	return f
}

// serveHandler serves one shop that was made otherwise.
func serveHandler(t *testing.T, h http.Handler) *fleet {
	f := &fleet{logs: new(logs)}
	f.start(t, h)
	return f
}

func (f *fleet) handler(t *testing.T, st store.Store, names []string) http.Handler {
	t.Helper()
	logger := slog.New(slog.NewTextHandler(f.logs, nil))
	var servers []http.Handler
	for _, name := range names {
		h, err := shop.New(st, name, &shop.Options{InsecureCookie: true, Logger: logger})
		if err != nil {
			t.Fatal(err)
		}
		servers = append(servers, h)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		servers[(f.next.Add(1)-1)%uint64(len(servers))].ServeHTTP(w, r)
	})
}

func (f *fleet) start(t *testing.T, h http.Handler) {
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	f.base = srv.URL
}

// inProcess calls a handler.
type inProcess struct{ http.Handler }

func (h inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	in := httptest.NewRequestWithContext(r.Context(), r.Method, r.URL.String(), r.Body)
	in.Header = r.Header
	w := httptest.NewRecorder()
	h.ServeHTTP(w, in)
	resp := w.Result()
	resp.Request = r
	return resp, nil
}

// visitor is a browser with its cookies. It follows no redirects: the tests look
// at them.
type visitor struct {
	t    *testing.T
	f    *fleet
	http *http.Client
}

func (f *fleet) visitor(t *testing.T) *visitor {
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &visitor{t, f, &http.Client{
		Jar:           jar,
		Transport:     f.transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// answer is a response, read to its end.
type answer struct {
	*http.Response
	body string
}

// do sends a request, with headers in pairs.
func (v *visitor) do(method, path, body string, headers ...string) answer {
	v.t.Helper()
	a, err := v.try(method, path, body, headers...)
	if err != nil {
		v.t.Fatal(err)
	}
	return a
}

// try is do for goroutines that must not end the test.
func (v *visitor) try(method, path, body string, headers ...string) (answer, error) {
	r, err := http.NewRequestWithContext(v.t.Context(), method, v.f.URL(path), strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			r.Host = headers[i+1]
		}
		r.Header.Set(headers[i], headers[i+1])
	}
	resp, err := v.http.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return answer{resp, string(b)}, err
}

func (v *visitor) get(path string, headers ...string) answer {
	v.t.Helper()
	return v.do(http.MethodGet, path, "", headers...)
}

// post sends a form, with fields in pairs.
func (v *visitor) post(path string, fields ...string) answer {
	v.t.Helper()
	return v.do(http.MethodPost, path, form(fields...))
}

// postJSON sends a form and asks for JSON.
func (v *visitor) postJSON(path string, fields ...string) answer {
	v.t.Helper()
	return v.do(http.MethodPost, path, form(fields...), "Accept", "application/json")
}

func form(fields ...string) string {
	q := url.Values{}
	for i := 0; i < len(fields); i += 2 {
		q.Add(fields[i], fields[i+1])
	}
	return q.Encode()
}

// signIn signs in or fails the test.
func (v *visitor) signIn(user string, headers ...string) {
	v.t.Helper()
	v.do(http.MethodPost, "/login", form("user", user, "password", "demo"), headers...).want(v.t, http.StatusSeeOther)
}

// buy puts something into the cart or fails the test.
func (v *visitor) buy(sku, qty string) {
	v.t.Helper()
	v.post("/cart", "sku", sku, "qty", qty).want(v.t, http.StatusSeeOther)
}

// state is what GET /api/session tells, but for the server.
type state struct {
	User string
	Cart map[string]int
}

func (v *visitor) state() state {
	v.t.Helper()
	a := v.get("/api/session").want(v.t, http.StatusOK)
	var s state
	a.decode(v.t, &s)
	return s
}

// cookie returns the value of a cookie that the visitor keeps, or "".
func (v *visitor) cookie(name string) string {
	u, err := url.Parse(v.f.URL("/"))
	if err != nil {
		v.t.Fatal(err)
	}
	for _, c := range v.http.Jar.Cookies(u) {
		if c.Name == name {
			return c.Value
		}
	}
	return ""
}

func (v *visitor) setCookie(c *http.Cookie) {
	u, err := url.Parse(v.f.URL("/"))
	if err != nil {
		v.t.Fatal(err)
	}
	v.http.Jar.SetCookies(u, []*http.Cookie{c})
}

// want fails the test unless the answer has that status.
func (a answer) want(t *testing.T, status int) answer {
	t.Helper()
	if a.StatusCode != status {
		t.Fatalf("%s %s: status %d, want %d: %s", a.Request.Method, a.Request.URL.Path, a.StatusCode, status, a.text())
	}
	return a
}

var looks = regexp.MustCompile(`(?s)<style>.*</style>|<svg.*?</svg>`)

// text is the body without its looks, which say nothing in a failure.
func (a answer) text() string { return looks.ReplaceAllString(a.body, "") }

func (a answer) decode(t *testing.T, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(a.body), v); err != nil {
		t.Fatalf("%s is no JSON as expected: %v: %s", a.Request.URL.Path, err, a.body)
	}
}

// sets reports whether the answer sets the cookie, and whether it clears it.
func (a answer) sets(name string) (set, cleared bool) {
	for _, c := range a.Cookies() {
		if c.Name == name {
			return true, c.MaxAge < 0
		}
	}
	return false, false
}

// logs is what the servers log.
type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
