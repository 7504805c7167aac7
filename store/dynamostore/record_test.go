package dynamostore

import (
	"reflect"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/coatcheck/coatcheck/store"
)

// FuzzDecode: whatever is in an item, what is taken for a record would be stored as
// it is there.
func FuzzDecode(f *testing.F) {
	f.Add([]byte("12345678"), make([]byte, 16), "1700000000001", "1700000000003", "1700000000002", []byte("alice"), make([]byte, 32), []byte("laptop"), []byte("data"), []byte("nonce678"))
	f.Add([]byte{}, []byte{1}, "1e3", "-1", "", []byte{}, []byte{31: 1}, []byte{}, []byte{}, []byte{})
	f.Fuzz(func(t *testing.T, v, h []byte, c, d, x string, o, n, l, p, e []byte) {
		it := item{}
		for name, b := range map[string][]byte{attrVersion: v, attrHandle: h, attrOwner: o, attrNext: n, attrLabel: l, attrData: p, attrNonce: e} {
			if b != nil {
				it[name] = bytesValue(b)
			}
		}
		for name, s := range map[string]string{attrCreated: c, attrDeadline: d, attrExpires: x} {
			it[name] = &types.AttributeValueMemberN{Value: s}
		}
		r, ok := decode(it)
		if !ok {
			return
		}
		again, ok := decode(encode(store.Key{}, r, e))
		if !ok || !reflect.DeepEqual(again, r) {
			t.Errorf("a record was read, and comes back different (read: %v)", ok)
		}
	})
}

// TestRecordsComeBackAsTheyWere: sessions and markers, with and without what is
// optional.
func TestRecordsComeBackAsTheyWere(t *testing.T) {
	at := time.UnixMilli(1_700_000_000_001).UTC()
	for name, r := range map[string]store.Record{
		"a session": {Version: 1<<64 - 1, Handle: store.Handle{1}, Owner: "\xff alice", Created: at, Deadline: at.Add(2), Expires: at, Label: []byte("l"), Data: []byte{0}},
		"a marker":  {Version: 1<<53 + 1, Created: at, Deadline: at, Expires: at, Next: store.Key{31: 1}},
	} {
		r = r.Truncate()
		if got, ok := decode(encode(store.Key{1}, r, make([]byte, nonceSize))); !ok || !reflect.DeepEqual(got, r) {
			t.Errorf("%s came back different (read: %v)", name, ok)
		}
		for _, attr := range []string{attrVersion, attrHandle, attrCreated, attrDeadline, attrExpires} {
			it := encode(store.Key{1}, r, make([]byte, nonceSize))
			delete(it, attr)
			if _, ok := decode(it); ok {
				t.Errorf("%s without %s was taken for a record", name, attr)
			}
		}
	}
}
