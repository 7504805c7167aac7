package storetest

import (
	"context"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/coatcheck/coatcheck/store"
)

// naive is the model that memstore is checked against: a list of records, and
// loops over all of it. It shares no code with memstore and has no index.
type naive struct {
	mu       sync.Mutex
	list     []store.Keyed
	watchers []chan store.Key // wide enough for every change of a rule
}

// tell is called with n.mu held.
func (n *naive) tell(k store.Key) {
	for _, w := range n.watchers {
		w <- k
	}
}

func (n *naive) find(k store.Key) *store.Record {
	for i := range n.list {
		if n.list[i].Key == k && time.Now().Before(n.list[i].Expires) {
			return &n.list[i].Record
		}
	}
	return nil
}

func (n *naive) drop(which func(store.Keyed) bool) {
	n.list = slices.DeleteFunc(n.list, func(kr store.Keyed) bool {
		doomed := which(kr)
		if doomed {
			n.tell(kr.Key)
		}
		return doomed
	})
}

func (n *naive) Get(ctx context.Context, k store.Key) (store.Record, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if ctx.Err() != nil {
		return store.Record{}, ctx.Err()
	}
	if r := n.find(k); r != nil {
		return cloned(*r), nil
	}
	return store.Record{}, store.ErrNotFound
}

func (n *naive) Create(ctx context.Context, k store.Key, r store.Record) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err := r.Validate(time.Now()); err != nil {
		return err
	}
	if n.find(k) != nil {
		return store.ErrConflict
	}
	n.drop(func(kr store.Keyed) bool { return kr.Key == k })
	n.list = append(n.list, store.Keyed{Key: k, Record: cloned(r.Truncate())})
	n.tell(k)
	return nil
}

func (n *naive) Replace(ctx context.Context, k store.Key, old uint64, r store.Record) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err := r.Validate(time.Now()); err != nil {
		return err
	}
	stored := n.find(k)
	if stored == nil {
		return store.ErrNotFound
	}
	if stored.Version != old {
		return store.ErrConflict
	}
	r = cloned(r.Truncate())
	if r.Deadline.After(stored.Deadline) {
		r.Deadline = stored.Deadline
	}
	if r.Expires.After(r.Deadline) {
		r.Expires = r.Deadline
	}
	r.Handle, r.Owner, r.Created = stored.Handle, stored.Owner, stored.Created
	*stored = r
	n.tell(k)
	return nil
}

func (n *naive) Touch(ctx context.Context, k store.Key, expires time.Time) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if expires.IsZero() {
		return store.ErrInvalid
	}
	r := n.find(k)
	if r == nil || r.IsMarker() {
		return store.ErrNotFound
	}
	moved := store.Record{Expires: expires}.Truncate().Expires
	if moved.After(r.Deadline) {
		moved = r.Deadline
	}
	if moved.After(r.Expires) {
		r.Expires = moved
		n.tell(k)
	}
	return nil
}

func (n *naive) Delete(ctx context.Context, k store.Key) (bool, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	existed := n.find(k) != nil
	n.drop(func(kr store.Keyed) bool { return kr.Key == k })
	return existed, nil
}

func (n *naive) live(which func(store.Keyed) bool) []store.Keyed {
	var found []store.Keyed
	for _, kr := range n.list {
		if time.Now().Before(kr.Expires) && which(kr) {
			found = append(found, store.Keyed{Key: kr.Key, Record: cloned(kr.Record)})
		}
	}
	return found
}

func (n *naive) ListOwner(ctx context.Context, owner string) ([]store.Keyed, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if owner == "" {
		return nil, store.ErrInvalid
	}
	return n.live(func(kr store.Keyed) bool { return kr.Owner == owner && !kr.IsMarker() }), nil
}

func (n *naive) DeleteOwner(ctx context.Context, owner string, keep ...store.Handle) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	if owner == "" {
		return 0, store.ErrInvalid
	}
	doomed := func(kr store.Keyed) bool { return kr.Owner == owner && !slices.Contains(keep, kr.Handle) }
	ended := len(n.live(func(kr store.Keyed) bool { return doomed(kr) && !kr.IsMarker() }))
	n.drop(doomed)
	return ended, nil
}

func (n *naive) List(ctx context.Context) iter.Seq2[store.Keyed, error] {
	return func(yield func(store.Keyed, error) bool) {
		n.mu.Lock()
		list, err := n.live(func(store.Keyed) bool { return true }), ctx.Err()
		n.mu.Unlock()
		if err != nil {
			yield(store.Keyed{}, err)
			return
		}
		for _, kr := range list {
			if !yield(kr, nil) {
				return
			}
		}
	}
}

func (n *naive) Sweep(ctx context.Context, limit int) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	if limit <= 0 {
		return 0, store.ErrInvalid
	}
	removed := 0
	n.drop(func(kr store.Keyed) bool {
		if removed == limit || time.Now().Before(kr.Expires) {
			return false
		}
		removed++
		return true
	})
	return removed, nil
}

func (n *naive) GetMany(ctx context.Context, ks []store.Key) (map[store.Key]store.Record, error) {
	found := make(map[store.Key]store.Record)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	for _, k := range ks {
		if r, err := n.Get(ctx, k); err == nil {
			found[k] = r
		}
	}
	return found, nil
}

func (n *naive) Ping(ctx context.Context) error { return ctx.Err() }

func (n *naive) Watch(ctx context.Context, ready func(asOf time.Time), changed func([]store.Key)) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	w := make(chan store.Key, 10_000)
	n.mu.Lock()
	n.watchers = append(n.watchers, w)
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.watchers = slices.DeleteFunc(n.watchers, func(other chan store.Key) bool { return other == w })
	}()
	ready(time.Now())
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case k := <-w:
			changed([]store.Key{k})
		}
		if asOf := time.Now(); len(w) == 0 { // what was changed before is in there
			ready(asOf)
		}
	}
}

func (n *naive) GetFresh(ctx context.Context, k store.Key) (store.Record, error) {
	return n.Get(ctx, k)
}

func (n *naive) Inspect(ctx context.Context) ([]store.Finding, error) {
	return []store.Finding{
		{Check: "durability", Severity: store.SeverityWarning, Evidence: "memory only", Fix: "use another store"},
		{Check: "tls", Evidence: "there is no network"},
	}, ctx.Err()
}

func (n *naive) Shards() int { return 3 }

func (n *naive) Shard(k store.Key) int { return int(k[0]) % 3 }

func (n *naive) entries() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.list)
}
