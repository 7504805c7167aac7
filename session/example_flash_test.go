package session_test

import (
	"fmt"
	"log"
	"net/http"

	"github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/store/memstore"
)

var notices = session.NewFlash[string]("notices")

// A message for the next page, shown once: the form redirects, the page tells.
func ExampleFlash() {
	sessions, err := session.New(memstore.New(), nil)
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /address", func(w http.ResponseWriter, r *http.Request) {
		if err := notices.Add(session.From(r.Context()), "Your address was saved."); err != nil {
			sessions.HandleError(w, r, err)
			return
		}
		http.Redirect(w, r, "/", http.StatusSeeOther)
	})
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
		list, err := notices.Pop(session.From(r.Context()))
		if err != nil {
			sessions.HandleError(w, r, err)
			return
		}
		_, _ = fmt.Fprintf(w, "%q\n", list)
	})

	g := newGuest(sessions.Handler(mux))
	g.visit("POST /address")
	g.visit("GET /")
	g.visit("GET /")
	// Output:
	// POST /address: 303
	// GET /: 200 ["Your address was saved."]
	// GET /: 200 []
}
