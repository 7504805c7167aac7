package breaker_test

import (
	"context"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/breaker"
	"github.com/coatcheck/coatcheck/store/memstore"
	"github.com/coatcheck/coatcheck/store/storetest"
)

// What a closed circuit costs: "bare" is the inner store alone. The store in
// memory never waits; "waits" asks for Done, as a client on the network does.
func BenchmarkGet(b *testing.B) {
	inner := memstore.New()
	if err := inner.Create(b.Context(), store.Key{1}, record()); err != nil {
		b.Fatal(err)
	}
	for _, bm := range []struct {
		name string
		st   store.Store
	}{
		{"bare", inner},
		{"closed", wrap(b, inner, nil)},
		{"bare-waits", waits{inner}},
		{"closed-waits", wrap(b, waits{inner}, nil)},
	} {
		b.Run(bm.name, func(b *testing.B) {
			ctx, cancel := context.WithTimeout(b.Context(), time.Hour)
			defer cancel()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := bm.st.Get(ctx, store.Key{1}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

type waits struct{ store.Store }

func (w waits) Capability(any) bool { return false }

func (w waits) Get(ctx context.Context, k store.Key) (store.Record, error) {
	_ = ctx.Done()
	return w.Store.Get(ctx, k)
}

// A refusal is what every request pays during an outage.
func BenchmarkRefused(b *testing.B) {
	st := wrap(b, storetest.NewFaults(memstore.New(), down), &breaker.Options{Failures: 1, OpenFor: time.Hour})
	for st.State() == breaker.Closed {
		_, _ = st.Get(b.Context(), store.Key{1})
	}
	b.ReportAllocs()
	for b.Loop() {
		_, _ = st.Get(b.Context(), store.Key{1})
	}
}
