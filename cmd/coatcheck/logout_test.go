//go:build unix

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/admin"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/uptest"
)

// thief has a copy of somebody's cookie, and never takes another.
type thief struct {
	shop   string
	cookie *http.Cookie
	client *http.Client
}

func (f *thief) do(method, path string, form url.Values) (state, *http.Response, error) {
	req, err := http.NewRequest(method, f.shop+path, strings.NewReader(form.Encode()))
	if err != nil {
		return state{}, nil, err
	}
	req.AddCookie(f.cookie)
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := f.client.Do(req)
	if err != nil {
		return state{}, nil, err
	}
	defer resp.Body.Close()
	var s state
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode == http.StatusOK {
		err = json.Unmarshal(b, &s)
	}
	return s, resp, err
}

// mustBeNobody fails the test if the cookie is worth anything: it must not sign
// in, show the cart, or be taken up or cleared by the answer. A request that
// adds an apple begins a session of its own.
func (f *thief) mustBeNobody(t *testing.T, add bool) (server string) {
	t.Helper()
	method, path, form, apples := http.MethodGet, "/api/session", url.Values(nil), 0
	if add {
		method, path, form, apples = http.MethodPost, "/cart", url.Values{"sku": {"apple"}, "qty": {"1"}}, 1
	}
	s, resp, err := f.do(method, path, form)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("%s %s after the sign-out: %v, %v", method, path, resp, err)
		return ""
	}
	if s.User != "" || s.Cart["apple"] != apples {
		t.Errorf("%s %s: to the cookie of a session that was signed out %s says %q with %v", method, path, s.ServedBy, s.User, s.Cart)
	}
	f.mustLeaveTheCookie(t, resp, add)
	return s.ServedBy
}

// mustLeaveTheCookie fails the test if an answer sets the old session ID, or
// clears the cookie: in the browser, that may be a newer one by now.
func (f *thief) mustLeaveTheCookie(t *testing.T, resp *http.Response, mayBegin bool) {
	t.Helper()
	for _, c := range resp.Cookies() {
		if c.Name == f.cookie.Name && (!mayBegin || c.Value == f.cookie.Value || c.Value == "" || c.MaxAge < 0) {
			t.Errorf("%s %s sets the session cookie to the old ID: %t, clears it: %t",
				resp.Request.Method, resp.Request.URL.Path, c.Value == f.cookie.Value, c.Value == "" || c.MaxAge < 0)
		}
	}
}

// A sign-out on one server ends the session on all of them, at once and for
// ever: for requests in flight that would write it back, for a storm of others,
// and on servers that start later.
func TestSignOutEndsTheSessionOnEveryServer(t *testing.T) { testSignOut(t) }

func testSignOut(t *testing.T, args ...string) {
	u := uptest.Start(t, append(args, "--workers", "3")...)
	v := newVisitor(t, u, nil)
	v.post("/login", url.Values{"user": {"alice"}, "password": {"demo"}})
	v.post("/cart", url.Values{"sku": {"apple"}, "qty": {"50"}})
	f := &thief{shop: u.Shop, cookie: v.cookie(u), client: &http.Client{
		Transport: &http.Transport{MaxIdleConnsPerHost: 16},
	}}
	defer f.client.CloseIdleConnections()

	// Two at each server, with the session loaded and a change to write.
	var slow []*slowPost
	for range 6 {
		slow = append(slow, startSlowPostAs(t, u, f.cookie))
	}
	u.AwaitFleet("the slow requests in flight", func(s admin.Status) bool { return s.Balancer.InFlight == len(slow) })

	var signedOut atomic.Bool
	var warm, storm sync.WaitGroup
	for i := range 8 {
		warm.Add(1)
		storm.Go(func() {
			add := i%2 == 0
			for before := 0; !signedOut.Load(); before++ {
				if before == 5 {
					warm.Done()
				}
				if err := f.whileItLasts(add, &signedOut); err != nil {
					t.Error(err)
				}
			}
			for range 10 {
				f.mustBeNobody(t, add)
			}
		})
	}
	warm.Wait()
	v.post("/logout", nil)
	signedOut.Store(true)

	late := 0
	for _, p := range slow {
		resp, err := p.complete()
		if err != nil {
			t.Fatalf("a request in flight was lost: %v", err)
		}
		switch resp.StatusCode {
		case http.StatusConflict:
			late++
			f.mustLeaveTheCookie(t, resp, false)
		case http.StatusOK: // it was loaded after the sign-out, and is nobody's
			f.mustLeaveTheCookie(t, resp, true)
		default:
			t.Errorf("a request that was in flight during the sign-out was answered %s", resp.Status)
		}
	}
	storm.Wait()
	t.Logf("%d of %d requests in flight had loaded the session, and could not write it back", late, len(slow))

	everyServer := func() {
		asked := make(map[string]int)
		for range 30 {
			asked[f.mustBeNobody(t, false)]++
		}
		if len(asked) != 3 {
			t.Errorf("the old cookie was shown to %v, want three servers", asked)
		}
		for name, n := range asked {
			if n < 5 {
				t.Errorf("%s was asked only %d times", name, n)
			}
		}
	}
	everyServer()
	u.Kill("worker-1")
	u.AwaitWorkers(3)
	everyServer()
	v.mustHave("", 0)
}

// whileItLasts sends a request that may meet the session or its end. After the
// sign-out was answered, it may not meet the session.
func (f *thief) whileItLasts(add bool, signedOut *atomic.Bool) error {
	method, path, form := http.MethodGet, "/api/session", url.Values(nil)
	if add {
		method, path, form = http.MethodPost, "/cart", url.Values{"sku": {"plum"}, "qty": {"1"}}
	}
	over := signedOut.Load()
	s, resp, err := f.do(method, path, form)
	switch {
	case err != nil:
		return err
	case resp.StatusCode == http.StatusConflict && add: // it ended under the request
		return nil
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("%s %s: %s", method, path, resp.Status)
	case s.User == "alice" && over:
		return fmt.Errorf("%s %s, sent after the sign-out was answered: %s says %q", method, path, s.ServedBy, s.User)
	case s.User == "alice" && s.Cart["apple"] < 50, s.User == "" && s.Cart["apple"] != 0:
		return fmt.Errorf("%s %s: %s says %q with %v", method, path, s.ServedBy, s.User, s.Cart)
	}
	return nil
}
