package redisstore

import (
	"encoding/binary"
	"time"

	"github.com/coatcheck/coatcheck/store"
)

// A record is one value, with all that the scripts look at in front (all numbers
// are big endian, times are milliseconds since 1970):
//
//	 0  1  format, 1
//	 1  1  flags: bit 0 is set in a marker
//	 2  8  version
//	10  6  expires
//	16  6  deadline
//	22  6  created
//	28 16  handle
//	44  1  length of the owner
//	45  …  owner
//	   32  the next key, in a marker alone
//	    2  length of the label
//	    …  label
//	    …  data
//
// From created to owner nothing changes in the life of a key: Replace leaves
// those bytes as they are.
const (
	recordFormat = 1
	markerFlag   = 1

	expiresAt = 10
	createdAt = 22
	ownerAt   = 45
	labelSize = 2
)

// encode returns r, which is valid and truncated.
func encode(r store.Record) []byte {
	size := ownerAt + len(r.Owner) + len(r.Next) + labelSize + len(r.Label) + len(r.Data)
	b := make([]byte, 0, size)
	flags := byte(0)
	if r.IsMarker() {
		flags = markerFlag
	}
	b = append(b, recordFormat, flags)
	b = binary.BigEndian.AppendUint64(b, r.Version)
	b = appendTime(b, r.Expires)
	b = appendTime(b, r.Deadline)
	b = appendTime(b, r.Created)
	b = append(b, r.Handle[:]...)
	b = append(b, byte(len(r.Owner)))
	b = append(b, r.Owner...)
	if r.IsMarker() {
		b = append(b, r.Next[:]...)
	}
	b = binary.BigEndian.AppendUint16(b, uint16(len(r.Label)))
	b = append(b, r.Label...)
	b = append(b, r.Data...)
	return b
}

// decode returns the record that is in b, which it keeps.
func decode(b []byte) (r store.Record, ok bool) {
	if len(b) < ownerAt || b[0] != recordFormat || b[1]&^markerFlag != 0 {
		return store.Record{}, false
	}
	r.Version = binary.BigEndian.Uint64(b[2:])
	r.Expires = timeAt(b[expiresAt:])
	r.Deadline = timeAt(b[16:])
	r.Created = timeAt(b[createdAt:])
	copy(r.Handle[:], b[28:])
	marker, owner := b[1]&markerFlag != 0, int(b[44])
	if b = b[ownerAt:]; len(b) < owner {
		return store.Record{}, false
	}
	r.Owner, b = string(b[:owner]), b[owner:]
	if marker {
		if len(b) < len(r.Next) {
			return store.Record{}, false
		}
		b = b[copy(r.Next[:], b):]
		if !r.IsMarker() {
			return store.Record{}, false
		}
	}
	if len(b) < labelSize {
		return store.Record{}, false
	}
	label := int(binary.BigEndian.Uint16(b))
	if b = b[labelSize:]; len(b) < label || label > store.MaxLabel {
		return store.Record{}, false
	}
	// Each is cut so that appending to one never reaches the other.
	if label > 0 {
		r.Label = b[:label:label]
	}
	if b = b[label:]; len(b) > 0 {
		r.Data = b[:len(b):len(b)]
	}
	return r, true
}

// appendTime and timeAt keep the 48 bits of milliseconds that last until the
// year 10889.
func appendTime(b []byte, t time.Time) []byte {
	ms := uint64(t.UnixMilli())
	return append(b, byte(ms>>40), byte(ms>>32), byte(ms>>24), byte(ms>>16), byte(ms>>8), byte(ms))
}

func timeAt(b []byte) time.Time {
	_ = b[5]
	ms := uint64(b[0])<<40 | uint64(b[1])<<32 | uint64(b[2])<<24 | uint64(b[3])<<16 | uint64(b[4])<<8 | uint64(b[5])
	return time.UnixMilli(int64(ms)).UTC()
}

// lastTime is the latest time that a record may hold.
var lastTime = time.UnixMilli(1<<48 - 1).Add(-grace)

// representable reports whether the times of r, beyond what [store.Record.Validate]
// asks, fit the format.
func representable(r store.Record) bool {
	return r.Created.UnixMilli() >= 0 && !r.Created.After(lastTime) && !r.Deadline.After(lastTime)
}
