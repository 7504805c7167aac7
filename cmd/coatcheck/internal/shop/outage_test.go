package shop_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/memstore"
	"github.com/coatcheck/coatcheck/store/storetest"
)

var errDown = errors.New("the store is down")

// An outage signs nobody out, shows nobody an empty cart, and is nothing to
// visitors without a session.
func TestOutage(t *testing.T) { synctest.Test(t, testOutage) }

func testOutage(t *testing.T) {
	st := storetest.NewFaults(memstore.New(), nil)
	f := serveInProcess(t, st, workers...)
	v := f.visitor(t)
	v.signIn("alice")
	v.buy("apple", "2")
	id := v.cookie("session")
	st.SetHook(storetest.Every(storetest.Fault{Err: errDown}))

	stranger := f.visitor(t)
	stranger.get("/").want(t, http.StatusOK)
	stranger.get("/api/session").want(t, http.StatusOK)
	for _, a := range []answer{
		stranger.post("/cart", "sku", "pear", "qty", "1"),
		stranger.post("/login", "user", "bob", "password", "demo"),
		v.get("/"),
		v.get("/sessions"),
		v.post("/cart", "sku", "pear", "qty", "1"),
		v.post("/login", "user", "alice", "password", "demo"),
		v.post("/sessions/revoke-others"),
	} {
		a.want(t, http.StatusServiceUnavailable)
		if a.Header.Get("Retry-After") == "" || a.Header.Get("X-Served-By") == "" {
			t.Errorf("%s: the 503 has the header %v", a.Request.URL.Path, a.Header)
		}
		if !strings.Contains(a.body, "<!doctype html>") || !strings.Contains(a.body, "try again in a moment") {
			t.Errorf("%s: the 503 is no page that helps: %s", a.Request.URL.Path, a.text())
		}
		// Who has no session is not to be told of one.
		if cookie := a.Request.Header.Get("Cookie"); strings.Contains(a.body, "with your cart") != strings.Contains(cookie, "session=") {
			t.Errorf("%s: the 503 to a visitor with the cookies %q says: %s", a.Request.URL.Path, cookie, a.text())
		}
		if strings.Contains(a.body, errDown.Error()) {
			t.Errorf("%s: the 503 shows what is inside", a.Request.URL.Path)
		}
		if len(a.Cookies()) != 0 {
			t.Errorf("%s: the 503 sets %v", a.Request.URL.Path, a.Cookies())
		}
	}
	for _, a := range []answer{v.get("/api/session"), v.postJSON("/cart", "sku", "pear", "qty", "1")} {
		a.want(t, http.StatusServiceUnavailable)
		if a.Header.Get("Content-Type") != "application/json" || !strings.HasPrefix(a.body, `{"status":503,"error":`) {
			t.Errorf("%s: the 503 is no JSON: %s", a.Request.URL.Path, a.text())
		}
	}

	// Else one outage would empty the balancer of all servers.
	stranger.get("/healthz").want(t, http.StatusOK)
	if a := v.get("/readyz").want(t, http.StatusOK); a.body != `{"status":"ready","store":"unavailable"}`+"\n" {
		t.Errorf("GET /readyz says %s", a.text())
	}

	st.SetHook(nil)
	if v.cookie("session") != id {
		t.Error("the outage took the cookie")
	}
	if s := v.state(); s.User != "alice" || len(s.Cart) != 1 || s.Cart["apple"] != 2 {
		t.Errorf("after the outage alice has %+v", s)
	}
}

// The store fails between the reading and the writing of a session.
func TestOutageAtCommit(t *testing.T) {
	for _, method := range []string{"Create", "Replace", "ListOwner", "DeleteOwner"} {
		t.Run(method, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testOutageAtCommit(t, method) })
		})
	}
}

func testOutageAtCommit(t *testing.T, method string) {
	st := storetest.NewFaults(memstore.New(), nil)
	f := serveInProcess(t, st, workers...)
	v := f.visitor(t)
	v.signIn("alice")
	v.buy("apple", "2")
	id := v.cookie("session")
	st.SetHook(storetest.Every(storetest.Fault{Err: errDown}, method))
	a := map[string]func() answer{
		"Create":      func() answer { return v.post("/login", "user", "alice", "password", "demo") },
		"Replace":     func() answer { return v.post("/cart", "sku", "apple", "qty", "1") },
		"ListOwner":   func() answer { return v.get("/sessions") },
		"DeleteOwner": func() answer { return v.post("/sessions/revoke-others") },
	}[method]().want(t, http.StatusServiceUnavailable)
	// What failed to end the other sessions has renewed this one before.
	renewed := method == "DeleteOwner"
	if set, cleared := a.sets("session"); set != renewed || cleared || (v.cookie("session") != id) != renewed {
		t.Errorf("the 503 sets the session cookie: %v, and clears it: %v; want %v and false", set, cleared, renewed)
	}
	if strings.Count(a.body, "<!doctype html>") != 1 {
		t.Errorf("the answer is not one page: %s", a.text())
	}
	if n := strings.Count(f.logs.String(), "shop: request failed"); n != 1 {
		t.Errorf("the operator is told %d times, not once:\n%s", n, f.logs)
	}
	st.SetHook(nil)
	if s := v.state(); s.User != "alice" || s.Cart["apple"] != 2 {
		t.Errorf("after the outage alice has %+v", s)
	}
}

// Nobody may leave a shared computer signed in because of an outage.
func TestLogoutInOutage(t *testing.T) { synctest.Test(t, testLogoutInOutage) }

func testLogoutInOutage(t *testing.T) {
	for _, methods := range [][]string{nil, {"Replace", "Delete"}} { // all is down, or writing only
		st := storetest.NewFaults(memstore.New(), nil)
		v := serveInProcess(t, st, workers...).visitor(t)
		v.signIn("alice")
		st.SetHook(storetest.Every(storetest.Fault{Err: errDown}, methods...))
		a := v.post("/logout").want(t, http.StatusServiceUnavailable)
		if _, cleared := a.sets("session"); !cleared {
			t.Error("a logout in an outage leaves the cookie")
		}
		if a.Header.Get("Retry-After") == "" || !strings.Contains(a.body, "signed out in this browser") {
			t.Errorf("the answer does not say what happened: %s", a.text())
		}
		st.SetHook(nil)
		if u := v.state().User; u != "" {
			t.Errorf("after the outage the browser is signed in as %q", u)
		}
	}
}

// An answer that was lost for good is not made out to be a failure: who believes
// that buys twice.
func TestUnknownOutcome(t *testing.T) { synctest.Test(t, testUnknownOutcome) }

func testUnknownOutcome(t *testing.T) {
	st := storetest.NewFaults(memstore.New(), nil)
	v := serveInProcess(t, st, workers...).visitor(t)
	v.signIn("alice")
	v.buy("apple", "2")
	lost := false
	st.SetHook(func(c storetest.Call) storetest.Fault {
		switch {
		case c.Method == "Replace" && !lost:
			lost = true
			return storetest.Fault{Err: store.ErrAmbiguous, After: true}
		case lost:
			return storetest.Fault{Err: errDown}
		}
		return storetest.Fault{}
	})
	a := v.post("/cart", "sku", "apple", "qty", "1").want(t, http.StatusServiceUnavailable)
	if !strings.Contains(a.body, "look at your cart before you try again") {
		t.Errorf("the answer does not say that the change may be saved: %s", a.text())
	}
	st.SetHook(nil)
	if got := v.state().Cart["apple"]; got != 3 {
		t.Errorf("the cart has %d apples; this test needs the change to be saved", got)
	}
}

// The answer of a write is lost although the write was done: it shows once, as
// what it is.
func TestLostAnswer(t *testing.T) {
	st := storetest.NewFaults(memstore.New(), nil)
	v := serveInProcess(t, st, workers...).visitor(t)
	v.signIn("alice")
	st.SetHook(storetest.Nth("Replace", 1, storetest.Fault{Err: errDown, After: true}))
	v.buy("apple", "2")
	if got := v.state().Cart["apple"]; got != 2 {
		t.Errorf("two apples became %d", got)
	}
}
