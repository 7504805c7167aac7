package admin_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/admin"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/balancer"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/fleet"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/latency"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/load"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/shopper"
)

const token = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

// idle is a fleet that does nothing but note what it was told, and so are its shoppers.
type idle struct {
	mu       sync.Mutex
	calls    []string
	happened []fleet.Event
	changed  chan struct{}
}

// crowd is the shoppers of an idle fleet.
type crowd struct{ *idle }

func (c crowd) Start(n int) error {
	switch {
	case n < 1 || n > load.Max:
		return load.ErrCount
	case n == load.Max:
		return load.ErrRunning
	}
	c.note(fmt.Sprint("start ", n))
	return nil
}

func (c crowd) Stop() { c.note("stop") }
func (crowd) Status() load.Status {
	return load.Status{State: load.Running, Shoppers: 7, Counts: shopper.Counts{Journeys: 20, SignOuts: 3}, First: map[shopper.Kind]string{shopper.SignOut: "shopper-2: <nobody>"}}
}

func (crowd) Steps() []load.Step {
	return []load.Step{{Time: time.Now().UnixMilli(), Shopper: "shopper-1", Server: "worker-1"}}
}

func (f *idle) note(call string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, call)
}

func (f *idle) Workers() []fleet.Worker {
	return []fleet.Worker{
		{Name: "worker-1", PID: 41, URL: "http://127.0.0.1:4001", State: fleet.Ready, Started: time.Unix(1, 0).UTC()},
		{Name: "worker-<2>", PID: 42, State: fleet.Starting, Started: time.Unix(2, 0).UTC()},
	}
}
func (f *idle) Target() int { return 2 }
func (f *idle) Events() []fleet.Event {
	return []fleet.Event{{Time: time.Unix(1, 0).UTC(), Kind: fleet.Started, Worker: "worker-1"}}
}

func (f *idle) EventsSince(n int) (fresh []fleet.Event, total int, changed <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := append(f.Events(), f.happened...)
	return all[n:], len(all), f.changed
}

// happen is an event.
func (f *idle) happen(e fleet.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.happened = append(f.happened, e)
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *idle) Scale(n int) error {
	if n < 1 || n > fleet.MaxWorkers {
		return fleet.ErrCount
	}
	f.note(fmt.Sprint("scale ", n))
	return nil
}

func (f *idle) Unpin() error {
	f.note("unpin")
	return nil
}

func (f *idle) Autoscaling() *admin.Autoscaling {
	return &admin.Autoscaling{Min: 1, Max: 5, Target: 10, Window: 60, Pinned: true, Workers: 4, Reason: "33.0 requests at once"}
}

func (f *idle) Kill(_ context.Context, name string) error { return f.named("kill", name) }
func (f *idle) Drain(name string) error                   { return f.named("drain", name) }

func (f *idle) named(call, name string) error {
	if name != "worker-1" {
		return fleet.ErrUnknown
	}
	f.note(call + " " + name)
	return nil
}

func newServer(t *testing.T) (*idle, *httptest.Server) {
	t.Helper()
	f, h := newHandler()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return f, s
}

func newHandler() (*idle, *admin.Handler) {
	f := &idle{changed: make(chan struct{})}
	var waits latency.Histogram
	return f, admin.New(admin.Options{
		Token:      token,
		CookieName: "coatcheck-admin-8081",
		Fleet:      f,
		Balancer: func() balancer.Status {
			return balancer.Status{Requests: 7, Upstreams: []balancer.UpstreamStatus{{Name: "worker-1", Requests: 5, InFlight: 2}}}
		},
		Latency: func() latency.Counts {
			waits.Add(2 * time.Millisecond)
			return waits.Counts()
		},
		Store: func(context.Context) admin.Store {
			return admin.Store{URL: "redis+cluster://a,b", Name: "redis+cluster://a", Kind: "redis", Topology: "redis cluster", Shared: true, State: "ok", Breaker: "half-open", Ping: 1.25}
		},
		Load:     crowd{f},
		Shop:     "http://127.0.0.1:8080",
		Interval: 10 * time.Millisecond,
	})
}

// send sends a request and returns the status and the body of the answer.
func send(t *testing.T, s *httptest.Server, method, path, host, body string, header http.Header) (*http.Response, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // a stream that should be refused does not end
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, s.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if host != "" {
		req.Host = host
	}
	for k, v := range header {
		req.Header[k] = v
	}
	resp, err := s.Client().Transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

func authorized(kv ...string) http.Header {
	h := http.Header{"Authorization": {"Bearer " + token}}
	for i := 0; i < len(kv); i += 2 {
		h.Set(kv[i], kv[i+1])
	}
	return h
}

func TestGuard(t *testing.T) {
	const kill = "/api/fleet/workers/worker-1/kill"
	cookie := func(name, value string) http.Header { return http.Header{"Cookie": {name + "=" + value}} }
	for _, tt := range []struct {
		rule               string
		method, path, host string
		header             http.Header
		want               int
	}{
		{"the bearer token is let in", "GET", "/api/fleet", "", authorized(), 200},
		{"the scheme is not case sensitive", "GET", "/api/fleet", "", http.Header{"Authorization": {"bearer " + token}}, 200},
		{"the cookie is let in", "GET", "/api/fleet", "", cookie("coatcheck-admin-8081", token), 200},
		{"the cookie among others is let in", "GET", "/api/fleet", "", http.Header{"Cookie": {"a=b; coatcheck-admin-8081=stale; coatcheck-admin-8081=" + token}}, 200},

		{"no token is refused", "GET", "/api/fleet", "", nil, 401},
		{"no token is refused on the page", "GET", "/", "", nil, 401},
		{"no token is refused for what does not exist", "GET", "/nothing", "", nil, 401},
		{"no token is refused on a change", "POST", kill, "", nil, 401},
		{"an empty token is refused", "GET", "/api/fleet", "", http.Header{"Authorization": {"Bearer "}}, 401},
		{"a wrong token is refused", "GET", "/api/fleet", "", http.Header{"Authorization": {"Bearer " + strings.ToLower(token)}}, 401},
		{"the beginning of the token is refused", "GET", "/api/fleet", "", http.Header{"Authorization": {"Bearer " + token[:25]}}, 401},
		{"the token and more is refused", "GET", "/api/fleet", "", http.Header{"Authorization": {"Bearer " + token + "A"}}, 401},
		{"basic authentication is refused", "GET", "/api/fleet", "", http.Header{"Authorization": {"Basic " + token}}, 401},
		{"two headers are refused", "GET", "/api/fleet", "", http.Header{"Authorization": {"Bearer x", "Bearer " + token}}, 401},
		{"the cookie of another port is refused", "GET", "/api/fleet", "", cookie("coatcheck-admin-9999", token), 401},
		{"an empty cookie is refused", "GET", "/api/fleet", "", cookie("coatcheck-admin-8081", ""), 401},

		{"localhost is this host", "GET", "/api/fleet", "localhost:8081", authorized(), 200},
		{"another loopback address is this host", "GET", "/api/fleet", "127.9.9.9:1", authorized(), 200},
		{"IPv6 loopback is this host", "GET", "/api/fleet", "[::1]:8081", authorized(), 200},
		{"a host without port is this host", "GET", "/api/fleet", "[::1]", authorized(), 200},
		{"a foreign host is refused (DNS rebinding)", "GET", "/api/fleet", "evil.example:8081", authorized(), 421},
		{"a foreign host is refused before the token is looked at", "GET", "/api/fleet", "evil.example", nil, 421},
		{"a foreign host cannot sign in", "GET", "/?token=" + token, "evil.example", nil, 421},
		{"a host that begins like this one is refused", "GET", "/api/fleet", "127.0.0.1.evil.example", authorized(), 421},
		{"a host that ends like this one is refused", "GET", "/api/fleet", "evil.localhost", authorized(), 421},
		{"a private address is refused", "GET", "/api/fleet", "192.168.0.1:8081", authorized(), 421},
		{"every interface is refused", "GET", "/api/fleet", "0.0.0.0:8081", authorized(), 421},

		{"a load from another site is refused", "POST", "/api/load", "", authorized("Sec-Fetch-Site", "cross-site"), 403},
		{"a load by a form of another port of this host is refused", "POST", "/load", "", authorized("Sec-Fetch-Site", "same-site"), 403},
		{"no token is refused on a load", "POST", "/api/load", "", nil, 401},
		{"no token is refused on a load by form", "POST", "/load", "", nil, 401},
		{"no token is refused on a stream", "GET", "/api/stream", "", nil, 401},
		{"a foreign host is refused on a stream", "GET", "/api/stream", "evil.example", authorized(), 421},
		{"a stream for another port of this host is refused", "GET", "/api/stream", "", authorized("Sec-Fetch-Site", "same-site"), 403},
		{"a stream for another origin is refused", "GET", "/api/stream", "localhost:8081", authorized("Origin", "http://localhost:8080"), 403},

		{"a post from a script without origin is let in", "POST", kill, "", authorized(), 200},
		{"a post from our own page is let in", "POST", kill, "localhost:8081", authorized("Sec-Fetch-Site", "same-origin"), 200},
		{"a post from another site is refused", "POST", kill, "", authorized("Sec-Fetch-Site", "cross-site"), 403},
		{"a post from another port of this host is refused", "POST", kill, "", authorized("Sec-Fetch-Site", "same-site"), 403},
		{"a post from another origin is refused", "POST", kill, "localhost:8081", authorized("Origin", "http://localhost:8080"), 403},
		{"a post from a sandboxed frame is refused", "POST", kill, "", authorized("Origin", "null"), 403},

		{"the token in the address is no way to post", "POST", kill + "?token=" + token, "", nil, 400},
		{"a wrong token in the address is refused", "GET", "/?token=x", "", nil, 401},
		{"a wrong token in the address is refused in spite of the cookie", "GET", "/?token=x", "", cookie("coatcheck-admin-8081", token), 401},
		{"two tokens in the address are refused", "GET", "/?token=x&token=" + token, "", nil, 401},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			f, s := newServer(t)
			resp, body := send(t, s, tt.method, tt.path, tt.host, "", tt.header)
			if resp.StatusCode != tt.want {
				t.Errorf("%s %s: %s %s, want %d", tt.method, tt.path, resp.Status, body, tt.want)
			}
			if tt.want != 200 {
				mustBeJSONError(t, resp, body)
				if len(f.calls) != 0 || len(resp.Cookies()) != 0 {
					t.Errorf("a refused request did %v and set %v", f.calls, resp.Cookies())
				}
			}
			if strings.Contains(body, token) {
				t.Error("the answer holds the token")
			}
			for name, want := range map[string]string{
				"Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff",
			} {
				if got := resp.Header.Get(name); got != want {
					t.Errorf("%s: %q, want %q", name, got, want)
				}
			}
		})
	}
}

func mustBeJSONError(t *testing.T, resp *http.Response, body string) {
	t.Helper()
	var e struct{ Error string }
	if err := json.Unmarshal([]byte(body), &e); err != nil || e.Error == "" || resp.Header.Get("Content-Type") != "application/json" {
		t.Errorf("the answer %q, %s, is no JSON error", body, resp.Header.Get("Content-Type"))
	}
}

func TestOpeningThePrintedAddressSignsIn(t *testing.T) {
	_, s := newServer(t)
	resp, _ := send(t, s, "GET", "/?a=b&token="+token, "", "", nil)
	if got := resp.Header.Get("Location"); resp.StatusCode != http.StatusSeeOther || got != "/?a=b" {
		t.Errorf("%s to %q, want a redirect to the address without the token", resp.Status, got)
	}
	set := resp.Header.Get("Set-Cookie")
	for _, want := range []string{"coatcheck-admin-8081=" + token, "Path=/", "HttpOnly", "SameSite=Strict"} {
		if !strings.Contains(set, want) {
			t.Errorf("Set-Cookie: %s lacks %s", set, want)
		}
	}

	// A path with two slashes must not lead to another site.
	resp, _ = send(t, s, "GET", "//evil.example/?token="+token, "", "", nil)
	if got := resp.Header.Get("Location"); got != "/evil.example/" {
		t.Errorf("Location: %q", got)
	}

	// And a browser gets to the page.
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	browser := &http.Client{Jar: jar}
	r, err := browser.Get(s.URL + "/?token=" + token)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, _ := io.ReadAll(r.Body)
	if r.StatusCode != http.StatusOK || !strings.Contains(string(b), "worker-1") || strings.Contains(r.Request.URL.String(), token) {
		t.Errorf("the browser is at %s, %s", r.Request.URL, r.Status)
	}
}

func TestFleetShowsWorkersWithTheirRequests(t *testing.T) {
	_, s := newServer(t)
	_, body := send(t, s, "GET", "/api/fleet", "", "", authorized())
	var got struct {
		Workers  []map[string]any
		Balancer map[string]any
		Store    map[string]any
	}
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Workers) != 2 || got.Balancer["requests"] != 7.0 || got.Store["topology"] != "redis cluster" || got.Store["breaker"] != "half-open" {
		t.Fatalf("GET /api/fleet: %s", body)
	}
	want := map[string]any{
		"name": "worker-1", "pid": 41.0, "url": "http://127.0.0.1:4001", "state": "ready",
		"requests": 5.0, "in_flight": 2.0, "started": "1970-01-01T00:00:01Z",
	}
	if fmt.Sprint(got.Workers[0]) != fmt.Sprint(want) {
		t.Errorf("worker %v, want %v", got.Workers[0], want)
	}
}

func TestChanges(t *testing.T) {
	scale := func(body string) [2]string { return [2]string{"/api/fleet/scale", body} }
	for _, tt := range []struct {
		rule   string
		in     [2]string // path, body
		status int
		call   string // that reaches the fleet
		says   string
	}{
		{"scale", scale(`{"workers":5}`), 200, "scale 5", `"workers"`},
		{"kill", [2]string{"/api/fleet/workers/worker-1/kill"}, 200, "kill worker-1", `"workers"`},
		{"drain", [2]string{"/api/fleet/workers/worker-1/drain"}, 200, "drain worker-1", `"workers"`},

		{"let shoppers in", [2]string{"/api/load", `{"shoppers":5}`}, 200, "start 5", `"state":"running","shoppers":7`},
		{"let them out", [2]string{"/api/load", `{"shoppers":0}`}, 200, "stop", `"sign_outs":3`},
		{"let more in than may be", [2]string{"/api/load", `{"shoppers":201}`}, 400, "", "between 1 and 200"},
		{"let fewer in than none", [2]string{"/api/load", `{"shoppers":-1}`}, 400, "", "between 1 and 200"},
		{"let some in while others are there", [2]string{"/api/load", `{"shoppers":200}`}, 409, "", "stop them first"},
		{"let workers in", [2]string{"/api/load", `{"workers":5}`}, 400, "", `shoppers\":N`},
		{"follow the load", [2]string{"/api/fleet/autoscale", ""}, 200, "unpin", `"pinned":true`},
		{"scale to none", scale(`{"workers":0}`), 400, "", "between 1 and 100"},
		{"scale to fewer than none", scale(`{"workers":-3}`), 400, "", "between 1 and 100"},
		{"scale to 1000", scale(`{"workers":1000}`), 400, "", "between 1 and 100"},
		{"scale to a text", scale(`{"workers":"5"}`), 400, "", "whole number"},
		{"scale to a fraction", scale(`{"workers":2.5}`), 400, "", "whole number"},
		{"scale to more than any integer", scale(`{"workers":1e99}`), 400, "", "whole number"},
		{"scale to nothing", scale(`{}`), 400, "", "whole number"},
		{"scale to null", scale(`{"workers":null}`), 400, "", "whole number"},
		{"scale without a body", scale(``), 400, "", "whole number"},
		{"scale with bad JSON", scale(`{"workers":5`), 400, "", "whole number"},
		{"scale with more JSON", scale(`{"workers":5}{"workers":6}`), 400, "", "nothing after it"},
		{"scale something else", scale(`{"workers":5,"shops":1}`), 400, "", "whole number"},
		{"scale with a list", scale(`[5]`), 400, "", "whole number"},
		{"scale with a huge body", scale(`{"workers":` + strings.Repeat(" ", 8<<10) + `5}`), 413, "", "too large"},

		{"kill a stranger", [2]string{"/api/fleet/workers/worker-9/kill"}, 404, "", "no such worker"},
		{"drain a stranger", [2]string{"/api/fleet/workers/..%2f..%2fetc/drain"}, 404, "", "no such worker"},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			f, s := newServer(t)
			resp, body := send(t, s, "POST", tt.in[0], "", tt.in[1], authorized())
			if resp.StatusCode != tt.status || !strings.Contains(body, tt.says) {
				t.Errorf("%s %s, want %d and %q", resp.Status, body, tt.status, tt.says)
			}
			if tt.status != 200 {
				mustBeJSONError(t, resp, body)
			}
			var want []string
			if tt.call != "" {
				want = []string{tt.call}
			}
			if !slices.Equal(f.calls, want) {
				t.Errorf("the fleet was told %q, want %q", f.calls, want)
			}
		})
	}
}

func TestGetChangesNothing(t *testing.T) {
	f, s := newServer(t)
	for _, path := range []string{"/api/fleet/scale", "/api/fleet/autoscale", "/autoscale", "/api/fleet/workers/worker-1/kill", "/workers/worker-1/kill", "/scale", "/load"} {
		resp, body := send(t, s, "GET", path, "", `{"workers":5}`, authorized())
		if resp.StatusCode != http.StatusMethodNotAllowed || resp.Header.Get("Allow") != "POST" {
			t.Errorf("GET %s: %s, allowed %q; want 405 and POST", path, resp.Status, resp.Header.Get("Allow"))
		}
		mustBeJSONError(t, resp, body)
	}
	resp, body := send(t, s, "GET", "/api/nothing", "", "", authorized())
	if resp.StatusCode != http.StatusNotFound {
		t.Errorf("GET /api/nothing: %s, want 404", resp.Status)
	}
	mustBeJSONError(t, resp, body)
	if len(f.calls) != 0 {
		t.Errorf("GETs made the fleet do %v", f.calls)
	}
}

func TestPage(t *testing.T) {
	f, s := newServer(t)
	resp, body := send(t, s, "GET", "/", "", "", authorized())
	if resp.StatusCode != 200 || !strings.Contains(body, "worker-&lt;2&gt;") {
		t.Fatalf("the page is %s, or does not escape what it shows", resp.Status)
	}
	for _, want := range []string{`title="redis&#43;cluster://a,b">redis&#43;cluster://a<`, "sign out: shopper-2: &lt;nobody&gt;", "redis cluster, circuit half-open", `href="http://127.0.0.1:8080"`, "20</dd>"} {
		if !strings.Contains(body, want) {
			t.Errorf("the page, without its script, does not say %q", want)
		}
	}
	policy := resp.Header.Get("Content-Security-Policy")
	for _, element := range []string{"style", "script"} {
		m := regexp.MustCompile(`(?s)<` + element + `>(.*)</` + element + `>`).FindStringSubmatch(body)
		if m == nil {
			t.Fatalf("no %s", element)
		}
		sum := sha256.Sum256([]byte(m[1]))
		if want := element + "-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "';"; !strings.Contains(policy, want) {
			t.Errorf("the browser will not take the %s: %s lacks %s", element, policy, want)
		}
	}
	if strings.Contains(policy, "unsafe") || !strings.HasPrefix(policy, "default-src 'none';") {
		t.Errorf("the policy is %s", policy)
	}
	if m := regexp.MustCompile(`(?i)\s(on\w+|style)="|src=|url\(|@import|innerHTML`).FindString(body); m != "" {
		t.Errorf("the page holds %q, which its policy forbids, or which could", m)
	}
	// Its forms work as a browser sends them.
	for _, tt := range []struct{ action, body, call string }{
		{"/scale", "workers=3", "scale 3"},
		{"/autoscale", "", "unpin"},
		{"/load", "shoppers=4", "start 4"},
		{"/load", "shoppers=0", "stop"},
		{"/workers/worker-1/kill", "", "kill worker-1"},
		{"/workers/worker-1/drain", "", "drain worker-1"},
	} {
		if !strings.Contains(body, `action="`+tt.action+`"`) {
			t.Errorf("the page has no form for %s", tt.action)
		}
		f.calls = nil
		resp, _ := send(t, s, "POST", tt.action, "", tt.body, authorized(
			"Content-Type", "application/x-www-form-urlencoded", "Sec-Fetch-Site", "same-origin"))
		if resp.StatusCode != http.StatusSeeOther || resp.Header.Get("Location") != "/" || !slices.Equal(f.calls, []string{tt.call}) {
			t.Errorf("POST %s: %s to %q, fleet told %q", tt.action, resp.Status, resp.Header.Get("Location"), f.calls)
		}
	}
	if resp, _ := send(t, s, "POST", "/scale", "", "workers=0", authorized("Content-Type", "application/x-www-form-urlencoded")); resp.StatusCode != 400 {
		t.Errorf("a form that scales to 0: %s, want 400", resp.Status)
	}
}

func TestListenRefusesWhatOthersCanReach(t *testing.T) {
	for _, addr := range []string{"0.0.0.0:0", ":0", "[::]:0", "192.168.1.1:0", "example.com:0", "8081", "127.0.0.1.evil.example:0"} {
		if ln, err := admin.Listen(addr); err == nil {
			ln.Close()
			t.Errorf("Listen(%q) = %v, want an error", addr, ln.Addr())
		}
	}
	for _, addr := range []string{"127.0.0.1:0", "localhost:0"} {
		ln, err := admin.Listen(addr)
		if err != nil {
			t.Errorf("Listen(%q): %v", addr, err)
			continue
		}
		ln.Close()
	}
}

func TestNewNeedsAToken(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("New without a token lets everyone in")
		}
	}()
	admin.New(admin.Options{})
}

func ExampleNew() {
	h := admin.New(admin.Options{
		Token:    token,
		Fleet:    new(idle),
		Balancer: func() balancer.Status { return balancer.Status{} },
		Store:    func(context.Context) admin.Store { return admin.Store{} },
	})
	r := httptest.NewRequest("POST", "http://127.0.0.1:8081/api/fleet/workers/worker-1/kill", nil)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	fmt.Println(w.Code)
	r.Header.Set("Authorization", "Bearer "+token)
	w = httptest.NewRecorder()
	h.ServeHTTP(w, r)
	fmt.Println(w.Code)
	// Output:
	// 401
	// 200
}
