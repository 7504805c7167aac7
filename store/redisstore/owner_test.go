package redisstore

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/store"
)

// TestEntriesAge: an entry without a record is left alone for a minute, in which
// its Create may still be under way, and can be pruned half a minute later.
func TestEntriesAge(t *testing.T) {
	const wrap = madeUnit << madeBits * time.Second // when the time in a score begins again
	p := offline(t, nil).place("alice")
	for _, start := range []int64{
		1_700_000_000,
		1_700_000_007,
		1<<31 - 30, // the time in the score wraps right after these
		(1_700_000_000>>(madeBits+3)+1)<<(madeBits+3) - 1,
		(1_700_000_000>>(madeBits+3) + 1) << (madeBits + 3),
	} {
		at := time.Unix(start, 999_999_999)
		for _, c := range []struct {
			age time.Duration
			old bool
		}{
			{0, false},
			{time.Second, false},
			{-30 * time.Second, false}, // made by a server whose clock is ahead
			{-young, false},
			{young, false},
			{young + 28*time.Second, true},
			{10 * time.Minute, true},
			{wrap / 2, true},
			{wrap - young - 28*time.Second, true},
			{wrap, false}, // wrongly, for two minutes and a half in 68
			{wrap + young + 28*time.Second, true},
			{24 * time.Hour, true},
		} {
			for _, deadline := range []time.Duration{time.Second, 24 * time.Hour, 400 * 24 * time.Hour, 200 * 365 * 24 * time.Hour} {
				e := p.entry(store.Key{}, at.Add(deadline), at)
				for _, score := range []int64{e.score, e.score ^ 1} { // as enterScript may have it
					if got := (entry{score: score}).old(at.Add(c.age)); got != c.old {
						t.Errorf("an entry made at %d with a deadline in %v is old after %v: %v; want %v", start, deadline, c.age, got, c.old)
					}
				}
			}
		}
	}
}

// TestEntriesEnd: not before the deadline, nor long after it.
func TestEntriesEnd(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	p := offline(t, nil).place("alice")
	for _, life := range []time.Duration{0, time.Millisecond, time.Second, time.Hour, 400 * 24 * time.Hour, 80 * 365 * 24 * time.Hour} {
		deadline := now.Add(life)
		if late := p.entry(store.Key{}, deadline, now).end().Sub(deadline); late < 0 || late > deadlineUnit*time.Second {
			t.Errorf("an entry ends %v after its deadline in %v", late, life)
		}
	}
	if end := p.entry(store.Key{}, lastTime, now).end(); end.Year() != 2106 {
		t.Errorf("the entry with the last deadline ends in %v; want 2106, which is the last time there is", end)
	}
}

// TestEntriesAreSmall: larger numbers are not exact in a double, which is what the
// server keeps, or are written as text; and longer members are not in its lists.
func TestEntriesAreSmall(t *testing.T) {
	s, now := offline(t, nil), time.Now()
	for _, owner := range strings.Fields("alice bob carol dave erin frank grace heidi ivan judy") {
		p := s.place(owner)
		for _, deadline := range []time.Time{now, now.Add(24 * time.Hour), lastTime} {
			e := p.entry(store.Key{}, deadline, now)
			if e.score < p.first || e.score > p.last() || e.score >= 1<<52 {
				t.Errorf("the score %d is not of the owner, or has more than 52 bits", e.score)
			}
		}
		if got := len(p.member(store.Key{})); got != memberSize || got > 64 {
			t.Errorf("a member has %d bytes; want %d, and at most 64", got, memberSize)
		}
	}
}

// TestPlaces: the names of the sets show no owner, are printable and few, and what
// tells owners apart does so.
func TestPlaces(t *testing.T) {
	s := offline(t, nil)
	seen := map[place]string{}
	for _, owner := range []string{"alice", "Alice", "alice ", "alice\x00", "{x}", "\xff\xfe", "jos\u00e9", "jose\u0301"} {
		p := s.place(owner)
		if other, ok := seen[p]; ok {
			t.Errorf("owners %q and %q share a place", owner, other)
		}
		seen[p] = owner
	}
	sets, scores, tags := map[string]bool{}, map[int64]bool{}, map[string]bool{}
	const n = 20_000
	for i := range n {
		p := s.place("owner " + strconv.Itoa(i))
		sets[p.name], scores[p.first], tags[p.tag] = true, true, true
	}
	if len(sets) != 2048 {
		t.Errorf("%d sets for %d owners; want 2048", len(sets), n)
	}
	if len(scores) < n-n/20 || len(tags) < n-100 {
		t.Errorf("%d owners have %d scores and %d beginnings of members", n, len(scores), len(tags))
	}
	for name := range sets {
		if len(name) != len(defaultPrefix)+len("o:")+2 || strings.Trim(name, prefixBytes) != "" {
			t.Errorf("a set of the index has the name %q", name)
		}
	}
}
