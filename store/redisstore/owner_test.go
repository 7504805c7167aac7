package redisstore

import (
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/store"
)

// TestEntriesAge: an entry without a record is left alone for a minute, in which
// its Create may still be under way, and can be pruned after.
func TestEntriesAge(t *testing.T) {
	const wrap = 1 << secondBits * time.Second // when the time in a score begins again
	for _, start := range []int64{
		1_700_000_000,
		1<<31 - 30, // the time in the score wraps right after these
		(1_700_000_000>>secondBits+1)<<secondBits - 1,
		(1_700_000_000>>secondBits + 1) << secondBits,
	} {
		made := time.Unix(start, 999_999_999)
		for _, c := range []struct {
			age time.Duration
			old bool
		}{
			{0, false},
			{time.Second, false},
			{-30 * time.Second, false}, // made by a server whose clock is ahead
			{young, false},
			{young + time.Second, true},
			{time.Hour, true},
			{wrap / 2, true},
			{wrap - young - time.Second, true},
			{wrap, false}, // wrongly, for a minute in twelve days
			{wrap + young + time.Second, true},
		} {
			for _, deadline := range []time.Duration{time.Second, 24 * time.Hour, 400 * 24 * time.Hour, 200 * 365 * 24 * time.Hour} {
				e := newEntry(store.Key{}, made.Add(deadline), made)
				if got := e.old(made.Add(c.age)); got != c.old {
					t.Errorf("an entry made at %d with a deadline in %v is old after %v: %v; want %v", start, deadline, c.age, got, c.old)
				}
			}
		}
	}
}

// TestEntriesAreOrderedByDeadline: that is how those past it are found, and none
// before.
func TestEntriesAreOrderedByDeadline(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	for _, life := range []time.Duration{time.Millisecond, time.Second, time.Hour, 400 * 24 * time.Hour} {
		deadline := now.Add(life)
		e := newEntry(store.Key{}, deadline, now)
		// enter throws out what is below the second that it runs in.
		if e.score < deadline.Unix()<<secondBits {
			t.Errorf("an entry is thrown out before its deadline in %v", life)
		}
		if e.score >= (deadline.Unix()+2)<<secondBits {
			t.Errorf("an entry is not thrown out two seconds after its deadline in %v", life)
		}
		if int64(float64(e.score)) != e.score {
			t.Errorf("the score %d is not exact in a double, which is what the server keeps", e.score)
		}
	}
	last := newEntry(store.Key{}, lastTime, now)
	if last.score >= 1<<53 || int64(float64(last.score)) != last.score {
		t.Errorf("the score %d of the last deadline is not exact in a double", last.score)
	}
}

func TestOwnersAreNotReadableInKeys(t *testing.T) {
	s := offline(t, nil)
	seen := map[string]string{}
	for _, owner := range []string{"alice", "Alice", "alice ", "alice\x00", "{x}", "\xff\xfe", "jos\u00e9", "jose\u0301"} {
		name := s.ownerKey(owner)
		if len(name) != len(defaultPrefix)+len("o:")+22 {
			t.Errorf("the index of an owner has a name of %d bytes", len(name))
		}
		for i := range len(name) {
			if c := name[i]; c <= ' ' || c > '~' || c == '{' || c == '}' {
				t.Errorf("the index of an owner has the byte %#x in its name", c)
			}
		}
		if other, ok := seen[name]; ok {
			t.Errorf("owners %q and %q share an index", owner, other)
		}
		seen[name] = owner
	}
}
