package session_test

import (
	"fmt"
	"log"
	"net/http"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/store/memstore"
)

// A pointer to a generated message is stored as Protobuf. Its unknown fields and
// the rules of the format let versions of an app share a message.
var lastOrder = session.NewAttr[*timestamppb.Timestamp]("last-order")

func ExampleNewAttr_protobuf() {
	sessions, err := session.New(memstore.New(), nil)
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /order", func(w http.ResponseWriter, r *http.Request) {
		now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
		if err := lastOrder.Set(session.From(r.Context()), timestamppb.New(now)); err != nil {
			sessions.HandleError(w, r, err)
		}
	})
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
		at, err := lastOrder.Get(session.From(r.Context()))
		if err != nil {
			sessions.HandleError(w, r, err)
			return
		}
		_, _ = fmt.Fprintln(w, "last order:", at.AsTime().Format(time.DateTime))
	})

	g := newGuest(sessions.Handler(mux))
	g.visit("POST /order")
	g.visit("GET /")
	// Output:
	// POST /order: 200
	// GET /: 200 last order: 2026-03-01 12:00:00
}
