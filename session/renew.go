package session

import (
	"context"
	"crypto/rand"
	"errors"
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
	return s.move(ctx, &signIn{owner, opts})
}

// Renew gives the session a new ID, for a change of privilege that is no
// sign-in, and commits the changes of this request. The old ID is dead at
// once. A session that is not in the store has no ID to renew.
//
// It does its work before it returns, and returns what SignIn does.
func (s *Session) Renew(ctx context.Context) error { return s.move(ctx, nil) }

type signIn struct {
	owner string
	opts  *SignInOptions
}

// move takes the session to a new ID: create the new record, then turn the old
// one into a marker. In between both are alive, which a change of the old one
// or its end may use, so the second step is a compare-and-swap.
func (s *Session) move(ctx context.Context, in *signIn) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.headerSent() {
		return ErrHeadersSent
	}
	if s.broken != nil {
		return s.broken
	}
	if in == nil && s.ended != nil {
		return s.ended
	}
	if in == nil && !s.exists() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.m.opts.CommitTimeout)
	defer cancel()
	if s.ended != nil { // it signs in all the same, but revives nothing
		s.forget()
	}
	old := s.key
	for {
		id := format.NewID()
		rec, p := s.successor(in)
		p, err := s.create(ctx, id, &rec, p)
		if err != nil {
			return s.moveFailed(err)
		}
		if s.exists() {
			again, err := s.retire(ctx, old, id, &rec, &p, in)
			if again {
				continue
			}
			if err != nil {
				return s.moveFailed(err)
			}
		}
		s.id, s.key = id, id.Key()
		s.ended, s.refused = nil, false
		s.setBase(rec, p)
		s.tellBrowser(cookieSet)
		return nil
	}
}

func (s *Session) moveFailed(err error) error {
	var ended *EndedError
	if errors.As(err, &ended) {
		return s.endedBy(ended.Reason)
	}
	return s.commitFailed(err)
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
// no acknowledged write is lost. If the old one cannot be retired, the
// successor is deleted; again means that one for a session of its own may be
// created then.
func (s *Session) retire(ctx context.Context, old store.Key, id format.ID, rec *store.Record, p *format.Payload, in *signIn) (again bool, err error) {
	k := id.Key()
	var line line
	defer line.leave()
	for try := 0; ; try++ {
		newer, err := s.m.swap(ctx, old, s.base.Version, markerFor(s.base, k, nil))
		switch {
		case err == nil:
			return false, nil
		case errors.Is(err, store.ErrConflict) && newer.Next == k:
			return false, nil // mine, and its answer was lost
		case errors.Is(err, store.ErrConflict) && !newer.IsMarker():
			s.m.observe(ctx, Event{Kind: EventConflict})
			if try == 0 { // keep the writers of this process from winning again and again
				_ = line.join(ctx, &s.m.queues, old)
			}
			if err = s.rebase(ctx, newer); err != nil {
				break
			}
			next, values := s.successor(in)
			next.Handle, next.Created, next.Deadline = rec.Handle, rec.Created, rec.Deadline
			next.Version = nextVersion(rec.Version)
			if values, err = s.fill(id, &next, values); err != nil {
				break
			}
			if _, err = s.m.swap(ctx, k, rec.Version, next); err == nil {
				*rec, *p = next, values
				continue
			}
			if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrConflict) {
				// Nobody else knows this ID, so a revocation took it.
				err = &EndedError{Reason: ReasonRevoked}
			}
		case errors.Is(err, store.ErrConflict): // a marker of somebody else's
			err = &EndedError{Reason: endReason(old, newer)}
		case errors.Is(err, store.ErrNotFound):
			err = &EndedError{Reason: ReasonRevoked}
		}
		s.m.discard(ctx, k)
		var ended *EndedError
		if in == nil || !errors.As(err, &ended) {
			return false, err
		}
		switch {
		case ended.Reason == ReasonRenewed && (s.base.Owner == "" || s.base.Owner == in.owner):
			// The same person signed in twice at once, as by a double click. The
			// second one gets a session of its own with what it had loaded.
			s.base = store.Record{}
		case s.base.Owner == "":
			// An anonymous session ended. The sign-in stands on its own.
			p := format.Payload{}
			attrs, err := s.replay(ctx, p)
			if err != nil {
				return false, err
			}
			s.base, s.payload, s.attrs = store.Record{}, p, attrs
		default:
			return false, err
		}
		s.id, s.key = format.ID{}, store.Key{}
		return true, nil
	}
}

// discard removes a record that nobody holds the ID of. If it cannot, the
// record stays until it expires.
func (m *Manager) discard(ctx context.Context, k store.Key) {
	ctx = context.WithoutCancel(ctx)
	if err := m.remove(ctx, k); err != nil {
		m.log().WarnContext(ctx, "session: could not remove a record that is not needed; it stays until it expires", "error", err)
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
	if e := time.Now().Add(markerLife); e.Before(m.Expires) {
		m.Expires = e
	}
	return m
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
