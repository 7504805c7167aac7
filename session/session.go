package session

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coatcheck/coatcheck/session/internal/format"
	"github.com/coatcheck/coatcheck/store"
)

// Session is the session of one request: what was loaded from the store, and a
// journal of what the request changed. It is never shared between requests.
//
// It is safe for concurrent use, by goroutines of the request. While Commit,
// SignIn, Renew or Destroy waits for the store, Get, Set and the like wait too;
// Owner, Handle and the other methods that tell of the session do not. When the
// handler has returned the session takes no more changes ([ErrFinished]); it can
// still be destroyed.
type Session struct {
	m      *Manager
	w      *responseWriter
	nested bool // another manager's session is in the same request
	used   atomic.Bool

	mu    sync.Mutex // held while waiting for the store; use lock and unlock
	notes []func()   // what to log and observe when mu is free

	id format.ID // the ID now, zero while there is no session in the store
	// key is the id's. Without an id, it is that of what the request's ID led to, if
	// that is no session: a marker or a damaged record.
	key store.Key

	// base is the record that was last read or written, without its Data, and
	// payload that data decoded. They are written with both mu and facts held,
	// so either is enough to read them. facts is never held while waiting.
	facts   sync.Mutex
	base    store.Record
	payload format.Payload

	sealer format.Sealer

	attrs   []format.Attr    // the values as this request sees them; payload's until changed
	changed bool             // attrs is a copy of its own
	absent  []string         // attributes read and not found
	earlier map[string]value // attributes read before base moved, as they were
	journal []change         // what turns payload.Attrs into attrs
	large   *large           // what fill found to warn of, if anything

	ended      *EndedError  // the session ended during the request
	broken     error        // the outcome of a commit is open: no more changes
	refused    bool         // a change came after ended or broken and was not taken
	cookie     cookieAction // what the browser must be told
	headerSent bool         // and whether it is too late for that
	finished   bool         // the handler has returned
	active     bool         // this request's activity was recorded, or need not be
	mayBeCopy  bool         // what was loaded may not be the newest: see fresh.go
	tellSeen   bool         // the browser must be told the version of base, or that there is none
}

func (s *Session) lock() { s.mu.Lock() }

// unlock releases mu and then runs what was noted meanwhile: a logger or an
// observer may look at the session.
func (s *Session) unlock() {
	notes := s.notes
	s.notes = nil
	s.mu.Unlock()
	for _, note := range notes {
		note()
	}
}

// tell runs what was noted while the session was loaded, when nobody else has it.
func (s *Session) tell() {
	notes := s.notes
	s.notes = nil
	for _, note := range notes {
		note()
	}
}

// note has f run as soon as mu is free.
func (s *Session) note(f func()) { s.notes = append(s.notes, f) }

func (s *Session) warn(ctx context.Context, text string, args ...any) {
	s.m.unlocked(s.lockedToLog(ctx), func(ctx context.Context) { s.m.log().WarnContext(ctx, "session: "+text, args...) })
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
	s.facts.Lock()
	defer s.facts.Unlock()
	return s.base.Owner
}

// Handle returns the public name of the session, zero while the session is not
// in the store.
func (s *Session) Handle() Handle {
	s.facts.Lock()
	defer s.facts.Unlock()
	return Handle(s.base.Handle)
}

// SignedInAt returns when the owner last proved who they are, to the
// millisecond; zero before sign-in.
func (s *Session) SignedInAt() time.Time {
	s.facts.Lock()
	defer s.facts.Unlock()
	return s.payload.SignedInAt
}

// Methods returns how the owner signed in, as given to [Session.SignIn].
func (s *Session) Methods() []string {
	s.facts.Lock()
	defer s.facts.Unlock()
	var out []string
	for _, m := range s.payload.Methods {
		out = append(out, string(m))
	}
	return out
}

// Deadline returns the absolute timeout of the session, zero while the session
// is not in the store.
func (s *Session) Deadline() time.Time {
	s.facts.Lock()
	defer s.facts.Unlock()
	if s.base.Version == 0 { // not in the store
		return time.Time{}
	}
	return s.m.deadline(s.base)
}

// has reports whether id is the session's.
func (s *Session) has(id format.ID) bool {
	s.lock()
	defer s.unlock()
	return s.exists() && s.id == id
}

func (s *Session) exists() bool { return s.id != format.ID{} }

// closed returns why the session takes no more changes, or nil.
func (s *Session) closed() error {
	switch {
	case s.finished:
		return ErrFinished
	case s.broken != nil:
		return s.broken
	case s.ended != nil:
		return s.ended
	}
	return nil
}

// setFacts replaces base and payload.
func (s *Session) setFacts(rec store.Record, p format.Payload) {
	rec.Data = nil
	s.facts.Lock()
	s.base, s.payload = rec, p
	s.facts.Unlock()
}

// setBase makes rec, with its decoded data, what the session is based on, and
// forgets the journal.
func (s *Session) setBase(rec store.Record, p format.Payload) {
	s.rememberReads(p)
	s.setFacts(rec, p)
	s.resetChanges()
	s.mayBeCopy = false
}

func (s *Session) resetChanges() {
	s.attrs, s.changed = s.payload.Attrs, false
	s.journal, s.absent = nil, nil
}

// forget makes the session a new anonymous one that is not in the store.
func (s *Session) forget() {
	s.id, s.key = format.ID{}, store.Key{}
	s.earlier = nil
	s.setFacts(store.Record{}, format.Payload{})
	s.resetChanges()
	s.mayBeCopy, s.tellSeen = false, false
	if s.cookie == cookieSet {
		s.cookie = cookieKeep
	}
}

// endedBy notes that the session ended during the request. The values stay
// readable; changes do not.
func (s *Session) endedBy(r Reason) error {
	if s.ended == nil {
		s.ended = &EndedError{Reason: r}
	}
	s.mayBeCopy = false
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
// ErrAmbiguous, which leaves the outcome open, and ErrUnavailable, the session
// takes no more changes in this request. After ErrEnded, ErrRefused,
// ErrConflict and ErrTooLarge the changes are dropped.
func (s *Session) Commit(ctx context.Context) error {
	s.lock()
	defer s.unlock()
	return s.commit(ctx)
}

// commitLate commits what was changed after the response began, and finishes
// the session. Nobody can be told of an error any more but the operator.
func (s *Session) commitLate(ctx context.Context) {
	s.lock()
	defer s.unlock()
	if len(s.journal) > 0 || s.refused {
		if err := s.commit(ctx); err != nil {
			s.lateChange(ctx, err)
		}
	}
	s.finished = true
}

// lateChange tells of a change that the response could not carry any more.
func (s *Session) lateChange(ctx context.Context, err error) {
	s.warn(ctx, "a change made after the response began was lost", "error", err)
	s.observe(ctx, Event{Kind: EventLateChange, Err: err})
}

// finish ends the session's part in the request.
func (s *Session) finish() {
	s.lock()
	defer s.unlock()
	s.finished = true
}

// finishHeader completes a header that is about to leave: with the cookie, last
// of all, since a handler may have dropped it or set a caching policy, and
// without a policy of the handler's with one for what belongs to one owner.
func (s *Session) finishHeader(h http.Header) {
	s.lock()
	defer s.unlock()
	s.headerSent = true
	s.putCookie(h)
	if s.used.Load() && s.base.Owner != "" && len(h["Cache-Control"]) == 0 {
		h["Cache-Control"] = privateNoStore
	}
}

var privateNoStore = []string{"private, no-store"}

// writeCookie puts into h what the browser must be told, if anything.
func (s *Session) writeCookie(h http.Header) {
	s.lock()
	defer s.unlock()
	s.putCookie(h)
}

func (s *Session) putCookie(h http.Header) {
	switch {
	case s.cookie == cookieClear:
		s.m.cookie.clear(h)
	case s.cookie == cookieSet && s.exists():
		s.m.cookie.write(h, s.id, s.base.Deadline)
	}
	switch {
	case !s.tellSeen || s.m.fresh == nil:
	case !s.exists() && s.cookie == cookieKeep:
		s.m.cookie.clearSeen(h)
	case s.exists() && s.ended == nil:
		s.m.cookie.writeSeen(h, format.NewSeen(s.key, s.base.Version), s.base.Deadline)
	}
}

func (s *Session) cookiePending() bool {
	s.lock()
	defer s.unlock()
	return s.cookie != cookieKeep
}

// headerStays notes that the header has not left after all.
func (s *Session) headerStays() {
	s.lock()
	defer s.unlock()
	s.headerSent = false
}
