package storetest

import (
	"time"

	"github.com/coatcheck/coatcheck/store"
)

var expiryRules = []rule{
	{
		name: "expired-is-not-found",
		says: "A record is never returned at or after its Expires, by the caller's clock.",
		why:  "The idle timeout is what protects a browser left open; the server's own TTL runs later, or by another clock.",
		look: "Get must compare Expires with time.Now() itself, with <, not <=.",
		run: func(x *script) {
			for _, r := range []store.Record{x.session("alice"), x.marker("alice")} {
				k := x.expired(r)
				x.gone("at the time it expires", k)
			}
		},
	},
	{
		name: "live-until-it-expires",
		says: "A record is returned until just before its Expires.",
		why:  "Users would be signed out early.",
		look: "TTLs rounded down to seconds; clocks of the server.",
		run: func(x *script) {
			r := x.session("alice")
			var k store.Key
			r.Expires = x.soon(func(soon time.Time) error {
				k = x.key()
				r.Expires = soon
				return x.store.Create(x.ctx, k, r)
			})
			if x.c.Synctest {
				x.sleepUntil(r.Expires.Add(-time.Millisecond))
			}
			got, err := x.store.Get(x.ctx, k)
			if err != nil && time.Now().Before(r.Expires) {
				x.Errorf("Get before it expires: %v; want a record", err)
			}
			if err == nil {
				x.same("Get before it expires", got, r)
			}
		},
	},
	{
		name: "replace-after-expiry-is-not-found",
		says: "Replace of an expired record is ErrNotFound: nothing that has expired ever comes back by it.",
		why:  "A request that was slow over the end of the session would revive it.",
		look: "the condition of the write: it needs expires > now beside the version.",
		run: func(x *script) {
			r := x.session("alice")
			k := x.expired(r)
			x.want("Replace after expiry", x.store.Replace(x.ctx, k, r.Version, x.changed(r)), store.ErrNotFound)
			x.gone("after expiry and Replace", k)
			x.want("Replace of another version after expiry", x.store.Replace(x.ctx, k, r.Version+1, x.changed(r)), store.ErrNotFound)
		},
	},
	{
		name: "touch-after-expiry-is-not-found",
		says: "Touch of an expired record is ErrNotFound: it never revives.",
		why:  "The idle timeout would be none: the next request would extend what had ended.",
		look: "the condition of Touch: it needs expires > now.",
		run: func(x *script) {
			r := x.session("alice")
			k := x.expired(r)
			x.want("Touch after expiry", x.store.Touch(x.ctx, k, time.Now().Add(time.Hour)), store.ErrNotFound)
			x.gone("after expiry and Touch", k)
		},
	},
	{
		name: "delete-after-expiry-reports-none",
		says: "Delete of an expired record reports that no live one was there.",
		why:  "\"You signed out 3 devices\" must count sessions that were alive.",
		look: "what Delete counts.",
		run: func(x *script) {
			k := x.expired(x.session("alice"))
			if x.delete(k) {
				x.Errorf("Delete of an expired record reported a live one")
			}
		},
	},
	{
		name: "create-over-expired-succeeds",
		says: "An expired record is no obstacle to Create.",
		why:  "What expires is removed late, by a sweep or a TTL; until then its key would be blocked.",
		look: "the insert: it must replace what has expired, in one atomic step.",
		run: func(x *script) {
			k := x.expired(x.session("alice"))
			r := x.changed(x.session("bob"))
			x.want("Create over an expired record", x.store.Create(x.ctx, k, r), nil)
			x.holds("after Create over an expired record", k, r)
		},
	},
	{
		name: "create-over-expired-is-of-its-new-owner",
		says: "A record created over an expired one is in its own owner's list, and in no other.",
		why:  "The old owner would see, and could end, a stranger's session.",
		look: "the index entry of the expired record.",
		run: func(x *script) {
			need[store.OwnerIndex](x)
			k := x.expired(x.session("alice"))
			r := x.changed(x.session("bob"))
			x.create(k, r)
			x.holdsOnly("ListOwner of the new owner", x.listOwner("bob"), map[store.Key]store.Record{k: r})
			x.holdsOnly("ListOwner of the old owner", x.listOwner("alice"), nil)
			if n := x.deleteOwner("alice"); n != 0 {
				x.Errorf("DeleteOwner of the old owner ended %d sessions; want 0", n)
			}
			x.holds("after DeleteOwner of the old owner", k, r)
		},
	},
	{
		name: "touch-and-replace-move-it",
		says: "A record whose expiry was extended lives past its first expiry.",
		why:  "A user who is active would be signed out: the TTL that was set first is still running.",
		look: "the backend's own TTL: Touch and Replace must move it too.",
		run: func(x *script) {
			r := x.session("alice")
			var touched, replaced store.Key
			later := r.Expires
			next := x.changed(r)
			x.sleepUntil(x.soon(func(soon time.Time) error {
				touched, replaced = x.key(), x.key()
				r.Expires = soon
				if err := x.store.Create(x.ctx, touched, r); err != nil {
					return err
				}
				if err := x.store.Create(x.ctx, replaced, r); err != nil {
					return err
				}
				if err := x.store.Touch(x.ctx, touched, later); err != nil {
					return err
				}
				return x.store.Replace(x.ctx, replaced, r.Version, next)
			}))
			r.Expires = later
			x.holds("after Touch, past the first expiry", touched, r)
			x.holds("after Replace, past the first expiry", replaced, next)
		},
	},
	{
		name: "no-life-past-the-deadline",
		says: "A record is gone at its Deadline, however often it was touched.",
		why:  "A thief who keeps a session busy must lose it at the absolute timeout.",
		look: "the clamp in Touch.",
		run: func(x *script) {
			r := x.session("alice")
			var k store.Key
			x.sleepUntil(x.soon(func(soon time.Time) error {
				k = x.key()
				r.Deadline, r.Expires = soon, soon.Add(-time.Millisecond)
				if err := x.store.Create(x.ctx, k, r); err != nil {
					return err
				}
				return x.store.Touch(x.ctx, k, soon.Add(time.Hour))
			}))
			x.gone("at the deadline", k)
		},
	},
	{
		name: "expired-is-in-no-list",
		says: "ListOwner, List and GetMany leave out what has expired, and DeleteOwner does not count it.",
		why:  "A device list with dead devices teaches users to ignore it.",
		look: "the expires > now of each query.",
		run: func(x *script) {
			live := x.session("alice")
			kept := x.created(live)
			k := x.expired(x.session("alice"))
			want := map[store.Key]store.Record{kept: live}
			if _, ok := store.As[store.OwnerIndex](x.store); ok {
				x.holdsOnly("ListOwner", x.listOwner("alice"), want)
			}
			if _, ok := store.As[store.Lister](x.store); ok {
				x.holdsOnly("List", x.list(), want)
			}
			if many, ok := store.As[store.GetMany](x.store); ok {
				found, err := many.GetMany(x.ctx, []store.Key{k, kept})
				x.want("GetMany", err, nil)
				x.holdsOnly("GetMany", found, want)
			}
			if _, ok := store.As[store.OwnerIndex](x.store); ok {
				if n := x.deleteOwner("alice"); n != 1 {
					x.Errorf("DeleteOwner of one live and one expired session returned %d; want 1", n)
				}
			}
		},
	},
}
