package storetest

import (
	"context"

	"github.com/coatcheck/coatcheck/store"
)

var freshRules = []rule{
	{
		name: "sees-finished-writes",
		says: "GetFresh sees the writes that finished before it began, whatever Get has seen.",
		why:  "A page that must be exact, such as a change of password, would act on what was.",
		look: "copies; an answer that another reader is already waiting for, which may be older.",
		run: func(x *script) {
			need[store.FreshReader](x)
			freshSeesWrites(x, x)
		},
	},
	{
		name: "sees-what-others-wrote",
		says: "GetFresh sees finished writes that went past this store: those of other processes.",
		why:  "The next request goes to another server; the one after that comes back.",
		look: "copies that only this store's own writes remove.",
		run: func(x *script) {
			need[store.FreshReader](x)
			if x.c.Inner != nil {
				freshSeesWrites(x, x.another(x.c.Inner(x.t, x.store)))
				return
			}
			freshSeesWrites(x, x.second())
		},
	},
	{
		name: "absent-is-not-found",
		says: "GetFresh fails as Get does: ErrNotFound of what is absent, deleted or expired.",
		why:  "Its callers act on the error as they do after Get.",
		look: "the mapping of errors; it should be Get's.",
		run: func(x *script) {
			fresh := need[store.FreshReader](x)
			deleted := x.created(x.session("alice"))
			x.delete(deleted)
			for what, k := range map[string]store.Key{
				"an absent key":     x.key(),
				"a deleted record":  deleted,
				"an expired record": x.expired(x.session("alice")),
			} {
				r, err := fresh.GetFresh(x.ctx, k)
				x.want("GetFresh of "+what, err, store.ErrNotFound)
				x.same("GetFresh of "+what, r, store.Record{})
			}
		},
	},
}

// fresh is a store whose Get is GetFresh.
type fresh struct {
	store.Store
	reader store.FreshReader
}

func (f fresh) Capability(any) bool { return false }

func (f fresh) Get(ctx context.Context, k store.Key) (store.Record, error) {
	return f.reader.GetFresh(ctx, k)
}

// freshSeesWrites writes through w and reads afresh through r, with copies as
// old as they can be.
func freshSeesWrites(r, w *script) {
	reader := r.another(fresh{r.store, need[store.FreshReader](r)})
	k := w.key()
	_, _ = r.store.Get(r.ctx, k)
	rec := w.session("alice")
	w.create(k, rec)
	reader.holds("GetFresh after Create", k, rec)
	for range 5 {
		_, _ = r.store.Get(r.ctx, k)
		next := w.changed(rec)
		w.replace(k, rec.Version, next)
		rec = next
		reader.holds("GetFresh after Replace", k, rec)
	}
	_, _ = r.store.Get(r.ctx, k)
	rec.Expires = rec.Expires.Add(1e9)
	w.touch(k, rec.Expires)
	reader.holds("GetFresh after Touch", k, rec)
	_, _ = r.store.Get(r.ctx, k)
	w.delete(k)
	reader.gone("GetFresh after Delete", k)
}
