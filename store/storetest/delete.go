package storetest

var deleteRules = []rule{
	{
		name: "removes-and-reports",
		says: "Delete removes the record, session or marker, and reports that a live one was there.",
		why:  "A logout that leaves the record is no logout; a wrong report makes a revocation look like a miss.",
		look: "the count of removed rows.",
		run: func(x *script) {
			other := x.session("alice")
			kept := x.created(other)
			for _, k := range []struct {
				what   string
				marker bool
			}{{"session", false}, {"marker", true}} {
				r := x.session("alice")
				if k.marker {
					r = x.marker("alice")
				}
				key := x.created(r)
				if !x.delete(key) {
					x.Errorf("Delete of a live %s reported that none was there", k.what)
				}
				x.gone("after Delete of a "+k.what, key)
			}
			x.holds("after Delete of others", kept, other)
		},
	},
	{
		name: "absent-is-no-error",
		says: "Delete of what is absent returns false and no error.",
		why:  "Two tabs sign out: the second must see a logout, not an error page.",
		look: "how zero removed rows are mapped.",
		run: func(x *script) {
			k := x.key()
			existed, err := x.store.Delete(x.ctx, k)
			x.want("Delete of an absent record", err, nil)
			if existed {
				x.Errorf("Delete of an absent record reported a live one")
			}
			x.create(k, x.session("alice"))
			x.delete(k)
			existed, err = x.store.Delete(x.ctx, k)
			x.want("second Delete", err, nil)
			if existed {
				x.Errorf("second Delete reported a live record")
			}
		},
	},
}
