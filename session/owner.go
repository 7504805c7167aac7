package session

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/coatcheck/coatcheck/store"
)

// Info describes a session to its owner, for a list of devices.
type Info struct {
	Handle   Handle
	Label    string    // as given to SignIn
	Created  time.Time // when the owner signed in
	Expires  time.Time // when it ends unless it is used
	Deadline time.Time // when it ends in any case
}

// ErrNoOwnerIndex is returned when the store cannot find sessions by owner.
var ErrNoOwnerIndex = errors.New("session: this store has no index of owners, so sessions cannot be listed or revoked by owner")

// Sessions returns the live sessions of owner, the newest first (ASVS 7.5.2).
// "" owns none. It returns ErrUnavailable or ErrNoOwnerIndex.
func (m *Manager) Sessions(ctx context.Context, owner string) ([]Info, error) {
	recs, err := m.listOwner(ctx, owner)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	byHandle := make(map[Handle]Info)
	for _, r := range recs {
		deadline := m.deadline(r.Record)
		if !deadline.After(now) {
			continue
		}
		info := Info{Handle(r.Handle), string(r.Label), r.Created, r.Expires, deadline}
		if info.Expires.After(deadline) {
			info.Expires = deadline
		}
		// In the middle of a renewal a session has two records.
		if other, ok := byHandle[info.Handle]; !ok || info.Created.After(other.Created) {
			byHandle[info.Handle] = info
		}
	}
	return slices.SortedFunc(maps.Values(byHandle), func(a, b Info) int {
		if c := b.Created.Compare(a.Created); c != 0 {
			return c
		}
		return slices.Compare(a.Handle[:], b.Handle[:])
	}), nil
}

// Revoke ends the session of owner with that handle, on every server, and
// reports whether there was one. A renewal that is under way does not save it.
// After ErrUnavailable it may be that the session is ended, and that a store whose
// replicas have not confirmed it brings it back in a failover: calling again finds
// nothing then, and only [Manager.RevokeAll] makes sure.
// It returns ErrUnavailable or ErrNoOwnerIndex.
func (m *Manager) Revoke(ctx context.Context, owner string, h Handle) (bool, error) {
	began := m.now()
	found, err := m.revoke(ctx, owner, h)
	n := 0
	if found && err == nil {
		n = 1
	}
	m.worked(ctx, EventRevoke, began, n, err)
	return found, err
}

func (m *Manager) revoke(ctx context.Context, owner string, h Handle) (bool, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.opts.CommitTimeout)
	defer cancel()
	found := false
	for {
		recs, err := m.listOwner(ctx, owner)
		if err != nil {
			return found, err
		}
		recs = slices.DeleteFunc(recs, func(r store.Keyed) bool { return Handle(r.Handle) != h })
		if len(recs) == 0 {
			return found, nil
		}
		found = true
		for _, r := range recs {
			if err := m.end(ctx, r.Key, ReasonRevoked); err != nil {
				return found, unavailable(err)
			}
		}
	}
}

// RevokeAll ends the sessions of owner but for those whose handle is in keep,
// on every server, and returns how many it ended: when an account is disabled
// (ASVS 7.4.2). No session that was signed in before the call outlives it; a
// renewal that is under way saves none. A copy of a kept session's cookie is
// kept with it: for "sign out everywhere else" use [Session.RevokeOthers]. It
// returns ErrUnavailable, ErrNoOwnerIndex, or ErrConflict if the owner keeps
// signing in faster than sessions can be ended. After an error some may have ended, more
// than were counted: call it again.
func (m *Manager) RevokeAll(ctx context.Context, owner string, keep ...Handle) (int, error) {
	began := m.now()
	n, err := m.revokeAll(ctx, owner, keep)
	m.worked(ctx, EventRevoke, began, n, err)
	return n, err
}

func (m *Manager) revokeAll(ctx context.Context, owner string, keep []Handle) (int, error) {
	idx, ok := store.As[store.OwnerIndex](m.store)
	if !ok {
		return 0, ErrNoOwnerIndex
	}
	if owner == "" {
		return 0, nil
	}
	kept := make([]store.Handle, len(keep))
	for i, h := range keep {
		kept[i] = store.Handle(h)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.opts.CommitTimeout)
	defer cancel()
	total := 0
	var last error
	// A pass may miss a record that is created while it runs, as by a renewal;
	// one that finds nothing twice has missed nothing that began before it.
	for pass, empty, failures := 0, 0, 0; empty < 2; pass++ {
		if pass == maxPasses {
			return total, errorf("sessions are created as fast as they are ended: %w", ErrConflict)
		}
		var n int
		err := m.call(ctx, "delete_owner", 0, func(ctx context.Context) (err error) {
			n, err = idx.DeleteOwner(ctx, owner, kept...)
			return err
		})
		total += n
		if err != nil {
			if ctx.Err() == nil || last == nil { // else what came before says why
				last = err
			}
			if ctx.Err() != nil || !mayPass(err) {
				return total, unavailable(last)
			}
			afterFailure.wait(ctx, failures) // to repeat it does no harm
			m.retries(ctx, "delete_owner", err)
			failures++
			pass--
			empty = 0
			continue
		}
		if n == 0 {
			empty++
		} else {
			empty = 0
		}
	}
	return total, nil
}

// mayPass reports whether a store that failed so may do better in a moment.
func mayPass(err error) bool {
	return !errors.Is(err, store.ErrRejected) && !errors.Is(err, store.ErrCorrupt) && !errors.Is(err, store.ErrInvalid)
}

// RevokeOthers ends the other sessions of the owner, on every server, and
// returns how many it ended: for "sign out everywhere else", and after a change
// of password (ASVS 7.4.3). It renews this session first, so that a stolen copy
// of its cookie ends too. It returns what [Session.Renew] and
// [Manager.RevokeAll] do.
func (s *Session) RevokeOthers(ctx context.Context) (int, error) {
	if err := s.Renew(ctx); err != nil {
		return 0, err
	}
	return s.m.RevokeAll(ctx, s.Owner(), s.Handle())
}

// maxPasses bounds RevokeAll against an owner who signs in all the time.
const maxPasses = 100

func (m *Manager) listOwner(ctx context.Context, owner string) (recs []store.Keyed, err error) {
	idx, ok := store.As[store.OwnerIndex](m.store)
	if !ok {
		return nil, ErrNoOwnerIndex
	}
	if owner == "" {
		return nil, nil
	}
	err = m.call(ctx, "list_owner", 0, func(ctx context.Context) error {
		recs, err = idx.ListOwner(ctx, owner)
		return err
	})
	if err != nil {
		return nil, unavailable(err)
	}
	return recs, nil
}
