package nearcache

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coatcheck/coatcheck/store"
)

// shard is a part of the keys, and what is under way with them. Its lock is
// never held while the store works.
type shard struct {
	mu    sync.Mutex
	spans map[store.Key]*span

	hits, unknownHits, misses atomic.Uint64

	_ [80]byte // to 128 bytes: neighbours do not share a cache line
}

// Keys are hashes: any byte spreads them.
func (c *Cache) shard(k store.Key) *shard { return &c.shards[k[0]] }

// span is the time between two changes of a key, for as long as somebody loads
// or writes it. What a load brings is kept only if the span that it began in is
// not over when it ends.
type span struct {
	over    bool
	writers int     // how many are writing: nothing is kept until they are done
	loads   int     // how many are reading
	join    *flight // the load that others may wait for, if any
}

// flight is one load.
type flight struct {
	key   store.Key
	span  *span
	pools *pools        // where to what it brings goes: none that look at others will see it
	begun time.Duration // on the clock of Cache.age

	done chan struct{} // closed when rec and err are set
	rec  store.Record  // of the cache: to be cloned
	err  error
}

// errLeft is what is left of a load that panicked.
var errLeft = errors.New("nearcache: the load did not return")

// load reads k, or waits for somebody who already does.
func (c *Cache) load(ctx context.Context, k store.Key) (store.Record, error) {
	for {
		f, leads := c.board(k)
		if f == nil { // kept since
			return c.Get(ctx, k)
		}
		if leads {
			return c.fly(ctx, f, c.inner.Get)
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return store.Record{}, wrap("get", ctx.Err())
		}
		switch {
		case f.err == nil && f.rec.Live(time.Now()):
			return clone(f.rec), nil
		case errors.Is(f.err, store.ErrNotFound):
			return store.Record{}, errAbsent
		}
		// The one who loaded may have hung up, which is no business of ours, nor
		// is any other failure sure to be: somebody tries again.
	}
}

// board returns the flight for k that is under way and may be joined, or else a
// new one that the caller leads. It returns nil if there is a copy by now.
func (c *Cache) board(k store.Key) (f *flight, leads bool) {
	sh := c.shard(k)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	p, now := c.pools.Load(), time.Now()
	if s := sh.spans[k]; s != nil && s.join != nil && s.join.pools == p && c.young(s.join.begun, now) {
		return s.join, false
	}
	if c.record(p, k, now) != nil || c.knownAbsent(p, k, now) {
		return nil, false
	}
	f = c.departLocked(sh, k, p, now)
	f.span.join = f
	return f, true
}

// depart begins a load that nobody joins.
func (c *Cache) depart(k store.Key) *flight {
	sh := c.shard(k)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return c.departLocked(sh, k, c.pools.Load(), time.Now())
}

func (c *Cache) departLocked(sh *shard, k store.Key, p *pools, now time.Time) *flight {
	s := sh.spans[k]
	if s == nil {
		s = new(span)
		sh.spans[k] = s
	}
	s.loads++
	return &flight{key: k, span: s, pools: p, begun: c.age(now), done: make(chan struct{}), err: errLeft}
}

// fly reads f's key with get, for the caller and for those who wait.
func (c *Cache) fly(ctx context.Context, f *flight, get func(context.Context, store.Key) (store.Record, error)) (store.Record, error) {
	defer c.land(f)
	c.loads.Add(1)
	r, err := get(ctx, f.key)
	if f.err = err; err == nil {
		f.rec = own(r)
	}
	return r, err
}

// land ends f, and keeps what it brought if nothing has changed since it began.
func (c *Cache) land(f *flight) {
	sh := c.shard(f.key)
	sh.mu.Lock()
	s := f.span
	s.loads--
	if s.join == f {
		s.join = nil
	}
	if s.loads == 0 && s.writers == 0 && !s.over {
		delete(sh.spans, f.key)
	}
	if !s.over && s.writers == 0 && (f.err == nil || errors.Is(f.err, store.ErrNotFound)) {
		c.keep(f)
	}
	sh.mu.Unlock()
	close(f.done)
}

// endSpan ends the span of k, which has so many writers more from now on.
func (c *Cache) endSpan(k store.Key, writers int) {
	sh := c.shard(k)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.endSpan(k, writers)
}

func (sh *shard) endSpan(k store.Key, writers int) {
	if s := sh.spans[k]; s != nil {
		s.over = true
		writers += s.writers
	}
	if writers > 0 {
		sh.spans[k] = &span{writers: writers}
	} else {
		delete(sh.spans, k)
	}
}

// endSpans ends all spans.
func (c *Cache) endSpans() {
	for i := range c.shards {
		sh := &c.shards[i]
		sh.mu.Lock()
		for k := range sh.spans {
			sh.endSpan(k, 0)
		}
		sh.mu.Unlock()
	}
}
