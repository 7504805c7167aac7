//go:build !race

package breaker_test

import (
	"context"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/memstore"
)

// A closed circuit in front of a store that does not wait costs no timer: one
// object for the deadline and one for gobreaker's report.
func TestGetAllocatesLittle(t *testing.T) {
	inner := memstore.New()
	if err := inner.Create(t.Context(), store.Key{1}, record()); err != nil {
		t.Fatal(err)
	}
	b := wrap(t, inner, nil)
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	bare := testing.AllocsPerRun(100, func() { _, _ = inner.Get(ctx, store.Key{1}) })
	if n := testing.AllocsPerRun(100, func() { _, _ = b.Get(ctx, store.Key{1}) }) - bare; n > 2 {
		t.Errorf("a closed circuit adds %v allocations to Get; want at most 2", n)
	}
}
