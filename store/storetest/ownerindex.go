package storetest

import (
	"strings"

	"github.com/coatcheck/coatcheck/store"
)

var ownerIndexRules = []rule{
	{
		name: "lists-live-sessions",
		says: "ListOwner returns the owner's live sessions, whole, and no others.",
		why:  "A device that is missing from the list cannot be signed out; a foreign one is a leak.",
		look: "the index entry that Create writes, and its order: entry first, then record.",
		run: func(x *script) {
			need[store.OwnerIndex](x)
			x.created(x.session(""))
			x.created(x.session("bob"))
			want := make(map[store.Key]store.Record)
			for range 3 {
				r := x.session("alice")
				want[x.created(r)] = r
			}
			x.holdsOnly("ListOwner", x.listOwner("alice"), want)
			x.holdsOnly("ListOwner of an unknown owner", x.listOwner("carol"), nil)
		},
	},
	{
		name: "follows-changes",
		says: "Replace and Touch keep a session in its owner's list, with its new values; Delete removes it.",
		why:  "An entry that is lost on the first commit is a session that sign-out-everywhere misses.",
		look: "copies of the record in the index; entries written with the record's first expiry.",
		run: func(x *script) {
			need[store.OwnerIndex](x)
			r := x.session("alice")
			k := x.created(r)
			gone := x.created(x.session("alice"))
			next := x.changed(r)
			x.replace(k, r.Version, next)
			x.holdsOnly("ListOwner after Replace", x.without(x.listOwner("alice"), gone), map[store.Key]store.Record{k: next})
			next.Expires = next.Expires.Add(1e9)
			x.touch(k, next.Expires)
			x.holdsOnly("ListOwner after Touch", x.without(x.listOwner("alice"), gone), map[store.Key]store.Record{k: next})
			x.delete(gone)
			x.holdsOnly("ListOwner after Delete", x.listOwner("alice"), map[store.Key]store.Record{k: next})
		},
	},
	{
		name: "key-reused-by-another-owner",
		says: "An index entry does not outlive its record: a key that is created again is of its new owner alone.",
		why:  "An old entry would show, and end, a stranger's session.",
		look: "Delete: it removes the entry too. ListOwner and DeleteOwner: they check the record's own Owner.",
		run: func(x *script) {
			need[store.OwnerIndex](x)
			k := x.created(x.session("alice"))
			x.delete(k)
			r := x.changed(x.session("bob"))
			x.create(k, r)
			x.holdsOnly("ListOwner of the first owner", x.listOwner("alice"), nil)
			if n := x.deleteOwner("alice"); n != 0 {
				x.Errorf("DeleteOwner of the first owner ended %d sessions; want 0", n)
			}
			x.holds("after DeleteOwner of the first owner", k, r)
			x.holdsOnly("ListOwner of the second owner", x.listOwner("bob"), map[store.Key]store.Record{k: r})
		},
	},
	{
		name: "owners-are-bytes",
		says: "Owners are compared byte for byte.",
		why:  "Under a default collation 'José' equals 'jose ': one user sees and ends another's sessions.",
		look: "collations (use VARBINARY, BYTEA, BLOB), trimmed spaces and zeros, patterns (LIKE, KEYS), separators in composed keys, UTF-8 validation.",
		run: func(x *script) {
			need[store.OwnerIndex](x)
			stored := make(map[string]map[store.Key]store.Record)
			for _, owner := range owners {
				r := x.session(owner)
				stored[owner] = map[store.Key]store.Record{x.created(r): r}
			}
			for _, owner := range owners {
				x.holdsOnly("ListOwner of "+abbreviate(owner), x.listOwner(owner), stored[owner])
			}
			for i, owner := range owners {
				if n := x.deleteOwner(owner); n != 1 {
					x.Errorf("DeleteOwner of %s ended %d sessions; want 1", abbreviate(owner), n)
				}
				for _, later := range owners[i+1:] {
					for k, r := range stored[later] {
						x.holds("session of "+abbreviate(later)+" after DeleteOwner of "+abbreviate(owner), k, r)
					}
				}
				if x.Failed() {
					return // one owner tells as much as all
				}
			}
		},
	},
	{
		name: "empty-owner-lists-nothing",
		says: "ListOwner of \"\" is ErrInvalid: the empty owner owns nothing.",
		why:  "It would list every anonymous visitor.",
		look: "the first lines of ListOwner.",
		run: func(x *script) {
			idx := need[store.OwnerIndex](x)
			x.created(x.session(""))
			list, err := idx.ListOwner(x.ctx, "")
			x.want("ListOwner of the empty owner", err, store.ErrInvalid)
			if len(list) != 0 {
				x.Errorf("ListOwner of the empty owner returned %d sessions", len(list))
			}
		},
	},
	{
		name: "empty-owner-deletes-nothing",
		says: "DeleteOwner of \"\" is ErrInvalid and deletes nothing.",
		why:  "A bug in an app that passes no user would end every anonymous session of the site.",
		look: "the first lines of DeleteOwner.",
		run: func(x *script) {
			idx := need[store.OwnerIndex](x)
			anonymous, owned := x.session(""), x.session("alice")
			a, o := x.created(anonymous), x.created(owned)
			_, err := idx.DeleteOwner(x.ctx, "")
			x.want("DeleteOwner of the empty owner", err, store.ErrInvalid)
			x.holds("an anonymous session after DeleteOwner of the empty owner", a, anonymous)
			x.holds("an owned session after DeleteOwner of the empty owner", o, owned)
		},
	},
	{
		name: "delete-owner-ends-all",
		says: "DeleteOwner deletes all of the owner's records, those of others not, and returns how many live sessions it ended.",
		why:  "After a password change every other device must be out (ASVS 7.4.3); and nobody else.",
		look: "the condition, and what is counted.",
		run: func(x *script) {
			need[store.OwnerIndex](x)
			bob, anonymous := x.session("bob"), x.session("")
			b, a := x.created(bob), x.created(anonymous)
			var keys []store.Key
			for range 3 {
				keys = append(keys, x.created(x.session("alice")))
			}
			if n := x.deleteOwner("alice"); n != 3 {
				x.Errorf("DeleteOwner of 3 sessions returned %d", n)
			}
			for _, k := range keys {
				x.gone("after DeleteOwner", k)
				x.want("Replace after DeleteOwner", x.store.Replace(x.ctx, k, 1, x.session("alice")), store.ErrNotFound)
				x.want("Touch after DeleteOwner", x.store.Touch(x.ctx, k, x.session("").Expires), store.ErrNotFound)
			}
			x.holdsOnly("ListOwner after DeleteOwner", x.listOwner("alice"), nil)
			if n := x.deleteOwner("alice"); n != 0 {
				x.Errorf("second DeleteOwner returned %d; want 0", n)
			}
			x.holds("another owner's session", b, bob)
			x.holds("an anonymous session", a, anonymous)
		},
	},
	{
		name: "delete-owner-reaches-what-was-read",
		says: "DeleteOwner ends sessions that were read before, through the same store: no cache answers for them.",
		why:  "A cache that embeds its inner store leaks the inner DeleteOwner, which goes past the cache: the revoked session lives on.",
		look: "Wrapper.Capability: forward a capability only through the wrapper's own bookkeeping, or refuse it.",
		run: func(x *script) {
			need[store.OwnerIndex](x)
			k := x.created(x.session("alice"))
			x.get(k)
			x.get(k)
			x.listOwner("alice")
			if many, ok := store.As[store.GetMany](x.store); ok {
				_, err := many.GetMany(x.ctx, []store.Key{k})
				x.want("GetMany", err, nil)
			}
			x.deleteOwner("alice")
			x.gone("after Get and DeleteOwner", k)
		},
	},
	{
		name: "delete-owner-keeps",
		says: "DeleteOwner spares the records whose Handle is in keep.",
		why:  "\"Sign out everywhere else\" must not sign out here.",
		look: "the exclusion by handle, for one and for several handles.",
		run: func(x *script) {
			need[store.OwnerIndex](x)
			var recs []store.Record
			var keys []store.Key
			for range 4 {
				r := x.session("alice")
				recs = append(recs, r)
				keys = append(keys, x.created(r))
			}
			absent := store.Handle{0xff}
			if n := x.deleteOwner("alice", recs[0].Handle, absent, recs[2].Handle); n != 2 {
				x.Errorf("DeleteOwner of 4 sessions that keeps 2 returned %d; want 2", n)
			}
			x.holdsOnly("ListOwner after DeleteOwner that keeps", x.listOwner("alice"),
				map[store.Key]store.Record{keys[0]: recs[0], keys[2]: recs[2]})
			x.holds("a kept session", keys[0], recs[0])
			x.gone("a session that was not kept", keys[1])
			x.gone("a session that was not kept", keys[3])
		},
	},
	{
		name: "many-sessions",
		says: "An owner may have hundreds of sessions; all are listed and all are deleted.",
		why:  "A stolen account is where there are many, and the one left over is the thief's.",
		look: "pages and batch limits of the server (25, 100, 1000).",
		run: func(x *script) {
			need[store.OwnerIndex](x)
			want := make(map[store.Key]store.Record)
			for range 310 {
				r := x.session("alice")
				want[x.created(r)] = r
			}
			x.holdsOnly("ListOwner", x.listOwner("alice"), want)
			if n := x.deleteOwner("alice"); n != len(want) {
				x.Errorf("DeleteOwner of %d sessions returned %d", len(want), n)
			}
			x.holdsOnly("ListOwner after DeleteOwner", x.listOwner("alice"), nil)
			for k := range want {
				x.gone("after DeleteOwner", k)
			}
		},
	},
}

// owners are names that collations, patterns, separators and validation take
// for one another.
var owners = []string{
	"alice", "Alice", "ALICE", "alice ", " alice", "alic", "alicee",
	"alice\x00", "ali\x00ce", "alice\n",
	"jose", "jos\u00e9", "jose\u0301", // plain, accent composed, accent combining
	"ss", "\u00df", "\u0131", "i", "I", // sharp s; dotless i
	"\xff\xfe", "\xff", // no UTF-8
	"%", "_", "*", "a*", "{a}", "a", "a:b", "a/b", "a'b", `a"b`, `a\b`,
	"0", "00", "0.0",
	strings.Repeat("x", store.MaxOwner), strings.Repeat("x", store.MaxOwner-1) + "y", strings.Repeat("x", store.MaxOwner-1),
	strings.Repeat("\u20ac", store.MaxOwner/3), // the euro sign, 3 bytes each
}

// without returns m without the key k.
func (x *script) without(m map[store.Key]store.Record, k store.Key) map[store.Key]store.Record {
	delete(m, k)
	return m
}
