package sessiontest_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/session/sessiontest"
	"github.com/coatcheck/coatcheck/store/memstore"
)

// t stands for the *testing.T of the tests below, which examples do not have.
var t = &testing.T{}

// greet is a function of the app that takes a session.
func greet(s *session.Session) string { return "Hello " + s.Owner() }

// account is a handler of the app.
func account(w http.ResponseWriter, r *http.Request) {
	_, _ = fmt.Fprintln(w, greet(session.From(r.Context())))
}

// A function that takes a session.
func ExampleNew() {
	s := sessiontest.New(t, sessiontest.SignedIn(t, "alice"))
	fmt.Println(greet(s))
	// Output: Hello alice
}

// A handler by itself, without the middleware around it.
func ExampleRequest() {
	r := httptest.NewRequest(http.MethodGet, "/account", nil)
	r = sessiontest.Request(t, nil, r, sessiontest.SignedIn(t, "alice"))
	w := httptest.NewRecorder()
	account(w, r)
	fmt.Print(w.Body)
	// Output: Hello alice
}

// The whole app, as a browser that is signed in sees it.
func ExampleCookie() {
	m, err := session.New(memstore.New(), nil)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /account", account)
	app := m.Handler(mux)

	r := httptest.NewRequest(http.MethodGet, "/account", nil)
	r.AddCookie(sessiontest.Cookie(t, m, sessiontest.SignedIn(t, "alice")))
	w := httptest.NewRecorder()
	app.ServeHTTP(w, r)
	fmt.Print(w.Body)
	// Output: Hello alice
}
