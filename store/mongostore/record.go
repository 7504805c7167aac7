package mongostore

import (
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/coatcheck/coatcheck/store"
)

// Fields of a document. They never change: what one version has stored the next one
// reads.
const (
	fieldKey      = "_id"      // binary
	fieldVersion  = "version"  // long: the same bits, compared for equality only
	fieldHandle   = "handle"   // binary
	fieldOwner    = "owner"    // binary; none of anonymous sessions
	fieldCreated  = "created"  // date
	fieldDeadline = "deadline" // date
	fieldExpires  = "expires"  // date; the server deletes by it, some minutes later
	fieldNext     = "next"     // binary; of markers alone
	fieldLabel    = "label"    // binary; none if empty
	fieldData     = "data"     // binary; none if empty
)

func e(name string, value any) bson.E { return bson.E{Key: name, Value: value} }

// absent matches a field that is not there.
var absent = bson.D{e("$exists", false)}

func bytesValue(b []byte) bson.Binary { return bson.Binary{Data: b} }

func dateValue(t time.Time) bson.DateTime { return bson.DateTime(t.UnixMilli()) }

func versionValue(v uint64) int64 { return int64(v) }

type optional struct {
	name  string
	bytes []byte
}

// optionals are the fields that Replace can add and take away.
func optionals(r store.Record) []optional {
	var next []byte
	if r.IsMarker() {
		next = r.Next[:]
	}
	return []optional{{fieldNext, next}, {fieldLabel, r.Label}, {fieldData, r.Data}}
}

// encode returns the document of r under k.
func encode(k store.Key, r store.Record) bson.D {
	d := bson.D{
		e(fieldKey, bytesValue(k[:])),
		e(fieldVersion, versionValue(r.Version)),
		e(fieldHandle, bytesValue(r.Handle[:])),
		e(fieldCreated, dateValue(r.Created)),
		e(fieldDeadline, dateValue(r.Deadline)),
		e(fieldExpires, dateValue(r.Expires)),
	}
	if r.Owner != "" {
		d = append(d, e(fieldOwner, bytesValue([]byte(r.Owner))))
	}
	for _, f := range optionals(r) {
		if len(f.bytes) > 0 {
			d = append(d, e(f.name, bytesValue(f.bytes)))
		}
	}
	return d
}

// Bits for the fields that a document has.
const (
	hasKey = 1 << iota
	hasVersion
	hasHandle
	hasCreated
	hasDeadline
	hasExpires
	hasOwner
	hasNext
	hasLabel
	hasData

	required = hasKey | hasVersion | hasHandle | hasCreated | hasDeadline | hasExpires
)

// decode returns the key and the record of a document, and whether it is one. The
// record shares its bytes with the document. Fields of other names are none of ours.
func decode(raw bson.Raw) (k store.Key, r store.Record, ok bool) {
	elements, err := raw.Elements()
	if err != nil {
		return store.Key{}, store.Record{}, false
	}
	has := 0
	for _, element := range elements {
		v, err := element.ValueErr()
		if err != nil {
			return store.Key{}, store.Record{}, false
		}
		field, ok := 0, true
		switch element.Key() {
		case fieldKey:
			field, ok = hasKey, fixed(v, k[:])
		case fieldVersion:
			var version int64
			version, ok = v.Int64OK()
			field, r.Version = hasVersion, uint64(version)
		case fieldHandle:
			field, ok = hasHandle, fixed(v, r.Handle[:])
		case fieldCreated:
			field = hasCreated
			r.Created, ok = date(v)
		case fieldDeadline:
			field = hasDeadline
			r.Deadline, ok = date(v)
		case fieldExpires:
			field = hasExpires
			r.Expires, ok = date(v)
		case fieldOwner:
			var owner []byte
			owner, ok = binary(v, store.MaxOwner)
			field, r.Owner = hasOwner, string(owner)
		case fieldNext:
			field, ok = hasNext, fixed(v, r.Next[:]) && r.IsMarker()
		case fieldLabel:
			field = hasLabel
			r.Label, ok = binary(v, store.MaxLabel)
		case fieldData:
			field = hasData
			r.Data, ok = binary(v, maxDocument)
		}
		if !ok || has&field != 0 {
			return store.Key{}, store.Record{}, false
		}
		has |= field
	}
	if has&required != required {
		return store.Key{}, store.Record{}, false
	}
	return k, r, true
}

// binary returns the bytes of a value, of which there is at least one. To append to
// them is to copy them.
func binary(v bson.RawValue, limit int) ([]byte, bool) {
	kind, b, ok := v.BinaryOK()
	if !ok || kind != bson.TypeBinaryGeneric || len(b) == 0 || len(b) > limit {
		return nil, false
	}
	return b[:len(b):len(b)], true
}

// fixed copies the bytes of a value into b if there are as many.
func fixed(v bson.RawValue, b []byte) bool {
	have, ok := binary(v, len(b))
	return ok && copy(b, have) == len(b)
}

func date(v bson.RawValue) (time.Time, bool) {
	ms, ok := v.DateTimeOK()
	return time.UnixMilli(ms).UTC(), ok
}
