package admin

import (
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

const defaultCookieName = "coatcheck-admin"

// guard lets only those requests through to next that name this machine, do not
// come from another site, and bring the token.
func guard(token, cookieName string, next http.Handler) http.Handler {
	if token == "" {
		panic("admin: no token: everyone could kill processes")
	}
	if cookieName == "" {
		cookieName = defaultCookieName
	}
	want := sha256.Sum256([]byte(token)) // equal lengths, so that the comparison does not tell the token's
	valid := func(s string) bool {
		got := sha256.Sum256([]byte(s))
		return subtle.ConstantTimeCompare(got[:], want[:]) == 1
	}

	authorized := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("token") {
			signIn(w, r, valid, &http.Cookie{
				Name: cookieName, Value: token, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode,
			})
			return
		}
		if !valid(bearer(r)) && !anyCookie(r, cookieName, valid) {
			w.Header().Set("WWW-Authenticate", `Bearer realm="coatcheck admin"`)
			writeError(w, http.StatusUnauthorized, "this needs the token that `coatcheck up` prints: open the admin address with ?token=…, or send Authorization: Bearer …")
			return
		}
		next.ServeHTTP(w, r)
	})

	crossOrigin := http.NewCrossOriginProtection()
	crossOrigin.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		writeError(w, http.StatusForbidden, "a page of another origin may not do this")
	}))
	sameOrigin := crossOrigin.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// A page of another origin could not read a stream, but keep it open, and those
		// are few. The check lets every GET through, so it is asked about a POST.
		if probe := *r; r.URL.Path == streamPath {
			probe.Method = http.MethodPost
			if crossOrigin.Check(&probe) != nil {
				writeError(w, http.StatusForbidden, "a page of another origin may not do this")
				return
			}
		}
		authorized.ServeHTTP(w, r)
	}))

	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("Referrer-Policy", "no-referrer") // an address may hold the token
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Content-Security-Policy", contentSecurityPolicy)
		// DNS rebinding: a name of the attacker's that resolves to 127.0.0.1
		// makes this the same origin as the attacker's page. What the browser
		// sends as Host cannot be forged by the page.
		if !loopbackHost(r.Host) {
			writeError(w, http.StatusMisdirectedRequest, "this is not the host of the admin interface; use 127.0.0.1 or localhost")
			return
		}
		sameOrigin.ServeHTTP(w, r)
	})
}

// signIn answers a request whose address holds a token: the token moves into a
// cookie, out of the address bar and the history.
func signIn(w http.ResponseWriter, r *http.Request, valid func(string) bool, c *http.Cookie) {
	q := r.URL.Query()
	tokens := q["token"]
	if len(tokens) != 1 || !valid(tokens[0]) {
		writeError(w, http.StatusUnauthorized, "the token in the address is not the one of this run; open the address that `coatcheck up` printed last")
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		writeError(w, http.StatusBadRequest, "the token goes into the Authorization header, not into the address")
		return
	}
	http.SetCookie(w, c)
	q.Del("token")
	to := *r.URL
	to.RawQuery = q.Encode()
	to.Scheme, to.Host, to.User = "", "", nil
	// "//host" would be another site.
	to.Path = "/" + strings.TrimLeft(to.Path, "/")
	to.RawPath = ""
	w.Header().Set("Location", to.String())
	w.WriteHeader(http.StatusSeeOther)
}

// bearer returns the bearer token of the request, or "", which is never valid.
func bearer(r *http.Request) string {
	values := r.Header.Values("Authorization")
	if len(values) != 1 {
		return ""
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "Bearer") { // RFC 9110 §11.1
		return ""
	}
	return token
}

func anyCookie(r *http.Request, name string, valid func(string) bool) bool {
	for _, c := range r.CookiesNamed(name) {
		if valid(c.Value) {
			return true
		}
	}
	return false
}

// loopbackHost reports whether a Host header names this machine by an address
// that no DNS server decides. Any port will do: an SSH tunnel changes it.
func loopbackHost(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = strings.TrimSuffix(strings.TrimPrefix(hostport, "["), "]")
	}
	return loopback(host)
}

func loopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback()
}
