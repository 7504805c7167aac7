package storetest

import (
	"math"
	"strings"
	"time"

	"github.com/coatcheck/coatcheck/store"
)

var createRules = []rule{
	{
		name: "stored-as-given",
		says: "Create stores every field of the record, and Get returns it.",
		why:  "A field that is lost is an attribute, a timeout or a sign-in that is lost.",
		look: "the columns or fields that Create writes, and the order in which Get scans them.",
		run: func(x *script) {
			for _, r := range []store.Record{x.session(""), x.session("alice"), x.marker(""), x.marker("alice")} {
				k := x.created(r)
				x.holds("after Create", k, r)
			}
		},
	},
	{
		name: "live-record-is-a-conflict",
		says: "Create under a key that holds a live record is ErrConflict and changes nothing.",
		why:  "A Create that overwrites hands one visitor's session to another, or drops what was in it.",
		look: "the insert: it must be conditional on absence, not an upsert.",
		run: func(x *script) {
			for _, r := range []store.Record{x.session("alice"), x.marker("alice")} {
				k := x.created(r)
				x.want("Create over a live record", x.store.Create(x.ctx, k, x.changed(x.session("bob"))), store.ErrConflict)
				x.holds("after a Create that conflicted", k, r)
				x.want("the same Create again", x.store.Create(x.ctx, k, r), store.ErrConflict)
			}
		},
	},
	{
		name: "again-after-delete",
		says: "A key whose record was deleted is free again for Create.",
		why:  "A migration that is repeated after a clean-up would fail for ever.",
		look: "tombstones left by Delete.",
		run: func(x *script) {
			k := x.created(x.session("alice"))
			x.delete(k)
			r := x.changed(x.session("bob"))
			x.create(k, r)
			x.holds("after Create, Delete, Create", k, r)
		},
	},
	{
		name: "invalid-is-refused",
		says: "Create returns ErrInvalid for what Record.Validate refuses, and stores nothing.",
		why: "A record without an expiry, or with a past one, is immortal on servers whose TTL ignores it: " +
			"a session that never ends.",
		look: "call r.Validate(time.Now()) before anything else.",
		run: func(x *script) {
			for name, r := range invalid(x) {
				k := x.key()
				x.want("Create with "+name, x.store.Create(x.ctx, k, r), store.ErrInvalid)
				x.gone("after Create with "+name, k)
			}
		},
	},
	{
		name: "versions-are-kept",
		says: "Version is stored as given, all 64 bits of it.",
		why: "Versions are increasing above and random below; a store that rounds, signs or cuts them makes " +
			"two histories look alike, and an update is lost.",
		look: "signed columns (cast int64(v) and back), doubles in Lua or JSON, drivers that refuse the high bit.",
		run: func(x *script) {
			for _, v := range versions {
				r := x.session("")
				r.Version = v
				k := x.created(r)
				x.holds("after Create", k, r)
			}
		},
	},
	{
		name: "keys-are-bytes",
		says: "A Key is 32 bytes; keys that differ in any bit are different.",
		why:  "Two visitors whose keys collide share one session.",
		look: "collations, trimming of zero bytes or spaces, and case folding of the key column; hex or raw bytes in binary columns are safe.",
		run: func(x *script) {
			keys := []store.Key{
				{31: 1},
				{0: 1},
				{0: 'a', 31: ' '},
				{0: 'A', 31: ' '},
				{0: 'a'},
				{0: 0xff, 15: '{', 16: '}', 31: 0xff},
				{0: 0xff, 15: '{', 16: '}', 31: 0xfe},
			}
			stored := make([]store.Record, len(keys))
			for i, k := range keys {
				stored[i] = x.session("alice")
				x.create(k, stored[i])
			}
			for i, k := range keys {
				x.holds("after Create of similar keys", k, stored[i])
			}
		},
	},
}

// versions are where 64-bit numbers break: beyond the doubles, beyond the
// signed ones, beyond 32 bits.
var versions = []uint64{
	0, 1, 1 << 31, 1 << 32, 1<<32 + 1,
	1<<53 - 1, 1 << 53, 1<<53 + 1,
	1<<63 - 1, 1 << 63, 1<<63 + 1,
	math.MaxUint64 - 1, math.MaxUint64,
}

// invalid returns records that Validate refuses, by what is wrong with them.
func invalid(x *script) map[string]store.Record {
	alter := func(f func(*store.Record)) store.Record {
		r := x.changed(x.session("alice"))
		f(&r)
		return r
	}
	return map[string]store.Record{
		"no creation time": alter(func(r *store.Record) { r.Created = time.Time{} }),
		"no deadline":      alter(func(r *store.Record) { r.Deadline = time.Time{} }),
		"no expiry":        alter(func(r *store.Record) { r.Expires = time.Time{} }),
		"a past expiry":    alter(func(r *store.Record) { r.Expires = time.Now().Add(-time.Second) }),
		"a past deadline": alter(func(r *store.Record) {
			r.Deadline = time.Now().Add(-time.Second)
			r.Expires = r.Deadline
		}),
		"an expiry after the deadline": alter(func(r *store.Record) { r.Expires = r.Deadline.Add(time.Millisecond) }),
		"an owner of 256 bytes":        alter(func(r *store.Record) { r.Owner = strings.Repeat("o", store.MaxOwner+1) }),
		"a label of 1025 bytes":        alter(func(r *store.Record) { r.Label = make([]byte, store.MaxLabel+1) }),
	}
}
