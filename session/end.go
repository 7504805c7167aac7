package session

import (
	"context"
	"errors"
	"time"

	"github.com/coatcheck/coatcheck/store"
)

// Destroy ends the session, as at logout: it is dead when Destroy returns, for
// every server and for good, and the response clears the cookie. Changes of this request are dropped. Values that are set afterwards
// begin a new session.
//
// It does its work before it returns, even if ctx is canceled, and a later
// panic does not undo it. If the store cannot be reached it returns
// ErrUnavailable; the cookie is cleared all the same, but the record lives
// until it expires.
func (s *Session) Destroy(ctx context.Context) error {
	s.lock()
	defer s.unlock()
	var err error
	if !s.key.IsZero() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(s.lockedToLog(ctx)), s.m.opts.CommitTimeout)
		defer cancel()
		began := s.m.now()
		err = s.m.end(ctx, s.key, ReasonLogout)
		if err != nil {
			err = unavailable(err)
		}
		s.m.worked(ctx, EventDestroy, began, 0, err)
		if err != nil {
			s.m.failedLogout(ctx, err)
			err = &logoutError{err}
		}
	}
	s.forget()
	s.ended, s.broken, s.refused = nil, nil, false
	s.cookie = cookieClear
	if s.headerSent {
		s.lateChange(ctx, ErrHeadersSent)
	}
	return err
}

// maxHops bounds how many renewals a logout follows.
const maxHops = 8

// end deletes the session under k, and the one it went on as if it was renewed
// meanwhile. It leaves a marker first: a renewal that is under way between its
// two steps would not notice a mere deletion that comes after them.
func (m *Manager) end(ctx context.Context, k store.Key, why Reason) error {
	for range maxHops {
		next, err := m.endOne(ctx, k, why)
		if err != nil || next.IsZero() {
			return err
		}
		k = next
	}
	return nil
}

// endOne deletes the record under k and returns where its session went on. It
// must read before it deletes: a deleted marker leads nowhere.
func (m *Manager) endOne(ctx context.Context, k store.Key, why Reason) (next store.Key, err error) {
	for try := 0; ; try++ {
		rec, err := m.get(ctx, k)
		switch {
		case errors.Is(err, store.ErrNotFound):
			return store.Key{}, nil
		case errors.Is(err, store.ErrCorrupt):
			return store.Key{}, m.remove(ctx, k)
		case err != nil && ctx.Err() != nil:
			return store.Key{}, err
		case err != nil:
			afterFailure.wait(ctx, try)
			m.retries(ctx, "get", err)
			continue
		}
		next = store.Key{}
		marker := rec // written again: whoever left it may not know that it stays
		if !rec.IsMarker() {
			marker = markerFor(rec, k, []byte(why))
		} else if rec.Next != k {
			next = rec.Next
		}
		err = m.mark(ctx, k, rec.Version, marker)
		switch {
		case err == nil:
			// The marker alone ends the session; this is for tidiness.
			if err := m.remove(ctx, k); err != nil {
				m.unlocked(ctx, func(ctx context.Context) {
					m.log().WarnContext(ctx, "session: the marker of an ended session could not be removed; it stays until it expires", "error", err)
				})
			}
			return next, nil
		case errors.Is(err, store.ErrNotFound):
			return next, nil
		case errors.Is(err, store.ErrInvalid): // a record that no marker can follow
			return next, m.remove(ctx, k)
		case !errors.Is(err, store.ErrConflict):
			if errors.Is(err, store.ErrUnconfirmed) { // what a failover may undo is no end
				return store.Key{}, err
			}
			return m.endWithoutMarker(ctx, k, next, err)
		}
		afterConflict.wait(ctx, try)
	}
}

// endWithoutMarker deletes the record under k, for a store that is full takes no marker,
// which err says, but may still delete. A renewal may have had more luck meanwhile: it
// is followed, unless it comes between the look and the deletion.
func (m *Manager) endWithoutMarker(ctx context.Context, k, next store.Key, err error) (store.Key, error) {
	if rec, rErr := m.get(ctx, k); rErr == nil && rec.IsMarker() && rec.Next != k {
		next = rec.Next
	}
	switch rErr := m.remove(ctx, k); {
	case rErr == nil, !next.IsZero(): // a renewal's marker is no session
		return next, nil
	case errors.Is(rErr, store.ErrUnapplied):
		return store.Key{}, err
	default:
		return store.Key{}, outcomeOpen(rErr, nil)
	}
}

// mark replaces the record under k by a marker, and leaves half of the time to do
// without one.
func (m *Manager) mark(ctx context.Context, k store.Key, old uint64, marker store.Record) error {
	if end, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(end)/2)
		defer cancel()
	}
	_, err := m.swap(ctx, k, old, marker)
	return err
}
