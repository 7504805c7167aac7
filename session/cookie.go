package session

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/coatcheck/coatcheck/session/internal/format"
)

// Cookie shapes the session cookie. It is always HttpOnly, and always Secure
// unless [Options.InsecureCookie] says otherwise (ASVS 3.3.1 to 3.3.5).
type Cookie struct {
	// Name of the cookie. If zero, "__Host-session", or "__Secure-session" if
	// Domain or Path widen or narrow it, or "session" if it is insecure. Give
	// each manager of an app a name of its own. Where the store may answer from a
	// copy ([store.FreshReader]), the name with "-v" behind it is taken as well.
	Name string
	// Domain shares the cookie with the subdomains of a domain. If zero, only
	// the host that set it gets it.
	Domain string
	// Path limits the cookie to a part of the site. If zero, "/".
	Path string
	// SameSite says which requests from other sites carry the cookie. If zero,
	// http.SameSiteLaxMode.
	SameSite http.SameSite
	// Partitioned, if true, keeps a cookie jar per embedding site (CHIPS). If
	// false, there is one jar.
	Partitioned bool
	// Persistent, if true, keeps the cookie when the browser is closed, up to
	// the absolute timeout. If false, it ends with the browser's session.
	Persistent bool
}

// transport carries the session ID between browser and server.
type transport interface {
	// read returns the ID that the request carries, if it carries exactly one
	// and that is well-formed, and what version its browser has seen, zero under
	// the same condition.
	read(http.Header) (id format.ID, seen format.Seen, ok bool)
	// write hands the ID to the browser.
	write(h http.Header, id format.ID, deadline time.Time)
	// writeSeen tells the browser the version last written.
	writeSeen(h http.Header, seen format.Seen, deadline time.Time)
	// clear makes the browser forget both.
	clear(http.Header)
	// clearSeen makes it forget the version.
	clearSeen(http.Header)
}

// cookieTransport is the transport by cookie.
type cookieTransport struct {
	template   http.Cookie
	persistent bool
	// seenName is the name of the second cookie, "" if there is none.
	seenName string
}

// seenSuffix makes the name of the second cookie from that of the first.
const seenSuffix = "-v"

// newCookieTransport returns the transport by a cookie c; with seen, and by a
// second one for the version.
func newCookieTransport(c Cookie, insecure, seen bool) (*cookieTransport, error) {
	if c.Path == "" {
		c.Path = "/"
	}
	if c.SameSite == 0 || c.SameSite == http.SameSiteDefaultMode {
		c.SameSite = http.SameSiteLaxMode
	}
	prefix := "__Host-"
	switch {
	case insecure:
		prefix = ""
	case c.Domain != "" || c.Path != "/":
		prefix = "__Secure-"
	}
	if c.Name == "" {
		c.Name = prefix + "session"
	}
	hasPrefix := func(p string) bool { // browsers match the prefixes without regard to case
		return len(c.Name) >= len(p) && strings.EqualFold(c.Name[:len(p)], p)
	}
	switch {
	case insecure && (hasPrefix("__Host-") || hasPrefix("__Secure-")):
		return nil, fmt.Errorf("session: browsers refuse the cookie %q without Secure; choose a name without that prefix for InsecureCookie", c.Name)
	case insecure && c.SameSite == http.SameSiteNoneMode, insecure && c.Partitioned:
		return nil, errors.New("session: SameSite=None and Partitioned cookies must be Secure; leave InsecureCookie off")
	case c.SameSite < http.SameSiteLaxMode || c.SameSite > http.SameSiteNoneMode:
		return nil, fmt.Errorf("session: Cookie.SameSite is %d, which is none of the http.SameSite modes", c.SameSite)
	case c.Path[0] != '/': // browsers would put one of their own in its place (RFC 6265bis §5.7)
		return nil, fmt.Errorf("session: Cookie.Path is %q; it must begin with \"/\"", c.Path)
	case !strings.HasPrefix(c.Name, prefix):
		return nil, fmt.Errorf("session: cookie name %q must begin with %q, so that no other host or plain HTTP can set it", c.Name, prefix)
	}
	t := &cookieTransport{
		template: http.Cookie{
			Name: c.Name, Path: c.Path, Domain: c.Domain, SameSite: c.SameSite,
			Secure: !insecure, HttpOnly: true, Partitioned: c.Partitioned,
		},
		persistent: c.Persistent,
	}
	if seen {
		t.seenName = c.Name + seenSuffix
	}
	try := t.template
	try.Value = strings.Repeat("A", format.EncodedIDSize)
	if err := try.Valid(); err != nil {
		return nil, fmt.Errorf("session: bad cookie options: %w", err)
	}
	if len(try.Name)+len(try.Value) > 4096 {
		return nil, errors.New("session: cookie name and value exceed 4096 bytes; shorten the name")
	}
	return t, nil
}

// read scans the Cookie headers itself, once for both names: net/http's parser
// would build a slice of every cookie of every request.
func (t *cookieTransport) read(h http.Header) (id format.ID, seen format.Seen, ok bool) {
	found, foundSeen := false, false
	for _, line := range h["Cookie"] {
		for line != "" {
			var pair string
			pair, line, _ = strings.Cut(line, ";")
			name, value, _ := strings.Cut(pair, "=")
			switch name = strings.Trim(name, " \t"); {
			case name == t.template.Name:
				if found {
					// Two cookies of one name: one was planted from elsewhere, and
					// nothing tells which.
					return format.ID{}, format.Seen{}, false
				}
				found = true
				id, ok = format.ParseID(strings.TrimRight(value, " \t"))
			case t.seenName != "" && name == t.seenName:
				seen, _ = format.ParseSeen(strings.TrimRight(value, " \t"))
				if foundSeen {
					seen = format.Seen{}
				}
				foundSeen = true
			}
		}
	}
	return id, seen, ok
}

func (t *cookieTransport) write(h http.Header, id format.ID, deadline time.Time) {
	t.put(h, t.template.Name, id.Encode(), deadline)
}

func (t *cookieTransport) writeSeen(h http.Header, seen format.Seen, deadline time.Time) {
	t.put(h, t.seenName, seen.Encode(), deadline)
}

func (t *cookieTransport) put(h http.Header, name, value string, deadline time.Time) {
	c := t.template
	c.Name, c.Value = name, value
	if t.persistent {
		c.MaxAge = max(1, int(time.Until(deadline)/time.Second))
	}
	t.set(h, &c)
}

func (t *cookieTransport) clear(h http.Header) {
	t.expire(h, t.template.Name)
	if t.seenName != "" {
		t.clearSeen(h)
	}
}

func (t *cookieTransport) clearSeen(h http.Header) { t.expire(h, t.seenName) }

func (t *cookieTransport) expire(h http.Header, name string) {
	c := t.template
	c.Name, c.MaxAge = name, -1
	t.set(h, &c)
}

// set puts the cookie in place of one that the same response set before, and
// forbids caches to keep the response.
func (t *cookieTransport) set(h http.Header, c *http.Cookie) {
	old := h["Set-Cookie"]
	lines := make([]string, 0, len(old)+1)
	for _, line := range old {
		if !strings.HasPrefix(line, c.Name+"=") {
			lines = append(lines, line)
		}
	}
	h["Set-Cookie"] = append(lines, c.String())
	h.Set("Cache-Control", "no-store")
}
