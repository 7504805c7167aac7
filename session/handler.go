package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/coatcheck/coatcheck/session/internal/format"
	"github.com/coatcheck/coatcheck/store"
)

// request is all that one request needs, in one allocation.
type request struct {
	session Session
	writer  responseWriter
	context requestContext
	call    callContext
}

// Handler returns next with sessions: [Manager.From] finds the session of each
// request, and what next changed is committed before the first byte of the
// response leaves. If the session cannot be loaded or committed,
// [Options.ErrorHandler] answers in next's place. A panic that leaves next is
// passed on and commits nothing; a middleware that recovers it should be
// outside of this one. Applying Handler twice does no harm, if what is in
// between and wraps the [http.ResponseWriter] has an Unwrap method.
func (m *Manager) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if m.opts.Skip != nil && m.opts.Skip(r) {
			next.ServeHTTP(w, r)
			return
		}
		id, seen, hasID := m.cookie.read(r.Header)
		outer, _ := r.Context().Value(contextKey{}).(*Session)
		if outer != nil && m.served(w, r, id) {
			next.ServeHTTP(w, r)
			return
		}
		q := &request{}
		s := &q.session
		s.m, s.w = m, &q.writer
		s.sealer.Keys = &m.keys
		s.nested = outer != nil && outer.m != m
		q.context = requestContext{Context: r.Context(), session: s}
		if hasID {
			now := time.Now()
			q.call = callContext{parent: &q.context, deadline: now.Add(m.opts.StoreTimeout)}
			err := s.load(s.locked(&q.call), id, seen, now)
			s.tell()
			q.call.stop()
			if err != nil {
				m.answerOutage(w, r, id, err)
				return
			}
		}
		inner := r.WithContext(&q.context)
		q.writer.init(w, inner, s)
		for o := outer; s.nested && o != nil; o, _ = o.w.r.Context().(*requestContext).Context.Value(contextKey{}).(*Session) {
			o.w.inner = append(o.w.inner, s)
		}
		returned := false
		defer func() {
			if !returned { // next panicked
				q.writer.abandon()
			}
		}()
		next.ServeHTTP(&q.writer, inner)
		returned = true
		q.writer.finish()
	})
}

// served reports whether m has given this very request its session already,
// because Handler was applied twice. A request that was made with the context
// of another one, but with cookies and a response of its own, is not that.
func (m *Manager) served(w http.ResponseWriter, r *http.Request, id format.ID) bool {
	s, ok := r.Context().Value(contextKey{m}).(*Session)
	return ok && (s.w.wraps(w) || s.has(id))
}

// HandleError answers a request with [Options.ErrorHandler]: for handlers that
// have an error of this package in hand.
func (m *Manager) HandleError(w http.ResponseWriter, r *http.Request, err error) {
	m.opts.ErrorHandler(w, r, err)
}

// answerOutage answers a request whose session could not be loaded. The cookie
// is kept, so that the user is still signed in when the store is back, unless
// the request was to end the session: nobody may leave a shared computer signed
// in because of an outage.
func (m *Manager) answerOutage(w http.ResponseWriter, r *http.Request, id format.ID, err error) {
	m.failedRead(r, err)
	if m.opts.Logout != nil && m.opts.Logout(r) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), m.opts.StoreTimeout)
		defer cancel()
		began := m.now()
		endErr := m.end(ctx, id.Key(), ReasonLogout)
		if endErr != nil {
			endErr = unavailable(endErr)
		}
		m.worked(ctx, EventDestroy, began, 0, endErr)
		if endErr != nil {
			err = &logoutError{err}
			m.failedLogout(ctx, endErr)
		}
		m.cookie.clear(w.Header())
	}
	m.opts.ErrorHandler(w, r, err)
}

// failedRead tells of a session that could not be read.
func (m *Manager) failedRead(r *http.Request, err error) {
	if r.Context().Err() != nil || !errors.Is(err, ErrUnavailable) {
		return // the client hung up or asked for too much, and the store is not to blame
	}
	m.log().Log(r.Context(), outageLevel(err), "session: load failed", "error", err)
	m.observe(r.Context(), Event{Kind: EventUnavailable, Err: err})
}

// failedWrite tells of one that the store did not take, or not for certain, outside of the
// commit of a response.
func (m *Manager) failedWrite(ctx context.Context, what string, err error) {
	if !errors.Is(err, ErrUnavailable) {
		return
	}
	m.log().Log(ctx, outageLevel(err), "session: "+what+" failed", "error", err)
	m.observe(ctx, Event{Kind: EventUnavailable, Err: err})
}

// failedLogout tells of a session that lives on. That is an error even if nothing was
// sent to the store.
func (m *Manager) failedLogout(ctx context.Context, err error) {
	m.unlocked(ctx, func(ctx context.Context) {
		m.log().ErrorContext(ctx, "session: logout could not end the session in the store; it lives there until it expires", "error", err)
	})
}

// outageLevel is the level at which the error of a request is logged. In an outage
// each gets one, and those for which nothing was sent tell nothing new.
func outageLevel(err error) slog.Level {
	if errors.Is(err, store.ErrNotAsked) {
		return slog.LevelDebug
	}
	return slog.LevelError
}

// load fills s with the session of id. An ID that leads to no session leaves s
// anonymous: it is never adopted, and its cookie not cleared, since a faster
// request may just have replaced it. The error is an ErrUnavailable.
func (s *Session) load(ctx context.Context, id format.ID, seen format.Seen, now time.Time) error {
	m, k := s.m, id.Key()
	rec, err := m.readTwice(ctx, "get", k, m.readAny)
	payload, err := s.open(id, k, rec, err)
	if m.fresh != nil {
		if m.mustReadThrough(k, seen, rec, payload, err, now) {
			return s.loadFresh(ctx, id, seen, rec.Version, now)
		}
		s.mayBeCopy = true
	}
	return s.take(ctx, id, k, rec, payload, err, now)
}

// readTwice reads the record under k with read, which is op of the store, and once more
// before the request is answered with an error: a connection that broke, or one call that
// took too long, says little of the store, and to read twice does no harm.
func (m *Manager) readTwice(ctx context.Context, op string, k store.Key, read func(context.Context, store.Key) (store.Record, error)) (store.Record, error) {
	rec, err := read(ctx, k)
	if err != nil && worthAnother(ctx, err) {
		m.retries(ctx, op, err)
		rec, err = read(ctx, k)
	}
	return rec, err
}

// worthAnother reports whether a read that failed so may go better at once.
func worthAnother(ctx context.Context, err error) bool {
	return !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrNotAsked) && mayPass(err) && ctx.Err() == nil
}

// take makes s what a read under k, id's key, has found.
func (s *Session) take(ctx context.Context, id format.ID, k store.Key, rec store.Record, payload format.Payload, err error, now time.Time) error {
	m := s.m
	switch {
	case errors.Is(err, store.ErrNotFound):
		if s.mayBeCopy { // a logout asks the store itself
			s.key = k
		}
		return nil
	case errors.Is(err, store.ErrCorrupt):
		s.skipDamaged(ctx, k, err)
		return nil
	case err != nil:
		// That includes a record of a newer program: to go on as anonymous would
		// overwrite a session that other servers can read.
		return unavailable(err)
	case rec.IsMarker(): // dead, but a logout still ends what it leads to
		s.key = k
		return nil
	case m.overdue(rec, payload.IdleTimeout, now):
		if err := m.remove(context.WithoutCancel(ctx), k); err != nil {
			s.warn(ctx, "could not remove a session that a shorter policy ended", "error", err)
		}
		return nil
	}
	s.id, s.key = id, k
	s.setFacts(rec, payload)
	s.resetChanges()
	return nil
}

// skipDamaged lets the visitor go on without the session: an error would be one
// for ever.
func (s *Session) skipDamaged(ctx context.Context, k store.Key, err error) {
	s.key = k
	s.m.unlocked(s.lockedToLog(ctx), func(ctx context.Context) {
		s.m.log().ErrorContext(ctx, "session: a stored session does not open; its visitor goes on without it", "error", err)
	})
	s.observe(ctx, Event{Kind: EventCorrupt, Err: err})
}

// open decodes the values of a record that a read under k has returned, with its
// error. What is no record of ours is an ErrCorrupt, as from the store.
func (s *Session) open(id format.ID, k store.Key, rec store.Record, err error) (format.Payload, error) {
	if err != nil || rec.IsMarker() {
		return format.Payload{}, err
	}
	p, err := s.decode(id, k, rec)
	if err != nil && !errors.Is(err, format.ErrNewer) {
		err = fmt.Errorf("%w: %w", store.ErrCorrupt, err)
	}
	return p, err
}

func (s *Session) decode(id format.ID, k store.Key, rec store.Record) (format.Payload, error) {
	plain, err := s.sealer.Open(id, k, rec, s.m.opts.Unsealed)
	if err != nil {
		return format.Payload{}, err
	}
	return format.ParsePayload(plain)
}

// overdue reports whether the policy in force has ended a live record that was
// written under another one. idle is the idle timeout at its last write.
func (m *Manager) overdue(rec store.Record, idle time.Duration, now time.Time) bool {
	p := m.opts.Policy
	if !now.Before(rec.Created.Add(p.Absolute)) || !now.Before(rec.Deadline) {
		return true
	}
	// Expires is the time of the last activity plus idle, unless the deadline cut
	// it short: then the activity was later than this, so the user gets the
	// benefit.
	cut := rec.Expires.Equal(rec.Deadline)
	return idle > p.Idle && !cut && !now.Before(rec.Expires.Add(p.Idle-idle))
}

// deadline returns the absolute timeout of a record under the policy in force.
func (m *Manager) deadline(rec store.Record) time.Time {
	if d := rec.Created.Add(m.opts.Policy.Absolute); d.Before(rec.Deadline) {
		return d
	}
	return rec.Deadline
}
