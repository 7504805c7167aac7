package session_test

import (
	"fmt"
	"log"
	"net/http"

	"github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/store/memstore"
)

// Two kinds of sessions in one app: customers', and those of the staff, which
// are shorter and have a cookie of their own. Both may share one store. With
// several managers, use the From method of the one that is meant.
func Example_severalManagers() {
	st := memstore.New()
	customers, err := session.New(st, nil)
	if err != nil {
		log.Fatal(err)
	}
	staff, err := session.New(st, &session.Options{
		Policy: session.AAL3,
		Cookie: session.Cookie{Name: "__Host-staff", SameSite: http.SameSiteStrictMode},
	})
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /login", func(w http.ResponseWriter, r *http.Request) {
		if err := customers.From(r.Context()).SignIn(r.Context(), "customer 17", nil); err != nil {
			customers.HandleError(w, r, err)
		}
	})
	mux.HandleFunc("POST /staff/login", func(w http.ResponseWriter, r *http.Request) {
		if err := staff.From(r.Context()).SignIn(r.Context(), "staff bob", nil); err != nil {
			staff.HandleError(w, r, err)
		}
	})
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, "%q, %q\n", customers.From(r.Context()).Owner(), staff.From(r.Context()).Owner())
	})

	g := newGuest(customers.Handler(staff.Handler(mux)))
	g.visit("POST /login")
	g.visit("POST /staff/login")
	g.visit("GET /")
	// Output:
	// POST /login: 200
	// POST /staff/login: 200
	// GET /: 200 "customer 17", "staff bob"
}
