package session_test

import (
	"context"
	"fmt"
	"log"
	"net/http"

	"github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/memstore"
)

// Where the store has copies, as a near cache does, a session that was ended on
// another server works here a moment longer. Wrap the routes on which it must
// not.
func ExampleFresh() {
	st := memstore.New()
	here, err := session.New(&cached{Store: st}, nil)
	if err != nil {
		log.Fatal(err)
	}
	elsewhere, err := session.New(st, nil)
	if err != nil {
		log.Fatal(err)
	}
	whose := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, "for %q", session.From(r.Context()).Owner())
	})
	mux := http.NewServeMux()
	mux.Handle("GET /catalogue", whose)
	mux.Handle("POST /pay", session.Fresh(whose))
	mux.HandleFunc("POST /login", func(w http.ResponseWriter, r *http.Request) {
		if err := session.From(r.Context()).SignIn(r.Context(), "alice", nil); err != nil {
			here.HandleError(w, r, err)
		}
	})

	g := newGuest(here.Handler(mux))
	g.visit("POST /login")
	g.visit("GET /catalogue")
	if _, err := elsewhere.RevokeAll(context.Background(), "alice"); err != nil {
		log.Fatal(err)
	}
	g.visit("GET /catalogue")
	g.visit("POST /pay")
	// Output:
	// POST /login: 200
	// GET /catalogue: 200 for "alice"
	// GET /catalogue: 200 for "alice"
	// POST /pay: 200 for ""
}

// cached is a store that remembers the last record it has read.
type cached struct {
	*memstore.Store
	key  store.Key
	copy store.Record
}

func (c *cached) Get(ctx context.Context, k store.Key) (store.Record, error) {
	if k == c.key {
		return c.copy, nil
	}
	rec, err := c.Store.Get(ctx, k)
	if err == nil {
		c.key, c.copy = k, rec
	}
	return rec, err
}

func (c *cached) GetFresh(ctx context.Context, k store.Key) (store.Record, error) {
	return c.Store.Get(ctx, k)
}
