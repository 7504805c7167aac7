package format

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/coatcheck/coatcheck/store"
)

func someRecord() store.Record {
	now := time.UnixMilli(1767225600123).UTC()
	return store.Record{
		Version: 7, Handle: store.Handle{1, 2, 3}, Owner: "alice", Label: []byte("Firefox on Linux"),
		Created: now, Deadline: now.Add(24 * time.Hour), Expires: now.Add(time.Hour),
	}
}

func TestRoundTrip(t *testing.T) {
	// Sizes around those at which the length of the envelope takes a byte more.
	for _, size := range []int{0, 1, 15, 16, 99, 100, 101, 127, 128, 16355, 16356, 16384, 1 << 20} {
		plain := bytes.Repeat([]byte{'p'}, size)
		id, rec := NewID(), someRecord()
		rec.Data = new(Sealer).Seal(id, id.Key(), rec, plain)
		if got, err := new(Sealer).Open(id, id.Key(), rec, false); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%d bytes sealed: %d bytes and %v come back", size, len(got), err)
		}
		if size > 8 && bytes.Contains(rec.Data, plain[:8]) {
			t.Errorf("%d bytes sealed: they are readable", size)
		}
		rec.Data = Plain(plain)
		if got, err := new(Sealer).Open(id, id.Key(), rec, true); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%d bytes unsealed: %d bytes and %v come back", size, len(got), err)
		}
	}
}

// TestEveryWriteIsItsOwn: a writer tells its own write by its nonce, and a nonce
// that came twice would undo GCM.
func TestEveryWriteIsItsOwn(t *testing.T) {
	id, rec := NewID(), someRecord()
	seen := make(map[string]bool)
	for range 1000 {
		for _, b := range [][]byte{new(Sealer).Seal(id, id.Key(), rec, []byte("p")), Plain([]byte("p"))} {
			if seen[string(b)] {
				t.Fatal("two writes have the same data")
			}
			seen[string(b)] = true
		}
	}
}

func TestSame(t *testing.T) {
	id, rec := NewID(), someRecord()
	rec.Data = new(Sealer).Seal(id, id.Key(), rec, nil)
	marker := rec
	marker.Data, marker.Next = nil, store.Key{1}
	for _, tc := range []struct {
		name string
		of   store.Record
		to   func(*store.Record)
		want bool
	}{
		{"nothing", rec, func(*store.Record) {}, true},
		{"the expiry, by a touch", rec, func(r *store.Record) { r.Expires = r.Deadline }, true},
		{"the version", rec, func(r *store.Record) { r.Version++ }, false},
		{"the nonce", rec, func(r *store.Record) { r.Data = new(Sealer).Seal(id, id.Key(), *r, nil) }, false},
		{"no data to empty data", marker, func(r *store.Record) { r.Data = []byte{} }, true},
		{"where a marker leads", marker, func(r *store.Record) { r.Next[0]++ }, false},
	} {
		other := tc.of
		tc.to(&other)
		if Same(tc.of, other) != tc.want {
			t.Errorf("a change of %s: the same write: %t, want %t", tc.name, !tc.want, tc.want)
		}
	}
}

// TestBinding proves that a sealed envelope opens in no other record, and that
// what may change during the life of a key does not matter.
func TestBinding(t *testing.T) {
	id, rec := NewID(), someRecord()
	rec.Data = new(Sealer).Seal(id, id.Key(), rec, []byte("p"))
	for _, tc := range []struct {
		name  string
		alter func(id *ID, k *store.Key, r *store.Record)
		want  error
	}{
		{"nothing", func(*ID, *store.Key, *store.Record) {}, nil},
		{"the ID alone", func(id *ID, _ *store.Key, _ *store.Record) { id[31] ^= 1 }, ErrCorrupt},
		{"the key alone", func(_ *ID, k *store.Key, _ *store.Record) { k[0] ^= 1 }, ErrCorrupt},
		{"the handle", func(_ *ID, _ *store.Key, r *store.Record) { r.Handle[15] ^= 1 }, ErrCorrupt},
		{"the owner", func(_ *ID, _ *store.Key, r *store.Record) { r.Owner = "Alice" }, ErrCorrupt},
		{"the end of the owner", func(_ *ID, _ *store.Key, r *store.Record) { r.Owner += "\x00" }, ErrCorrupt},
		{"the owner, taken away", func(_ *ID, _ *store.Key, r *store.Record) { r.Owner = "" }, ErrCorrupt},
		{"the creation time", func(_ *ID, _ *store.Key, r *store.Record) { r.Created = r.Created.Add(time.Millisecond) }, ErrCorrupt},
		{"the creation time, below a millisecond", func(_ *ID, _ *store.Key, r *store.Record) { r.Created = r.Created.Add(time.Microsecond) }, nil},
		{"the zone of the creation time", func(_ *ID, _ *store.Key, r *store.Record) { r.Created = r.Created.In(time.FixedZone("", 3600)) }, nil},
		{"version, deadline, expiry and label", func(_ *ID, _ *store.Key, r *store.Record) {
			r.Version++
			r.Deadline, r.Expires = r.Deadline.Add(-1), r.Expires.Add(1)
			r.Label = nil
		}, nil},
	} {
		id, k, r := id, id.Key(), rec
		tc.alter(&id, &k, &r)
		got, err := new(Sealer).Open(id, k, r, true)
		if !errors.Is(err, tc.want) {
			t.Errorf("with %s altered: %v, want %v", tc.name, err, tc.want)
		}
		if err != nil && got != nil {
			t.Errorf("with %s altered: an error and a plaintext", tc.name)
		}
	}
}

// TestEveryBitIsAuthenticated changes each bit of a sealed envelope. One of them
// makes it an unsealed one, which is refused where those are.
func TestEveryBitIsAuthenticated(t *testing.T) {
	id, rec := NewID(), someRecord()
	rec.Data = new(Sealer).Seal(id, id.Key(), rec, []byte("plaintext"))
	for bit := range 8 * len(rec.Data) {
		r := rec
		r.Data = bytes.Clone(rec.Data)
		r.Data[bit/8] ^= 1 << (bit % 8)
		if _, err := new(Sealer).Open(id, id.Key(), r, false); err == nil {
			t.Errorf("it opens with bit %d changed", bit)
		}
	}
	for n := range rec.Data {
		r := rec
		r.Data = rec.Data[:n]
		if _, err := new(Sealer).Open(id, id.Key(), r, false); !errors.Is(err, ErrCorrupt) {
			t.Errorf("cut to %d bytes: %v, want %v", n, err, ErrCorrupt)
		}
	}
}

// TestOpenErrors holds the order in which Open judges: what a newer program may
// have written is never called damage.
func TestOpenErrors(t *testing.T) {
	id, rec := NewID(), someRecord()
	sealed := new(Sealer).Seal(id, id.Key(), rec, []byte("p"))
	unsealed := Plain([]byte("p"))
	bytesField := func(n protowire.Number, v string) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, n, protowire.BytesType), []byte(v))
	}
	version := []byte{Version}
	for _, tc := range []struct {
		name string
		data []byte
		want error // where unsealed records are refused
		open error // where they are accepted
	}{
		{"sealed", sealed, nil, nil},
		{"unsealed", unsealed, ErrUnsealed, nil},
		{"unsealed without nonce", slices.Concat(version, bytesField(envelopePlain, "p")), ErrUnsealed, nil},
		{"sealed with an empty key ID", slices.Concat(version, bytesField(envelopeKeyID, ""), sealed[1:]), nil, nil},
		{"key ID", slices.Concat(version, bytesField(envelopeKeyID, "k"), sealed[1:]), ErrNewer, ErrNewer},
		{"key ID last", slices.Concat(sealed, bytesField(envelopeKeyID, "k")), ErrNewer, ErrNewer},
		{"key ID of an unsealed record", slices.Concat(unsealed, bytesField(envelopeKeyID, "k")), ErrNewer, ErrNewer},
		{"key ID and a new field", slices.Concat(version, bytesField(envelopeKeyID, "k"), bytesField(5, "")), ErrNewer, ErrNewer},
		{"version 0", slices.Concat([]byte{0}, sealed[1:]), ErrNewer, ErrNewer},
		{"version 2", slices.Concat([]byte{2}, sealed[1:]), ErrNewer, ErrNewer},
		{"version 2 and nothing else", []byte{2}, ErrNewer, ErrNewer},
		{"version 2 and what is no message", []byte{2, 0xff}, ErrNewer, ErrNewer},
		{"no data", nil, ErrCorrupt, ErrCorrupt},
		{"no fields", version, ErrCorrupt, ErrCorrupt},
		{"nonce alone", slices.Concat(version, bytesField(envelopeNonce, "n")), ErrCorrupt, ErrCorrupt},
		{"both", slices.Concat(sealed, unsealed[1:]), ErrCorrupt, ErrCorrupt},
		{"both, sealed empty", slices.Concat(unsealed, bytesField(envelopeSealed, "")), ErrCorrupt, ErrCorrupt},
		{"a new field", slices.Concat(sealed, bytesField(5, "")), ErrCorrupt, ErrCorrupt},
		{"another wire type", slices.Concat(unsealed, protowire.AppendVarint(protowire.AppendTag(nil, 4, protowire.VarintType), 1)), ErrCorrupt, ErrCorrupt},
		{"damage at the end of an unsealed record", slices.Concat(unsealed, []byte{0x80}), ErrCorrupt, ErrCorrupt},
		{"sealed too short", slices.Concat(version, bytesField(envelopeSealed, strings.Repeat("s", 27))), ErrCorrupt, ErrCorrupt},
		{"sealed by nobody", slices.Concat(version, bytesField(envelopeSealed, strings.Repeat("s", 28))), ErrCorrupt, ErrCorrupt},
		{"a length that overflows", slices.Concat(version, []byte{0x12}, protowire.AppendVarint(nil, 1<<64-1)), ErrCorrupt, ErrCorrupt},
	} {
		r := rec
		r.Data = tc.data
		if _, err := new(Sealer).Open(id, id.Key(), r, false); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
		got, err := new(Sealer).Open(id, id.Key(), r, true)
		if !errors.Is(err, tc.open) {
			t.Errorf("%s, unsealed accepted: %v, want %v", tc.name, err, tc.open)
		}
		if err == nil && string(got) != "p" {
			t.Errorf("%s: opens to %q", tc.name, got)
		}
	}
}

// TestOpenLeavesItsArguments: the record may be shared with a store or a cache.
func TestOpenLeavesItsArguments(t *testing.T) {
	id, rec := NewID(), someRecord()
	rec.Data = new(Sealer).Seal(id, id.Key(), rec, []byte("plaintext"))
	data, plain := bytes.Clone(rec.Data), []byte("plaintext")
	if _, err := new(Sealer).Open(id, id.Key(), rec, false); err != nil || !bytes.Equal(rec.Data, data) {
		t.Errorf("opening changed the data of the record (%v)", err)
	}
	new(Sealer).Seal(id, id.Key(), rec, plain)
	Plain(plain)
	if string(plain) != "plaintext" {
		t.Error("sealing changed the plaintext")
	}
}

// A Sealer remembers the key of one ID, and uses it for no other.
func TestSealerOfSeveralIDs(t *testing.T) {
	var c Sealer
	a, b := NewID(), NewID()
	rec := store.Record{}
	for _, id := range []ID{a, b, a, a, b} {
		rec.Data = c.Seal(id, id.Key(), rec, []byte("of this one"))
		for _, other := range []ID{a, b} {
			_, err := c.Open(other, id.Key(), rec, false)
			if (err == nil) != (other == id) {
				t.Errorf("sealed under one ID, opened under the same: %v; got error %v", other == id, err)
			}
		}
	}
}
