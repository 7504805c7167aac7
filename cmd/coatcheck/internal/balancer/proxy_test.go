package balancer

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// seen returns what a worker behind a balancer with the options sees of a request that mod has changed, and the answer.
func seen(t *testing.T, opts Options, mod func(*http.Request)) (*http.Request, answer) {
	t.Helper()
	b := newBalancer(opts)
	got := make(chan *http.Request, 1)
	worker(t, b, "a", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(SecretHeader, r.Header.Get(SecretHeader)) // an app that echoes everything
		w.Header().Set(UnrepeatableHeader, "1")
		got <- r
	})
	req := request(t, http.MethodGet, front(t, b)+"/path?a=1;b=%zz&c=2", nil)
	mod(req)
	tr := &http.Transport{DisableCompression: true, DisableKeepAlives: true} // a client that adds no header of its own
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return <-got, answer{status: resp.StatusCode, header: resp.Header}
}

func TestForwardedHeadersComeFromTheBalancerAlone(t *testing.T) {
	r, _ := seen(t, Options{}, func(r *http.Request) {
		r.Host = "shop.example"
		for _, h := range []string{"For", "Host", "Proto", "Port", "Prefix", "Anything"} {
			r.Header.Set("X-Forwarded-"+h, "6.6.6.6")
		}
		r.Header.Set("Forwarded", "for=6.6.6.6")
		r.Header.Set("X-Real-IP", "6.6.6.6")
		r.Header.Set("True-Client-IP", "6.6.6.6")
		// A client may name any header as one to be dropped at the next hop.
		r.Header.Set("Connection", "X-Forwarded-For, X-Forwarded-Proto")
	})
	for name, want := range map[string]string{
		"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Host": "shop.example", "X-Forwarded-Proto": "http",
	} {
		if got := r.Header.Values(name); len(got) != 1 || got[0] != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	for name, values := range r.Header {
		if strings.Contains(strings.Join(values, ","), "6.6.6.6") {
			t.Errorf("%s: %q came through from outside", name, values)
		}
	}
}

func TestForwardedProtoOfTLS(t *testing.T) {
	b := newBalancer(Options{})
	worker(t, b, "a", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Header.Get("X-Forwarded-Proto"))
	})
	s := httptest.NewTLSServer(b)
	defer s.Close()
	resp, err := s.Client().Get(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); string(body) != "https" {
		t.Errorf("X-Forwarded-Proto is %q behind TLS", body)
	}
}

func TestSecretIsSetByTheBalancerAlone(t *testing.T) {
	forge := func(r *http.Request) {
		r.Header[SecretHeader] = []string{"forged"}
		r.Header.Set("Connection", SecretHeader)
	}
	r, a := seen(t, Options{Secret: "s3cret"}, forge)
	if got := r.Header.Values(SecretHeader); len(got) != 1 || got[0] != "s3cret" {
		t.Errorf("the worker saw %q, want the secret alone", got)
	}
	if got := a.header.Values(SecretHeader); len(got) != 0 {
		t.Errorf("the secret left in a response: %q", got)
	}
	if a.header.Get(UnrepeatableHeader) != "" {
		t.Error("a worker must not speak for the balancer")
	}
	r, _ = seen(t, Options{}, func(r *http.Request) { r.Header.Set(SecretHeader, "forged") })
	if got := r.Header.Values(SecretHeader); len(got) != 0 {
		t.Errorf("a forged secret came through: %q", got)
	}
}

func TestRequestPassesAsItIs(t *testing.T) {
	r, _ := seen(t, Options{}, func(r *http.Request) {
		r.URL.Path, r.URL.RawPath = "/a/b c", "/a%2fb%20c"
		r.Header.Set("User-Agent", "")
		r.Header.Set("Idempotency-Key", "k")
	})
	if r.RequestURI != "/a%2fb%20c?a=1;b=%zz&c=2" {
		t.Errorf("the URL became %s", r.RequestURI)
	}
	if len(r.Header.Values("Accept-Encoding")) != 0 || r.UserAgent() != "" {
		t.Errorf("headers were added: %v", r.Header)
	}
	if r.Header.Get("Idempotency-Key") != "k" {
		t.Errorf("the idempotency key is lost: %v", r.Header)
	}
}

// The worker's cross-origin check compares the Origin header with Host: if the balancer rewrote Host, it would refuse the shop's own forms.
func TestHonestFormsPassTheCrossOriginCheck(t *testing.T) {
	b := newBalancer(Options{})
	h := http.NewCrossOriginProtection().Handler(http.HandlerFunc(says("ok")))
	worker(t, b, "a", h.ServeHTTP)
	base := front(t, b)
	for origin, want := range map[string]int{base: http.StatusOK, "http://evil.example": http.StatusForbidden} {
		req := request(t, http.MethodPost, base+"/cart", strings.NewReader("qty=1"))
		req.Header.Set("Origin", origin)
		if a := do(t, req); a.status != want {
			t.Errorf("a form from %s: status %d, want %d", origin, a.status, want)
		}
	}
}

func TestAbsoluteURLsAndTunnelsDoNotLeaveTheFleet(t *testing.T) {
	b := newBalancer(Options{})
	worker(t, b, "a", says("a"))
	base := front(t, b)
	proxy, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{Proxy: http.ProxyURL(proxy), DisableKeepAlives: true}
	resp, err := tr.RoundTrip(request(t, http.MethodGet, "http://elsewhere.example/", nil))
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if string(body) != "a" {
		t.Errorf("a request with an absolute URL must go to a worker: %d %q", resp.StatusCode, body)
	}
	if a := do(t, request(t, http.MethodConnect, base, nil)); a.status != http.StatusMethodNotAllowed {
		t.Errorf("CONNECT: status %d, want 405", a.status)
	}
	if n := upstreamStatus(t, b, "a").Requests; n != 1 {
		t.Errorf("the worker got %d requests, want 1", n)
	}
}

func TestRequireSecret(t *testing.T) {
	h := RequireSecret("s3cret", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%q", r.Header.Values(SecretHeader))
	}))
	for name, c := range map[string]struct {
		values []string
		want   int
	}{
		"none":           {nil, http.StatusForbidden},
		"empty":          {[]string{""}, http.StatusForbidden},
		"wrong":          {[]string{"s3cres"}, http.StatusForbidden},
		"prefix":         {[]string{"s3c"}, http.StatusForbidden},
		"right":          {[]string{"s3cret"}, http.StatusOK},
		"a guess before": {[]string{"guess", "s3cret"}, http.StatusForbidden},
		"a guess after":  {[]string{"s3cret", "guess"}, http.StatusForbidden},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.Header[SecretHeader] = c.values
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != c.want {
				t.Errorf("status %d, want %d", w.Code, c.want)
			}
			if w.Code == http.StatusOK && w.Body.String() != "[]" {
				t.Errorf("the handler saw the secret: %s", w.Body)
			}
		})
	}
	defer func() {
		if recover() == nil {
			t.Error("an empty secret would let everyone in; it must panic")
		}
	}()
	RequireSecret("", h)
}

func TestErrorPages(t *testing.T) {
	b := newBalancer(Options{})
	dead := closedAddr(t)
	add(t, b, "secret-name", dead)
	base := front(t, b)
	for accept, wantJSON := range map[string]bool{
		"":                                   false,
		"*/*":                                false,
		"text/html,application/xhtml+xml":    false,
		"application/json":                   true,
		"application/problem+json, */*":      true,
		"text/html, application/json;q=0.9":  false,
		"text/html;q=0.5, application/json":  true,
		"application/json;q=0":               false,
		"garbage;;;=, application/json, ,,,": true,
	} {
		req := request(t, http.MethodGet, base, nil)
		req.Header.Set("Accept", accept)
		a := do(t, req)
		var page struct {
			Status int
			Error  string
		}
		if isJSON := json.Unmarshal([]byte(a.body), &page) == nil; isJSON != wantJSON || (isJSON && (page.Status != 503 || page.Error == "")) {
			t.Errorf("Accept %q: got %q, want JSON: %v", accept, a.body, wantJSON)
		}
		if a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" || a.header.Get("Cache-Control") != "no-store" {
			t.Errorf("Accept %q: status %d, headers %v", accept, a.status, a.header)
		}
		if strings.Contains(a.body, "127.0.0.1") || strings.Contains(a.body, "secret") || strings.Contains(a.body, "refused") {
			t.Errorf("the page tells what is behind the balancer: %q", a.body)
		}
	}
}
