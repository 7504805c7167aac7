package session_test

import (
	"fmt"
	"log"
	"net/http"
	"time"

	"github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/store/memstore"
)

// Ask for the password again before what an attacker at an open laptop would do
// first.
func ExampleManager_RequireRecentSignIn() {
	sessions, err := session.New(memstore.New(), nil)
	if err != nil {
		log.Fatal(err)
	}
	changeEmail := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintln(w, "changed")
	})
	askAgain := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/login?next=/email", http.StatusSeeOther)
	})
	mux := http.NewServeMux()
	mux.Handle("POST /email", sessions.RequireRecentSignIn(5*time.Minute, changeEmail, askAgain))
	mux.HandleFunc("POST /login", func(w http.ResponseWriter, r *http.Request) {
		if err := session.From(r.Context()).SignIn(r.Context(), "alice", nil); err != nil {
			sessions.HandleError(w, r, err)
		}
	})

	g := newGuest(sessions.Handler(mux))
	g.visit("POST /email")
	g.visit("POST /login")
	g.visit("POST /email")
	// Output:
	// POST /email: 303
	// POST /login: 200
	// POST /email: 200 changed
}
