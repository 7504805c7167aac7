package session_test

import (
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net/http"

	"github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/memstore"
	"github.com/coatcheck/coatcheck/store/storetest"
)

// Answer the errors of sessions in the app's own way: here as JSON. The handler
// runs in place of the app's, when a session cannot be loaded, or before its
// first byte, when the changes cannot be committed.
func ExampleOptions_errorHandler() {
	outage := storetest.NewFaults(memstore.New(), nil) // a store that can fail
	sessions, err := session.New(outage, &session.Options{
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			status := session.StatusCode(err)
			if errors.Is(err, session.ErrUnavailable) {
				w.Header().Set("Retry-After", "1")
			}
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_, _ = fmt.Fprintf(w, `{"error":%q}`, http.StatusText(status))
		},
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		log.Fatal(err)
	}
	page := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			if err := session.From(r.Context()).SignIn(r.Context(), "alice", nil); err != nil {
				sessions.HandleError(w, r, err)
				return
			}
		}
		_, _ = fmt.Fprintf(w, "%q", session.From(r.Context()).Owner())
	})

	g, stranger := newGuest(sessions.Handler(page)), newGuest(sessions.Handler(page))
	g.visit("POST /login")
	outage.SetHook(storetest.Every(storetest.Fault{Err: store.ErrAmbiguous}))
	g.visit("GET /")
	stranger.visit("GET /") // who has no session needs no store
	outage.SetHook(nil)
	g.visit("GET /") // and nobody was signed out
	// Output:
	// POST /login: 200 "alice"
	// GET /: 503 {"error":"Service Unavailable"}
	// GET /: 200 ""
	// GET /: 200 "alice"
}
