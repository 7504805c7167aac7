package session

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/coatcheck/coatcheck/session/internal/format"
	"github.com/coatcheck/coatcheck/store"
)

// commit writes the journal to the store. s.mu is held.
func (s *Session) commit(ctx context.Context) error {
	if err := s.closed(); err != nil {
		if !s.refused {
			return nil
		}
		s.refused = false // told once
		return err
	}
	if len(s.journal) == 0 {
		s.touch(ctx)
		return nil
	}
	// A client that hangs up cannot stop what it asked for.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.locked(ctx)), s.m.opts.CommitTimeout)
	defer cancel()
	began := s.m.now()
	var err error
	if s.exists() {
		err = s.commitChanges(ctx, false)
	} else {
		err = s.commitNew(ctx)
	}
	s.m.worked(ctx, EventCommit, began, 0, err)
	return err
}

// commitNew stores a session for a visitor who had none.
func (s *Session) commitNew(ctx context.Context) error {
	if s.mayBeCopy { // it may be a copy alone that has no session
		if err := s.refresh(ctx); err != nil {
			return s.commitFailed(err)
		}
		if s.exists() {
			return s.commitChanges(ctx, false)
		}
	}
	if len(s.attrs) == 0 { // what was set was deleted again
		s.observe(ctx, Event{Kind: EventWriteSaved})
		s.resetChanges()
		return nil
	}
	if s.headerSent {
		s.resetChanges()
		return ErrHeadersSent
	}
	now := time.Now()
	rec := store.Record{
		Handle:   newHandle(),
		Created:  now,
		Deadline: now.Add(s.m.opts.Policy.Absolute),
	}.Truncate()
	p := s.payload
	p.Attrs = s.attrs
	id, p, err := s.create(ctx, &rec, p)
	if err != nil {
		return s.commitFailed(err)
	}
	s.stored(ctx)
	s.id, s.key = id, id.Key()
	s.setBase(rec, p)
	s.cookie, s.tellSeen, s.active = cookieSet, true, true
	return nil
}

// commitChanges applies the journal to the record by compare-and-swap, again on
// newer values as long as other requests are faster. With rewrite it writes
// although nothing changed.
func (s *Session) commitChanges(ctx context.Context, rewrite bool) error {
	var line line // of those in this process who want to write the same record
	defer line.leave()
	if line.join(ctx, &s.m.queues, s.key) == nil && newerThan(line.newest(), s.base) {
		if err := s.rebase(line.newest()); err != nil {
			return err
		}
	}
	for try := 0; ; try++ {
		if err := s.rejectStale(); err != nil {
			return err
		}
		same := format.EqualAttrs(s.attrs, s.payload.Attrs)
		// Values that are in place may have been put there by a request that was told
		// that they are not confirmed. To write them again confirms them.
		if same && !rewrite && (s.m.confirms == nil || !s.m.confirms.Confirms()) {
			// Nothing to write, unless somebody else has written since.
			cur, err := s.m.get(ctx, s.key)
			switch {
			case errors.Is(err, store.ErrNotFound):
				return s.endedNow()
			case err != nil:
				return s.commitFailed(unavailable(err))
			case cur.Version == s.base.Version:
				s.observe(ctx, Event{Kind: EventWriteSaved})
				// What it asked for is there, but not in every copy.
				s.tellSeen, s.mayBeCopy = true, false
				s.resetChanges()
				line.leave()
				s.touch(ctx)
				return nil
			}
			if err := s.rebase(cur); err != nil {
				return err
			}
			continue
		}
		p := s.payload
		p.Attrs = s.attrs
		rec := s.base
		rec.Version = nextVersion(s.base.Version)
		p, err := s.fill(s.id, &rec, p)
		if err != nil {
			return s.commitFailed(err)
		}
		newer, err := s.m.swap(ctx, s.key, s.base.Version, rec)
		switch {
		case err == nil:
			line.handOn(rec)
			s.stored(ctx)
			if !same {
				s.committed(ctx)
			}
			s.setBase(rec, p)
			s.tellSeen = s.tellSeen || !rewrite // which changes no value
			s.active = true
			return nil
		case errors.Is(err, store.ErrNotFound):
			return s.endedNow()
		case !errors.Is(err, store.ErrConflict):
			return s.commitFailed(err)
		}
		s.observe(ctx, Event{Kind: EventConflict})
		if try > 0 { // the first time, what conflicted is just done
			afterConflict.wait(ctx, try-1)
		}
		if err := s.rebase(newer); err != nil {
			return err
		}
	}
}

// endedNow notes that the record is gone.
func (s *Session) endedNow() error { return s.endedBy(s.whyGone()) }

// whyGone returns why the record is gone, as far as the clock tells.
func (s *Session) whyGone() Reason {
	switch now := time.Now(); {
	case !now.Before(s.m.deadline(s.base)):
		return ReasonAbsolute
	case !now.Before(s.base.Expires):
		return ReasonIdle
	}
	return ReasonUnknown
}

// rebase makes a newer record the base of the session and replays the journal
// on it.
func (s *Session) rebase(rec store.Record) error {
	if rec.IsMarker() {
		return s.endedBy(endReason(s.key, rec))
	}
	p, err := s.decode(s.id, s.key, rec)
	if err != nil {
		return s.commitFailed(unavailable(err))
	}
	return s.rebaseOn(rec, p)
}

// rebaseOn is rebase with the record's data decoded.
func (s *Session) rebaseOn(rec store.Record, p format.Payload) error {
	attrs, err := s.replay(p)
	if err != nil {
		s.setBase(rec, p)
		return err
	}
	journal := s.journal
	s.setBase(rec, p)
	s.attrs, s.changed, s.journal = attrs, true, journal
	return nil
}

// commitFailed drops the journal. If the outcome is open, the session takes no
// more changes: building on values that may or may not be stored would apply
// them twice.
func (s *Session) commitFailed(err error) error {
	var ended *EndedError
	if errors.As(err, &ended) {
		return s.endedBy(ended.Reason)
	}
	s.resetChanges()
	if errors.Is(err, ErrUnavailable) || errors.Is(err, ErrAmbiguous) {
		s.broken = err
	}
	return err
}

// fill completes a record that is about to be written under id: its expiry and
// its data. It returns p as encoded.
func (s *Session) fill(id format.ID, rec *store.Record, p format.Payload) (format.Payload, error) {
	policy := s.m.opts.Policy
	rec.Deadline = s.m.deadline(*rec)
	rec.Expires = time.Now().Add(policy.Idle)
	if rec.Expires.After(rec.Deadline) {
		rec.Expires = rec.Deadline
	}
	*rec = rec.Truncate()
	if !rec.Live(time.Now()) { // only the deadline can have passed
		return format.Payload{}, &EndedError{Reason: ReasonAbsolute}
	}
	p.IdleTimeout = policy.Idle
	plain := p.Append(nil)
	s.large = nil
	if err := s.checkSize(p, len(plain)); err != nil {
		return format.Payload{}, err
	}
	if s.m.opts.Unsealed {
		rec.Data = format.Plain(plain)
	} else {
		rec.Data = s.sealer.Seal(id, id.Key(), *rec, plain)
	}
	return p, nil
}

func (s *Session) checkSize(p format.Payload, size int) error {
	if size <= warnSize && size <= s.m.opts.MaxSize {
		return nil
	}
	largest := ""
	most := -1
	for _, a := range p.Attrs {
		if len(a.Value) > most {
			largest, most = string(a.Name), len(a.Value)
		}
	}
	if size > s.m.opts.MaxSize {
		return fmt.Errorf("session: %w: %d bytes of values, of which attribute %q takes %d; Options.MaxSize is %d. Keep large things in a database and their keys in the session",
			ErrTooLarge, size, largest, most, s.m.opts.MaxSize)
	}
	s.large = &large{size, largest}
	return nil
}

// large is what there is to say of values over 4 KiB.
type large struct {
	bytes   int
	largest string // attribute
}

// stored tells of what fill has completed, and is stored now.
func (s *Session) stored(ctx context.Context) {
	if l := s.large; l != nil {
		s.warn(ctx, "a session is larger than 4 KiB, which every request has to fetch", "bytes", l.bytes, "largest_attr", l.largest)
		s.observe(ctx, Event{Kind: EventLarge, Attr: l.largest})
	}
}

// swap replaces the record under k. When an answer is lost it finds out what
// became of the write, and repeats it only if it did not happen; so nothing is
// ever applied twice. On ErrConflict it returns the newer record.
func (m *Manager) swap(ctx context.Context, k store.Key, old uint64, rec store.Record) (newer store.Record, err error) {
	return m.settle(ctx, k, old, rec, nil)
}

// maxRejected is how often a write that the store rejects is tried again. A full memory
// may have room for a small write a moment later; waiting for longer is in vain.
const maxRejected = 2

// settle is swap after lost, if that is not nil, left open whether rec was
// stored.
//
// Where the store says ErrUnconfirmed, to read one's own bytes is no proof: the
// only server that has them may be about to die. Then they are written again,
// onto themselves, until the store confirms that, or falls back behind them, or
// time is up. If somebody has built on them meanwhile, nobody can tell whether
// that was before or after such a fall: ErrAmbiguous. A store that confirms nothing
// is as good as away, so that is ErrUnavailable as well.
func (m *Manager) settle(ctx context.Context, k store.Key, old uint64, rec store.Record, lost error) (newer store.Record, err error) {
	unconfirmed := errors.Is(lost, store.ErrUnconfirmed)
	unread := context.DeadlineExceeded
	from, failed := old, lost
	for try := 0; ; try++ {
		if ctx.Err() != nil {
			return store.Record{}, outcomeOpen(lost, unread)
		}
		if try > 0 || lost != nil {
			m.retries(ctx, "replace", failed)
		}
		err := m.call(ctx, "replace", len(rec.Data), func(ctx context.Context) error {
			return m.store.Replace(ctx, k, from, rec)
		})
		failed = err
		switch {
		case errors.Is(err, store.ErrInvalid) && !rec.Live(time.Now()):
			return store.Record{}, store.ErrNotFound // it expired on the way
		case err == nil, errors.Is(err, store.ErrInvalid), errors.Is(err, store.ErrTooLarge):
			return store.Record{}, err
		case errors.Is(err, store.ErrNotFound):
			return store.Record{}, err
		case errors.Is(err, store.ErrRejected) && lost == nil && try >= maxRejected:
			return store.Record{}, unavailable(err)
		case errors.Is(err, store.ErrUnapplied): // which leaves nothing open
			unread = err
			afterFailure.wait(ctx, try)
		case !errors.Is(err, store.ErrConflict):
			lost = err
			unconfirmed = unconfirmed || errors.Is(err, store.ErrUnconfirmed)
			afterFailure.wait(ctx, try)
		}
		cur, err := m.get(ctx, k)
		switch {
		case errors.Is(err, store.ErrNotFound):
			return store.Record{}, err
		case err != nil:
			if ctx.Err() == nil { // else what came before says why
				unread = err
			}
			afterFailure.wait(ctx, try)
		case format.Same(cur, rec):
			if !unconfirmed {
				return store.Record{}, nil
			}
			from, rec = rec.Version, cur // with its expiry, which a touch may have moved
		case cur.Version == old: // it did not happen, or not for good: once more
			from = old
		case lost != nil && !rec.IsMarker():
			// Mine may have been stored and built upon. (A marker would still be
			// there: nothing replaces one.)
			if unconfirmed {
				return store.Record{}, outcomeOpen(lost, nil)
			}
			return store.Record{}, ErrAmbiguous
		default:
			return cur, store.ErrConflict
		}
	}
}

// create stores a new record under an ID that it chooses, and like swap survives lost
// answers. An attempt that was lost may still be on its way, and arrive when the session
// has long ended: nothing would be left under its key to stop it. So the next attempt is
// under another ID, and what arrives late is a record that nobody holds the ID of. It may
// be listed with its owner's sessions until it expires, under the same handle.
func (s *Session) create(ctx context.Context, rec *store.Record, p format.Payload) (format.ID, format.Payload, error) {
	id := format.NewID()
	rec.Version = nextVersion(0)
	p, err := s.fill(id, rec, p)
	if err != nil {
		return id, p, err
	}
	var lost, failed error
	unapplied := context.DeadlineExceeded
	for try := 0; ; try++ {
		if ctx.Err() != nil {
			return id, p, outcomeOpen(lost, unapplied)
		}
		if try > 0 {
			s.m.retries(ctx, "create", failed)
		}
		k := id.Key()
		err := s.m.call(ctx, "create", len(rec.Data), func(ctx context.Context) error {
			return s.m.store.Create(ctx, k, *rec)
		})
		failed = err
		open := false
		switch {
		case err == nil, errors.Is(err, store.ErrInvalid), errors.Is(err, store.ErrTooLarge):
			return id, p, err
		case errors.Is(err, store.ErrNotFound): // revoked while it was being created
			return id, p, &EndedError{Reason: ReasonRevoked}
		case errors.Is(err, store.ErrRejected) && lost == nil && try >= maxRejected:
			return id, p, unavailable(err)
		case errors.Is(err, store.ErrUnapplied):
			unapplied = err
			afterFailure.wait(ctx, try)
		case !errors.Is(err, store.ErrConflict):
			open = true
			if !errors.Is(lost, store.ErrUnconfirmed) {
				lost = err
			}
			afterFailure.wait(ctx, try)
		}
		cur, err := s.m.get(ctx, k)
		for look := 0; open && err != nil && !errors.Is(err, store.ErrNotFound) && ctx.Err() == nil; look++ {
			afterFailure.wait(ctx, look) // it has to be known before another one is made
			s.m.retries(ctx, "get", err)
			cur, err = s.m.get(ctx, k)
		}
		if err == nil && format.Same(cur, *rec) && errors.Is(lost, store.ErrUnconfirmed) {
			if _, err = s.m.settle(ctx, k, rec.Version, cur, lost); err != nil && !errors.Is(err, store.ErrNotFound) {
				return id, p, err
			}
		}
		switch {
		case err == nil && format.Same(cur, *rec):
			return id, p, nil
		case err == nil:
			return id, p, ErrAmbiguous // 256 random bits met twice: something is broken
		case !errors.Is(err, store.ErrNotFound):
			afterFailure.wait(ctx, try)
		}
		if open && ctx.Err() == nil {
			id = format.NewID()
			if p, err = s.fill(id, rec, p); err != nil {
				return id, p, err
			}
		}
	}
}

// outcomeOpen is the error for giving up on a store that does not answer. If a
// write may have reached it, lost says what went wrong then, and the error is
// ErrAmbiguous too.
func outcomeOpen(lost, err error) error {
	if lost != nil {
		return fmt.Errorf("%w: %w: %w", ErrUnavailable, ErrAmbiguous, lost)
	}
	return unavailable(err)
}

// touch records activity, if that has not been done for a tenth of the idle
// timeout. A failure costs the user at most that, so it is only logged.
func (s *Session) touch(ctx context.Context) {
	if !s.exists() || s.closed() != nil {
		return
	}
	now, idle, was := time.Now(), s.m.opts.Policy.Idle, s.payload.IdleTimeout
	expires := now.Add(idle)
	if d := s.m.deadline(s.base); expires.After(d) {
		expires = d
	}
	// A shorter policy lowers the expiry. A longer one waits until activity is
	// due by either, so that servers of both do not rewrite it in turn.
	lower := s.base.Expires.Sub(expires) > idle/10
	due := expires.Sub(s.base.Expires) >= idle/10 &&
		(was == idle || now.Sub(s.base.Expires.Add(-was)) >= min(was, idle)/10)
	if !lower && !due {
		if !s.active {
			s.active = true
			s.observe(ctx, Event{Kind: EventTouchSaved})
		}
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.locked(ctx)), s.m.opts.CommitTimeout)
	defer cancel()
	var err error
	if lower || was != idle {
		// Only a rewrite can lower the expiry, and say which policy it is by.
		err = s.commitChanges(ctx, true)
		s.broken = nil // this request changed nothing, so nothing is undecided
	} else if err = s.m.call(ctx, "touch", 0, func(ctx context.Context) error {
		return s.m.store.Touch(ctx, s.key, expires)
	}); err == nil {
		base := s.base
		base.Expires = expires
		s.setFacts(base, s.payload)
		s.active = true
	}
	switch {
	case err == nil:
	case errors.Is(err, store.ErrNotFound):
		_ = s.endedNow() // nor need it be told
	case errors.Is(err, ErrEnded):
	default:
		s.warn(ctx, "could not record activity", "error", err)
		s.observe(ctx, Event{Kind: EventTouchFailed, Err: err})
	}
}
