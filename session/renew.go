package session

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/coatcheck/coatcheck/session/internal/format"
	"github.com/coatcheck/coatcheck/store"
)

// SignInOptions describes a sign-in.
type SignInOptions struct {
	// Methods says how the owner proved who they are, for example "password",
	// "otp" (RFC 8176 has names). If zero, nothing is recorded.
	Methods []string

	// Label is what a device list shows of the session, for example "Firefox on
	// Linux": at most 1024 bytes, readable in the store. Don't build it from
	// X-Forwarded-For unless a proxy of yours sets that. If zero, there is none.
	Label string
}

// SignIn makes the session that of owner, an account name of 1 to 255 bytes
// that is compared byte for byte. Call it when the owner has just proved who
// they are, and again when they prove it anew.
//
// The session gets a new ID, so that one that was planted or seen before is
// worth nothing (ASVS 7.2.4), and new timeouts. Its values stay, and so do the
// changes of this request, but for those of a different owner: they are
// dropped. The old ID is dead at once.
//
// It does its work before it returns, within [Options.CommitTimeout] and even
// if ctx is canceled. It returns ErrUnavailable, ErrAmbiguous, ErrTooLarge,
// ErrHeadersSent if the response has begun, or ErrEnded if the session of an
// owner was ended meanwhile, for example by a revocation. After an error nobody
// is signed in by this call.
func (s *Session) SignIn(ctx context.Context, owner string, opts *SignInOptions) error {
	if opts == nil {
		opts = &SignInOptions{}
	}
	if owner == "" || len(owner) > store.MaxOwner {
		return errorf("SignIn needs an owner of 1 to %d bytes, not %d; use the account's primary key", store.MaxOwner, len(owner))
	}
	if len(opts.Label) > store.MaxLabel {
		return errorf("SignInOptions.Label has %d bytes; at most %d are kept", len(opts.Label), store.MaxLabel)
	}
	began := s.m.now()
	err := s.move(ctx, &signIn{owner, opts})
	s.m.worked(ctx, EventSignIn, began, 0, err)
	s.m.failedWrite(ctx, "sign-in", err)
	return err
}

// Renew gives the session a new ID, for a change of privilege that is no
// sign-in, and commits the changes of this request. The old ID is dead at
// once. A session that is not in the store has no ID to renew.
//
// It does its work before it returns, and returns what SignIn does.
func (s *Session) Renew(ctx context.Context) error {
	began := s.m.now()
	err := s.move(ctx, nil)
	s.m.worked(ctx, EventRenew, began, 0, err)
	s.m.failedWrite(ctx, "renewal", err)
	return err
}

type signIn struct {
	owner string
	opts  *SignInOptions
}

// move takes the session to a new ID: create the new record, then turn the old
// one into a marker. In between both are alive, which a change of the old one
// or its end may use, so the second step is a compare-and-swap.
func (s *Session) move(ctx context.Context, in *signIn) error {
	s.lock()
	defer s.unlock()
	switch {
	case s.finished:
		return ErrFinished
	case s.headerSent:
		return ErrHeadersSent
	case s.broken != nil:
		return s.broken
	case in == nil && s.ended != nil:
		return s.ended
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.locked(ctx)), s.m.opts.CommitTimeout)
	defer cancel()
	if !s.exists() && s.mayBeCopy { // it may be a copy alone that has no session
		if err := s.refresh(ctx); err != nil {
			return s.commitFailed(err)
		}
	}
	if in == nil && !s.exists() {
		return nil
	}
	if s.ended != nil { // it signs in all the same, but revives nothing
		s.forget()
	}
	if s.changesOwner(in) { // whose changes these were is no longer here
		s.resetChanges()
		s.attrs, s.changed = nil, true
	}
	if err := s.rejectStale(); err != nil {
		return err
	}
	old := s.key
	for {
		rec, p := s.successor(in)
		id, p, err := s.create(ctx, &rec, p)
		if err != nil {
			return s.commitFailed(err)
		}
		if s.exists() {
			again, err := s.retire(ctx, old, id, &rec, &p, in)
			if again {
				continue
			}
			if err != nil && s.keepsSuccessor(err, in) {
				s.adopt(id, rec, p)
				s.broken = err
				return err
			}
			if err != nil {
				s.discard(ctx, id.Key())
				return s.commitFailed(err)
			}
		}
		s.stored(ctx)
		s.committed(ctx)
		s.adopt(id, rec, p)
		return nil
	}
}

// adopt makes the record under id the session.
func (s *Session) adopt(id format.ID, rec store.Record, p format.Payload) {
	s.id, s.key = id, id.Key()
	s.ended, s.refused = nil, false
	s.setBase(rec, p)
	s.earlier = nil
	s.cookie, s.tellSeen, s.active = cookieSet, true, true
}

// changesOwner reports whether in signs in somebody else than the owner.
func (s *Session) changesOwner(in *signIn) bool {
	return in != nil && s.base.Owner != "" && s.base.Owner != in.owner
}

// keepsSuccessor reports whether the browser gets the new ID because it is open
// whether the old one is dead. If the owner stays the same, that is the only way that
// surely leaves the user signed in. If it is certain that the old one lives, the
// browser keeps that, and what it holds.
func (s *Session) keepsSuccessor(err error, in *signIn) bool {
	return errors.Is(err, ErrAmbiguous) && (in == nil || s.base.Owner == in.owner)
}

// successor returns the record that follows the base, and its values, with the
// changes of this request.
func (s *Session) successor(in *signIn) (store.Record, format.Payload) {
	rec, p := s.base, s.payload
	p.Attrs = s.attrs
	now := time.Now()
	if rec.Handle == (store.Handle{}) {
		rec.Handle = newHandle()
	}
	if in == nil {
		return rec, p
	}
	if rec.Owner != "" && rec.Owner != in.owner {
		rec.Handle = newHandle()
		p = format.Payload{}
	}
	rec.Owner = in.owner
	rec.Label = []byte(in.opts.Label)
	rec.Created = now
	rec.Deadline = now.Add(s.m.opts.Policy.Absolute)
	p.SignedInAt = now.Truncate(time.Millisecond)
	p.Methods = nil
	for _, m := range in.opts.Methods {
		p.Methods = append(p.Methods, []byte(m))
	}
	return rec.Truncate(), p
}

// retire turns the record under old into a marker that names id's. rec and p,
// the successor, are rebuilt if the old record has changed meanwhile, so that
// no acknowledged write is lost. After an error the successor is of no use;
// again means that it was removed and one that is a session of its own may be
// created.
func (s *Session) retire(ctx context.Context, old store.Key, id format.ID, rec *store.Record, p *format.Payload, in *signIn) (again bool, err error) {
	err = s.retireOld(ctx, old, id, rec, p, in)
	var ended *EndedError
	if err == nil || in == nil || !errors.As(err, &ended) {
		return false, err
	}
	switch {
	case ended.Reason == ReasonRenewed && !s.changesOwner(in):
		// The same person signed in twice at once, as by a double click. The
		// second one gets a session of its own with what it had loaded.
		s.setFacts(store.Record{}, s.payload)
	case s.base.Owner == "" || s.changesOwner(in):
		// The session before the sign-in ended. That stands on its own.
		attrs, err := s.replay(format.Payload{})
		if err != nil {
			return false, err
		}
		s.setFacts(store.Record{}, format.Payload{})
		s.attrs, s.changed = attrs, true
	default:
		return false, err
	}
	s.discard(ctx, id.Key())
	s.id, s.key = format.ID{}, store.Key{}
	return true, nil
}

func (s *Session) retireOld(ctx context.Context, old store.Key, id format.ID, rec *store.Record, p *format.Payload, in *signIn) error {
	k := id.Key()
	var line line
	defer line.leave()
	for try := 0; ; try++ {
		if !time.Now().Before(s.base.Deadline) {
			return &EndedError{Reason: ReasonAbsolute}
		}
		newer, err := s.m.swap(ctx, old, s.base.Version, markerFor(s.base, k, nil))
		switch {
		case err == nil:
			return nil
		case errors.Is(err, store.ErrNotFound):
			return &EndedError{Reason: s.whyGone()}
		case !errors.Is(err, store.ErrConflict):
			return err
		case newer.IsMarker():
			why := endReason(old, newer)
			if why == ReasonRenewed && in != nil {
				// Somebody else may have signed in: what was loaded is theirs then.
				if winner, err := s.m.get(ctx, newer.Next); err != nil || winner.Owner != in.owner {
					why = ReasonUnknown
				}
			}
			return &EndedError{Reason: why}
		}
		s.observe(ctx, Event{Kind: EventConflict})
		if try == 0 { // keep the writers of this process from winning again and again
			_ = line.join(ctx, &s.m.queues, old)
		}
		if s.changesOwner(in) { // none of the newer values are kept
			newer.Data = nil
			s.setFacts(newer, s.payload)
			continue
		}
		if err := s.rebase(newer); err != nil {
			return err
		}
		if err := s.rejectStale(); err != nil {
			return err
		}
		next, values := s.successor(in)
		next.Handle, next.Created, next.Deadline = rec.Handle, rec.Created, rec.Deadline
		next.Version = nextVersion(rec.Version)
		if values, err = s.fill(id, &next, values); err != nil {
			return err
		}
		_, err = s.m.swap(ctx, k, rec.Version, next)
		switch {
		case errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrConflict):
			// Nobody else knows this ID, so a revocation took it.
			return &EndedError{Reason: ReasonRevoked}
		case err != nil: // and the old session lives: only its successor's values are open
			return fmt.Errorf("%w: %v", ErrUnavailable, err)
		}
		*rec, *p = next, values
	}
}

// discard removes a record that nobody holds the ID of. If it cannot, the
// record stays until it expires.
func (s *Session) discard(ctx context.Context, k store.Key) {
	ctx = context.WithoutCancel(ctx)
	if err := s.m.remove(ctx, k); err != nil {
		s.warn(ctx, "could not remove a record that is not needed; it stays until it expires", "error", err)
	}
}

// markerLife is how long a marker outlives its session: longer than any request
// that loaded the session takes to commit, so that the request learns why it
// cannot. After it the old key is merely unknown.
const markerLife = 10 * time.Minute

// markerFor returns the marker that takes the place of base and leads to next.
// label holds the reason of one that leads nowhere else.
func markerFor(base store.Record, next store.Key, label []byte) store.Record {
	m := base
	m.Version = nextVersion(base.Version)
	m.Next = next
	m.Label, m.Data = label, nil
	// The session's own expiry may have passed and been extended by others.
	m.Expires = time.Now().Add(markerLife)
	if m.Expires.After(m.Deadline) {
		m.Expires = m.Deadline
	}
	return m.Truncate()
}

// endReason reads a marker found under k: one that leads to itself was left by
// an end, and its label says by which.
func endReason(k store.Key, marker store.Record) Reason {
	if marker.Next != k {
		return ReasonRenewed
	}
	switch r := Reason(marker.Label); r {
	case ReasonLogout, ReasonRevoked:
		return r
	}
	return ReasonUnknown
}

func newHandle() store.Handle {
	var h store.Handle
	_, _ = rand.Read(h[:]) // never fails: crypto/rand ends the program instead
	return h
}
