package shop_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/shop"
	"github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/store/memstore"
	"github.com/coatcheck/coatcheck/store/storetest"
)

var workers = []string{"worker-1", "worker-2", "worker-3"}

// Servers that share nothing but the store are one shop.
func TestServersAreOneShop(t *testing.T) {
	v := serve(t, memstore.New(), workers...).visitor(t)
	v.signIn("alice")   // worker-1
	v.buy("apple", "2") // worker-2
	v.buy("pear", "1")  // worker-3
	for i := range 30 {
		a := v.get("/api/session").want(t, http.StatusOK)
		server := workers[i%3]
		want := fmt.Sprintf(`{"user":"alice","cart":{"apple":2,"pear":1},"served_by":%q}`+"\n", server)
		if a.body != want || a.Header.Get("X-Served-By") != server {
			t.Fatalf("request %d: %s answers %s, want %s", i, a.Header.Get("X-Served-By"), a.body, want)
		}
	}
}

// The quantity is added on whatever the cart holds by then, so that nothing is
// lost between servers.
func TestParallelAdds(t *testing.T) {
	const n = 200
	v := serve(t, memstore.New(), workers...).visitor(t)
	v.signIn("alice")
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			if a, err := v.try(http.MethodPost, "/cart", form("sku", "apple", "qty", "1")); err != nil || a.StatusCode != http.StatusSeeOther {
				t.Errorf("an add failed: %v %+v", err, a)
			}
		})
	}
	wg.Wait()
	if got := v.state().Cart["apple"]; got != n {
		t.Errorf("%d adds of one made %d", n, got)
	}
}

// A line that another request has filled meanwhile refuses as one that was full
// before, and so does a cart that is nearly full.
func TestLineIsBounded(t *testing.T) {
	v := serve(t, memstore.New(), workers...).visitor(t)
	for range 101 {
		v.buy("plum", "99") // 9999 in all
	}
	a := v.post("/cart", "sku", "plum", "qty", "1").want(t, http.StatusConflict)
	if !strings.Contains(a.body, "at most 9999") {
		t.Errorf("the refusal does not say why: %s", a.text())
	}
	if got := v.state().Cart["plum"]; got != 9999 {
		t.Errorf("the cart holds %d plums, want 9999", got)
	}
	v.buy("pear", "1")
}

func TestLineFilledMeanwhile(t *testing.T) {
	st := storetest.NewFaults(memstore.New(), nil)
	v := serve(t, st, workers...).visitor(t)
	for range 100 {
		v.buy("plum", "99")
	}
	// Right before the commit of 98 more, another request adds 99.
	var other atomic.Bool
	st.SetHook(func(c storetest.Call) storetest.Fault {
		if c.Method == "Replace" && other.CompareAndSwap(false, true) {
			v.buy("plum", "99")
		}
		return storetest.Fault{}
	})
	a := v.postJSON("/cart", "sku", "plum", "qty", "98").want(t, http.StatusConflict)
	if !strings.Contains(a.body, "at most 9999") {
		t.Errorf("the refusal does not say why: %s", a.text())
	}
	if got := v.state().Cart["plum"]; got != 9999 {
		t.Errorf("the cart holds %d plums, want 9999", got)
	}
}

// A GET may be sent by anybody at any time: it writes nothing to the store.
func TestGetsWriteNothing(t *testing.T) {
	st := storetest.NewFaults(memstore.New(), nil)
	v := serve(t, st, workers...).visitor(t)
	v.signIn("alice")
	v.buy("apple", "1")
	id := v.cookie("session")
	st.SetHook(nil)
	for _, path := range []string{"/", "/api/session", "/sessions", "/healthz", "/readyz", "/nowhere", "/logout", "/cart"} {
		for range 3 {
			if set, _ := v.get(path).sets("session"); set {
				t.Errorf("GET %s sets the session cookie", path)
			}
		}
	}
	for _, method := range []string{"Create", "Replace", "Touch", "Delete", "DeleteOwner"} {
		if n := st.Count(method); n != 0 {
			t.Errorf("GETs made %d calls of %s", n, method)
		}
	}
	if st.Count("Get") == 0 {
		t.Error("no GET read the store: this test counts nothing")
	}
	if v.cookie("session") != id {
		t.Error("the session cookie changed")
	}
}

// Who keeps nothing costs nothing.
func TestAnonymousVisitsDoNotTouchTheStore(t *testing.T) {
	st := storetest.NewFaults(memstore.New(), func(c storetest.Call) storetest.Fault {
		t.Errorf("a visit without a session called %s", c.Method)
		return storetest.Fault{}
	})
	v := serve(t, st, workers...).visitor(t)
	v.get("/").want(t, http.StatusOK)
	v.get("/api/session").want(t, http.StatusOK)
	v.get("/healthz").want(t, http.StatusOK)
	v.post("/cart", "sku", "none", "qty", "1").want(t, http.StatusBadRequest)
	v.post("/login", "user", "alice", "password", "guess").want(t, http.StatusUnauthorized)
}

func TestSignInRenewsTheSession(t *testing.T) {
	f := serve(t, memstore.New(), workers...)
	v := f.visitor(t)
	v.buy("apple", "2")
	planted := v.cookie("session")
	v.signIn("alice")
	if s := v.state(); s.User != "alice" || s.Cart["apple"] != 2 {
		t.Errorf("after the sign-in the session is %+v; the cart should have come along", s)
	}
	signedIn := v.cookie("session")
	if planted == "" || signedIn == planted {
		t.Fatal("the sign-in kept the session ID: who knew it is signed in too (session fixation)")
	}
	thief := f.visitor(t)
	thief.setCookie(&http.Cookie{Name: "session", Value: planted})
	for range workers {
		if s := thief.state(); s.User != "" || len(s.Cart) != 0 {
			t.Errorf("the ID from before the sign-in still shows %+v", s)
		}
	}

	// Signing in anew renews too.
	v.signIn("alice")
	if v.cookie("session") == signedIn {
		t.Error("the second sign-in kept the session ID")
	}
	if s := v.state(); s.Cart["apple"] != 2 {
		t.Errorf("the second sign-in lost the cart: %+v", s)
	}
}

func TestAnotherUserSeesNothing(t *testing.T) {
	f := serve(t, memstore.New(), workers...)
	v := f.visitor(t)
	v.signIn("alice")
	v.buy("apple", "2")
	v.signIn("bob") // on the same computer, without a logout
	if s := v.state(); s.User != "bob" || len(s.Cart) != 0 {
		t.Errorf("bob sees %+v", s)
	}
	other := f.visitor(t)
	other.signIn("carol")
	if s := other.state(); s.User != "carol" || len(s.Cart) != 0 {
		t.Errorf("carol sees %+v", s)
	}
}

func TestUserNames(t *testing.T) {
	for _, name := range []string{"a", "Zoë van der Berg", "李", "o'hara@example.com", strings.Repeat("é", 64)} {
		v := serve(t, memstore.New(), "worker-1").visitor(t)
		v.signIn("  " + name + " ")
		if got := v.state().User; got != name {
			t.Errorf("signed in as %q, want %q", got, name)
		}
	}
	v := serve(t, memstore.New(), "worker-1").visitor(t)
	v.signIn("<b>&")
	if body := v.get("/").body; strings.Contains(body, "<b>&</b>") || !strings.Contains(body, "<b>&lt;b&gt;&amp;</b>") {
		t.Error("the page does not show the user name as text")
	}
}

func TestLogoutEndsTheSessionEverywhere(t *testing.T) {
	f := serve(t, memstore.New(), workers...)
	v := f.visitor(t)
	v.signIn("alice")
	v.buy("apple", "1")
	id := v.cookie("session")
	a := v.post("/logout").want(t, http.StatusSeeOther)
	if _, cleared := a.sets("session"); !cleared {
		t.Error("the logout does not clear the cookie")
	}
	if s := v.state(); s.User != "" || len(s.Cart) != 0 {
		t.Errorf("after the logout the visitor still has %+v", s)
	}
	thief := f.visitor(t)
	thief.setCookie(&http.Cookie{Name: "session", Value: id})
	for range workers {
		if s := thief.state(); s.User != "" || len(s.Cart) != 0 {
			t.Errorf("the ID of a session that was ended still shows %+v", s)
		}
	}
}

// A request that was under way when its session ended changes nothing, and says
// so.
func TestAddAfterLogout(t *testing.T) {
	st := storetest.NewFaults(memstore.New(), nil)
	v := serve(t, st, workers...).visitor(t)
	v.signIn("alice")
	v.buy("apple", "1")
	var logout atomic.Bool
	st.SetHook(func(c storetest.Call) storetest.Fault {
		if c.Method == "Replace" && logout.CompareAndSwap(false, true) {
			v.post("/logout").want(t, http.StatusSeeOther)
		}
		return storetest.Fault{}
	})
	a := v.post("/cart", "sku", "apple", "qty", "1").want(t, http.StatusConflict)
	if !strings.Contains(a.body, "signed out in the meantime") {
		t.Errorf("the answer does not say why: %s", a.text())
	}
	if set, _ := a.sets("session"); set {
		t.Error("a request that came too late sets a cookie")
	}
	if s := v.state(); s.User != "" || len(s.Cart) != 0 {
		t.Errorf("the late request revived %+v", s)
	}
}

// A cart that an older or newer version of the shop wrote in another form is no
// reason to lock its owner out.
func TestUnreadableCart(t *testing.T) {
	st := memstore.New()
	m, err := session.New(st, &session.Options{InsecureCookie: true})
	if err != nil {
		t.Fatal(err)
	}
	other := session.NewAttr[string]("cart")
	w := httptest.NewRecorder()
	m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := other.Set(m.From(r.Context()), "three apples"); err != nil {
			t.Error(err)
		}
	})).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))

	f := serve(t, st, "worker-1")
	v := f.visitor(t)
	v.setCookie(w.Result().Cookies()[0])
	v.get("/").want(t, http.StatusOK)
	if s := v.state(); len(s.Cart) != 0 {
		t.Errorf("an unreadable cart shows %+v", s)
	}
	if !strings.Contains(f.logs.String(), "not readable") {
		t.Error("nobody is told of the unreadable cart")
	}
	v.buy("pear", "2")
	if s := v.state(); s.Cart["pear"] != 2 {
		t.Errorf("after an unreadable cart nothing can be bought: %+v", s)
	}
}

// What is in a cart and not sold any more stays there and does not show.
func TestUnknownProductInCart(t *testing.T) {
	st := memstore.New()
	m, err := session.New(st, &session.Options{InsecureCookie: true})
	if err != nil {
		t.Fatal(err)
	}
	cart := session.NewAttr[map[string]int]("cart")
	w := httptest.NewRecorder()
	m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := cart.Set(m.From(r.Context()), map[string]int{"medlar": 3, "apple": 2}); err != nil {
			t.Error(err)
		}
	})).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))

	v := serve(t, st, "worker-1").visitor(t)
	v.setCookie(w.Result().Cookies()[0])
	body := v.get("/").want(t, http.StatusOK).body
	if strings.Contains(body, "medlar") || !strings.Contains(body, "€0.90") {
		t.Error("the page does not show what of the cart is sold, and only that")
	}
	v.buy("apple", "1")
	if s := v.state(); s.Cart["medlar"] != 3 || s.Cart["apple"] != 3 {
		t.Errorf("the cart is %+v", s.Cart)
	}
}

func TestDevices(t *testing.T) {
	f := serve(t, memstore.New(), workers...)
	laptop, phone, stranger := f.visitor(t), f.visitor(t), f.visitor(t)
	laptop.signIn("alice", "User-Agent", firefox)
	phone.signIn("alice", "User-Agent", "<script>alert(1)</script>")
	stranger.signIn("mallory")

	type device struct {
		Handle, Label string
		Current       bool
	}
	list := func(v *visitor) (current device, others []device) {
		t.Helper()
		var answer struct {
			User     string
			Sessions []device
		}
		v.get("/sessions", "Accept", "application/json").want(t, http.StatusOK).decode(t, &answer)
		for _, d := range answer.Sessions {
			if d.Current {
				current = d
			} else {
				others = append(others, d)
			}
		}
		return current, others
	}

	this, others := list(laptop)
	if this.Label != "Firefox on Linux" || len(others) != 1 || others[0].Label != "Unknown device" {
		t.Fatalf("alice's devices are %+v and %+v", this, others)
	}
	if page := laptop.get("/sessions").body; strings.Contains(page, "alert(1)") {
		t.Error("the page shows what a client called itself")
	}

	// A handle grants nothing to anybody else.
	stranger.post("/sessions/revoke", "handle", others[0].Handle).want(t, http.StatusSeeOther)
	if phone.state().User != "alice" {
		t.Fatal("mallory signed alice's phone out")
	}

	laptop.post("/sessions/revoke", "handle", others[0].Handle).want(t, http.StatusSeeOther)
	for range workers {
		if u := phone.state().User; u != "" {
			t.Errorf("the phone is still signed in as %q", u)
		}
	}
	if laptop.state().User != "alice" {
		t.Error("the laptop was signed out with the phone")
	}

	// Everywhere else.
	phone.signIn("alice")
	tablet := f.visitor(t)
	tablet.signIn("alice")
	var n struct{ Revoked int }
	laptop.postJSON("/sessions/revoke-others").want(t, http.StatusOK).decode(t, &n)
	if n.Revoked != 2 {
		t.Errorf("%d devices were signed out, want 2", n.Revoked)
	}
	for _, v := range []*visitor{phone, tablet} {
		if u := v.state().User; u != "" {
			t.Errorf("a device is still signed in as %q", u)
		}
	}
	if laptop.state().User != "alice" || stranger.state().User != "mallory" {
		t.Error("too many were signed out")
	}

	// This one.
	this, _ = list(laptop)
	a := laptop.post("/sessions/revoke", "handle", this.Handle).want(t, http.StatusSeeOther)
	if _, cleared := a.sets("session"); !cleared || a.Header.Get("Location") != "/" {
		t.Error("signing this device out is no logout")
	}
	if u := laptop.state().User; u != "" {
		t.Errorf("the laptop is still signed in as %q", u)
	}
}

// Whoever has copied the cookie of the browser that asks for it is somewhere
// else too.
func TestRevokeOthersEndsACopiedCookie(t *testing.T) {
	f := serve(t, memstore.New(), workers...)
	v, other, thief := f.visitor(t), f.visitor(t), f.visitor(t)
	v.signIn("alice")
	v.buy("apple", "2")
	other.signIn("alice")
	thief.setCookie(&http.Cookie{Name: "session", Value: v.cookie("session")})
	if u := thief.state().User; u != "alice" {
		t.Fatalf("the copied cookie shows %q; this test needs one that works", u)
	}
	v.post("/sessions/revoke-others").want(t, http.StatusSeeOther)
	for range workers {
		if s := thief.state(); s.User != "" || len(s.Cart) != 0 {
			t.Errorf("the copied cookie still shows %+v", s)
		}
		if s := other.state(); s.User != "" {
			t.Errorf("another device still shows %+v", s)
		}
		if s := v.state(); s.User != "alice" || s.Cart["apple"] != 2 {
			t.Errorf("the browser that asked for it shows %+v", s)
		}
	}
}

var dots = regexp.MustCompile(`<li class="c\d" title="([^"]*)">`)

func trailOf(page string) (servers []string) {
	for _, m := range dots.FindAllStringSubmatch(page, -1) {
		servers = append(servers, m[1])
	}
	return servers
}

func TestTrail(t *testing.T) {
	v := serve(t, memstore.New(), workers...).visitor(t)
	v.buy("apple", "1") // worker-1
	for range 2 {
		v.get("/")
	}
	if got := strings.Join(trailOf(v.get("/").body), " "); got != "worker-1 worker-2 worker-3 worker-1" {
		t.Errorf("the page says that %q answered", got)
	}
	v.get("/api/session") // no page: worker-2 does not show
	for range 20 {
		v.get("/")
	}
	got := trailOf(v.get("/").body)
	if len(got) != 12 || got[11] != "worker-2" || got[10] != "worker-1" {
		t.Errorf("after many requests the page says %q", got)
	}

	if v.cookie("served") == "" {
		t.Error("the trail has another cookie than this test looks for")
	}
	if _, cleared := v.post("/logout").sets("served"); !cleared {
		t.Error("a logout leaves the trail")
	}
}

// The trail comes from outside, so it is believed only as far as it can be true.
func TestTrailForged(t *testing.T) {
	for _, value := range []string{
		"<script>", "worker-1~", "~", "worker-1~~worker-2", "worker-1 worker-2", "wörker",
		strings.Repeat("x", 81), strings.Repeat("w~", 12) + "w", strings.Repeat("~", 100_000),
	} {
		f := serve(t, memstore.New(), "worker-1")
		v := f.visitor(t)
		v.buy("apple", "1")
		id := v.cookie("session")
		a := f.visitor(t).get("/", "Cookie", "session="+id+"; served="+value)
		if got := trailOf(a.body); len(got) != 0 {
			t.Errorf("the forged trail %.20q shows as %q", value, got)
		}
		a = f.visitor(t).get("/", "Cookie", "session="+id+"; served=w; served=w")
		if got := trailOf(a.body); len(got) != 0 {
			t.Errorf("a doubled trail shows as %q", got)
		}
	}
}

func TestCookies(t *testing.T) {
	for _, tt := range []struct {
		name   string
		opts   shop.Options
		cookie string
		trail  string
	}{
		{"strict", shop.Options{}, "__Host-session", "__Host-served"},
		{"strict, named", shop.Options{CookieName: "__Host-session"}, "__Host-session", "__Host-served"},
		{"development", shop.Options{InsecureCookie: true}, "session", "served"},
		{"development, on a port", shop.Options{InsecureCookie: true, CookieName: "session-8080"}, "session-8080", "served-session-8080"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h, err := shop.New(memstore.New(), "worker-1", &tt.opts)
			if err != nil {
				t.Fatal(err)
			}
			a := serveHandler(t, h).visitor(t).post("/login", "user", "alice", "password", "demo").want(t, http.StatusSeeOther)
			names := map[string]bool{}
			for _, c := range a.Cookies() {
				names[c.Name] = true
				if !c.HttpOnly || c.Path != "/" || c.Domain != "" || c.SameSite != http.SameSiteLaxMode || c.Secure == tt.opts.InsecureCookie {
					t.Errorf("the cookie is %v", c)
				}
			}
			if len(names) != 2 || !names[tt.cookie] || !names[tt.trail] {
				t.Errorf("the cookies are %v, want %s and %s", names, tt.cookie, tt.trail)
			}
		})
	}
}
