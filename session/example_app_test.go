package session_test

import (
	"fmt"
	"log"
	"net/http"

	"github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/store/memstore"
)

var visits = session.NewAttr[int]("visits")

func hello(w http.ResponseWriter, r *http.Request) {
	s := session.From(r.Context())
	if err := visits.Update(s, func(n int) (int, error) { return n + 1, nil }); err != nil {
		log.Print(err)
	}
	n, _ := visits.Get(s)
	_, _ = fmt.Fprintf(w, "This is your visit number %d.\n", n)
}

// A whole app with sessions. A shared store in place of memstore lets any number
// of servers run it; without InsecureCookie it wants HTTPS.
func Example_app() {
	sessions, err := session.New(memstore.New(), &session.Options{InsecureCookie: true})
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(http.ListenAndServe("localhost:8080", sessions.Handler(http.HandlerFunc(hello))))
}
