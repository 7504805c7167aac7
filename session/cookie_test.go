package session_test

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/memstore"
)

// keyOf derives the store key from the text of an ID as docs/format.md says,
// without our code.
func keyOf(id string) (store.Key, bool) {
	if len(id) != 43 {
		return store.Key{}, false
	}
	b, err := base64.RawURLEncoding.DecodeString(id)
	if err != nil || len(b) != 32 || base64.RawURLEncoding.EncodeToString(b) != id {
		return store.Key{}, false
	}
	return sha256.Sum256(append([]byte("coatcheck key"), b...)), true
}

// Whatever a client sends for a cookie, it gets an answer and a session that is
// clean; nothing that it made up is ever used as an ID.
func TestCookieGarbage(t *testing.T) {
	const unknown = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
	const cookie = "__Host-session="
	for _, tt := range []struct {
		name string
		// lines are the Cookie headers; ID stands for the visitor's own.
		lines []string
		known bool // it is the visitor's session after all
	}{
		{"none", nil, false},
		{"the visitor's own", []string{cookie + "ID"}, true},
		{"among others", []string{"a=1; " + cookie + "ID; b=2"}, true},
		{"among broken others", []string{"=; ;;a=\"; " + cookie + "ID; \x7f=\x01"}, true},
		{"in a header of its own", []string{"a=1", cookie + "ID", "b=2"}, true},
		{"with spaces around the pair", []string{"a=1;  \t" + cookie + "ID \t"}, true},
		{"without a space before", []string{"a=1;" + cookie + "ID;b=2"}, true},

		{"unknown ID", []string{cookie + unknown}, false},
		{"empty header", []string{""}, false},
		{"empty value", []string{cookie}, false},
		{"no value", []string{"__Host-session"}, false},
		{"one character", []string{cookie + "A"}, false},
		{"truncated", []string{cookie + unknown[:42]}, false},
		{"one too long", []string{cookie + unknown + "A"}, false},
		{"padded", []string{cookie + unknown + "="}, false},
		{"own, padded", []string{cookie + "ID="}, false},
		{"own, quoted", []string{cookie + `"ID"`}, false},
		{"own, percent-encoded", []string{cookie + "ID%20"}, false},
		{"own, with a line break", []string{cookie + "ID\n"}, false},
		{"own, with a zero byte", []string{cookie + "ID\x00"}, false},
		{"own, and a space within", []string{cookie + "ID ID"}, false},
		{"own, twice the same", []string{cookie + "ID; " + cookie + "ID"}, false},
		{"own, twice in two headers", []string{cookie + "ID", cookie + "ID"}, false},
		{"own, then another", []string{cookie + "ID; " + cookie + unknown}, false},
		{"another, then own", []string{cookie + unknown + "; " + cookie + "ID"}, false},
		{"another, then own, in two headers", []string{cookie + unknown, cookie + "ID"}, false},
		{"own, then garbage of the name", []string{cookie + "ID; " + cookie + "x"}, false},
		{"own, then the bare name", []string{cookie + "ID; __Host-session"}, false},
		{"nonzero spare bits", []string{cookie + unknown[:42] + "9"}, false},
		{"standard alphabet", []string{cookie + strings.Repeat("+/", 21) + "8"}, false},
		{"not ASCII", []string{cookie + strings.Repeat("é", 21) + "A"}, false},
		{"control characters", []string{cookie + strings.Repeat("\x01", 43)}, false},
		{"another case", []string{"__host-Session=ID"}, false},
		{"longer name", []string{"__Host-sessions=ID"}, false},
		{"name with a prefix", []string{"x__Host-session=ID"}, false},
		{"shorter name", []string{"__Host-sessio=ID"}, false},
		{"name without the prefix", []string{"session=ID"}, false},
		{"in another cookie's value", []string{"a=" + cookie + "ID"}, false},
		{"own in an attribute", []string{"$Version=1, " + cookie + "ID"}, false},
		{"4 KB", []string{cookie + strings.Repeat("A", 4<<10)}, false},
		{"a million bytes", []string{cookie + strings.Repeat("A", 1e6)}, false},
		{"a million semicolons", []string{strings.Repeat(";", 1e6)}, false},
		{"100,000 cookies", []string{strings.Repeat("a=1; ", 1e5)}, false},
		{"10,000 of its name", []string{strings.Repeat(cookie+"ID; ", 1e4)}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			st := newCalls()
			m := newManager(t, st, nil)
			b := newBrowser(t)
			b.do(m, func(s *session.Session) {
				check(t, errors.Join(s.SignIn(t.Context(), "alice", nil), count.Set(s, 1)))
			})
			var lines []string
			for _, l := range tt.lines {
				lines = append(lines, strings.ReplaceAll(l, "ID", b.id()))
			}
			send := func(f func(*session.Session)) *http.Response {
				r := httptest.NewRequest(http.MethodGet, site.String(), nil)
				r.Header["Cookie"] = lines
				w := httptest.NewRecorder()
				m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { f(m.From(r.Context())) })).ServeHTTP(w, r)
				if w.Code != http.StatusOK {
					t.Errorf("status %d, want 200", w.Code)
				}
				return w.Result()
			}
			wantOwner, wantCount := "", 0
			if tt.known {
				wantOwner, wantCount = "alice", 1
			}

			// Who only reads is told nothing and leaves nothing behind.
			resp := send(func(s *session.Session) {
				if n := must(count.Get(s))(t); s.Owner() != wantOwner || n != wantCount {
					t.Errorf("the session is of %q with count %d, want %q with %d", s.Owner(), n, wantOwner, wantCount)
				}
			})
			checkSessionCookie(t, resp, untouched)
			if n := len(st.live(t)); n != 1 {
				t.Errorf("%d records in the store after a read, want 1", n)
			}
			if tt.known {
				return
			}

			// Who writes gets an ID that nobody else knew.
			resp = send(func(s *session.Session) { check(t, count.Set(s, 7)) })
			checkSessionCookie(t, resp, replaced)
			for _, c := range resp.Cookies() {
				if strings.Contains(strings.Join(lines, ""), c.Value) {
					t.Error("the client's ID was adopted")
				}
			}
			if n := len(st.live(t)); n != 2 {
				t.Errorf("%d records in the store, want 2", n)
			}
			if owner, n := b.look(m); owner != "alice" || n != 1 {
				t.Errorf("alice's session is now that of %q with count %d", owner, n)
			}
		})
	}
}

// The same over a connection, where net/http has limits of its own: 1 MB of
// header is its default. Past it the server refuses the request; below it
// nothing of ours fails.
func TestCookieOversizedOnTheWire(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		wi := newWire(t, http2)
		m := newManager(t, newCalls(), nil)
		wi.mux.Handle("/", m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, "owner "+m.From(r.Context()).Owner())
		})))
		sizes := map[int]int{4 << 10: 200, 1000 << 10: 200}
		if !http2 { // over HTTP/2 such a header ends the connection, in one of several ways
			sizes[2<<20] = 431
		}
		for size, want := range sizes {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, wi.URL, nil)
			check(t, err)
			req.Header.Set("Cookie", "__Host-session="+strings.Repeat("A", size))
			resp, err := wi.Client().Do(req)
			if err != nil && want == 431 {
				continue // the server hung up before the client had sent it all
			}
			check(t, err)
			resp.Body.Close()
			if resp.StatusCode != want {
				t.Errorf("HTTP2 %t, a cookie of %d bytes: status %d, want %d", http2, size, resp.StatusCode, want)
			}
		}
	}
}

// The Set-Cookie line of every option.
func TestCookieAttributes(t *testing.T) {
	for _, tt := range []struct {
		name     string
		opts     session.Options
		set, end string // with the ID as ID
	}{
		{
			"default",
			session.Options{},
			"__Host-session=ID; Path=/; HttpOnly; Secure; SameSite=Lax",
			"__Host-session=; Path=/; Max-Age=0; HttpOnly; Secure; SameSite=Lax",
		},
		{
			"insecure",
			session.Options{InsecureCookie: true},
			"session=ID; Path=/; HttpOnly; SameSite=Lax",
			"session=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax",
		},
		{
			"insecure, named",
			session.Options{InsecureCookie: true, Cookie: session.Cookie{Name: "session-8080"}},
			"session-8080=ID; Path=/; HttpOnly; SameSite=Lax",
			"session-8080=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax",
		},
		{
			"named",
			session.Options{Cookie: session.Cookie{Name: "__Host-admin"}},
			"__Host-admin=ID; Path=/; HttpOnly; Secure; SameSite=Lax",
			"__Host-admin=; Path=/; Max-Age=0; HttpOnly; Secure; SameSite=Lax",
		},
		{
			"domain",
			session.Options{Cookie: session.Cookie{Domain: "shop.example"}},
			"__Secure-session=ID; Path=/; Domain=shop.example; HttpOnly; Secure; SameSite=Lax",
			"__Secure-session=; Path=/; Domain=shop.example; Max-Age=0; HttpOnly; Secure; SameSite=Lax",
		},
		{
			"path",
			session.Options{Cookie: session.Cookie{Path: "/app"}},
			"__Secure-session=ID; Path=/app; HttpOnly; Secure; SameSite=Lax",
			"__Secure-session=; Path=/app; Max-Age=0; HttpOnly; Secure; SameSite=Lax",
		},
		{
			"strict",
			session.Options{Cookie: session.Cookie{SameSite: http.SameSiteStrictMode}},
			"__Host-session=ID; Path=/; HttpOnly; Secure; SameSite=Strict",
			"__Host-session=; Path=/; Max-Age=0; HttpOnly; Secure; SameSite=Strict",
		},
		{
			"default mode is Lax, said aloud",
			session.Options{Cookie: session.Cookie{SameSite: http.SameSiteDefaultMode}},
			"__Host-session=ID; Path=/; HttpOnly; Secure; SameSite=Lax",
			"__Host-session=; Path=/; Max-Age=0; HttpOnly; Secure; SameSite=Lax",
		},
		{
			"partitioned, from other sites",
			session.Options{Cookie: session.Cookie{SameSite: http.SameSiteNoneMode, Partitioned: true}},
			"__Host-session=ID; Path=/; HttpOnly; Secure; SameSite=None; Partitioned",
			"__Host-session=; Path=/; Max-Age=0; HttpOnly; Secure; SameSite=None; Partitioned",
		},
		{
			"persistent",
			session.Options{Cookie: session.Cookie{Persistent: true}},
			"__Host-session=ID; Path=/; Max-Age=86400; HttpOnly; Secure; SameSite=Lax",
			"__Host-session=; Path=/; Max-Age=0; HttpOnly; Secure; SameSite=Lax",
		},
		{
			"persistent, for 30 days",
			session.Options{Cookie: session.Cookie{Persistent: true}, Policy: session.AAL1},
			"__Host-session=ID; Path=/; Max-Age=2592000; HttpOnly; Secure; SameSite=Lax",
			"__Host-session=; Path=/; Max-Age=0; HttpOnly; Secure; SameSite=Lax",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newManager(t, newCalls(), &tt.opts)
				b := newBrowser(t)
				set := b.do(m, func(s *session.Session) { check(t, s.SignIn(t.Context(), "alice", nil)) })
				line := strings.Join(set.Header["Set-Cookie"], "|")
				name, rest, _ := strings.Cut(line, "=")
				id, rest, _ := strings.Cut(rest, ";")
				if _, ok := keyOf(id); !ok {
					t.Errorf("the ID is not 32 bytes of base64url: %d characters", len(id))
				}
				if got := name + "=ID;" + rest; got != tt.set {
					t.Errorf("\n got %s\nwant %s", got, tt.set)
				}
				end := b.do(m, func(s *session.Session) { check(t, s.Destroy(t.Context())) })
				if got := strings.Join(end.Header["Set-Cookie"], "|"); got != tt.end {
					t.Errorf("\n got %s\nwant %s", got, tt.end)
				}
			})
		})
	}
}

// A persistent cookie ends with the session it is for: a renewal hands out what
// is left, a sign-in the whole.
func TestCookieMaxAgeFollowsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t, newCalls(), &session.Options{
			Cookie: session.Cookie{Persistent: true},
			Policy: session.Policy{Idle: 10 * time.Hour, Absolute: 24 * time.Hour},
		})
		b := newBrowser(t)
		maxAge := func(f func(*session.Session) error) int {
			t.Helper()
			resp := b.do(m, func(s *session.Session) { check(t, f(s)) })
			checkCookies(t, resp, 1)
			return resp.Cookies()[0].MaxAge
		}
		signIn := func(s *session.Session) error { return s.SignIn(t.Context(), "alice", nil) }
		if got, want := maxAge(signIn), 24*3600; got != want {
			t.Errorf("Max-Age %d after sign-in, want %d", got, want)
		}
		time.Sleep(9*time.Hour + 500*time.Millisecond)
		renew := func(s *session.Session) error { return s.Renew(t.Context()) }
		if got, want := maxAge(renew), 15*3600-1; got != want {
			t.Errorf("Max-Age %d after a renewal 9 h later, want %d", got, want)
		}
		if got, want := maxAge(signIn), 24*3600; got != want {
			t.Errorf("Max-Age %d after another sign-in, want %d", got, want)
		}
	})
}

// In its last second a persistent cookie is still one: net/http leaves out a
// Max-Age of 0, and the browser would keep the cookie until it is closed.
func TestCookieMaxAgeOfLastSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t, newCalls(), &session.Options{
			Cookie: session.Cookie{Persistent: true},
			Policy: session.Policy{Idle: time.Hour, Absolute: time.Hour},
		})
		b := newBrowser(t)
		b.signIn(m, "alice")
		time.Sleep(time.Hour - 500*time.Millisecond)
		resp := b.do(m, func(s *session.Session) { check(t, s.Renew(t.Context())) })
		checkCookies(t, resp, 1)
		if got := resp.Cookies()[0].MaxAge; got != 1 {
			t.Errorf("Max-Age %d half a second before the end, want 1", got)
		}
	})
}

func checkCookies(t *testing.T, resp *http.Response, want int) {
	t.Helper()
	if got := len(resp.Cookies()); got != want {
		t.Fatalf("%d cookies in the response, want %d: %q", got, want, resp.Header["Set-Cookie"])
	}
}

// However often the session changes its ID in a request, the response has one
// session cookie, and those of the app as they were.
func TestCookieIsReplacedNotDoubled(t *testing.T) {
	m := newManager(t, newCalls(), nil)
	b := newBrowser(t)
	ctx := t.Context()
	resp := b.serve(m, func(w http.ResponseWriter, r *http.Request) {
		s := m.From(r.Context())
		http.SetCookie(w, &http.Cookie{Name: "theme", Value: "dark"})
		check(t, s.SignIn(ctx, "alice", nil))
		http.SetCookie(w, &http.Cookie{Name: "__Host-session-v", Value: "1"})
		check(t, s.Renew(ctx))
		check(t, s.Destroy(ctx))
		check(t, s.SignIn(ctx, "bob", nil))
		http.SetCookie(w, &http.Cookie{Name: "theme", Value: "light"})
	})
	var others []string
	for _, c := range resp.Cookies() {
		if c.Name != "__Host-session" {
			others = append(others, c.Name+"="+c.Value)
		}
	}
	checkCookies(t, resp, 4)
	checkSessionCookie(t, resp, replaced)
	if got := strings.Join(others, " "); got != "theme=dark __Host-session-v=1 theme=light" {
		t.Errorf("the app's cookies are %s", got)
	}
	if owner, _ := b.look(m); owner != "bob" {
		t.Errorf("the cookie leads to %q, want the last one, bob", owner)
	}
}

// The parser against net/http's and strict rules. What it took for an ID shows
// by the key that is looked up in the store.
func FuzzCookie(f *testing.F) {
	const id = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
	for _, seed := range [][2]string{
		{"", ""},
		{"__Host-session=" + id, ""},
		{"a=1; __Host-session=" + id, "b=2"},
		{"__Host-session=" + id, "__Host-session=" + id},
		{`__Host-session="` + id + `"`, ""},
		{"__Host-session =\t" + id + " ", ";;=;"},
		{"__Host-session=" + id + "=", "__Host-session"},
		{"x__Host-session=" + id, "__host-session=" + id},
		{"__Host-session=" + id[:42] + "9", "\x00\xff"},
	} {
		f.Add(seed[0], seed[1])
	}
	var got []store.Key
	st := &calls{Store: memstore.New(), n: map[string]int{}, before: func(_ string, k store.Key) error {
		got = append(got, k)
		return nil
	}}
	m := newManager(f, st, nil)
	h := m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if m.From(r.Context()).Owner() != "" {
			panic("somebody is signed in")
		}
	}))
	f.Fuzz(func(t *testing.T, first, second string) {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header["Cookie"] = []string{first, second}
		got = nil
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != http.StatusOK || len(w.Header()) > 0 {
			t.Fatalf("status %d, header %v; want 200 and none", w.Code, w.Header())
		}
		want, ok := oracle(r)
		switch {
		case !ok && len(got) > 0:
			t.Fatal("a malformed or doubled cookie was looked up")
		case ok && (len(got) != 1 || got[0] != want):
			t.Fatalf("a good cookie led to %d look-ups, or to another key", len(got))
		}
	})
}

// oracle returns the key that the request asks for, if it carries exactly one
// cookie of the name and that is an ID.
func oracle(r *http.Request) (store.Key, bool) {
	// net/http drops what it cannot parse; here that counts against the sender.
	named := 0
	for _, part := range strings.Split(strings.Join(r.Header["Cookie"], ";"), ";") {
		name, _, _ := strings.Cut(part, "=")
		if strings.Trim(name, " \t") == "__Host-session" {
			named++
		}
	}
	cookies := r.CookiesNamed("__Host-session")
	if named != 1 || len(cookies) != 1 || cookies[0].Quoted {
		return store.Key{}, false
	}
	return keyOf(cookies[0].Value)
}
