package session

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/coatcheck/coatcheck/session/internal/format"
	"github.com/coatcheck/coatcheck/store"
)

// This file is for stores whose Get may answer from a copy (store.FreshReader).
// The load of a request may be stale, and nothing else. A user still reads what
// they wrote themselves, on any server: the second cookie says what that was.

// Fresh returns next with a session that is read from the store itself before
// next runs, where the store may have answered from a copy: for routes on which
// a session that was ended a moment ago on another server must not work any
// more, as for payments. It belongs inside of [Manager.Handler]. If the store
// cannot be reached, [Options.ErrorHandler] answers in next's place.
//
// With a store that has no copies it does nothing.
func (m *Manager) Fresh(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if m.refreshed(w, r, m.From(r.Context())) {
			next.ServeHTTP(w, r)
		}
	})
}

// Fresh is [Manager.Fresh] for an app with one manager. As [From], its handler
// panics if the request has the sessions of several managers, or none.
func Fresh(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := From(r.Context())
		if s.m.refreshed(w, r, s) {
			next.ServeHTTP(w, r)
		}
	})
}

// refreshed refreshes s, or answers with the error handler and returns false.
func (m *Manager) refreshed(w http.ResponseWriter, r *http.Request, s *Session) bool {
	err := s.Refresh(r.Context())
	if err == nil {
		return true
	}
	m.failedRead(r, err)
	m.HandleError(w, r, err)
	return false
}

// Refresh reads the session from the store itself, if what was loaded may be a
// copy. Changes that this request has made are kept: they are applied to what
// was read. A session that has ended meanwhile becomes an anonymous one, whose
// cookie is not cleared, as when it is loaded; if this request has changed it, or
// has learned already that it ended, that is ErrEnded. With a store that has no
// copies, and after a commit or another Refresh, it does nothing.
//
// It waits at most [Options.StoreTimeout] and returns ErrUnavailable, after which
// the session is as it was, or what [Session.Commit] returns when changes do not
// fit newer values.
func (s *Session) Refresh(ctx context.Context) error {
	s.lock()
	defer s.unlock()
	switch {
	case s.ended != nil: // a touch finds that out without a word
		return s.ended
	case !s.mayBeCopy:
		return nil
	}
	if err := s.closed(); err != nil {
		return err
	}
	return s.refresh(ctx)
}

// refresh is Refresh with s.mu held, of a session that may be a copy.
func (s *Session) refresh(ctx context.Context) error {
	ctx = s.locked(ctx)
	m, k, id := s.m, s.key, s.id
	if !s.exists() {
		id, _, _ = m.cookie.read(s.w.r.Header) // by which it was loaded
		if id.Key() != k {
			return nil // the handler took the cookie away
		}
	}
	rec, err := m.get(ctx, k)
	payload, err := s.open(id, k, rec, err)
	now := time.Now()
	gone := errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrCorrupt)
	switch {
	case err != nil && !gone:
		return unavailable(err)
	case !gone && !rec.IsMarker() && !m.overdue(rec, payload.IdleTimeout, now):
		s.id, s.key = id, k
		return s.rebaseOn(rec, payload)
	case s.exists() && len(s.journal) > 0:
		if rec.IsMarker() {
			return s.endedBy(endReason(k, rec))
		}
		return s.endedNow()
	case s.exists():
		s.forget()
	}
	s.mayBeCopy = false
	return s.take(ctx, id, k, rec, payload, err, now)
}

// mustReadThrough reports whether what Get has answered under k, and how it
// opened, needs a look at the store itself. A copy may lack what its user wrote:
// then seen, of the same session, says so. Nothing else is worth that look but
// the death sentence: a session is not removed because a copy has not seen that
// it was used.
func (m *Manager) mustReadThrough(k store.Key, seen format.Seen, rec store.Record, p format.Payload, err error, now time.Time) bool {
	switch {
	case err == nil && !rec.IsMarker():
		return m.overdue(rec, p.IdleTimeout, now) || lacks(rec, seen) && seen.Names(k)
	case err == nil, errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrCorrupt), errors.Is(err, format.ErrNewer):
		return seen.Names(k)
	}
	return false // it does not answer; nor would it now
}

// lacks reports whether rec was written before the version that was seen, or
// instead of it: two of one number are from histories that a failover tore
// apart.
func lacks(rec store.Record, seen format.Seen) bool {
	return rec.Version != seen.Version && rec.Version>>32 <= seen.Version>>32
}

// loadFresh is load from the store itself, where a copy had the version copied.
func (s *Session) loadFresh(ctx context.Context, id format.ID, seen format.Seen, copied uint64, now time.Time) error {
	m, k := s.m, id.Key()
	rec, err := m.readTwice(ctx, "get_fresh", k, m.read)
	payload, err := s.open(id, k, rec, err)
	if err == nil && rec.Version != copied {
		s.observe(ctx, Event{Kind: EventStaleRead})
	}
	if err := s.take(ctx, id, k, rec, payload, err, now); err != nil {
		return err
	}
	// If the store itself does not have what was seen, since the session has ended
	// or a failover has lost it, the browser learns of it, or each of its requests
	// would read through. The cookie with the ID stays: see load.
	s.tellSeen = seen.Names(k) && (!s.exists() || lacks(rec, seen))
	return nil
}
