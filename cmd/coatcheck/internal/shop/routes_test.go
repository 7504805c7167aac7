package shop_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/shop"
	"github.com/coatcheck/coatcheck/store/memstore"
)

const urlencoded = "application/x-www-form-urlencoded"

// Every route, and every reason to refuse a request, to a signed-in visitor with
// a cart. What is refused leaves the session as it was.
func TestRoutes(t *testing.T) {
	const (
		html = "text/html; charset=utf-8"
		json = "application/json"
	)
	long := strings.Repeat("x", 65)
	tests := []struct {
		name         string
		method, path string
		body         string
		headers      []string
		status       int
		kind         string // of the answer
		location     string
		contains     string
		changes      bool // it is meant to change the session
	}{
		{name: "front", method: "GET", path: "/", status: 200, kind: html, contains: "Your cart"},
		{name: "front, HEAD", method: "HEAD", path: "/", status: 200, kind: html},
		{name: "api", method: "GET", path: "/api/session", status: 200, kind: json, contains: `{"user":"alice","cart":{"apple":2},"served_by":"worker-1"}`},
		{name: "devices", method: "GET", path: "/sessions", status: 200, kind: html, contains: "this device"},
		{name: "devices, JSON", method: "GET", path: "/sessions", headers: []string{"Accept", "application/json"}, status: 200, kind: json, contains: `"current":true`},
		{name: "health", method: "GET", path: "/healthz", status: 200, kind: json, contains: `"ok"`},
		{name: "ready", method: "GET", path: "/readyz", status: 200, kind: json, contains: `{"status":"ready","store":"ok"}`},

		{name: "add", method: "POST", path: "/cart", body: "sku=pear&qty=99", status: 303, location: "/", changes: true},
		{name: "add, JSON", method: "POST", path: "/cart", body: "sku=pear&qty=1", headers: []string{"Accept", "application/json"}, status: 200, kind: json, contains: `"cart":{"apple":2,"pear":1}`, changes: true},
		{name: "add, browser's Accept", method: "POST", path: "/cart", body: "sku=pear&qty=1", headers: []string{"Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}, status: 303, location: "/", changes: true},
		{name: "add, prefers HTML", method: "POST", path: "/cart", body: "sku=pear&qty=1", headers: []string{"Accept", "application/json;q=0.5, text/html"}, status: 303, location: "/", changes: true},
		{name: "add, multipart", method: "POST", path: "/cart", body: "--b\r\nContent-Disposition: form-data; name=\"sku\"\r\n\r\nplum\r\n--b\r\nContent-Disposition: form-data; name=\"qty\"\r\n\r\n3\r\n--b--\r\n", headers: []string{"Content-Type", "multipart/form-data; boundary=b"}, status: 303, location: "/", changes: true},
		{name: "quantity 0", method: "POST", path: "/cart", body: "sku=pear&qty=0", status: 400, kind: html, contains: "from 1 to 99"},
		{name: "quantity 100", method: "POST", path: "/cart", body: "sku=pear&qty=100", status: 400, kind: html, contains: "from 1 to 99"},
		{name: "quantity -1", method: "POST", path: "/cart", body: "sku=pear&qty=-1", status: 400, kind: html, contains: "from 1 to 99"},
		{name: "quantity 1.5", method: "POST", path: "/cart", body: "sku=pear&qty=1.5", status: 400, kind: html, contains: "whole number"},
		{name: "quantity of 2^64", method: "POST", path: "/cart", body: "sku=pear&qty=18446744073709551616", status: 400, kind: html, contains: "whole number"},
		{name: "quantity +1", method: "POST", path: "/cart", body: "sku=pear&qty=%2B1", status: 400, kind: html, contains: "whole number"},
		{name: "quantity 01", method: "POST", path: "/cart", body: "sku=pear&qty=01", status: 400, kind: html, contains: "whole number"},
		{name: "quantity in other digits", method: "POST", path: "/cart", body: "sku=pear&qty=%D9%A1", status: 400, kind: html, contains: "whole number"},
		{name: "no quantity", method: "POST", path: "/cart", body: "sku=pear", status: 400, kind: html, contains: "whole number"},
		{name: "quantity in the address", method: "POST", path: "/cart?qty=1&sku=pear", status: 400, kind: html, contains: "sells no"},
		{name: "bad quantity, JSON", method: "POST", path: "/cart", body: "sku=pear&qty=x", headers: []string{"Accept", "application/json"}, status: 400, kind: json, contains: `{"status":400,"error":"The quantity must be a whole number from 1 to 99."}`},
		{name: "unknown sku", method: "POST", path: "/cart", body: "sku=%3Cscript%3E&qty=1", status: 400, kind: html, contains: "sells no &#34;&lt;script&gt;"},
		{name: "unknown sku, JSON", method: "POST", path: "/cart", body: "sku=banana&qty=1", headers: []string{"Accept", "application/json"}, status: 400, kind: json, contains: `banana`},
		{name: "JSON is no form", method: "POST", path: "/cart", body: `{"sku":"pear","qty":1}`, headers: []string{"Content-Type", "application/json"}, status: 415, kind: html, contains: urlencoded},
		{name: "broken form", method: "POST", path: "/cart", body: "sku=%zz", status: 400, kind: html, contains: "could not be read"},
		{name: "broken multipart", method: "POST", path: "/cart", body: "x", headers: []string{"Content-Type", "multipart/form-data"}, status: 400, kind: html, contains: "could not be read"},
		{name: "huge form", method: "POST", path: "/cart", body: "sku=" + strings.Repeat("x", 1<<20), status: 413, kind: html, contains: "too large"},

		{name: "wrong password", method: "POST", path: "/login", body: "user=mallory&password=guess", status: 401, kind: html, contains: `value="mallory"`},
		{name: "wrong password, JSON", method: "POST", path: "/login", body: "user=mallory&password=guess", headers: []string{"Accept", "application/json"}, status: 401, kind: json, contains: `wrong`},
		{name: "no password", method: "POST", path: "/login", body: "user=mallory", status: 401, kind: html, contains: "wrong"},
		{name: "password with more", method: "POST", path: "/login", body: "user=mallory&password=demo1", status: 401, kind: html, contains: "wrong"},
		{name: "no user", method: "POST", path: "/login", body: "password=demo", status: 400, kind: html, contains: "1 to 64"},
		{name: "blank user", method: "POST", path: "/login", body: "user=+&password=demo", status: 400, kind: html, contains: "1 to 64"},
		{name: "user too long", method: "POST", path: "/login", body: "user=" + long + "&password=demo", status: 400, kind: html, contains: "1 to 64"},
		{name: "user with a line break", method: "POST", path: "/login", body: "user=a%0ab&password=demo", status: 400, kind: html, contains: "1 to 64"},
		{name: "user that turns the text around", method: "POST", path: "/login", body: "user=a%E2%80%AEb&password=demo", status: 400, kind: html, contains: "1 to 64"},
		{name: "user that is no UTF-8", method: "POST", path: "/login", body: "user=a%ff&password=demo", status: 400, kind: html, contains: "1 to 64"},
		{name: "user longer than a store keeps", method: "POST", path: "/login", body: "password=demo&user=" + strings.Repeat("%F0%9F%8D%8E", 64), status: 400, kind: html, contains: "1 to 64"},

		{name: "no such device", method: "POST", path: "/sessions/revoke", body: "handle=AAAAAAAAAAAAAAAAAAAAAQ", status: 303, location: "/sessions"},
		{name: "no such device, JSON", method: "POST", path: "/sessions/revoke", body: "handle=AAAAAAAAAAAAAAAAAAAAAQ", headers: []string{"Accept", "application/json"}, status: 200, kind: json, contains: `{"revoked":0}`},
		{name: "no device", method: "POST", path: "/sessions/revoke", body: "handle=x", status: 400, kind: html, contains: "none of your devices"},
		{name: "no others", method: "POST", path: "/sessions/revoke-others", status: 303, location: "/sessions", changes: true},
		{name: "no others, JSON", method: "POST", path: "/sessions/revoke-others", headers: []string{"Accept", "application/json"}, status: 200, kind: json, contains: `{"revoked":0}`, changes: true},

		{name: "unknown page", method: "GET", path: "/nowhere", status: 404, kind: html, contains: "nothing at this address"},
		{name: "unknown page, JSON", method: "GET", path: "/api/nowhere", status: 404, kind: json, contains: `"status":404`},
		{name: "address of another host", method: "GET", path: "//evil.example/", status: 404, kind: html, contains: "nothing at this address"},
		{name: "address of another host, POST", method: "POST", path: "//evil.example/", status: 404, kind: html, contains: "nothing at this address"},
		{name: "address above", method: "GET", path: "/../../etc/passwd", status: 404, kind: html, contains: "nothing at this address"},
		{name: "address not in its shortest form", method: "GET", path: "//sessions", status: 307, location: "/sessions"},
		{name: "logout by GET", method: "GET", path: "/logout", status: 405, kind: html, contains: "does not answer GET"},
		{name: "add by GET", method: "GET", path: "/cart?sku=pear&qty=1", status: 405, kind: html, contains: "does not answer GET"},
		{name: "delete", method: "DELETE", path: "/api/session", status: 405, kind: json, contains: "DELETE"},

		{name: "logout", method: "POST", path: "/logout", status: 303, location: "/", changes: true},
		{name: "logout, JSON", method: "POST", path: "/logout", headers: []string{"Accept", "application/json"}, status: 200, kind: json, contains: `{"user":"","cart":{},"served_by":"worker-1"}`, changes: true},
		{name: "sign in again, JSON", method: "POST", path: "/login", body: "user=alice&password=demo", headers: []string{"Accept", "application/json"}, status: 200, kind: json, contains: `"user":"alice"`, changes: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := serve(t, memstore.New(), "worker-1").visitor(t)
			v.signIn("alice")
			v.buy("apple", "2")
			id := v.cookie("session")

			a := v.do(tt.method, tt.path, tt.body, tt.headers...).want(t, tt.status)
			if got := a.Header.Get("Content-Type"); tt.kind != "" && got != tt.kind {
				t.Errorf("Content-Type is %q, want %q", got, tt.kind)
			}
			if got := a.Header.Get("Location"); got != tt.location {
				t.Errorf("it leads to %q, want %q", got, tt.location)
			}
			if !strings.Contains(a.body, tt.contains) {
				t.Errorf("the answer does not say %q: %s", tt.contains, a.text())
			}
			if a.StatusCode == http.StatusMethodNotAllowed && a.Header.Get("Allow") == "" {
				t.Error("a 405 must say in Allow what is allowed (RFC 9110, 15.5.6)")
			}
			for name, want := range map[string]string{
				"X-Served-By":            "worker-1",
				"X-Content-Type-Options": "nosniff",
				"Cache-Control":          "no-store",
				"Referrer-Policy":        "same-origin",
			} {
				if got := a.Header.Get(name); got != want {
					t.Errorf("%s is %q, want %q", name, got, want)
				}
			}
			if tt.changes {
				return
			}
			if got := v.cookie("session"); got != id {
				t.Error("the session cookie changed")
			}
			if s := v.state(); s.User != "alice" || len(s.Cart) != 1 || s.Cart["apple"] != 2 {
				t.Errorf("the session is %+v now, and should be as it was", s)
			}
		})
	}
}

func TestAnonymous(t *testing.T) {
	v := serve(t, memstore.New(), "worker-1").visitor(t)
	a := v.get("/api/session").want(t, http.StatusOK)
	if want := `{"user":"","cart":{},"served_by":"worker-1"}` + "\n"; a.body != want {
		t.Errorf("GET /api/session answers %q, want %q", a.body, want)
	}
	front := v.get("/").want(t, http.StatusOK)
	if !strings.Contains(front.body, `action="/login"`) {
		t.Error("the page offers no sign-in")
	}
	if strings.Contains(front.body, `action="/logout"`) {
		t.Error("the page offers to sign out somebody who is not signed in")
	}
	for _, a := range []answer{
		v.get("/sessions"),
		v.post("/sessions/revoke", "handle", "AAAAAAAAAAAAAAAAAAAAAQ"),
		v.post("/sessions/revoke-others"),
	} {
		a.want(t, http.StatusUnauthorized)
		if !strings.Contains(a.body, `action="/login"`) {
			t.Errorf("%s asks for a sign-in and offers none", a.Request.URL.Path)
		}
	}
	if c := v.http.Jar.Cookies(front.Request.URL); len(c) != 0 {
		t.Errorf("a visitor who kept nothing has the cookies %v", c)
	}
}

// ASVS 7.4.4: the way out is on every page of a signed-in user.
func TestLogoutOnEveryPage(t *testing.T) {
	v := serve(t, memstore.New(), "worker-1").visitor(t)
	v.signIn("alice")
	for _, a := range []answer{
		v.get("/"),
		v.get("/sessions"),
		v.post("/cart", "sku", "none", "qty", "1"),
		v.post("/login", "user", "alice", "password", "guess"),
	} {
		if !strings.Contains(a.body, `<form method="post" action="/logout">`) {
			t.Errorf("%s %s answers %d without a way to sign out", a.Request.Method, a.Request.URL.Path, a.StatusCode)
		}
	}
}

func TestReadiness(t *testing.T) {
	draining := false
	h, err := shop.New(memstore.New(), "worker-1", &shop.Options{
		InsecureCookie: true,
		Draining:       func() bool { return draining },
		Details:        func() map[string]string { return map[string]string{"breaker": "open", "near_cache": "timed"} },
	})
	if err != nil {
		t.Fatal(err)
	}
	f := serveHandler(t, h)
	v := f.visitor(t)
	// An open breaker is for people to read, as an outage is.
	if a := v.get("/readyz").want(t, http.StatusOK); a.body != `{"status":"ready","store":"ok","breaker":"open","near_cache":"timed"}`+"\n" {
		t.Errorf("a ready server says %s", a.text())
	}
	draining = true
	a := v.get("/readyz").want(t, http.StatusServiceUnavailable)
	if !strings.Contains(a.body, `"draining"`) {
		t.Errorf("a draining server says %s", a.text())
	}
	v.get("/healthz").want(t, http.StatusOK)
	v.signIn("alice") // what still arrives is served
}

func TestNewRefuses(t *testing.T) {
	for _, name := range []string{"", "a b", "a~b", "a;b", "a\r\nX: y", "ä", strings.Repeat("x", 81)} {
		if _, err := shop.New(memstore.New(), name, nil); err == nil || !strings.Contains(err.Error(), "letters, digits") {
			t.Errorf("a server named %q: error %v does not say what a name is", name, err)
		}
	}
	if _, err := shop.New(nil, "worker-1", nil); err == nil {
		t.Error("a shop without a store must be refused")
	}
	if _, err := shop.New(memstore.New(), "worker-1", &shop.Options{CookieName: "session"}); err == nil {
		t.Error("a secure cookie without its prefix must be refused")
	}
}
