package storetest

import "github.com/coatcheck/coatcheck/store"

var getManyRules = []rule{
	{
		name: "returns-the-live-ones",
		says: "GetMany returns the live records, sessions and markers, and leaves out keys without one.",
		why:  "Long-lived connections watch their session by it: a missing one is closed, a dead one stays open.",
		look: "how results are matched to keys; absent ones; a key that is asked for twice.",
		run: func(x *script) {
			many := need[store.GetMany](x)
			want := make(map[store.Key]store.Record)
			var ks []store.Key
			for _, r := range []store.Record{x.session(""), x.session("alice"), x.marker("bob")} {
				k := x.created(r)
				want[k] = r
				ks = append(ks, x.key(), k)
			}
			deleted := x.created(x.session("alice"))
			x.delete(deleted)
			ks = append(ks, deleted, ks[1])
			x.created(x.session("alice")) // not asked for
			found, err := many.GetMany(x.ctx, ks)
			x.want("GetMany", err, nil)
			x.holdsOnly("GetMany", found, want)
		},
	},
	{
		name: "none-is-no-error",
		says: "GetMany of no keys, or of none that exist, is empty and no error.",
		why:  "A server without connections would log an error every second.",
		look: "\"IN ()\" is a syntax error; MGET without keys is one too.",
		run: func(x *script) {
			many := need[store.GetMany](x)
			x.created(x.session("alice"))
			for _, ks := range [][]store.Key{nil, {}, {x.key()}} {
				found, err := many.GetMany(x.ctx, ks)
				x.want("GetMany without hits", err, nil)
				x.holdsOnly("GetMany without hits", found, nil)
			}
		},
	},
	{
		name: "many-keys",
		says: "GetMany takes hundreds of keys.",
		why:  "A server has thousands of connections open.",
		look: "limits on parameters (999) and batches (100): split the keys.",
		run: func(x *script) {
			many := need[store.GetMany](x)
			want := make(map[store.Key]store.Record)
			var ks []store.Key
			for i := range 1100 {
				k := x.key()
				if i%5 == 0 {
					r := x.session("")
					x.create(k, r)
					want[k] = r
				}
				ks = append(ks, k)
			}
			found, err := many.GetMany(x.ctx, ks)
			x.want("GetMany of 1100 keys", err, nil)
			x.holdsOnly("GetMany of 1100 keys", found, want)
		},
	},
}
