package session

import (
	"net/http"
	"time"
)

// RequireRecentSignIn returns next guarded: it runs only for an owner who
// signed in at most maxAge ago, as before a change of password or e-mail
// address (ASVS 7.5.1). Others get denied, which should ask for the password
// again; if denied is nil, they get a 403. It belongs inside of
// [Manager.Handler].
//
// Who would pass by a copy of the session is judged again by the session itself,
// as [Session.Refresh] reads it, so that a revoked one does not pass. If the
// store cannot be reached then, [Options.ErrorHandler] answers.
func (m *Manager) RequireRecentSignIn(maxAge time.Duration, next, denied http.Handler) http.Handler {
	if denied == nil {
		denied = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "Please sign in again to do this.", http.StatusForbidden)
		})
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := m.From(r.Context())
		passes := func() bool { return s.Owner() != "" && time.Since(s.SignedInAt()) <= maxAge }
		if passes() && !m.refreshed(w, r, s) {
			return
		}
		if !passes() {
			denied.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}
