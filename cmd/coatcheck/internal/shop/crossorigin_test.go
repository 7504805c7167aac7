package shop_test

import (
	"net/http"
	"testing"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/shop"
	"github.com/coatcheck/coatcheck/store/memstore"
)

// Forms of other sites do nothing, not even a logout, whatever the browser tells
// of them; ours work behind any name and with HTTPS ended by a balancer, which
// keeps the Host.
func TestCrossOrigin(t *testing.T) {
	for _, tt := range []struct {
		name    string
		headers []string
		status  int
	}{
		{"other site", []string{"Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"}, 403},
		{"other subdomain", []string{"Sec-Fetch-Site", "same-site", "Host", "shop.example", "Origin", "https://evil.shop.example"}, 403},
		{"other site, old browser", []string{"Host", "shop.example", "Origin", "https://evil.example"}, 403},
		{"other port, old browser", []string{"Host", "shop.example", "Origin", "https://shop.example:8443"}, 403},
		{"sandboxed page, old browser", []string{"Host", "shop.example", "Origin", "null"}, 403},
		{"own page", []string{"Sec-Fetch-Site", "same-origin"}, 303},
		{"typed", []string{"Sec-Fetch-Site", "none"}, 303},
		{"own page on HTTPS, old browser", []string{"Host", "shop.example", "Origin", "https://shop.example"}, 303},
		{"own page on HTTP and a port, old browser", []string{"Host", "127.0.0.1:8080", "Origin", "http://127.0.0.1:8080"}, 303},
		{"no browser", nil, 303},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, form := range [][2]string{
				{"/cart", "sku=pear&qty=1"},
				{"/login", "user=mallory&password=demo"},
				{"/sessions/revoke-others", ""},
				{"/logout", ""},
			} {
				v := serve(t, memstore.New(), "worker-1").visitor(t)
				v.signIn("alice")
				// The jar of a client would take another Host for another site.
				headers := append([]string{"Cookie", "session=" + v.cookie("session")}, tt.headers...)
				a := v.f.visitor(t).do(http.MethodPost, form[0], form[1], headers...).want(t, tt.status)
				if tt.status == http.StatusSeeOther {
					continue
				}
				if a.Header.Get("X-Served-By") != "worker-1" {
					t.Error("the refusal names no server")
				}
				if len(a.Cookies()) != 0 {
					t.Errorf("the refusal sets %v", a.Cookies())
				}
				if s := v.state(); s.User != "alice" || len(s.Cart) != 0 {
					t.Errorf("a refused form made the session %+v", s)
				}
			}
		})
	}
}

// The strict cookie is not sent over plain HTTP, and nothing else must stand in
// for it.
func TestStrictCookieIgnoresTheOthers(t *testing.T) {
	h, err := shop.New(memstore.New(), "worker-1", nil)
	if err != nil {
		t.Fatal(err)
	}
	f := serveHandler(t, h)
	a := f.visitor(t).post("/login", "user", "alice", "password", "demo").want(t, http.StatusSeeOther)
	var id string
	for _, c := range a.Cookies() {
		if c.Name == "__Host-session" {
			id = c.Value
		}
	}
	for _, tt := range []struct{ cookie, user string }{
		{"__Host-session=" + id, "alice"},
		{"session=" + id, ""},
		{"__host-session=" + id, ""},
		{"__Host-session=" + id + "; __Host-session=" + id[:42] + "A", ""},
	} {
		var s state
		f.visitor(t).get("/api/session", "Cookie", tt.cookie).want(t, http.StatusOK).decode(t, &s)
		if s.User != tt.user {
			t.Errorf("the cookies %d bytes long, beginning with %.16q, are user %q, want %q", len(tt.cookie), tt.cookie, s.User, tt.user)
		}
	}
}
