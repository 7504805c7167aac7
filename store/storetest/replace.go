package storetest

import (
	"time"

	"github.com/coatcheck/coatcheck/store"
)

var replaceRules = []rule{
	{
		name: "stores-what-may-change",
		says: "Replace stores Version, Deadline (if earlier), Expires, Next, Label and Data.",
		why:  "A commit that reports success and keeps old values is a lost update.",
		look: "the columns that Replace sets.",
		run: func(x *script) {
			r := x.session("alice")
			k := x.created(r)
			next := x.changed(r)
			next.Deadline = r.Deadline.Add(-time.Hour)
			next.Expires = r.Expires.Add(time.Minute)
			next.Next = x.key()
			x.replace(k, r.Version, next)
			x.holds("after Replace", k, next)
		},
	},
	{
		name: "may-shorten-expiry",
		says: "Replace stores Expires as given, earlier than the stored one too.",
		why:  "A marker left by a renewal lives for seconds; if it inherited the session's expiry, old IDs would pile up.",
		look: "a greatest() that belongs to Touch.",
		run: func(x *script) {
			r := x.session("alice")
			k := x.created(r)
			next := x.changed(r)
			next.Expires = r.Expires.Add(-time.Minute)
			x.replace(k, r.Version, next)
			x.holds("after Replace with an earlier expiry", k, next)
		},
	},
	{
		name: "absent-is-not-found",
		says: "Replace without a live record is ErrNotFound and stores nothing: there is no upsert.",
		why:  "A late request could bring back the session of a user who signed out.",
		look: "the write: UPDATE … WHERE, SET … XX, a condition on existence; never INSERT … ON CONFLICT.",
		run: func(x *script) {
			for _, old := range []uint64{0, 1} {
				k := x.key()
				x.want("Replace of an absent record", x.store.Replace(x.ctx, k, old, x.session("alice")), store.ErrNotFound)
				x.gone("after Replace of an absent record", k)
			}
		},
	},
	{
		name: "deleted-stays-deleted",
		says: "Replace after Delete is ErrNotFound: nothing that was deleted ever comes back by it.",
		why:  "This is the revived session: a slow request saves after the logout and the user is signed in again.",
		look: "caches and buffers that still hold the record; upserts; Delete by a flag that Replace does not test.",
		run: func(x *script) {
			r := x.session("alice")
			k := x.created(r)
			x.get(k) // what a cache would remember
			x.delete(k)
			x.want("Replace after Delete", x.store.Replace(x.ctx, k, r.Version, x.changed(r)), store.ErrNotFound)
			x.gone("after Delete and Replace", k)
		},
	},
	{
		name: "other-version-is-a-conflict",
		says: "Replace is ErrConflict if the stored version is not old, and changes nothing.",
		why:  "Two parallel requests, one update lost: a payment made twice, an item gone from the cart.",
		look: "the condition on the version; how zero matched rows are told apart.",
		run: func(x *script) {
			r := x.session("alice")
			r.Version = 7
			k := x.created(r)
			for _, old := range []uint64{0, 6, 8} {
				x.want("Replace of another version", x.store.Replace(x.ctx, k, old, x.changed(r)), store.ErrConflict)
				x.holds("after a Replace that conflicted", k, r)
			}
			next := x.changed(r)
			x.replace(k, 7, next)
			x.want("Replace of the version before", x.store.Replace(x.ctx, k, 7, x.changed(next)), store.ErrConflict)
			x.holds("after a Replace that conflicted", k, next)
		},
	},
	{
		name: "versions-are-compared-in-full",
		says: "Versions are compared for equality in all 64 bits.",
		why:  "Compared as doubles, 2^53 and 2^53+1 are equal, and a stale write wins silently.",
		look: "Lua's tonumber, JSON numbers, FLOAT columns, casts to int32: compare bytes or integers.",
		run: func(x *script) {
			for _, v := range versions {
				r := x.session("")
				r.Version = v
				k := x.created(r)
				for _, other := range []uint64{v - 1, v + 1, v ^ 1<<32, v ^ 1<<63} {
					if err := x.store.Replace(x.ctx, k, other, x.changed(r)); err == nil {
						x.Errorf("Replace of version %#x succeeded; %#x is stored", other, v)
					} else {
						x.want("Replace of a neighbouring version", err, store.ErrConflict)
					}
				}
				if !x.Failed() {
					x.replace(k, v, x.changed(r))
				}
			}
		},
	},
	{
		name: "identical-record-succeeds",
		says: "Replace with the record that is stored succeeds.",
		why:  "A manager resends identical bytes after a lost answer; a failure would be taken for another's write.",
		look: "servers that count changed rows, not matched ones (MySQL without clientFoundRows).",
		run: func(x *script) {
			r := x.session("alice")
			k := x.created(r)
			x.replace(k, r.Version, r)
			x.holds("after Replace with an equal record", k, r)
		},
	},
	{
		name: "handle-owner-created-are-fixed",
		says: "Handle, Owner and Created stay as Create stored them, whatever Replace is given.",
		why:  "A session that changes hands outside of a renewal escapes revocation: the index names its old owner.",
		look: "the columns that Replace sets.",
		run: func(x *script) {
			for _, owner := range []string{"alice", ""} {
				r := x.session(owner)
				k := x.created(r)
				next := x.changed(r)
				next.Handle = store.Handle{1}
				next.Owner = "mallory"
				next.Created = r.Created.Add(time.Second)
				x.replace(k, r.Version, next)
				next.Handle, next.Owner, next.Created = r.Handle, r.Owner, r.Created
				x.holds("after Replace with another handle, owner and creation time", k, next)
			}
		},
	},
	{
		name: "deadline-is-never-raised",
		says: "The Deadline stored becomes the earlier of the stored one and the given one.",
		why:  "The absolute timeout is a promise (ASVS 7.3.2): a stolen session must end at it, however busy it is.",
		look: "least(deadline, given) in the statement itself, not in code that read it before.",
		run: func(x *script) {
			r := x.session("alice")
			k := x.created(r)
			later := x.changed(r)
			later.Deadline = r.Deadline.Add(time.Hour)
			x.replace(k, r.Version, later)
			later.Deadline = r.Deadline
			x.holds("after Replace with a later deadline", k, later)

			lower := x.changed(later)
			lower.Deadline = r.Deadline.Add(-time.Hour)
			x.replace(k, later.Version, lower)
			x.holds("after Replace with an earlier deadline", k, lower)

			again := x.changed(lower)
			again.Deadline = r.Deadline
			x.replace(k, lower.Version, again)
			again.Deadline = lower.Deadline
			x.holds("after Replace with the first deadline again", k, again)
		},
	},
	{
		name: "expiry-is-clamped-to-the-stored-deadline",
		says: "Expires is clamped to the Deadline that is stored, even if the given record has a later one.",
		why:  "Else the idle timeout carries a session past its absolute timeout.",
		look: "least(expires, deadline) with the deadline that the statement leaves stored.",
		run: func(x *script) {
			r := x.session("alice")
			k := x.created(r)
			next := x.changed(r)
			next.Deadline = r.Deadline.Add(2 * time.Hour)
			next.Expires = r.Deadline.Add(time.Hour)
			x.replace(k, r.Version, next)
			if got := x.get(k); !got.Expires.Equal(r.Deadline) {
				x.Errorf("Replace with an expiry after the stored deadline: Expires is %v; want the deadline, %v", got.Expires, r.Deadline)
			}
		},
	},
	{
		name: "invalid-is-refused",
		says: "Replace returns ErrInvalid for what Record.Validate refuses, and changes nothing.",
		why:  "A past or missing expiry makes an immortal record on servers whose TTL ignores it.",
		look: "call r.Validate(time.Now()) before anything else.",
		run: func(x *script) {
			r := x.session("alice")
			k := x.created(r)
			for name, bad := range invalid(x) {
				x.want("Replace with "+name, x.store.Replace(x.ctx, k, r.Version, bad), store.ErrInvalid)
				x.holds("after Replace with "+name, k, r)
			}
		},
	},
}
