package storetest

import "github.com/coatcheck/coatcheck/store"

var readRules = []rule{
	{
		name: "absent-is-not-found",
		says: "Get of a key without a record is ErrNotFound, with a zero Record.",
		why:  "An unknown ID must be anonymous; any other error answers 503 to everybody with an old cookie.",
		look: "how the driver reports no row (sql.ErrNoRows, nil reply) and what it is mapped to.",
		run: func(x *script) {
			x.created(x.session("alice"))
			r, err := x.store.Get(x.ctx, x.key())
			x.want("Get of an absent key", err, store.ErrNotFound)
			x.same("Get of an absent key", r, store.Record{})
		},
	},
	{
		name: "sees-finished-writes",
		says: "Reads see the writes that finished before they began.",
		why:  "Who adds to a cart and loads the next page must see it there; who signed out must be out.",
		look: "reads from replicas, caches that writes do not invalidate, write-behind buffers.",
		run:  func(x *script) { readsSeeWrites(x, x) },
	},
	{
		name: "other-process-sees-finished-writes",
		says: "Reads see the writes that finished before they began, of other processes too.",
		why:  "The next request goes to another server; a logout must hold there.",
		look: "reads from replicas, read concern, caches in the process.",
		run:  func(x *script) { readsSeeWrites(x, x.second()) },
	},
}

// readsSeeWrites writes through w and reads through r.
func readsSeeWrites(w, r *script) {
	k := w.key()
	r.gone("before Create", k)
	rec := w.session("alice")
	w.create(k, rec)
	r.holds("after Create", k, rec)
	for range 10 {
		next := w.changed(rec)
		w.replace(k, rec.Version, next)
		rec = next
		r.holds("after Replace", k, rec)
	}
	rec.Expires = rec.Expires.Add(1e9)
	w.touch(k, rec.Expires)
	r.holds("after Touch", k, rec)
	w.delete(k)
	r.gone("after Delete", k)
}
