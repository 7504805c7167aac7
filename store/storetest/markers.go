package storetest

import (
	"time"

	"github.com/coatcheck/coatcheck/store"
)

var markerRules = []rule{
	{
		name: "kept-and-returned",
		says: "Replace may turn a session into a marker, and Get returns it with its Next.",
		why:  "The marker is what tells a slow request with the old ID that the session went on elsewhere.",
		look: "the Next column; a Replace that treats Next as a delete.",
		run: func(x *script) {
			r := x.session("alice")
			k := x.created(r)
			elsewhere := x.changed(r)
			elsewhere.Next = x.key()
			elsewhere.Data, elsewhere.Label = nil, nil
			x.replace(k, r.Version, elsewhere)
			x.holds("a marker that leads on", k, elsewhere)

			k = x.created(r)
			ended := x.changed(r)
			ended.Next = k
			x.replace(k, r.Version, ended)
			x.holds("a marker that leads to itself", k, ended)
		},
	},
	{
		name: "cannot-be-touched",
		says: "Touch of a marker is ErrNotFound, and its expiry stays.",
		why:  "An old ID must die on time; a browser that goes on sending it must not keep it alive.",
		look: "the condition of Touch: it needs \"Next is zero\".",
		run: func(x *script) {
			r := x.session("alice")
			became := x.created(r)
			m := x.changed(r)
			m.Next = x.key()
			x.replace(became, r.Version, m)
			x.want("Touch of a session that became a marker", x.store.Touch(x.ctx, became, m.Expires.Add(time.Hour)), store.ErrNotFound)
			x.holds("after Touch of a marker", became, m)

			m = x.marker("alice")
			k := x.created(m)
			x.want("Touch of a marker", x.store.Touch(x.ctx, k, m.Expires.Add(time.Hour)), store.ErrNotFound)
			x.want("Touch of a marker to an earlier time", x.store.Touch(x.ctx, k, m.Expires.Add(-time.Minute)), store.ErrNotFound)
			x.holds("after Touch of a marker", k, m)
		},
	},
	{
		name: "in-no-owners-list",
		says: "ListOwner leaves out markers.",
		why:  "A device list would show every sign-in twice, and a cap on sessions would count ghosts.",
		look: "ListOwner's condition, and what Replace does to the index when it stores a marker.",
		run: func(x *script) {
			r := x.session("alice")
			live := x.created(r)
			x.created(x.marker("alice"))
			k := x.created(x.session("alice"))
			m := x.changed(r)
			m.Next = live
			x.replace(k, r.Version, m)
			x.holdsOnly("ListOwner of one session and two markers", x.listOwner("alice"), map[store.Key]store.Record{live: r})
		},
	},
	{
		name: "deleted-with-their-owner",
		says: "DeleteOwner deletes markers too, keeps those whose Handle is kept, and does not count them.",
		why:  "\"Sign out everywhere\" must cut the alias that an old ID may still be.",
		look: "an index entry dropped when the session became a marker.",
		run: func(x *script) {
			need[store.OwnerIndex](x)
			kept := x.marker("alice")
			keptKey := x.created(kept)
			k := x.created(x.marker("alice"))
			r := x.session("alice")
			became := x.created(r)
			m := x.changed(r)
			m.Next = x.key()
			x.replace(became, r.Version, m)
			x.created(x.session("alice"))
			if n := x.deleteOwner("alice", kept.Handle); n != 1 {
				x.Errorf("DeleteOwner of one session and markers returned %d; want 1", n)
			}
			x.gone("a marker, after DeleteOwner", k)
			x.gone("a session that became a marker, after DeleteOwner", became)
			x.holds("a marker whose handle is kept", keptKey, kept)
		},
	},
	{
		name: "listed-for-migration",
		says: "List yields markers too.",
		why:  "A migration that drops markers forgets which IDs have ended.",
		look: "List's condition.",
		run: func(x *script) {
			need[store.Lister](x)
			m, owned := x.marker(""), x.marker("alice")
			want := map[store.Key]store.Record{x.created(m): m, x.created(owned): owned}
			x.holdsOnly("List of markers", x.list(), want)
		},
	},
}
