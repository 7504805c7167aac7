package redisstore

import (
	"bytes"
	"encoding/hex"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/store"
)

// golden is what sessions are stored as since the first release. It never
// changes: a server that is upgraded reads what the one before it has written. A
// new format gets a new first byte, and a golden of its own.
var golden = []struct {
	name   string
	record store.Record
	hex    string
}{
	{
		"a session",
		store.Record{
			Version:  0x0102030405060708,
			Handle:   store.Handle{0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf},
			Owner:    "alice",
			Created:  time.UnixMilli(1_700_000_000_001).UTC(),
			Deadline: time.UnixMilli(1_700_000_000_003).UTC(),
			Expires:  time.UnixMilli(1_700_000_000_002).UTC(),
			Label:    []byte("laptop"),
			Data:     []byte{0, 1, 2, 0xff},
		},
		"01" + "00" + "0102030405060708" + "018bcfe56802" + "018bcfe56803" + "018bcfe56801" +
			"a0a1a2a3a4a5a6a7a8a9aaabacadaeaf" + "05" + "616c696365" + "0006" + "6c6170746f70" + "000102ff",
	},
	{
		"a marker without owner, label or data",
		store.Record{
			Version:  1,
			Created:  time.UnixMilli(0).UTC(),
			Deadline: time.UnixMilli(1<<48 - 1).UTC(),
			Expires:  time.UnixMilli(1).UTC(),
			Next:     store.Key{31: 0x7f},
		},
		"01" + "01" + "0000000000000001" + "000000000001" + "ffffffffffff" + "000000000000" +
			"00000000000000000000000000000000" + "00" + strings.Repeat("00", 31) + "7f" + "0000",
	},
}

func TestStoredBytesNeverChange(t *testing.T) {
	for _, g := range golden {
		if got := hex.EncodeToString(encode(g.record)); got != g.hex {
			t.Errorf("%s is stored as\n%s; want\n%s: what earlier versions have stored could not be read", g.name, got, g.hex)
		}
		b, err := hex.DecodeString(g.hex)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := decode(b); !ok || !reflect.DeepEqual(got, g.record) {
			t.Errorf("%s, stored by an earlier version, is read as %+v, %v", g.name, got, ok)
		}
	}
}

// someRecord returns a record at or between the bounds of each field.
func someRecord(r *rand.Rand) store.Record {
	size := func(limit int) int { return []int{0, 1, limit - 1, limit, r.IntN(limit)}[r.IntN(5)] }
	fill := func(n int) []byte {
		if n == 0 {
			return nil
		}
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return b
	}
	moment := func() time.Time {
		ms := []int64{0, 1, 1<<32 - 1, 1 << 32, 1<<48 - 1, r.Int64N(1 << 48)}[r.IntN(6)]
		return time.UnixMilli(ms).UTC()
	}
	rec := store.Record{
		Version: []uint64{0, 1, 1 << 53, 1<<53 + 1, 1<<64 - 1, r.Uint64()}[r.IntN(6)],
		Owner:   string(fill(size(store.MaxOwner))),
		Created: moment(), Deadline: moment(), Expires: moment(),
		Label: fill(size(store.MaxLabel)),
		Data:  fill(size(5000)),
	}
	copy(rec.Handle[:], fill(16))
	if r.IntN(2) == 0 {
		copy(rec.Next[:], fill(32))
	}
	return rec
}

func TestRecordsComeBackAsTheyWere(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	for range 3000 {
		want := someRecord(r)
		b := encode(want)
		got, ok := decode(b)
		if !ok || !reflect.DeepEqual(got, want) {
			t.Fatalf("seed %d: a record of %d bytes came back different (read: %v)", seed, len(b), ok)
		}
	}
}

// TestEveryCutIsNoticed: a value that ends too early, wherever, is not taken for a
// session of somebody else or with less in it. Data has no length of its own, so
// that alone may be shorter.
func TestEveryCutIsNoticed(t *testing.T) {
	for _, g := range golden {
		b := encode(g.record)
		for n := range len(b) - len(g.record.Data) {
			if _, ok := decode(b[:n:n]); ok {
				t.Errorf("the first %d of %d bytes of %s were taken for a record", n, len(b), g.name)
			}
		}
	}
}

func TestDamageIsNoticed(t *testing.T) {
	session, marker := encode(golden[0].record), encode(golden[1].record)
	change := func(b []byte, at int, to ...byte) []byte {
		b = bytes.Clone(b)
		copy(b[at:], to)
		return b
	}
	for name, b := range map[string][]byte{
		"nothing":                    nil,
		"another format":             change(session, 0, 2),
		"format zero":                change(session, 0, 0),
		"a flag that is not known":   change(session, 1, 2),
		"all flags":                  change(session, 1, 0xff),
		"an owner past the end":      change(session, 44, 255),
		"a label past the end":       change(session, 50, 0, 200),
		"a marker that names no key": change(marker, 45+31, 0),
		"text":                       []byte(strings.Repeat("session ", 20)),
		"a label over the limit":     append(change(session, 50, 0x04, 0x01), make([]byte, 2000)...),
	} {
		if _, ok := decode(b); ok {
			t.Errorf("%s was taken for a record", name)
		}
	}
}

// TestPartsDoNotShareSpace: appending to one part of a record that was read must
// not write over the next.
func TestPartsDoNotShareSpace(t *testing.T) {
	r, ok := decode(append(encode(golden[0].record), make([]byte, 8)...)[:60])
	if !ok {
		t.Fatal("not read")
	}
	data := bytes.Clone(r.Data)
	_ = append(r.Label, "xxxx"...)
	if !bytes.Equal(r.Data, data) {
		t.Error("appending to the label has changed the data")
	}
	if cap(r.Data) != len(r.Data) {
		t.Error("the data reaches past the record")
	}
}

func TestTimesThatFit(t *testing.T) {
	ok := store.Record{Created: time.UnixMilli(0), Deadline: lastTime}
	if !representable(ok) {
		t.Error("the first and the last moment of the format are refused")
	}
	if early := (store.Record{Created: time.UnixMilli(-1), Deadline: lastTime}); representable(early) {
		t.Error("a time before 1970 is accepted, and would be read as one in the year 10889")
	}
	if late := (store.Record{Created: time.UnixMilli(0), Deadline: lastTime.Add(time.Millisecond)}); representable(late) {
		t.Error("a deadline is accepted whose key's end does not fit")
	}
	if got := timeAt(appendTime(nil, lastTime.Add(grace))); !got.Equal(lastTime.Add(grace)) {
		t.Errorf("the end of the last key is read as %v", got)
	}
}

func FuzzDecode(f *testing.F) {
	for _, g := range golden {
		f.Add(encode(g.record))
	}
	f.Add(encode(someRecord(rand.New(rand.NewPCG(1, 2)))))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, ok := decode(b)
		if !ok {
			return
		}
		if again := encode(r); !bytes.Equal(again, b) {
			t.Errorf("%x was read, and would be stored as %x", b, again)
		}
	})
}
