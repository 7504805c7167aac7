package redisstore

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coatcheck/coatcheck/store"
	"github.com/redis/rueidis"
)

// The index of owners is 2,048 sorted sets, each of which holds the entries of many
// owners: a set for each owner takes three times the memory. In a cluster an entry
// is on another server than its record, so the two are written one after the other,
// the entry first: a crash between them leaves an entry too many, never one too few.
//
// Which set an entry is in, the upper part of its score, and the beginning of its
// member are all from a hash of the owner; the rest of the member is the record's
// key. So the entries of an owner are in a row, and owners that share a set and an
// upper part, by chance or on purpose, are told apart by the member before a record
// is read, and by the record if all 54 bits are the same.
//
// The lower part of the score is when the entry is of no more use, and when it was
// made. Both are needed: an entry past its deadline goes when somebody finds it; one
// whose record is absent goes when somebody looks, unless it is so young that its
// record may be on the way. It is 52 bits in all, because the server writes larger
// numbers as text, and a list of small ones takes less:
//
//	19 bits  of the hash of the owner
//	24 bits  the deadline, rounded up, in units of 256 s, until the year 2106
//	 9 bits  when it was made, in units of 8 s, which begin again after 68 minutes
const (
	ownerBits    = 19
	deadlineBits = 24
	madeBits     = 9
	lifeBits     = deadlineBits + madeBits

	deadlineUnit = 256 // seconds
	madeUnit     = 8   // seconds

	tagSize    = 3
	memberSize = tagSize + len(store.Key{})

	// young is how long an entry without a record is left alone. A Create takes no
	// longer, for its caller has a deadline of seconds.
	young = time.Minute

	// youngUnits has one more for the fractions, and one for the flip of a bit in
	// enterScript.
	youngUnits = int64((young/time.Second+madeUnit-1)/madeUnit) + 1

	// One in sampleEvery enterings looks at sample entries of any owners, which is
	// four for each. Where a share f of a set is past its deadline, 4 f of those go
	// for each entry that comes, and in the long run one that comes is one that ends:
	// the share falls while it is more than a quarter, and stays below about that.
	// To look is half of what entering costs the server already.
	sampleEvery = 4
	sample      = 16
)

// place is where the entries of an owner are.
type place struct {
	name  string // of the sorted set
	first int64  // the least score
	tag   string // the beginning of each member
}

// place returns the place of owner. The name of the set is two characters of
// base64url, which are 11 bits of the hash: it is printable, and shows no owner in a
// list of keys.
func (s *Store) place(owner string) place {
	sum := sha256.Sum256([]byte(owner))
	return place{
		name:  s.owners + base64.RawURLEncoding.EncodeToString([]byte{sum[0], sum[1] & 0xe0})[:2],
		first: int64(binary.BigEndian.Uint32(sum[4:])>>(32-ownerBits)) << lifeBits,
		tag:   string(sum[8 : 8+tagSize]),
	}
}

// last returns the greatest score.
func (p place) last() int64 { return p.first | (1<<lifeBits - 1) }

func (p place) member(k store.Key) string { return p.tag + text(k[:]) }

type entry struct {
	key   store.Key
	score int64
}

func (p place) entry(k store.Key, deadline, now time.Time) entry {
	end := min(deadline.Unix()/deadlineUnit+1, 1<<deadlineBits-1)
	return entry{k, p.first | end<<madeBits | made(now)}
}

func made(t time.Time) int64 { return t.Unix() / madeUnit & (1<<madeBits - 1) }

// end is when the entry is of no more use.
func (e entry) end() time.Time {
	return time.Unix(e.score>>madeBits&(1<<deadlineBits-1)*deadlineUnit, 0)
}

// old reports whether the entry was made more than a minute ago, or up to 28 s
// more. For two minutes and a half in every 68 it takes an old one for
// young.
func (e entry) old(now time.Time) bool {
	age := (made(now) - e.score) & (1<<madeBits - 1)
	return age > youngUnits && age < 1<<madeBits-youngUnits
}

// enter puts e into the index of owner. What it throws out is past its deadline by
// every clock that is less than grace behind this one. With again, which is for a
// record that is there, an entry with this deadline stays as it is, and no replica
// is waited for.
func (s *Store) enter(ctx context.Context, owner string, e entry, now time.Time, again bool) error {
	exec, flag := s.exec, "0"
	if again {
		exec, flag = s.execNow, "1"
	}
	p, end := s.place(owner), e.end().Add(grace)
	return exec(ctx, enterScript, p.name,
		strconv.FormatInt(e.score, 10), p.member(e.key), flag,
		strconv.FormatInt(now.Add(-grace).Unix()/deadlineUnit, 10), strconv.FormatUint(uint64(rand.Uint32()), 10),
		strconv.FormatInt(end.Sub(now).Milliseconds(), 10), millis(end)).Error()
}

// stillEntered returns nil if the record that was just created is in its owner's
// index. If not, a revocation of all the owner's sessions has come between, or
// may have, and the record goes.
func (s *Store) stillEntered(ctx context.Context, k store.Key, r store.Record) error {
	p := s.place(r.Owner)
	err := s.client.Do(ctx, s.client.B().Zscore().Key(p.name).Member(p.member(k)).Build()).Error()
	if err == nil {
		return nil
	}
	revoked := rueidis.IsRedisNil(err)
	_, dErr := s.exec(ctx, deleteScript, s.recordKey(k), millis(time.Now())).ToArray()
	switch {
	case dErr != nil: // it may live on, unlisted or to be found
		return fmt.Errorf("%w: %w", store.ErrAmbiguous, explain(ctx, dErr))
	case revoked:
		return store.ErrNotFound
	}
	return fmt.Errorf("%w: %w", store.ErrAmbiguous, explain(ctx, err))
}

// leaveConflict mends an entry whose record turned out to be another than the one
// that was to be created: somebody else's, or one with a later deadline.
func (s *Store) leaveConflict(ctx context.Context, owner string, e entry) {
	r, err := s.Get(ctx, e.key)
	if err != nil {
		return
	}
	if r.Owner != owner {
		_ = s.forget(ctx, owner, e) // else it is pruned when somebody looks
	} else {
		now := time.Now()
		_ = s.enter(ctx, owner, s.place(owner).entry(e.key, r.Deadline, now), now, true)
	}
}

// forget takes entries out of the index of owner, but for those that have been
// made anew.
func (s *Store) forget(ctx context.Context, owner string, entries ...entry) error {
	p := s.place(owner)
	for batch := range slices.Chunk(entries, maxBatch) {
		args := make([]string, 0, 2*len(batch))
		for _, e := range batch {
			args = append(args, strconv.FormatInt(e.score, 10), p.member(e.key))
		}
		if err := forgetScript.exec(ctx, s.client, p.name, args...).Error(); err != nil {
			return err
		}
	}
	return nil
}

// entries returns the index of owner.
func (s *Store) entries(ctx context.Context, owner string) ([]entry, error) {
	p := s.place(owner)
	low, high := strconv.FormatInt(p.first, 10), strconv.FormatInt(p.last(), 10)
	pairs, err := s.client.Do(ctx, s.client.B().Zrange().Key(p.name).Min(low).Max(high).Byscore().Withscores().Build()).AsZScores()
	if err != nil {
		return nil, err
	}
	list := make([]entry, 0, len(pairs))
	for _, z := range pairs {
		key, ok := strings.CutPrefix(z.Member, p.tag)
		if !ok || len(z.Member) != memberSize {
			continue
		}
		e := entry{score: int64(z.Score)}
		copy(e.key[:], key)
		list = append(list, e)
	}
	return list, nil
}

// ListOwner implements [store.OwnerIndex]. It prunes the index as it goes.
func (s *Store) ListOwner(ctx context.Context, owner string) ([]store.Keyed, error) {
	if ctx.Err() != nil {
		return nil, readError(ctx, "list owner", ctx.Err())
	}
	if owner == "" {
		return nil, readError(ctx, "list owner", errNoOwner)
	}
	entries, err := s.entries(ctx, owner)
	if err != nil {
		return nil, readError(ctx, "list owner", err)
	}
	keys := make([]store.Key, len(entries))
	for i, e := range entries {
		keys[i] = e.key
	}
	var list []store.Keyed
	var dead []entry
	now, i := time.Now(), -1
	err = s.each(ctx, keys, func(k store.Key, r store.Record, err error) error {
		i++
		switch {
		case err == nil:
			if r.Owner == owner && !r.IsMarker() {
				list = append(list, store.Keyed{Key: k, Record: r})
			}
		case errors.Is(err, errExpired): // perhaps by this clock alone
		case errors.Is(err, store.ErrNotFound):
			if entries[i].old(now) {
				dead = append(dead, entries[i])
			}
		case !errors.Is(err, store.ErrCorrupt):
			return err
		}
		return nil
	})
	if err != nil {
		return nil, readError(ctx, "list owner", err)
	}
	_ = s.forget(ctx, owner, dead...) // else the next one does
	return list, nil
}

// DeleteOwner implements [store.OwnerIndex]. Records that a pass has deleted lose
// their entry; an entry without a record only if it is old, for the record may be
// on the way.
func (s *Store) DeleteOwner(ctx context.Context, owner string, keep ...store.Handle) (int, error) {
	if ctx.Err() != nil {
		return 0, readError(ctx, "delete owner", ctx.Err())
	}
	if owner == "" {
		return 0, readError(ctx, "delete owner", errNoOwner)
	}
	entries, err := s.entries(ctx, owner)
	if err != nil {
		return 0, readError(ctx, "delete owner", err)
	}
	args := []string{millis(time.Now()), owner}
	for _, h := range keep {
		args = append(args, string(h[:]))
	}
	ended, now := 0, time.Now()
	for batch := range slices.Chunk(entries, maxBatch) {
		keys := make([]string, len(batch))
		for i, e := range batch {
			keys[i] = s.recordKey(e.key)
		}
		var gone []entry
		var failed error
		for i, res := range deleteOwnedScript.run(ctx, s.client, keys, args...) {
			found, err := res.AsInt64()
			if err != nil && failed == nil {
				failed = err
			}
			if err != nil {
				continue
			}
			switch found {
			case foundSession:
				ended++
				gone = append(gone, batch[i])
			case foundOther:
				gone = append(gone, batch[i])
			case foundNothing:
				if batch[i].old(now) {
					gone = append(gone, batch[i])
				}
			}
		}
		if failed == nil {
			failed = s.confirm(ctx, deleteOwnedScript, keys, args)
		}
		if failed == nil { // else who asks again must find what may come back
			failed = s.forget(ctx, owner, gone...)
		}
		if failed != nil {
			if ended > 0 || len(gone) > 0 {
				failed = halfDone{failed}
			}
			return ended, s.writeError(ctx, "delete owner", failed)
		}
	}
	return ended, nil
}

var errNoOwner = fmt.Errorf("%w: owner is empty; anonymous sessions have no index", store.ErrInvalid)
