package nearcache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/coatcheck/coatcheck/store"
)

// Options are the bounds of a [Cache].
type Options struct {
	// MaxBytes bounds the memory for copies of records, all that belongs to them
	// included. A record of 300 bytes takes about 700.
	//
	// If zero, 64 MiB. At least 1 MiB.
	MaxBytes int64

	// MaxUnknown bounds the number of keys that are remembered as not being in
	// the store. Each takes about 150 bytes.
	//
	// If zero, 16384.
	MaxUnknown int

	// MaxStale is how long a copy is used after the last moment at which it was
	// certainly current: when its load began, or when the stream of changes was
	// last seen to be whole and had told of none. It is the time for which a
	// session that was ended on another server may be used on this one, where that
	// is not told sooner. No copy is used for longer than a minute, or MaxStale if
	// that is more.
	//
	// If zero, one second.
	MaxStale time.Duration

	// Logger is told when the stream of changes breaks and when it is back.
	//
	// If nil, slog.Default().
	Logger *slog.Logger
}

// Defaults of [Options].
const (
	defaultBytes   = 64 << 20
	minBytes       = 1 << 20
	defaultUnknown = 1 << 14
	defaultStale   = time.Second
)

// maxAge is the age from which on a copy is loaded again even if nothing was told
// of it by a stream that seems to be whole. It bounds what a change that a server
// has forgotten to tell of can do, and costs a session in use a read a minute.
const maxAge = time.Minute

// Cache is a [store.Store] that answers reads from memory while the copy is
// young. All of its methods are safe for concurrent use. Create one with [New].
type Cache struct {
	inner     store.Store
	readFresh func(context.Context, store.Key) (store.Record, error)
	opts      Options
	began     time.Time // ages are measured against it

	// pools holds the copies. To flush is to put new ones in their place: that
	// is one step, however much there is to forget, and a load that began before
	// it has nowhere to put what it brings.
	pools  atomic.Pointer[pools]
	shards [256]shard

	running, pushing              atomic.Bool
	whole                         atomic.Int64 // when the stream of changes was last seen to be whole, on the clock of age
	loads, invalidations, flushes atomic.Uint64
}

var (
	_ store.Wrapper     = (*Cache)(nil)
	_ store.FreshReader = (*Cache)(nil)
)

// New returns an empty cache around inner. It starts nothing: for pushed
// invalidation the caller runs [Cache.Run].
func New(inner store.Store, opts *Options) (*Cache, error) {
	if inner == nil {
		return nil, errors.New("nearcache: the inner store is nil; give it the store whose records are to be kept near")
	}
	c := &Cache{inner: inner, readFresh: inner.Get, began: time.Now()}
	if f, ok := store.As[store.FreshReader](inner); ok {
		c.readFresh = f.GetFresh
	}
	if opts != nil {
		c.opts = *opts
	}
	o := &c.opts
	switch {
	case o.MaxBytes < 0 || o.MaxBytes > 0 && o.MaxBytes < minBytes:
		return nil, fmt.Errorf("nearcache: MaxBytes is %d, too little to keep sessions in; give it %d or more, or leave it zero for %d", o.MaxBytes, minBytes, defaultBytes)
	case o.MaxUnknown < 0:
		return nil, fmt.Errorf("nearcache: MaxUnknown is %d; give it a positive number, or leave it zero for %d", o.MaxUnknown, defaultUnknown)
	case o.MaxStale < 0:
		return nil, fmt.Errorf("nearcache: MaxStale is %v; give it a positive duration, or leave it zero for %v", o.MaxStale, defaultStale)
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = defaultBytes
	}
	if o.MaxUnknown == 0 {
		o.MaxUnknown = defaultUnknown
	}
	if o.MaxStale == 0 {
		o.MaxStale = defaultStale
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	for i := range c.shards {
		c.shards[i].spans = make(map[store.Key]*span)
	}
	c.pools.Store(newPools(o))
	return c, nil
}

// Get implements [store.Store]. The record may be older than what others have
// written, by MaxStale at most, and never older than what was written through
// this cache before. Callers that miss the same key at once share one read.
func (c *Cache) Get(ctx context.Context, k store.Key) (store.Record, error) {
	if err := ctx.Err(); err != nil {
		return store.Record{}, wrap("get", err)
	}
	p, now := c.pools.Load(), time.Now()
	if e := c.record(p, k, now); e != nil {
		c.shard(k).hits.Add(1)
		return clone(e.Record), nil
	}
	if c.knownAbsent(p, k, now) {
		c.shard(k).unknownHits.Add(1)
		return store.Record{}, errAbsent
	}
	c.shard(k).misses.Add(1)
	return c.load(ctx, k)
}

// GetFresh implements [store.FreshReader]: it always reads through, by a read of
// its own.
func (c *Cache) GetFresh(ctx context.Context, k store.Key) (store.Record, error) {
	if err := ctx.Err(); err != nil {
		return store.Record{}, wrap("get fresh", err)
	}
	return c.fly(ctx, c.depart(k), c.readFresh)
}

// Create implements [store.Store].
func (c *Cache) Create(ctx context.Context, k store.Key, r store.Record) error {
	defer c.write(k)()
	return c.inner.Create(ctx, k, r)
}

// Replace implements [store.Store].
func (c *Cache) Replace(ctx context.Context, k store.Key, old uint64, r store.Record) error {
	defer c.write(k)()
	return c.inner.Replace(ctx, k, old, r)
}

// Touch implements [store.Store].
func (c *Cache) Touch(ctx context.Context, k store.Key, expires time.Time) error {
	defer c.write(k)()
	return c.inner.Touch(ctx, k, expires)
}

// Delete implements [store.Store].
func (c *Cache) Delete(ctx context.Context, k store.Key) (existed bool, err error) {
	defer c.write(k)()
	return c.inner.Delete(ctx, k)
}

// Capability implements [store.Wrapper]: a cache is a [store.FreshReader], and
// has every other capability of the inner store. All but [store.OwnerIndex] and
// [store.Watcher] are the inner store's own: they read the store, and change no
// live record.
func (c *Cache) Capability(target any) bool {
	switch t := target.(type) {
	case *store.FreshReader:
		*t = c
		return true
	case *store.OwnerIndex:
		inner, ok := store.As[store.OwnerIndex](c.inner)
		if ok {
			*t = owners{inner, c}
		}
		return ok
	case *store.Lister:
		return forward(t, c.inner)
	case *store.Sweeper:
		return forward(t, c.inner)
	case *store.GetMany:
		return forward(t, c.inner)
	case *store.Pinger:
		return forward(t, c.inner)
	case *store.Watcher:
		inner, ok := store.As[store.Watcher](c.inner)
		if ok {
			*t = watcher{inner, c}
		}
		return ok
	case *store.Inspector:
		return forward(t, c.inner)
	case *store.Sharded:
		return forward(t, c.inner)
	case *store.Confirmer:
		return forward(t, c.inner)
	}
	return false
}

func forward[T any](target *T, inner store.Store) (ok bool) {
	t, ok := store.As[T](inner)
	if ok {
		*target = t
	}
	return ok
}

// owners is the owner index of a Cache. Its list is the store's.
type owners struct {
	store.OwnerIndex
	c *Cache
}

// DeleteOwner implements [store.OwnerIndex]. It looks at every copy there is,
// 20 ms for 64 MiB of small ones: an index by owner would cost every load to spare
// what is rare.
func (o owners) DeleteOwner(ctx context.Context, owner string, keep ...store.Handle) (int, error) {
	defer o.c.forgetOwner(owner) // on errors too: some may be gone
	return o.OwnerIndex.DeleteOwner(ctx, owner, keep...)
}

// Stats is what a [Cache] has done since [New], and what it holds.
type Stats struct {
	Hits          uint64 // reads answered by a copy of a record
	UnknownHits   uint64 // reads answered by the memory that there is no record
	Misses        uint64 // reads by Get that neither answered
	Loads         uint64 // reads of the inner store; misses may share one, GetFresh never does
	Invalidations uint64 // changes that the inner store's Watcher told of
	Flushes       uint64 // how often everything was forgotten

	Bytes   int64 // memory that the copies take, by estimate; at most Options.MaxBytes
	Entries int   // copies of records
	Unknown int   // keys known to be absent
	Pushing bool  // changes are pushed: Run is running and the stream of changes is whole
}

// Stats returns the figures of c. It is cheap enough for every scrape of a
// monitoring system, and not for every request.
func (c *Cache) Stats() Stats {
	p := c.pools.Load()
	s := Stats{
		Loads:         c.loads.Load(),
		Invalidations: c.invalidations.Load(),
		Flushes:       c.flushes.Load(),
		Bytes:         int64(p.records.WeightedSize()),
		Entries:       p.records.EstimatedSize(),
		Unknown:       p.unknown.EstimatedSize(),
		Pushing:       c.pushing.Load(),
	}
	for i := range c.shards {
		sh := &c.shards[i]
		s.Hits += sh.hits.Load()
		s.UnknownHits += sh.unknownHits.Load()
		s.Misses += sh.misses.Load()
	}
	return s
}

var errAbsent = wrap("get", store.ErrNotFound)

func wrap(op string, err error) error { return fmt.Errorf("nearcache: %s: %w", op, err) }
