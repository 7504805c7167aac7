package session_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/store/memstore"
)

// What makes no sense is refused before the first request, with what to do.
func TestOptionsRefused(t *testing.T) {
	if _, err := session.New(nil, nil); err == nil || !strings.Contains(err.Error(), "memstore.New()") {
		t.Errorf("no store: %v", err)
	}
	for _, tt := range []struct {
		name string
		opts session.Options
		says []string
	}{
		{"idle too short", session.Options{Policy: session.Policy{Idle: time.Millisecond}}, []string{"Policy.Idle", "1ms", "at least 1s"}},
		{"idle negative", session.Options{Policy: session.Policy{Idle: -time.Hour}}, []string{"Policy.Idle", "-1h0m0s"}},
		{"absolute negative", session.Options{Policy: session.Policy{Absolute: -time.Hour}}, []string{"Policy", "-1h0m0s"}},
		{"absolute below idle", session.Options{Policy: session.Policy{Idle: 2 * time.Hour, Absolute: time.Hour}}, []string{"Policy.Absolute", "1h0m0s", "2h0m0s"}},
		{"idle above the default of absolute", session.Options{Policy: session.Policy{Idle: 48 * time.Hour}}, []string{"Policy.Absolute", "24h0m0s", "set both"}},
		{"longer than browsers keep cookies", session.Options{Policy: session.Policy{Absolute: 401 * 24 * time.Hour}}, []string{"400 days"}},
		{"store timeout", session.Options{StoreTimeout: -1}, []string{"StoreTimeout", "positive"}},
		{"commit timeout", session.Options{CommitTimeout: -1}, []string{"CommitTimeout", "positive"}},
		{"size", session.Options{MaxSize: -1}, []string{"MaxSize", "positive"}},

		{"name without prefix", cookieOptions(session.Cookie{Name: "session"}), []string{`"session"`, `"__Host-"`}},
		{"name with the weaker prefix", cookieOptions(session.Cookie{Name: "__Secure-session"}), []string{`"__Host-"`}},
		{"name in another case", cookieOptions(session.Cookie{Name: "__host-session"}), []string{`"__Host-"`}},
		{"__Host- with a domain", cookieOptions(session.Cookie{Name: "__Host-session", Domain: "shop.example"}), []string{`"__Secure-"`}},
		{"__Host- with a path", cookieOptions(session.Cookie{Name: "__Host-session", Path: "/app"}), []string{`"__Secure-"`}},
		{"name that is no token", cookieOptions(session.Cookie{Name: "__Host-a b"}), []string{"cookie", "Name"}},
		{"domain that is none", cookieOptions(session.Cookie{Domain: "https://shop.example"}), []string{"cookie", "Domain"}},
		{"path with a semicolon", cookieOptions(session.Cookie{Path: "/a;b"}), []string{"cookie", "Path"}},
		{"path that is not absolute", cookieOptions(session.Cookie{Path: "app"}), []string{"Path", `"app"`, `"/"`}},
		{"SameSite unknown", cookieOptions(session.Cookie{SameSite: 17}), []string{"SameSite", "http.SameSite"}},
		{"name too long", cookieOptions(session.Cookie{Name: "__Host-" + strings.Repeat("a", 4096)}), []string{"4096"}},

		{"insecure with __Host-", insecureOptions(session.Cookie{Name: "__Host-session"}), []string{"without Secure", "InsecureCookie"}},
		{"insecure with __secure-", insecureOptions(session.Cookie{Name: "__secure-session"}), []string{"without Secure"}},
		{"insecure from other sites", insecureOptions(session.Cookie{SameSite: http.SameSiteNoneMode}), []string{"SameSite=None", "InsecureCookie"}},
		{"insecure and partitioned", insecureOptions(session.Cookie{Partitioned: true}), []string{"Partitioned", "InsecureCookie"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, err := session.New(memstore.New(), &tt.opts)
			if err == nil || m != nil {
				t.Fatalf("New accepted it: %v", err)
			}
			for _, want := range append(tt.says, "session: ") {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error does not say %q: %v", want, err)
				}
			}
		})
	}
}

func cookieOptions(c session.Cookie) session.Options { return session.Options{Cookie: c} }

func insecureOptions(c session.Cookie) session.Options {
	return session.Options{Cookie: c, InsecureCookie: true}
}

func TestPolicyDefaults(t *testing.T) {
	day := 24 * time.Hour
	for _, tt := range []struct{ in, want session.Policy }{
		{session.Policy{}, session.Policy{Idle: time.Hour, Absolute: day}},
		{session.Policy{Idle: 2 * time.Hour}, session.Policy{Idle: 2 * time.Hour, Absolute: day}},
		{session.Policy{Absolute: 2 * day}, session.Policy{Idle: time.Hour, Absolute: 2 * day}},
		{session.Policy{Absolute: time.Minute}, session.Policy{Idle: time.Minute, Absolute: time.Minute}},
		{session.AAL1, session.Policy{Idle: 30 * day, Absolute: 30 * day}},
		{session.AAL2, session.Policy{Idle: time.Hour, Absolute: day}},
		{session.AAL3, session.Policy{Idle: 15 * time.Minute, Absolute: 12 * time.Hour}},
	} {
		if got := newManager(t, memstore.New(), &session.Options{Policy: tt.in}).Policy(); got != tt.want {
			t.Errorf("%+v became %+v, want %+v", tt.in, got, tt.want)
		}
	}
}

// The options that a manager was made of are its own: the app may reuse them.
func TestOptionsAreCopied(t *testing.T) {
	opts := session.Options{Cookie: session.Cookie{Name: "__Host-first"}}
	m := newManager(t, memstore.New(), &opts)
	if opts.Policy != (session.Policy{}) || opts.StoreTimeout != 0 {
		t.Error("New filled in the app's own options")
	}
	opts.Cookie.Name = "__Host-second"
	resp := newBrowser(t).do(m, func(s *session.Session) { check(t, count.Set(s, 1)) })
	checkCookies(t, resp, 1)
	if got := resp.Cookies()[0].Name; got != "__Host-first" {
		t.Errorf("the cookie is %s", got)
	}
}

// A request that Skip exempts touches neither session nor store, whatever
// cookie it carries.
func TestSkip(t *testing.T) {
	st := newCalls()
	m := newManager(t, st, &session.Options{Skip: func(r *http.Request) bool { return r.URL.Path == "/healthz" }})
	b := newBrowser(t)
	b.signIn(m, "alice")
	before := st.count("get")
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "/healthz", nil)
	check(t, err)
	r.AddCookie(&http.Cookie{Name: "__Host-session", Value: b.id()})
	ran := false
	m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ran = true
		if w != nil {
			t.Error("the writer was wrapped")
		}
		if _, ok := m.Lookup(r.Context()); ok {
			t.Error("there is a session")
		}
		defer func() {
			if p, _ := recover().(string); !strings.Contains(p, "Options.Skip") {
				t.Errorf("From panicked with %q, which does not say why", p)
			}
		}()
		m.From(r.Context())
	})).ServeHTTP(nil, r)
	if !ran || st.count("get") != before {
		t.Errorf("the handler ran: %t; store calls: %d", ran, st.count("get")-before)
	}
}

// InsecureCookie makes the app of the examples work over plain HTTP, with a jar
// that keeps Secure cookies from it as browsers do.
func TestInsecureCookieOverPlainHTTP(t *testing.T) {
	for insecure, want := range map[bool]int{true: 3, false: 1} {
		m := newManager(t, memstore.New(), &session.Options{InsecureCookie: insecure})
		srv := httptest.NewServer(m.Handler(http.HandlerFunc(hello)))
		defer srv.Close()
		jar, err := cookiejar.New(nil)
		check(t, err)
		// Not as localhost, which browsers and jars trust like HTTPS.
		client := &http.Client{Jar: jar, Transport: &http.Transport{
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, srv.Listener.Addr().String())
			},
			DisableKeepAlives: true,
		}}
		body := ""
		for range 3 {
			_, body, _ = get(t, client, "http://shop.example/")
		}
		if text := fmt.Sprintf("This is your visit number %d.\n", want); body != text {
			t.Errorf("InsecureCookie %t: the third answer is %q, want %q", insecure, body, text)
		}
	}
}

// From says what is wrong with the wiring of an app.
func TestFromPanics(t *testing.T) {
	first := newManager(t, memstore.New(), nil)
	second := newManager(t, memstore.New(), &session.Options{Cookie: session.Cookie{Name: "__Host-second"}})
	for _, tt := range []struct {
		name string
		wrap func(http.Handler) http.Handler
		from func(context.Context) *session.Session
		says string // "" if it does not panic
	}{
		{"no Handler", func(h http.Handler) http.Handler { return h }, session.From, "Manager.Handler"},
		{"no Handler of this manager", second.Handler, first.From, "Manager.Handler"},
		{"which manager?", func(h http.Handler) http.Handler { return first.Handler(second.Handler(h)) }, session.From, "several managers"},
		{"this manager", func(h http.Handler) http.Handler { return first.Handler(second.Handler(h)) }, first.From, ""},
		{"Handler twice is Handler once", func(h http.Handler) http.Handler { return first.Handler(first.Handler(h)) }, session.From, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := tt.wrap(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				defer func() {
					p, _ := recover().(string)
					if (p == "") != (tt.says == "") || !strings.Contains(p, tt.says) {
						t.Errorf("From panicked with %q, want %q", p, tt.says)
					}
				}()
				check(t, count.Set(tt.from(r.Context()), 1))
			}))
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, site.String(), nil))
			if got, want := len(w.Result().Cookies()), 1; tt.says == "" && got != want {
				t.Errorf("%d cookies, want %d", got, want)
			}
		})
	}
}

// A middleware applied twice loads and commits once.
func TestHandlerTwice(t *testing.T) {
	st := newCalls()
	m := newManager(t, st, nil)
	b := newBrowser(t)
	b.signIn(m, "alice")
	gets := st.count("get")
	h := m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		check(t, count.Update(m.From(r.Context()), add(1)))
	}))
	b.serve(m, h.ServeHTTP)
	if got := st.count("get") - gets; got != 1 {
		t.Errorf("the session was loaded %d times", got)
	}
	if owner, n := b.look(m); owner != "alice" || n != 1 {
		t.Errorf("the next request finds %q, %d", owner, n)
	}
}
