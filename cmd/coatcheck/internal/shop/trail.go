package shop

import (
	"net/http"
	"slices"
	"strings"
	"time"
)

// trail remembers which servers answered the recent requests of a visitor. It
// is no secret and no state of the shop: a GET may not write to the session, so
// it lives in a cookie of its own, which may be lost, forged or cut short
// without harm.
//
// Only visitors with a session have one: who keeps nothing gets no cookie.
type trail struct {
	server string
	cookie http.Cookie
}

const (
	trailLength = 12
	trailLife   = time.Hour
	trailJoin   = "~" // in no server's name, and allowed in a cookie's value
)

func newTrail(server, sessionCookie string, insecure bool) trail {
	name := "__Host-served"
	if insecure {
		// Cookies cross the ports of a host; the session's name tells shops apart.
		name = "served"
		if sessionCookie != "" {
			name = "served-" + sessionCookie
		}
	}
	return trail{server, http.Cookie{
		Name: name, Path: "/", HttpOnly: true, Secure: !insecure, SameSite: http.SameSiteLaxMode,
	}}
}

// extend returns the servers of the recent requests, this one last, and has the
// browser remember them if keep.
func (t *trail) extend(w http.ResponseWriter, r *http.Request, keep bool) []string {
	old := t.read(r)
	c := t.cookie
	if !keep {
		if len(r.CookiesNamed(c.Name)) > 0 {
			c.MaxAge = -1
			http.SetCookie(w, &c)
		}
		return []string{t.server}
	}
	servers := append(old, t.server)
	servers = servers[max(0, len(servers)-trailLength):]
	c.Value = strings.Join(servers, trailJoin)
	c.MaxAge = int(trailLife / time.Second)
	http.SetCookie(w, &c)
	return servers
}

// read returns what the browser remembers, or nothing if that is not exactly
// what a server can have written.
func (t *trail) read(r *http.Request) []string {
	cookies := r.CookiesNamed(t.cookie.Name)
	if len(cookies) != 1 {
		return nil
	}
	servers := strings.SplitN(cookies[0].Value, trailJoin, trailLength+1)
	if len(servers) > trailLength || slices.ContainsFunc(servers, func(s string) bool { return !serverName.MatchString(s) }) {
		return nil
	}
	return servers
}
