package session_test

import (
	"errors"
	"fmt"
	"log"
	"net/http"

	"github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/store/memstore"
)

var tickets = session.NewAttr[int]("tickets")

// Commit before rendering. The middleware commits by itself before the first
// byte leaves, and answers in the handler's place if that fails. A handler that
// shows final values, or tells of a failure in its own words, commits first.
func ExampleSession_Commit() {
	sessions, err := session.New(memstore.New(), nil)
	if err != nil {
		log.Fatal(err)
	}
	buy := func(w http.ResponseWriter, r *http.Request) {
		s := session.From(r.Context())
		err := tickets.Update(s, func(n int) (int, error) { return n + 1, nil })
		if err == nil {
			err = s.Commit(r.Context())
		}
		switch {
		case errors.Is(err, session.ErrEnded):
			http.Error(w, "you were signed out; nothing was bought", http.StatusConflict)
			return
		case err != nil:
			sessions.HandleError(w, r, err)
			return
		}
		n, _ := tickets.Get(s) // what parallel requests bought included
		_, _ = fmt.Fprintln(w, "tickets:", n)
	}
	g := newGuest(sessions.Handler(http.HandlerFunc(buy)))
	g.visit("POST /buy")
	g.visit("POST /buy")
	// Output:
	// POST /buy: 200 tickets: 1
	// POST /buy: 200 tickets: 2
}
