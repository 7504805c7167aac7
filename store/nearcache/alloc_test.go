//go:build !race

package nearcache_test

import (
	"testing"

	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/memstore"
	"github.com/coatcheck/coatcheck/store/nearcache"
)

// A hit costs the copy that belongs to the caller, and no other allocation.
func TestHitAllocatesOnce(t *testing.T) {
	c := around(t, endless{memstore.New(), session(300)}, &nearcache.Options{MaxStale: 1 << 62})
	if n := testing.AllocsPerRun(1000, func() { _, _ = c.Get(t.Context(), store.Key{1}) }); n > 1 {
		t.Errorf("a hit allocates %v times; want 1", n)
	}
}

func TestUnknownAllocatesNothing(t *testing.T) {
	c := around(t, memstore.New(), &nearcache.Options{MaxStale: 1 << 62})
	if n := testing.AllocsPerRun(1000, func() { _, _ = c.Get(t.Context(), store.Key{1}) }); n > 0 {
		t.Errorf("a Get of a key known to be absent allocates %v times; want 0", n)
	}
}
