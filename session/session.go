package session

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/coatcheck/coatcheck/session/internal/format"
	"github.com/coatcheck/coatcheck/store"
)

// Session is the session of one request: what was loaded from the store, and a
// journal of what the request changed. It is never shared between requests.
//
// It is safe for concurrent use, by goroutines of the request. SignIn, Renew,
// Destroy and Commit may set a header of the response too, so they belong to
// the goroutine that runs the handler, like [http.ResponseWriter.Header].
// While one of them waits for the store, the other methods wait.
type Session struct {
	m      *Manager
	w      *responseWriter // nil without a response
	nested bool            // another manager's session is in the same request

	mu sync.Mutex
	id format.ID // zero while there is no session in the store
	// key is the id's. base is the record that was last read or written under
	// it, without its Data, and payload that data decoded.
	key     store.Key
	base    store.Record
	payload format.Payload

	attrs   []format.Attr // the values as this request sees them; payload's until changed
	changed bool          // attrs is a copy of its own
	absent  []string      // attributes read and not found
	journal []change      // what turns payload.Attrs into attrs

	used    bool         // From was called
	ended   *EndedError  // the session ended during the request
	broken  error        // the outcome of a commit is open: no more changes
	refused bool         // a change came after ended or broken and was not taken
	cookie  cookieAction // what the browser must be told
}

type cookieAction int

const (
	cookieKeep cookieAction = iota
	cookieSet
	cookieClear
)

// Handle is the public name of a session. It is random, survives a change of
// the session's ID, and grants nothing: show it in device lists and log it.
type Handle store.Handle

// String returns h as 22 characters of base64url, and "" for the zero Handle.
func (h Handle) String() string {
	if h == (Handle{}) {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(h[:])
}

// ParseHandle is the inverse of [Handle.String].
func ParseHandle(s string) (Handle, error) {
	var h Handle
	n, err := base64.RawURLEncoding.Strict().Decode(h[:], []byte(s))
	if err != nil || n != len(h) || len(s) != 22 || h == (Handle{}) {
		return Handle{}, errors.New("session: a handle is 22 characters of base64url, as Handle.String returns it")
	}
	return h, nil
}

// Format implements [fmt.Formatter]: no verb shows more than the handle.
func (s *Session) Format(f fmt.State, _ rune) { _, _ = fmt.Fprintf(f, "session(%v)", s.Handle()) }

// LogValue implements [slog.LogValuer]: no log shows more than the handle.
func (s *Session) LogValue() slog.Value { return slog.StringValue(s.Handle().String()) }

// Owner returns the account that the session belongs to, "" before sign-in.
func (s *Session) Owner() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.base.Owner
}

// Handle returns the public name of the session, zero while the session is not
// in the store.
func (s *Session) Handle() Handle {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Handle(s.base.Handle)
}

// SignedInAt returns when the owner last proved who they are, to the
// millisecond; zero before sign-in.
func (s *Session) SignedInAt() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.payload.SignedInAt
}

// Methods returns how the owner signed in, as given to [Session.SignIn].
func (s *Session) Methods() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, m := range s.payload.Methods {
		out = append(out, string(m))
	}
	return out
}

// Deadline returns the absolute timeout of the session, zero while the session
// is not in the store.
func (s *Session) Deadline() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.exists() {
		return time.Time{}
	}
	return s.m.deadline(s.base)
}

func (s *Session) exists() bool { return s.id != format.ID{} }

// closed returns why the session takes no more changes, or nil.
func (s *Session) closed() error {
	if s.broken != nil {
		return s.broken
	}
	if s.ended != nil {
		return s.ended
	}
	return nil
}

func (s *Session) use() {
	s.mu.Lock()
	s.used = true
	s.mu.Unlock()
}

// setBase makes rec, with its decoded data, what the session is based on, and
// forgets the journal.
func (s *Session) setBase(rec store.Record, p format.Payload) {
	rec.Data = nil
	s.base, s.payload = rec, p
	s.resetChanges()
}

func (s *Session) resetChanges() {
	s.attrs, s.changed = s.payload.Attrs, false
	s.journal, s.absent = nil, nil
}

// forget makes the session a new anonymous one that is not in the store.
func (s *Session) forget() {
	s.id, s.key = format.ID{}, store.Key{}
	s.setBase(store.Record{}, format.Payload{})
}

// endedBy notes that the session ended during the request. The values stay
// readable; changes do not.
func (s *Session) endedBy(r Reason) error {
	if s.ended == nil {
		s.ended = &EndedError{Reason: r}
	}
	s.resetChanges()
	return s.ended
}

// Commit writes the changes of this request to the store now: to show values
// that are final, to learn of an error before anything is shown, or from a
// handler that runs for long, such as a WebSocket's. Without changes it writes
// nothing. The middleware commits what is left.
//
// If other requests changed the session meanwhile, their changes are kept and
// those of this request are applied to them: functions given to [Attr.Update]
// run again, values given to [Attr.Set] win.
//
// It waits at most [Options.CommitTimeout]. A ctx that is canceled does not
// stop it: a client that hangs up must not undo what it asked for. After
// ErrUnavailable and ErrAmbiguous, which leave the outcome open, the session
// takes no more changes in this request. After ErrEnded, ErrRefused,
// ErrConflict and ErrTooLarge the changes are dropped.
func (s *Session) Commit(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.commit(ctx)
}

// commitForResponse commits just before the header leaves and puts the cookie
// into it.
func (s *Session) commitForResponse(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.commit(ctx)
}

// commitLate commits what was changed after the response began. Nobody can be
// told of an error any more but the operator.
func (s *Session) commitLate(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.journal) == 0 && !s.refused {
		return
	}
	if err := s.commit(ctx); err != nil {
		s.m.log().ErrorContext(ctx, "session: a change made after the response began was lost", "error", err)
		s.m.observe(ctx, Event{Kind: EventLateChange, Err: err})
	}
}

// tellBrowser notes what the browser must be told and does so if the header
// has not left.
func (s *Session) tellBrowser(a cookieAction) {
	s.cookie = a
	if s.w != nil && !s.headerSent() {
		s.putCookie(s.w.Header())
	}
}

func (s *Session) headerSent() bool { return s.w != nil && s.w.cookied }

func (s *Session) putCookie(h http.Header) {
	switch s.cookie {
	case cookieSet:
		s.m.cookie.write(h, s.id, s.base.Deadline)
	case cookieClear:
		s.m.cookie.clear(h)
	}
}

// writeCookie puts into h what the browser must be told, if anything.
func (s *Session) writeCookie(h http.Header) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.putCookie(h)
}

func (s *Session) cookiePending() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cookie != cookieKeep
}

// finishHeader completes a header that is about to leave: with the cookie once
// more, since a handler may have dropped it or set a caching policy after it,
// and without a policy of the handler's with one for what belongs to one owner.
func (s *Session) finishHeader(h http.Header) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.putCookie(h)
	if s.used && s.base.Owner != "" && len(h["Cache-Control"]) == 0 {
		h["Cache-Control"] = privateNoStore
	}
}
