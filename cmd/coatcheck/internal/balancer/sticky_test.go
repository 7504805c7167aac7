package balancer

import (
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"testing"
)

// TestSticky: a client comes back to the upstream that answered it first, for as long as
// that is there, and then to another one; others are spread.
func TestSticky(t *testing.T) {
	b := New(&Options{NoHealthChecks: true, Sticky: "home"})
	for _, name := range []string{"a", "b", "c"} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X-Served-By", name) }))
		t.Cleanup(s.Close)
		u, err := url.Parse(s.URL)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Add(name, u); err != nil {
			t.Fatal(err)
		}
	}
	front := httptest.NewServer(b)
	t.Cleanup(front.Close)
	newClient := func() *http.Client {
		jar, _ := cookiejar.New(nil)
		return &http.Client{Jar: jar}
	}
	ask := func(c *http.Client) string {
		resp, err := c.Get(front.URL)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		return resp.Header.Get("X-Served-By")
	}
	homes := map[string]*http.Client{}
	for range 3 {
		c := newClient()
		homes[ask(c)] = c
	}
	if len(homes) != 3 {
		t.Fatalf("three clients came to %d upstreams; want each to its own", len(homes))
	}
	for range 5 {
		for home, c := range homes {
			if got := ask(c); got != home {
				t.Errorf("the client of %s came to %s", home, got)
			}
		}
	}
	if err := b.Remove("b"); err != nil {
		t.Fatal(err)
	}
	moved := ask(homes["b"])
	if moved == "b" {
		t.Fatal("an upstream that was removed has answered")
	}
	for range 5 {
		if got := ask(homes["b"]); got != moved {
			t.Errorf("after its upstream went, the client came to %s and then to %s", moved, got)
		}
	}
}
