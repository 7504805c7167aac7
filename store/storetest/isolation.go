package storetest

import (
	"bytes"
	"slices"

	"github.com/coatcheck/coatcheck/store"
)

var isolationRules = []rule{
	{
		name: "given-bytes-are-not-kept",
		says: "A store neither modifies nor retains the byte slices that it is given.",
		why:  "Buffers are reused: another request's data would appear in this session (GitHub, March 2021).",
		look: "copy Data and Label on the way in; batching and write-behind keep slices too.",
		run: func(x *script) {
			scribble := func(r store.Record) {
				for i := range r.Data {
					r.Data[i] = '!'
				}
				for i := range r.Label {
					r.Label[i] = '!'
				}
			}
			given := x.session("alice")
			want := cloned(given)
			k := x.created(given)
			x.same("what was given to Create", given, want)
			scribble(given)
			x.holds("after the caller reused the bytes given to Create", k, want)

			next := x.changed(want)
			want = cloned(next)
			x.replace(k, 1, next)
			x.same("what was given to Replace", next, want)
			scribble(next)
			x.holds("after the caller reused the bytes given to Replace", k, want)
		},
	},
	{
		name: "returned-bytes-are-the-callers",
		says: "The byte slices of a returned record belong to the caller.",
		why:  "Two requests that share one slice change each other's session.",
		look: "copy Data and Label on the way out of maps and caches; cut capacities so that append cannot reach a neighbour.",
		run: func(x *script) {
			r := x.session("alice")
			k := x.created(r)
			scribble := func(r store.Record) {
				label, data := bytes.Clone(r.Label), bytes.Clone(r.Data)
				for i := range r.Data {
					r.Data[i] = '!'
				}
				if _ = append(r.Data, '!'); !bytes.Equal(r.Label, label) {
					x.Errorf("writing to Data changed Label")
				}
				copy(r.Data, data)
				for i := range r.Label {
					r.Label[i] = '!'
				}
				if _ = append(r.Label, '!'); !bytes.Equal(r.Data, data) {
					x.Errorf("writing to Label, or appending to it, changed Data")
				}
				for i := range r.Data {
					r.Data[i] = '!'
				}
			}
			scribble(x.get(k))
			x.holds("after the caller wrote to what Get returned", k, r)
			scribble(x.get(k)) // a cache may fill on the first read and alias on the second
			x.holds("after the caller wrote to what a second Get returned", k, r)
			if many, ok := store.As[store.GetMany](x.store); ok {
				found, err := many.GetMany(x.ctx, []store.Key{k})
				x.want("GetMany", err, nil)
				scribble(found[k])
				x.holds("after the caller wrote to what GetMany returned", k, r)
			}
			if _, ok := store.As[store.OwnerIndex](x.store); ok {
				scribble(x.listOwner("alice")[k])
				x.holds("after the caller wrote to what ListOwner returned", k, r)
			}
			if _, ok := store.As[store.Lister](x.store); ok {
				scribble(x.list()[k])
				x.holds("after the caller wrote to what List yielded", k, r)
			}
		},
	},
	{
		name: "empty-is-nil",
		says: "An empty slice and nil are the same, for Label and Data.",
		why:  "A session without values is a session; a NOT NULL column must not refuse it.",
		look: "NULL and empty columns, absent and empty fields.",
		run: func(x *script) {
			for _, empty := range [][]byte{nil, {}} {
				r := x.session("alice")
				r.Label, r.Data = empty, empty
				k := x.created(r)
				x.holds("after Create with empty bytes", k, r)
				full := x.changed(r)
				x.replace(k, r.Version, full)
				x.holds("after Replace of empty bytes with some", k, full)
				again := x.changed(full)
				again.Label, again.Data = empty, empty
				x.replace(k, full.Version, again)
				x.holds("after Replace of bytes with empty ones", k, again)
			}
		},
	},
	{
		name: "any-bytes",
		says: "Label and Data hold any bytes.",
		why:  "Data is sealed: every byte value occurs in it, and one that is changed makes it unreadable.",
		look: "text columns, JSON strings, UTF-8 validation, trimmed zeros and spaces.",
		run: func(x *script) {
			var all []byte
			for b := range 256 {
				all = append(all, byte(b))
			}
			reversed := slices.Clone(all)
			slices.Reverse(reversed)
			r := x.session("alice")
			r.Label, r.Data = append(all, 0, ' ', 0), append(reversed, ' ', 0)
			k := x.created(r)
			x.holds("after Create", k, r)
			next := x.changed(r)
			next.Label, next.Data = r.Data, r.Label
			x.replace(k, r.Version, next)
			x.holds("after Replace", k, next)
		},
	},
	{
		name: "new-stores-are-apart",
		says: "Stores that Config.New returns share nothing.",
		why:  "The suite could not tell what it sees; and two apps with a prefix each would share sessions.",
		look: "Config.New: a table, database or prefix per store; what the prefix covers.",
		run: func(x *script) {
			other := x.another(x.c.New(x.t))
			k := x.created(x.session("alice"))
			other.gone("in another new store", k)
			other.create(k, x.changed(x.session("alice")))
			if _, ok := store.As[store.OwnerIndex](x.store); ok {
				other.deleteOwner("alice")
			} else {
				other.delete(k)
			}
			x.get(k)
		},
	},
	{
		name: "nothing-is-left-behind",
		says: "What was deleted leaves nothing in the backend: no row, no index entry.",
		why:  "Indexes that only grow fill the memory of a store over months (spring-session#1791, #2230).",
		look: "Delete and DeleteOwner: they remove the index entries too, and the set itself when it is empty.",
		run: func(x *script) {
			if x.c.Count == nil {
				x.Skipf("Config.Count is nil: no way to see what the backend holds")
			}
			before := x.c.Count(x.t, x.store)
			_, indexed := store.As[store.OwnerIndex](x.store)
			for range 3 {
				owned, anonymous := x.created(x.session("alice")), x.created(x.session(""))
				x.touch(owned, x.session("").Deadline)
				x.delete(owned)
				x.delete(anonymous)
				if indexed {
					x.created(x.session("bob"))
					x.created(x.marker("bob"))
					x.deleteOwner("bob")
				}
			}
			if after := x.c.Count(x.t, x.store); after != before {
				x.Errorf("the backend holds %d entries after everything was deleted; want %d", after, before)
			}
		},
	},
}

func cloned(r store.Record) store.Record {
	r.Data, r.Label = bytes.Clone(r.Data), bytes.Clone(r.Label)
	return r
}
