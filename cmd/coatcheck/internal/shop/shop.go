// Package shop is a small web shop that keeps nothing between two requests: any
// server of a fleet can answer any of them. It is what `coatcheck up` serves,
// and shows how an app uses package session.
package shop

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"

	"github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/store"
)

// Options configures a shop. The zero value is one for HTTPS.
type Options struct {
	// CookieName is the name of the session cookie. If zero, it is
	// "__Host-session", or "session" if it is insecure.
	CookieName string

	// InsecureCookie, if true, lets the cookies travel over plain HTTP, for
	// development. If false, browsers send them over HTTPS only.
	InsecureCookie bool

	// Draining reports whether the server is about to stop: GET /readyz is then
	// 503. If nil, it never is.
	Draining func() bool

	// Details returns what GET /readyz says besides whether the store answers. If
	// nil, it says nothing more.
	Details func() map[string]string

	// Logger receives warnings and errors. If nil, slog.Default().
	Logger *slog.Logger

	// Observer is told of the sessions' events. If nil, nobody is.
	Observer func(context.Context, session.Event)
}

// serverName keeps a name harmless in a header, in a cookie and in a page.
var serverName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,80}$`)

// New returns the shop as the server of that name serves it, with its sessions
// in st. The shops over one store are one shop. The name is what X-Served-By
// says.
func New(st store.Store, name string, opts *Options) (http.Handler, error) {
	if !serverName.MatchString(name) {
		return nil, fmt.Errorf("shop: %q cannot be a server's name; use 1 to 80 letters, digits, dots, dashes and underscores", name)
	}
	if opts == nil {
		opts = &Options{}
	}
	s := &shop{name: name, cookie: opts.CookieName, logger: opts.Logger}
	switch {
	case s.cookie != "":
	case opts.InsecureCookie:
		s.cookie = "session"
	default:
		s.cookie = "__Host-session"
	}
	if s.logger == nil {
		s.logger = slog.Default()
	}
	var err error
	s.sessions, err = session.New(st, &session.Options{
		Cookie:         session.Cookie{Name: s.cookie},
		InsecureCookie: opts.InsecureCookie,
		Skip:           isHealthCheck,
		Logout:         isLogout,
		ErrorHandler:   s.answerSessionError,
		Logger:         s.logger,
		Observer:       opts.Observer,
	})
	if err != nil {
		return nil, fmt.Errorf("shop: %w", err)
	}
	s.ready = s.sessions.Readiness(&session.ReadinessOptions{Draining: opts.Draining, Details: opts.Details})
	s.trail = newTrail(name, opts.CookieName, opts.InsecureCookie)
	return s.handler(), nil
}

type shop struct {
	name     string
	sessions *session.Manager
	cookie   string // the name of the session cookie
	trail    trail
	ready    http.Handler // answers GET /readyz
	logger   *slog.Logger
}

const (
	pathHealth = "/healthz"
	pathReady  = "/readyz"
	pathLogout = "/logout"
)

func isHealthCheck(r *http.Request) bool {
	return r.URL.Path == pathHealth || r.URL.Path == pathReady
}

func isLogout(r *http.Request) bool {
	return r.Method == http.MethodPost && r.URL.Path == pathLogout
}

func (s *shop) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+pathHealth, s.health)
	mux.Handle("GET "+pathReady, s.ready)
	for pattern, h := range map[string]handler{
		"GET /{$}":                     s.front,
		"GET /api/session":             s.apiSession,
		"POST /cart":                   s.addToCart,
		"POST /login":                  s.login,
		"POST " + pathLogout:           s.logout,
		"GET /sessions":                s.devices,
		"POST /sessions/revoke":        s.revoke,
		"POST /sessions/revoke-others": s.revokeOthers,
	} {
		mux.Handle(pattern, s.with(h))
	}

	// Outside of the sessions: a page of another site may not even end one.
	sameOrigin := http.NewCrossOriginProtection()
	sameOrigin.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.answerError(w, r, http.StatusForbidden, "This form was sent from another site, so nothing was done.")
	}))
	h := sameOrigin.Handler(s.sessions.Handler(s.explain(mux)))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.setHeaders(w.Header())
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		h.ServeHTTP(w, r)
	})
}

func (s *shop) setHeaders(h http.Header) {
	h.Set("X-Served-By", s.name)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", contentSecurityPolicy)
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	// Not no-referrer: with that, browsers send "Origin: null" with our own
	// forms, and over plain HTTP there is no Sec-Fetch-Site to tell that they are
	// ours.
	h.Set("Referrer-Policy", "same-origin")
	// Every answer names its server and most belong to one visitor.
	h.Set("Cache-Control", "no-store")
}

// handler answers a request or returns why it cannot: a *refusal if it is the
// visitor's to mend, or an error of package session.
type handler func(http.ResponseWriter, *http.Request, *session.Session) error

func (s *shop) with(h handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sess := s.sessions.From(r.Context())
		err := h(w, r, sess)
		if err == nil {
			return
		}
		if no, ok := errors.AsType[*refusal](err); ok {
			s.refuse(w, r, sess, no)
			return
		}
		if session.StatusCode(err) >= http.StatusInternalServerError && !errors.Is(err, store.ErrNotAsked) { // which the circuit tells once
			s.logger.ErrorContext(r.Context(), "shop: request failed", "method", r.Method, "path", r.URL.Path, "error", err)
		}
		s.sessions.HandleError(w, r, err)
	})
}

// explain answers what the mux has no route for, in the format of all the other
// errors.
func (s *shop) explain(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h, pattern := mux.Handler(r)
		if pattern != "" {
			mux.ServeHTTP(w, r) // sets what the pattern matched, as h would not
			return
		}
		no := statusOnly{header: http.Header{}}
		h.ServeHTTP(&no, r)
		if no.status == http.StatusMethodNotAllowed {
			w.Header().Set("Allow", no.header.Get("Allow"))
			s.answerError(w, r, no.status, "This address does not answer "+r.Method+" requests.")
			return
		}
		// The mux would send a path like //x first to /x, where nothing is either.
		s.answerError(w, r, http.StatusNotFound, "There is nothing at this address.")
	})
}

// statusOnly keeps the status and the header of an answer.
type statusOnly struct {
	header http.Header
	status int
}

func (s *statusOnly) Header() http.Header         { return s.header }
func (s *statusOnly) WriteHeader(status int)      { s.status = status }
func (s *statusOnly) Write(b []byte) (int, error) { return len(b), nil }
