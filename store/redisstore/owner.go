package redisstore

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/coatcheck/coatcheck/store"
	"github.com/redis/rueidis"
)

// The index of an owner is a sorted set of the keys of their records. In a
// cluster it is on another server than those, so the two are written one after
// the other, the entry first: a crash between them leaves an entry too many,
// never one too few.
//
// An entry's score holds when it is of no more use, and when it was made: the
// second of the record's deadline, times 2^20, plus the second now modulo 2^20,
// which is twelve days. Both are needed: an entry past its deadline goes when the
// next one comes; one whose record is absent goes when somebody looks, unless it
// is so young that its record may be on the way. 52 bits are exact in a double.

const (
	secondBits = 20

	// young is how long an entry without a record is left alone. A Create takes no
	// longer, for its caller has a deadline of seconds.
	young = time.Minute
)

type entry struct {
	key   store.Key
	score int64
}

func newEntry(k store.Key, deadline, now time.Time) entry {
	second := min(deadline.Unix()+1, 1<<32-1)
	return entry{k, second<<secondBits | now.Unix()&(1<<secondBits-1)}
}

// old reports whether the entry was made more than a minute ago. One in twelve
// days it takes an old one for young, for a minute.
func (e entry) old(now time.Time) bool {
	age := (now.Unix() - e.score) & (1<<secondBits - 1)
	return age > int64(young/time.Second) && age < 1<<secondBits-int64(young/time.Second)
}

// ownerKey returns the name of owner's index: half of a hash, which is printable,
// short, and shows no name in a list of keys. Should two owners ever share it,
// the owner in each record tells them apart.
func (s *Store) ownerKey(owner string) string {
	sum := sha256.Sum256([]byte(owner))
	return s.owners + base64.RawURLEncoding.EncodeToString(sum[:16])
}

// enter puts e into the index of owner, by exec or execNow. What it throws out is
// past its deadline by every clock that is less than grace behind this one.
func (s *Store) enter(ctx context.Context, exec execFunc, owner string, e entry, now time.Time) error {
	end := time.Unix(e.score>>secondBits, 0).Add(grace)
	return exec(ctx, enterScript, s.ownerKey(owner),
		strconv.FormatInt(e.score, 10), text(e.key[:]),
		strconv.FormatInt(now.Add(-grace).Unix()<<secondBits, 10),
		strconv.FormatInt(end.Sub(now).Milliseconds(), 10), millis(end)).Error()
}

// stillEntered returns nil if the record that was just created is in its owner's
// index. If not, a revocation of all the owner's sessions has come between, or
// may have, and the record goes.
func (s *Store) stillEntered(ctx context.Context, k store.Key, r store.Record) error {
	err := s.client.Do(ctx, s.client.B().Zscore().Key(s.ownerKey(r.Owner)).Member(text(k[:])).Build()).Error()
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
		_ = s.enter(ctx, s.execNow, owner, newEntry(e.key, r.Deadline, now), now)
	}
}

// forget takes entries out of the index of owner, but for those that have been
// made anew.
func (s *Store) forget(ctx context.Context, owner string, entries ...entry) error {
	for batch := range slices.Chunk(entries, maxBatch) {
		args := make([]string, 0, 2*len(batch))
		for _, e := range batch {
			args = append(args, strconv.FormatInt(e.score, 10), text(e.key[:]))
		}
		if err := forgetScript.exec(ctx, s.client, s.ownerKey(owner), args...).Error(); err != nil {
			return err
		}
	}
	return nil
}

// entries returns the index of owner.
func (s *Store) entries(ctx context.Context, owner string) ([]entry, error) {
	pairs, err := s.client.Do(ctx, s.client.B().Zrange().Key(s.ownerKey(owner)).Min("0").Max("-1").Withscores().Build()).AsZScores()
	if err != nil {
		return nil, err
	}
	list := make([]entry, 0, len(pairs))
	for _, p := range pairs {
		e := entry{score: int64(p.Score)}
		if len(p.Member) != len(e.key) {
			continue
		}
		copy(e.key[:], p.Member)
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
		case err == nil && r.Owner == owner:
			if !r.IsMarker() {
				list = append(list, store.Keyed{Key: k, Record: r})
			}
		case errors.Is(err, errExpired): // perhaps by this clock alone
		case err == nil, errors.Is(err, store.ErrNotFound):
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
			return ended, s.writeError(ctx, "delete owner", failed)
		}
	}
	return ended, nil
}

var errNoOwner = fmt.Errorf("%w: owner is empty; anonymous sessions have no index", store.ErrInvalid)
