package session_test

import (
	"fmt"
	"log"
	"net/http"

	"github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/store/memstore"
)

// Sign in and out. SignIn gives the session a new ID, so one that an attacker
// planted before is worth nothing. Both do their work at once and say whether it
// worked.
func ExampleSession_SignIn() {
	sessions, err := session.New(memstore.New(), nil)
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /login", func(w http.ResponseWriter, r *http.Request) {
		user := r.FormValue("user")
		if r.FormValue("password") != "open sesame" { // a real app compares hashes
			http.Error(w, "wrong password", http.StatusUnauthorized)
			return
		}
		err := session.From(r.Context()).SignIn(r.Context(), user, &session.SignInOptions{
			Methods: []string{"password"},
			Label:   r.UserAgent(),
		})
		if err != nil {
			sessions.HandleError(w, r, err)
			return
		}
		_, _ = fmt.Fprintln(w, "welcome")
	})
	mux.HandleFunc("POST /logout", func(w http.ResponseWriter, r *http.Request) {
		if err := session.From(r.Context()).Destroy(r.Context()); err != nil {
			sessions.HandleError(w, r, err)
			return
		}
		_, _ = fmt.Fprintln(w, "goodbye")
	})
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, "you are %q\n", session.From(r.Context()).Owner())
	})

	// A browser on another site must not sign anybody in or out.
	g := newGuest(http.NewCrossOriginProtection().Handler(sessions.Handler(mux)))
	g.visit("GET /")
	g.visit("POST /login?user=alice&password=guess")
	g.visit("POST /login?user=alice&password=open+sesame")
	g.visit("GET /")
	g.visit("POST /logout")
	g.visit("GET /")
	// Output:
	// GET /: 200 you are ""
	// POST /login?user=alice&password=guess: 401 wrong password
	// POST /login?user=alice&password=open+sesame: 200 welcome
	// GET /: 200 you are "alice"
	// POST /logout: 200 goodbye
	// GET /: 200 you are ""
}
