package main

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/worker"
	"github.com/coatcheck/coatcheck/session"
)

// TEMPORARY until internal/shop is there.
func newShop(m *session.Manager, s worker.Site) (http.Handler, error) {
	mux := http.NewServeMux()
	n := session.NewAttr[int]("n")
	mux.HandleFunc("GET /api/session", func(w http.ResponseWriter, r *http.Request) {
		v, _ := n.Get(m.From(r.Context()))
		json.NewEncoder(w).Encode(map[string]any{"served_by": s.Name, "n": v})
	})
	mux.HandleFunc("POST /cart", func(w http.ResponseWriter, r *http.Request) {
		n.Update(m.From(r.Context()), func(i int) (int, error) { return i + 1, nil })
	})
	mux.HandleFunc("GET /slow", func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(time.Second)
	})
	outer := http.NewServeMux()
	outer.Handle("/", m.Handler(mux))
	outer.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if s.Draining() {
			w.WriteHeader(503)
		}
	})
	return outer, nil
}
