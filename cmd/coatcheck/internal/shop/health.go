package shop

import "net/http"

// health says that the process serves. It asks nobody else: a restart would not
// mend a store.
func (s *shop) health(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, struct {
		Status string `json:"status"`
	}{"ok"})
}
