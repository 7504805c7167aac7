package shop

import (
	"context"
	"net/http"
	"time"
)

// health says that the process serves. It asks nobody else: a restart would not
// mend a store.
func (s *shop) health(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, struct {
		Status string `json:"status"`
	}{"ok"})
}

// pingTimeout is well below a balancer's patience with a health check: a store
// that hangs must not make the servers look dead.
const pingTimeout = 300 * time.Millisecond

// ready says whether requests should come here. The store's state is for people
// to read: if it counted, one outage would take every server out of the
// balancer, and with them the visitors who need no session.
func (s *shop) ready(w http.ResponseWriter, r *http.Request) {
	answer := struct {
		Status string `json:"status"`
		Store  string `json:"store"`
		StoreState
	}{Status: "ready", Store: "ok"}
	ctx, cancel := context.WithTimeout(r.Context(), pingTimeout)
	defer cancel()
	if err := s.sessions.Ping(ctx); err != nil {
		answer.Store = "unavailable"
	}
	answer.StoreState = s.store() // after the ping, which the breaker counts
	status := http.StatusOK
	if s.draining() {
		answer.Status, status = "draining", http.StatusServiceUnavailable
	}
	writeJSON(w, status, answer)
}
