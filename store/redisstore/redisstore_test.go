package redisstore

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/store"
	"github.com/redis/rueidis"
)

// unconnected is enough for what needs no connection.
type unconnected struct {
	rueidis.Client
	mode rueidis.ClientMode
}

func (c unconnected) Mode() rueidis.ClientMode { return c.mode }

func offline(t testing.TB, opts *Options) *Store {
	t.Helper()
	s, err := New(unconnected{mode: rueidis.ClientModeStandalone}, opts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestNewRefusesBadConfiguration(t *testing.T) {
	client := unconnected{mode: rueidis.ClientModeStandalone}
	for _, c := range []struct {
		name   string
		client rueidis.Client
		opts   *Options
		want   string // part of the error, "" for none
	}{
		{"defaults", client, nil, ""},
		{"zero options", client, &Options{}, ""},
		{"every letter that may be", client, &Options{Prefix: "app-1.x:/Y_"}, ""},
		{"the longest prefix", client, &Options{Prefix: strings.Repeat("p", maxPrefix)}, ""},
		{"no client", nil, nil, "OpenURL"},
		{"a prefix too long", client, &Options{Prefix: strings.Repeat("p", maxPrefix+1)}, "up to 64"},
		{"braces", client, &Options{Prefix: "{app}:"}, "one slot"},
		{"one brace", client, &Options{Prefix: "app}"}, "one slot"},
		{"a pattern", client, &Options{Prefix: "app*"}, "letters, digits"},
		{"a space", client, &Options{Prefix: "my app:"}, "letters, digits"},
		{"a line's end", client, &Options{Prefix: "app\n"}, "letters, digits"},
		{"not ASCII", client, &Options{Prefix: "sitzungé:"}, "letters, digits"},
		{"fewer than no replicas", client, &Options{MinReplicas: -1}, "negative"},
		{"less than no time", client, &Options{ReplicaTimeout: -1}, "negative"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := New(c.client, c.opts)
			switch {
			case c.want == "" && err != nil:
				t.Errorf("New: %v; want a store", err)
			case c.want != "" && (s != nil || err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("New returned %v, %v; want no store and an error that says %q", s, err, c.want)
			}
		})
	}
}

func TestKeysAreFoundAgain(t *testing.T) {
	s := offline(t, &Options{Prefix: "app:"})
	for range 100 {
		var k store.Key
		for i := range k {
			k[i] = byte(rand.Uint32())
		}
		name := s.recordKey(k)
		if got, ok := s.parseKey(name); !ok || got != k {
			t.Fatalf("the name of a key leads to another one, %v", ok)
		}
		for _, other := range []string{name[1:], name + "A", name[:len(name)-1], "app:o:" + name[6:], strings.Replace(name, ":s:", ":s:=", 1), name[:len(name)-1] + "+"} {
			if _, ok := s.parseKey(other); ok {
				t.Fatal("something else was taken for the name of a record")
			}
		}
		// The last letter has two bits to spare: one key, one name.
		last := strings.IndexByte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", name[len(name)-1])
		twin := name[:len(name)-1] + string("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[last|1])
		if _, ok := s.parseKey(twin); ok && twin != name {
			t.Fatal("two names were taken for one key")
		}
	}
}

// TestSlots: the vectors of the Redis cluster specification, and what CLUSTER
// KEYSLOT says.
func TestSlots(t *testing.T) {
	for name, want := range map[string]uint16{
		"123456789": 0x31C3,
		"":          0,
		"foo":       12182,
		"bar":       5061,
		"hello":     866,
	} {
		if got := slot(name); got != want {
			t.Errorf("slot of %q is %#x; want %#x", name, got, want)
		}
	}
}

func TestShardsAreRunsOfSlots(t *testing.T) {
	one := offline(t, nil)
	if one.Shards() != 1 || one.Shard(store.Key{1}) != 0 {
		t.Error("a single server has more than one part")
	}
	s, err := New(unconnected{mode: rueidis.ClientModeCluster}, nil)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[int]int{}
	for i := range 5000 {
		k := store.Key{byte(i), byte(i >> 8), 7}
		n := s.Shard(k)
		if n < 0 || n >= s.Shards() {
			t.Fatalf("part %d of %d", n, s.Shards())
		}
		if lo := n * perShard; int(slot(s.recordKey(k))) < lo || int(slot(s.recordKey(k))) >= lo+perShard {
			t.Fatal("a key is in a part that has not its slot")
		}
		seen[n]++
	}
	if len(seen) != s.Shards() {
		t.Errorf("%d of %d parts have keys", len(seen), s.Shards())
	}
}

func TestVersionsAreStoredWhole(t *testing.T) {
	for _, v := range []uint64{0, 1, 1 << 53, 1<<53 + 1, 1<<64 - 1, 0x0102030405060708} {
		r := store.Record{Version: v}
		if got := string(encode(r)[2:10]); got != version(v) {
			t.Errorf("%#x is stored as %x and compared as %x", v, got, version(v))
		}
	}
}

// TestNothingIsSentOf: what the contract refuses never reaches the client, which
// is not there.
func TestNothingIsSentOf(t *testing.T) {
	s := offline(t, nil)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	now := time.Now()
	good := store.Record{Created: now, Deadline: now.Add(time.Hour), Expires: now.Add(time.Hour)}
	old := good
	old.Created = time.UnixMilli(-1)
	late := good
	late.Deadline = lastTime.Add(time.Hour)
	big := good
	big.Data = make([]byte, maxData+1)
	for _, c := range []struct {
		name string
		ctx  context.Context
		r    store.Record
		want error
	}{
		{"a context that has ended", ended, good, context.Canceled},
		{"a session from before 1970", t.Context(), old, store.ErrInvalid},
		{"a deadline past the format", t.Context(), late, store.ErrInvalid},
		{"too much data", t.Context(), big, store.ErrTooLarge},
		{"the zero record", t.Context(), store.Record{}, store.ErrInvalid},
	} {
		for op, err := range map[string]error{
			"Create":  s.Create(c.ctx, store.Key{1}, c.r),
			"Replace": s.Replace(c.ctx, store.Key{1}, 1, c.r),
		} {
			if !errors.Is(err, c.want) || errors.Is(err, store.ErrAmbiguous) {
				t.Errorf("%s of %s: %v; want %v", op, c.name, err, c.want)
			}
		}
	}
	for op, err := range map[string]error{
		"Get":         second(s.Get(ended, store.Key{})),
		"GetMany":     second(s.GetMany(ended, []store.Key{{1}})),
		"Touch":       s.Touch(ended, store.Key{}, now),
		"Delete":      second(s.Delete(ended, store.Key{})),
		"ListOwner":   second(s.ListOwner(ended, "alice")),
		"DeleteOwner": second(s.DeleteOwner(ended, "alice")),
		"Watch":       s.Watch(ended, func(time.Time) {}, func([]store.Key) {}),
	} {
		if !errors.Is(err, context.Canceled) || errors.Is(err, store.ErrAmbiguous) {
			t.Errorf("%s with a context that has ended: %v; want context.Canceled alone", op, err)
		}
	}
	for op, err := range map[string]error{
		"ListOwner":   second(s.ListOwner(t.Context(), "")),
		"DeleteOwner": second(s.DeleteOwner(t.Context(), "")),
		"Touch":       s.Touch(t.Context(), store.Key{}, time.Time{}),
	} {
		if !errors.Is(err, store.ErrInvalid) {
			t.Errorf("%s without an owner or a time: %v; want ErrInvalid", op, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }
