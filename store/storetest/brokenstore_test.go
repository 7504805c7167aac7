package storetest

import (
	"context"
	"iter"
	"runtime"
	"sync"
	"time"

	"github.com/coatcheck/coatcheck/store"
)

// broken is the naive store with some methods replaced by defective ones, which
// may call those of naive. Where no defect needs more, its limit on Data and its
// count of entries are right.
type broken struct {
	*naive
	get         func(context.Context, store.Key) (store.Record, error)
	create      func(context.Context, store.Key, store.Record) error
	replace     func(context.Context, store.Key, uint64, store.Record) error
	touch       func(context.Context, store.Key, time.Time) error
	delete      func(context.Context, store.Key) (bool, error)
	listOwner   func(context.Context, string) ([]store.Keyed, error)
	deleteOwner func(context.Context, string, ...store.Handle) (int, error)
	list        func(context.Context) iter.Seq2[store.Keyed, error]
	sweep       func(context.Context, int) (int, error)
	getMany     func(context.Context, []store.Key) (map[store.Key]store.Record, error)
	ping        func(context.Context) error
	watch       func(context.Context, func(time.Time), func([]store.Key)) error
	getFresh    func(context.Context, store.Key) (store.Record, error)
	inspect     func(context.Context) ([]store.Finding, error)
	shards      func() int
	shard       func(store.Key) int
	count       func() int
	unlimited   bool

	extra sync.Mutex // guards what a defect keeps beside the records
}

// brokenLimit is the limit on Data of every broken store.
const brokenLimit = store.MinData + 100

func (b *broken) Get(ctx context.Context, k store.Key) (store.Record, error) {
	if b.get != nil {
		return b.get(ctx, k)
	}
	return b.naive.Get(ctx, k)
}

func (b *broken) Create(ctx context.Context, k store.Key, r store.Record) error {
	if len(r.Data) > brokenLimit && !b.unlimited {
		return store.ErrTooLarge
	}
	if b.create != nil {
		return b.create(ctx, k, r)
	}
	return b.naive.Create(ctx, k, r)
}

func (b *broken) Replace(ctx context.Context, k store.Key, old uint64, r store.Record) error {
	if len(r.Data) > brokenLimit && !b.unlimited {
		return store.ErrTooLarge
	}
	if b.replace != nil {
		return b.replace(ctx, k, old, r)
	}
	return b.naive.Replace(ctx, k, old, r)
}

func (b *broken) Touch(ctx context.Context, k store.Key, expires time.Time) error {
	if b.touch != nil {
		return b.touch(ctx, k, expires)
	}
	return b.naive.Touch(ctx, k, expires)
}

func (b *broken) Delete(ctx context.Context, k store.Key) (bool, error) {
	if b.delete != nil {
		return b.delete(ctx, k)
	}
	return b.naive.Delete(ctx, k)
}

func (b *broken) ListOwner(ctx context.Context, owner string) ([]store.Keyed, error) {
	if b.listOwner != nil {
		return b.listOwner(ctx, owner)
	}
	return b.naive.ListOwner(ctx, owner)
}

func (b *broken) DeleteOwner(ctx context.Context, owner string, keep ...store.Handle) (int, error) {
	if b.deleteOwner != nil {
		return b.deleteOwner(ctx, owner, keep...)
	}
	return b.naive.DeleteOwner(ctx, owner, keep...)
}

func (b *broken) List(ctx context.Context) iter.Seq2[store.Keyed, error] {
	if b.list != nil {
		return b.list(ctx)
	}
	return b.naive.List(ctx)
}

func (b *broken) Sweep(ctx context.Context, limit int) (int, error) {
	if b.sweep != nil {
		return b.sweep(ctx, limit)
	}
	return b.naive.Sweep(ctx, limit)
}

func (b *broken) GetMany(ctx context.Context, ks []store.Key) (map[store.Key]store.Record, error) {
	if b.getMany != nil {
		return b.getMany(ctx, ks)
	}
	return b.naive.GetMany(ctx, ks)
}

func (b *broken) Ping(ctx context.Context) error {
	if b.ping != nil {
		return b.ping(ctx)
	}
	return b.naive.Ping(ctx)
}

func (b *broken) Watch(ctx context.Context, ready func(asOf time.Time), changed func([]store.Key)) error {
	if b.watch != nil {
		return b.watch(ctx, ready, changed)
	}
	return b.naive.Watch(ctx, ready, changed)
}

func (b *broken) GetFresh(ctx context.Context, k store.Key) (store.Record, error) {
	if b.getFresh != nil {
		return b.getFresh(ctx, k)
	}
	return b.Get(ctx, k)
}

func (b *broken) Inspect(ctx context.Context) ([]store.Finding, error) {
	if b.inspect != nil {
		return b.inspect(ctx)
	}
	return b.naive.Inspect(ctx)
}

func (b *broken) Shards() int {
	if b.shards != nil {
		return b.shards()
	}
	return b.naive.Shards()
}

func (b *broken) Shard(k store.Key) int {
	if b.shard != nil {
		return b.shard(k)
	}
	return b.naive.Shard(k)
}

func (b *broken) entries() int {
	if b.count != nil {
		return b.count()
	}
	return b.naive.entries()
}

// alter runs f on what is stored under k, expired or not, and reports whether
// anything is. This is how defects get around the rules.
func (b *broken) alter(k store.Key, f func(*store.Record)) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range b.naive.list {
		if b.naive.list[i].Key == k {
			f(&b.naive.list[i].Record)
			return true
		}
	}
	return false
}

// stored returns what is stored under k, expired or not.
func (b *broken) stored(k store.Key) (r store.Record, ok bool) {
	ok = b.alter(k, func(stored *store.Record) { r = *stored })
	return r, ok
}

// put stores r under k, whatever is there.
func (b *broken) put(k store.Key, r store.Record) {
	if b.alter(k, func(stored *store.Record) { *stored = cloned(r) }) {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.naive.list = append(b.naive.list, store.Keyed{Key: k, Record: cloned(r)})
}

// all returns what is stored, expired or not.
func (b *broken) all() []store.Keyed {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]store.Keyed(nil), b.naive.list...)
}

// window lets others get in between two steps that should be one. It does not
// sleep: in a bubble of testing/synctest no time passes while others are busy.
func window() {
	for range 100 {
		runtime.Gosched()
	}
}
