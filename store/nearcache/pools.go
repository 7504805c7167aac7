package nearcache

import (
	"slices"
	"strings"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/coatcheck/coatcheck/store"
)

// pools are the two bounded memories of a Cache.
type pools struct {
	records *otter.Cache[store.Key, *entry]
	unknown *otter.Cache[store.Key, time.Duration] // when the load began that found nothing
}

// entry is a copy of a record. Nothing in it is ever written to.
type entry struct {
	store.Record
	begun time.Duration // when its load began, on the clock of Cache.age
}

// overhead is what an entry takes besides its bytes: the record, a node and a
// slot of the cache, a share of its frequency sketch. Measured, that is 320 to
// 370 bytes; TestMemoryIsBounded measures it again.
const overhead = 400

// weight is the memory that e takes. The capacity of Data is what the allocator
// gave for it, which is up to a quarter more than was asked for.
func weight(_ store.Key, e *entry) uint32 {
	return uint32(min(overhead+len(e.Owner)+len(e.Label)+cap(e.Data), 1<<31))
}

func newPools(o *Options) *pools {
	// Caches without expiry start no goroutine; with this executor they do their
	// housekeeping in the goroutine that reads or writes, some nanoseconds each.
	inline := func(f func()) { f() }
	return &pools{
		records: otter.Must(&otter.Options[store.Key, *entry]{
			MaximumWeight: uint64(o.MaxBytes), Weigher: weight, Executor: inline,
		}),
		unknown: otter.Must(&otter.Options[store.Key, time.Duration]{
			MaximumSize: o.MaxUnknown, Executor: inline,
		}),
	}
}

// age is the clock by which copies grow old. It never goes back.
func (c *Cache) age(now time.Time) time.Duration { return now.Sub(c.began) }

// young reports whether a copy whose load began then may be used at now. Had it
// changed before the stream of changes was last seen to be whole, it would have
// been dropped: it is as good as if it had been loaded at that moment. Nobody is
// trusted with that for longer than maxAge.
func (c *Cache) young(begun time.Duration, now time.Time) bool {
	age := c.age(now)
	return age-max(begun, time.Duration(c.whole.Load())) < c.opts.MaxStale && age-begun < max(maxAge, c.opts.MaxStale)
}

// record returns the copy of the record under k that may be used at now, or nil.
// One that seems to have expired may not: it may have been touched elsewhere.
func (c *Cache) record(p *pools, k store.Key, now time.Time) *entry {
	e, ok := p.records.GetIfPresent(k)
	if !ok || !c.young(e.begun, now) || !e.Live(now) {
		return nil
	}
	return e
}

func (c *Cache) knownAbsent(p *pools, k store.Key, now time.Time) bool {
	begun, ok := p.unknown.GetIfPresent(k)
	return ok && c.young(begun, now)
}

// keep puts what f brought into the pools, unless something there is better. The
// lock of the key's shard is held.
func (c *Cache) keep(f *flight) {
	now := time.Now()
	p, k := f.pools, f.key
	old, held := p.records.GetEntryQuietly(k)
	held = held && c.young(old.Value.begun, now)
	if f.err != nil { // not found
		if held && old.Value.begun > f.begun {
			return
		}
		p.records.Invalidate(k)
		p.unknown.Set(k, f.begun)
		return
	}
	// Two loads of one record may land in either order, and after a failover the
	// store itself may go back: by versions, a copy never does while it is young.
	if held && (newerThan(old.Value.Record, f.rec) || !newerThan(f.rec, old.Value.Record) && old.Value.begun > f.begun) {
		return
	}
	if absent, ok := p.unknown.GetEntryQuietly(k); ok && absent.Value > f.begun {
		return // a load that began later found that it is gone
	}
	p.unknown.Invalidate(k)
	p.records.Set(k, &entry{f.rec, f.begun})
}

// forget drops what is kept of k. Loads that are under way keep nothing, nor do
// those that begin while k has writers, whose number changes by writers.
func (c *Cache) forget(k store.Key, writers int) {
	c.endSpan(k, writers)
	// Whatever loads of the old span have kept, they have kept by now.
	p := c.pools.Load()
	p.records.Invalidate(k)
	p.unknown.Invalidate(k)
}

// write begins a write of k, and returns what ends it. The copy is dropped first,
// because the write's effect comes before its answer, which may take long. Until
// the end, whatever it is, nothing is kept, and nothing that was read before the
// end is kept after it.
func (c *Cache) write(k store.Key) (end func()) {
	c.forget(k, +1)
	return func() { c.endSpan(k, -1) }
}

// forgetOwner drops what is kept of owner.
func (c *Cache) forgetOwner(owner string) {
	if owner == "" {
		return
	}
	c.endSpans() // nobody knows whose records are being loaded
	p := c.pools.Load()
	for k, e := range p.records.All() {
		if e.Owner == owner {
			p.records.Invalidate(k)
		}
	}
}

// flush drops everything at once.
func (c *Cache) flush() {
	c.pools.Store(newPools(&c.opts))
	c.flushes.Add(1)
}

// newerThan reports whether a was written after b, by the half of the version
// that counts; the other is random.
func newerThan(a, b store.Record) bool { return a.Version>>32 > b.Version>>32 }

// clone returns r with bytes of its own: Label and Data in one allocation, each
// cut so that appending to one never reaches the other, and nil if empty.
func clone(r store.Record) store.Record {
	buf := make([]byte, len(r.Label)+len(r.Data))
	n := copy(buf, r.Label)
	copy(buf[n:], r.Data)
	r.Label, r.Data = buf[:n:n], buf[n:]
	if len(r.Label) == 0 {
		r.Label = nil
	}
	if len(r.Data) == 0 {
		r.Data = nil
	}
	return r
}

// own returns r for an entry: Label and Data at the front and the end of one
// allocation, and an Owner that does not pin a driver's whole buffer.
func own(r store.Record) store.Record {
	r.Owner = strings.Clone(r.Owner)
	n := len(r.Label)
	buf := slices.Grow([]byte(nil), n+len(r.Data))
	buf = append(append(buf, r.Label...), r.Data...)
	r.Label, r.Data = buf[:n:n], buf[n:]
	return r
}
