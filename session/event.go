package session

import (
	"context"
	"errors"
	"time"

	"github.com/coatcheck/coatcheck/store"
)

// Event is something that happened to a session or to the store, for counting and
// measuring. It holds no session ID, store key, owner or value, but for what the text of Err
// may quote: an app's reason to refuse a change is in an [ErrRefused], and a codec's
// error in a [DecodeError]. What is zero does not belong to its kind.
type Event struct {
	Kind     EventKind
	Op       string        // the method of the store that was called, as "get_fresh"
	Attr     string        // the attribute concerned, if any
	Err      error         // why it did not succeed, or the error concerned, if any
	N        int           // how many, where one event stands for several
	Size     int           // bytes of a session's values, sealed, that were read or written
	Duration time.Duration // how long it took
}

// EventKind names an [Event].
type EventKind string

// Kinds of events that measure work. They come with a Duration, and with an Err if it
// failed.
const (
	// EventCall is one call of the store, by Op: get, get_fresh, create, replace,
	// touch, delete, list_owner, delete_owner, sweep or ping. Its Err is the store's,
	// and need not be a failure: see [Event.Outcome].
	EventCall EventKind = "call"

	EventCommit  EventKind = "commit"  // the changes of a request, with all conflicts and retries
	EventSignIn  EventKind = "sign_in" // a [Session.SignIn]
	EventRenew   EventKind = "renew"   // a [Session.Renew]
	EventDestroy EventKind = "destroy" // a logout of a browser with the ID of a session, which may have ended already
	EventRevoke  EventKind = "revoke"  // a [Manager.Revoke] or [Manager.RevokeAll]; N sessions ended, before an Err perhaps
)

// Kinds of events that count.
const (
	EventConflict    EventKind = "conflict"     // the store found a write, of values or of an ID, to be built on older ones; it is done again
	EventRetry       EventKind = "retry"        // the store is called, by Op, since a call before failed with Err
	EventTouchSaved  EventKind = "touch_saved"  // activity of a request was recent enough not to be recorded
	EventWriteSaved  EventKind = "write_saved"  // a commit left all values as they were, and wrote nothing
	EventStaleSet    EventKind = "stale_set"    // a Set replaced a value newer than the one read
	EventCorrupt     EventKind = "corrupt"      // a record did not open; the request went on anonymous
	EventTouchFailed EventKind = "touch_failed" // activity could not be recorded
	EventLateChange  EventKind = "late_change"  // a change after the response began was lost
	EventUnavailable EventKind = "unavailable"  // a session could not be loaded, signed in, renewed, or committed with its response; Err of other methods is their caller's
	EventLarge       EventKind = "large"        // a session of over 4 KiB was stored
	EventStaleRead   EventKind = "stale_read"   // a copy lacked what its user had written; the store was read
	EventSwept       EventKind = "swept"        // Run removed N expired sessions, one batch of several perhaps
	EventSweepFailed EventKind = "sweep_failed" // Run could not sweep; it tries again
)

// Outcome returns one word for e.Err, of a few, for the label of a metric:
//
//   - "ok"; of a call also "not_found" and "conflict", by which a store answers that works;
//   - of a commit that came too late "ended", "refused" and, by
//     [Options.RejectStaleSet], "conflict";
//   - "too_large" and "corrupt", which are about one session;
//   - "unavailable" when the store has failed, after all retries; of a call "rejected" (it
//     takes no writes), "not_asked" (a circuit breaker is open), "timeout", "canceled"
//     (the client hung up);
//   - "ambiguous" when the answer was lost, and of a commit, a sign-in or a renewal when
//     it stays open whether it was stored;
//   - "error", which is all else.
func (e Event) Outcome() string {
	if e.Err == nil {
		return "ok"
	}
	for _, o := range outcomes {
		if errors.Is(e.Err, o.err) {
			return o.word
		}
	}
	return "error"
}

// outcomes in this order: an error may match several.
var outcomes = []struct {
	err  error
	word string
}{
	{ErrUnavailable, "unavailable"},
	{ErrEnded, "ended"},
	{ErrRefused, "refused"},
	{store.ErrNotFound, "not_found"},
	{store.ErrConflict, "conflict"},
	{store.ErrTooLarge, "too_large"},
	{store.ErrCorrupt, "corrupt"},
	{store.ErrNotAsked, "not_asked"},
	{store.ErrRejected, "rejected"},
	{context.DeadlineExceeded, "timeout"},
	{context.Canceled, "canceled"},
	{store.ErrAmbiguous, "ambiguous"},
}

// now is the time for measuring, which nobody pays for without an observer.
func (m *Manager) now() time.Time {
	if m.opts.Observer == nil {
		return time.Time{}
	}
	return time.Now()
}

// called tells of a call of the store. began is from now.
func (m *Manager) called(ctx context.Context, op string, began time.Time, size int, err error) {
	if m.opts.Observer != nil {
		m.observe(ctx, Event{Kind: EventCall, Op: op, Err: err, Size: size, Duration: time.Since(began)})
	}
}

// worked tells of work of kind k. began is from now.
func (m *Manager) worked(ctx context.Context, k EventKind, began time.Time, n int, err error) {
	if m.opts.Observer != nil {
		m.observe(ctx, Event{Kind: k, N: n, Err: err, Duration: time.Since(began)})
	}
}

// retries tells that a call of the store is made again.
func (m *Manager) retries(ctx context.Context, op string, err error) {
	if m.opts.Observer != nil {
		m.observe(ctx, Event{Kind: EventRetry, Op: op, Err: err})
	}
}

func (m *Manager) observe(ctx context.Context, e Event) {
	if m.opts.Observer != nil {
		m.unlocked(ctx, func(ctx context.Context) { m.opts.Observer(ctx, e) })
	}
}

// unlocked runs f when nothing is locked, with a context that does not say that something
// is: now, or when mu is free of the session that ctx is locked for.
func (m *Manager) unlocked(ctx context.Context, f func(context.Context)) {
	if l, ok := ctx.Value(lockedKey{m}).(*locked); ok {
		l.session.note(func() { f(l.ctx) })
		return
	}
	f(ctx)
}

// observe tells of e when mu is free.
func (s *Session) observe(ctx context.Context, e Event) { s.m.observe(s.locked(ctx), e) }

// locked returns ctx for what is done with mu held. What is observed with it is told
// when mu is free.
func (s *Session) locked(ctx context.Context) context.Context {
	if s.m.opts.Observer == nil {
		return ctx
	}
	return s.lockedToLog(ctx)
}

// lockedToLog is locked for what logs by itself, without an observer too.
func (s *Session) lockedToLog(ctx context.Context) context.Context {
	if l, ok := ctx.Value(lockedKey{s.m}).(*locked); ok && l.session == s {
		return ctx
	}
	return context.WithValue(ctx, lockedKey{s.m}, &locked{s, ctx})
}

type lockedKey struct{ m *Manager }

type locked struct {
	session *Session
	ctx     context.Context // for observers and loggers, who come when nothing is locked
}
