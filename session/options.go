package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"
)

// Policy is how long sessions live. Both limits are kept on the server.
type Policy struct {
	// Idle ends a session that has seen no request for so long (ASVS 7.3.1).
	// Activity is recorded at most once per tenth of it, so the timeout that a
	// user sees lies between 0.9 and 1 of what is set.
	Idle time.Duration
	// Absolute ends a session so long after it began or its owner signed in,
	// whatever its activity (ASVS 7.3.2).
	Absolute time.Duration
}

// Policies of the authentication assurance levels of NIST SP 800-63B-4. AAL1
// asks for no idle timeout, so it is as long as the absolute one.
var (
	AAL1 = Policy{Idle: 30 * 24 * time.Hour, Absolute: 30 * 24 * time.Hour}
	AAL2 = Policy{Idle: time.Hour, Absolute: 24 * time.Hour}
	AAL3 = Policy{Idle: 15 * time.Minute, Absolute: 12 * time.Hour}
)

// maxAbsolute is the longest life of a cookie in today's browsers
// (RFC 6265bis §5.5: at most 400 days).
const maxAbsolute = 400 * 24 * time.Hour

// Options configures a [Manager]. The zero value is a good choice.
type Options struct {
	// Policy is how long sessions live. If zero, AAL2: one hour idle, 24 hours
	// in all; a part of it that is zero takes AAL2's. A policy that is made
	// shorter applies to existing sessions too.
	Policy Policy

	// Cookie shapes the cookie. If zero, it is a strict __Host-session.
	Cookie Cookie

	// InsecureCookie, if true, lets the cookie travel over plain HTTP, for
	// development: no Secure attribute and no __Host- prefix. If false, only
	// browsers on HTTPS send it.
	InsecureCookie bool

	// StoreTimeout is the deadline of one call to the store. When the read that a
	// request begins with fails sooner, another is made in what is left of it. If
	// zero, 2 s.
	StoreTimeout time.Duration

	// CommitTimeout is the bound on a commit with all its retries. If zero, 5 s.
	CommitTimeout time.Duration

	// MaxSize is the greatest size of a session's values in bytes. If zero,
	// 64 KiB. Above 4 KiB a warning is logged: keep large things in a database
	// and their keys in the session.
	MaxSize int

	// RejectStaleSet, if true, makes a commit fail with ErrConflict when it sets
	// an attribute that the request had read and another request has changed
	// since. If false, the later Set wins, and it is logged and observed.
	RejectStaleSet bool

	// Unsealed, if true, stores values readable in the database instead of
	// encrypted under a key that only the cookie holds, and accepts records that
	// are stored so. If false, such records are refused.
	Unsealed bool

	// Skip reports requests that need no session, such as static files and
	// health checks. They never touch the store. If nil, none is skipped.
	Skip func(*http.Request) bool

	// Logout reports the requests that end the session. When the store cannot
	// be reached, their cookie is cleared all the same (and the answer is the
	// 503 of the outage); put cross-origin protection outside of the Handler, so
	// that it comes first. If nil, no request is known to be one.
	Logout func(*http.Request) bool

	// ErrorHandler answers a request whose session could not be loaded or
	// committed. Nothing has been written yet. If nil, DefaultErrorHandler.
	ErrorHandler func(http.ResponseWriter, *http.Request, error)

	// Logger receives warnings and errors, none of which holds a session ID, a
	// store key, an owner or a value. That a request got no session, or could not
	// store its changes, because a circuit breaker is open ([store.ErrNotAsked]) is
	// logged at debug level only: an outage makes it the answer to each. If nil,
	// slog.Default().
	Logger *slog.Logger

	// Observer is called for each event worth counting or measuring, several times
	// for each request: it must be fast and safe for concurrent use. The context is
	// that of the request or call, and may have ended. One that asks the
	// store itself, as by Ping, is told of that too, and must not do so for each call. If
	// nil, nothing is measured, and what is wrong is only logged.
	Observer func(context.Context, Event)
}

const (
	defaultStoreTimeout  = 2 * time.Second
	defaultCommitTimeout = 5 * time.Second
	defaultMaxSize       = 64 << 10
	warnSize             = 4 << 10
)

// withDefaults returns a copy of o, which may be nil, with every default filled
// in, or an error that says what to change.
func (o *Options) withDefaults() (Options, error) {
	var out Options
	if o != nil {
		out = *o
	}
	if out.Policy.Absolute == 0 {
		out.Policy.Absolute = AAL2.Absolute
	}
	if out.Policy.Idle == 0 {
		out.Policy.Idle = min(AAL2.Idle, out.Policy.Absolute)
	}
	if out.StoreTimeout == 0 {
		out.StoreTimeout = defaultStoreTimeout
	}
	if out.CommitTimeout == 0 {
		out.CommitTimeout = defaultCommitTimeout
	}
	if out.MaxSize == 0 {
		out.MaxSize = defaultMaxSize
	}
	if out.ErrorHandler == nil {
		out.ErrorHandler = DefaultErrorHandler
	}
	switch p := out.Policy; {
	case p.Idle < time.Second:
		return Options{}, fmt.Errorf("session: Policy.Idle is %v; it must be at least 1s", p.Idle)
	case p.Absolute < p.Idle:
		return Options{}, fmt.Errorf("session: Policy.Absolute is %v, shorter than Policy.Idle, %v; set both", p.Absolute, p.Idle)
	case p.Absolute > maxAbsolute:
		return Options{}, fmt.Errorf("session: Policy.Absolute is %v; browsers keep no cookie longer than 400 days", p.Absolute)
	case out.StoreTimeout < 0 || out.CommitTimeout < 0:
		return Options{}, errors.New("session: StoreTimeout and CommitTimeout must be positive")
	case out.MaxSize < 0:
		return Options{}, errors.New("session: MaxSize must be positive")
	}
	out.Policy.Idle = out.Policy.Idle.Truncate(time.Millisecond)
	return out, nil
}
