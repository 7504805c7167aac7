//go:build !race

package nearcache_test

import (
	"runtime"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/store/memstore"
	"github.com/coatcheck/coatcheck/store/nearcache"
)

// heap returns the bytes in use.
func heap() int64 {
	runtime.GC()
	runtime.GC() // what the first one found by finalizers
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// Ten times more records than there is room for take no more than MaxBytes, by
// the cache's count and by the heap's. The sizes are those that the allocator
// rounds up most.
func TestMemoryIsBounded(t *testing.T) {
	const limit = 8 << 20
	const allowance = limit/32 + 128<<10 // the table that is growing; what every cache takes
	for _, data := range []int{0, 200, 4097, 40_000} {
		before := heap()
		c := around(t, endless{memstore.New(), session(data)}, &nearcache.Options{MaxBytes: limit, MaxStale: time.Hour})
		for n := range uint64(10*limit) / uint64(data+500) {
			if _, err := c.Get(t.Context(), number(n)); err != nil {
				t.Fatal(err)
			}
			if s := c.Stats(); n%512 == 0 && s.Bytes > limit {
				t.Fatalf("%d bytes of data each: the cache counts %d bytes; want at most %d", data, s.Bytes, limit)
			}
		}
		used, s := heap()-before, c.Stats()
		t.Logf("%d bytes of data each: %d entries; counted %d bytes, on the heap %d", data, s.Entries, s.Bytes, used)
		if used > limit+allowance {
			t.Errorf("%d bytes of data each: %d bytes on the heap; want at most %d", data, used, limit)
		}
		if s.Bytes < limit*8/10 {
			t.Errorf("%d bytes of data each: %d bytes of %d are used; want the room to be used", data, s.Bytes, limit)
		}
		runtime.KeepAlive(c)
	}
}

func TestUnknownIsBounded(t *testing.T) {
	const limit = 20_000
	before := heap()
	c := around(t, memstore.New(), &nearcache.Options{MaxUnknown: limit, MaxStale: time.Hour})
	for n := range uint64(10 * limit) {
		_, _ = c.Get(t.Context(), number(n))
	}
	used, s := heap()-before, c.Stats()
	t.Logf("%d unknown keys take %d bytes each", s.Unknown, used/int64(s.Unknown))
	if s.Unknown > limit {
		t.Errorf("%d unknown keys are remembered; want at most %d", s.Unknown, limit)
	}
	if each := used / limit; each > 150 {
		t.Errorf("an unknown key takes %d bytes; Options.MaxUnknown says 150", each)
	}
	runtime.KeepAlive(c)
}

// A visitor with a session is not driven out by those who make IDs up.
func TestUnknownDriveNoRecordOut(t *testing.T) {
	in := newInner()
	c := around(t, in, &nearcache.Options{MaxBytes: 1 << 20, MaxUnknown: 100, MaxStale: time.Hour})
	create(t, in, key, version(1))
	wants(t, c.Get, 1, "the session")
	for n := range uint64(100_000) {
		_, _ = c.Get(t.Context(), number(n))
	}
	reads(t, in, 0, "unknown IDs take no room from records", func() { wants(t, c.Get, 1, "the session") })
}
