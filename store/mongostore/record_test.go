package mongostore

import (
	"reflect"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/coatcheck/coatcheck/store"
)

func marshal(t testing.TB, document any) bson.Raw {
	t.Helper()
	raw, err := bson.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func examples() map[string]store.Record {
	at := time.UnixMilli(1_700_000_000_001).UTC()
	return map[string]store.Record{
		"a session": {
			Version: 1<<64 - 1, Handle: store.Handle{1}, Owner: "\xff alice\x00", Created: at, Deadline: at.Add(2 * time.Millisecond),
			Expires: at, Label: []byte("l"), Data: []byte{0},
		},
		"a marker": {Version: 1<<53 + 1, Created: time.UnixMilli(-1).UTC(), Deadline: at, Expires: at, Next: store.Key{31: 1}},
	}
}

// FuzzDecode: whatever is in a document, what is taken for a record would be stored as
// it is there.
func FuzzDecode(f *testing.F) {
	for _, r := range examples() {
		f.Add([]byte(marshal(f, encode(store.Key{1}, r))))
	}
	f.Add([]byte{})
	f.Add([]byte{5, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, raw []byte) {
		k, r, ok := decode(raw)
		if !ok {
			return
		}
		key, again, ok := decode(marshal(t, encode(k, r)))
		if !ok || key != k || !reflect.DeepEqual(again, r) {
			t.Errorf("a record was read, and comes back different (read: %v)", ok)
		}
	})
}

// TestRecordsComeBackAsTheyWere: sessions and markers, with and without what is
// optional.
func TestRecordsComeBackAsTheyWere(t *testing.T) {
	for name, r := range examples() {
		document := encode(store.Key{1}, r)
		raw := marshal(t, document)
		k, got, ok := decode(raw)
		if !ok || k != (store.Key{1}) || !reflect.DeepEqual(got, r) {
			t.Errorf("%s came back different (read: %v)", name, ok)
		}
		// Who appends to what they were given writes over nothing else.
		before := string(raw)
		_ = append(got.Label, 'x')
		_ = append(got.Data, 'x')
		if string(raw) != before {
			t.Errorf("%s shares its bytes with what comes after them", name)
		}
	}
}

// TestDamagedDocuments: what is not exactly a record is none.
func TestDamagedDocuments(t *testing.T) {
	good := encode(store.Key{1}, examples()["a session"])
	good = append(good, e(fieldNext, bytesValue(append(make([]byte, 31), 1))))
	if _, _, ok := decode(marshal(t, good)); !ok {
		t.Fatal("the good one is none")
	}
	if _, _, ok := decode(marshal(t, append(good, e("theirs", "x")))); !ok {
		t.Error("a field of somebody else's is taken for damage")
	}
	for i, field := range good {
		bad := map[string]bson.D{
			"that is a text":      with(good, i, "x"),
			"that is null":        with(good, i, nil),
			"that is there twice": append(append(bson.D{}, good...), field),
		}
		if b, ok := field.Value.(bson.Binary); ok {
			bad["of another kind of binary"] = with(good, i, bson.Binary{Subtype: 0x80, Data: b.Data})
			bad["that is empty"] = with(good, i, bytesValue(nil))
		}
		switch field.Key {
		case fieldKey, fieldHandle, fieldNext:
			b := field.Value.(bson.Binary).Data
			bad["that is too short"] = with(good, i, bytesValue(b[1:]))
			bad["that is too long"] = with(good, i, bytesValue(append([]byte{0}, b...)))
		case fieldOwner:
			bad["that is too long"] = with(good, i, bytesValue(make([]byte, store.MaxOwner+1)))
		case fieldLabel:
			bad["that is too long"] = with(good, i, bytesValue(make([]byte, store.MaxLabel+1)))
		}
		switch field.Key {
		case fieldKey, fieldVersion, fieldHandle, fieldCreated, fieldDeadline, fieldExpires:
			bad["that is not there"] = append(append(bson.D{}, good[:i]...), good[i+1:]...)
		case fieldNext:
			bad["that is zero"] = with(good, i, bytesValue(make([]byte, 32)))
		}
		for how, d := range bad {
			if _, _, ok := decode(marshal(t, d)); ok {
				t.Errorf("a document with a %s %s was taken for a record", field.Key, how)
			}
		}
	}
	raw := marshal(t, good)
	for i := range raw {
		decode(raw[:i]) // and no panic
	}
}

// with returns d with another value of its ith field.
func with(d bson.D, i int, value any) bson.D {
	d = append(bson.D{}, d...)
	d[i].Value = value
	return d
}
