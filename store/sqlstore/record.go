package sqlstore

import (
	"errors"
	"time"

	"github.com/coatcheck/coatcheck/store"
)

// damage is the error of a row that is not a record: it says which part is not,
// and nothing of what is there instead.
type damage string

func (d damage) Error() string { return store.ErrCorrupt.Error() + ": its " + string(d) }
func (damage) Unwrap() error   { return store.ErrCorrupt }

// scan reads a row of all columns into r, which must be zero. Of a damaged row
// it reads the key, if that is one.
func scan(row interface{ Scan(...any) error }, r *store.Keyed) error {
	err := row.Scan(
		(*keyColumn)(&r.Key), (*versionColumn)(&r.Version), (*handleColumn)(&r.Handle), (*ownerColumn)(&r.Owner),
		(*timeColumn)(&r.Created), (*timeColumn)(&r.Deadline), (*timeColumn)(&r.Expires),
		(*nextColumn)(&r.Next), (*labelColumn)(&r.Label), (*dataColumn)(&r.Data),
	)
	if d, ok := errors.AsType[damage](err); ok {
		err = d // without the number that database/sql puts before it
	}
	if err != nil {
		*r = store.Keyed{Key: r.Key}
		return err
	}
	if r.Expires.After(r.Deadline) {
		r.Expires = r.Deadline
	}
	return nil
}

// The columns take what a driver returns as it is: the conversions of
// database/sql would copy every value once more, take text for a number, and
// show in their errors what they could not convert.
type (
	keyColumn     store.Key
	versionColumn uint64
	handleColumn  store.Handle
	ownerColumn   string
	timeColumn    time.Time
	nextColumn    store.Key
	labelColumn   []byte
	dataColumn    []byte
)

func (c *keyColumn) Scan(v any) error    { return fixed(c[:], v, "key") }
func (c *handleColumn) Scan(v any) error { return fixed(c[:], v, "handle") }

func (c *nextColumn) Scan(v any) error {
	if v == nil {
		return nil
	}
	return fixed(c[:], v, "next key")
}

func (c *versionColumn) Scan(v any) error {
	n, ok := v.(int64)
	if !ok {
		return damage("version")
	}
	*c = versionColumn(n)
	return nil
}

func (c *ownerColumn) Scan(v any) error {
	if v == nil {
		return nil
	}
	b, ok := v.([]byte)
	if !ok || len(b) > store.MaxOwner {
		return damage("owner")
	}
	*c = ownerColumn(b)
	return nil
}

func (c *timeColumn) Scan(v any) error {
	n, ok := v.(int64)
	if !ok {
		return damage("times")
	}
	*c = timeColumn(time.UnixMilli(n).UTC())
	return nil
}

func (c *labelColumn) Scan(v any) error {
	b, ok := v.([]byte)
	if !ok || len(b) > store.MaxLabel {
		return damage("label")
	}
	*c = append(labelColumn(nil), b...) // the driver's is overwritten by the next row
	return nil
}

func (c *dataColumn) Scan(v any) error {
	b, ok := v.([]byte)
	if !ok {
		return damage("data")
	}
	*c = append(dataColumn(nil), b...)
	return nil
}

// fixed copies a value of exactly the length of dst.
func fixed(dst []byte, v any, part string) error {
	b, ok := v.([]byte)
	if !ok || len(b) != len(dst) {
		return damage(part)
	}
	copy(dst, b)
	return nil
}

// next is what the column of that name holds: nothing unless r is a marker.
func next(r store.Record) []byte {
	if !r.IsMarker() {
		return nil
	}
	return r.Next[:]
}

// nullable is b, or NULL if it is empty.
func nullable[T ~string | ~[]byte](b T) any {
	if len(b) == 0 {
		return nil
	}
	return []byte(b)
}

// nonNil keeps an empty slice from becoming NULL.
func nonNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}
