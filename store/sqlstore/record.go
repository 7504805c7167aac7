package sqlstore

import (
	"fmt"
	"time"

	"github.com/coatcheck/coatcheck/store"
)

// scan reads a row of all columns.
func scan(row interface{ Scan(...any) error }) (store.Keyed, error) {
	var (
		r                          store.Keyed
		version                    int64
		created, deadline, expires int64
		key, handle, owner, next   []byte
	)
	if err := row.Scan(&key, &version, &handle, &owner, &created, &deadline, &expires, &next, &r.Label, &r.Data); err != nil {
		return store.Keyed{}, err
	}
	if len(key) != len(r.Key) || len(handle) != len(r.Handle) || next != nil && len(next) != len(r.Next) {
		return store.Keyed{}, fmt.Errorf("a row was not written by this store: key, handle or next has another length")
	}
	copy(r.Key[:], key)
	copy(r.Handle[:], handle)
	copy(r.Next[:], next)
	r.Version = uint64(version)
	r.Owner = string(owner)
	r.Created = time.UnixMilli(created).UTC()
	r.Deadline = time.UnixMilli(deadline).UTC()
	r.Expires = time.UnixMilli(expires).UTC()
	return r, nil
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
