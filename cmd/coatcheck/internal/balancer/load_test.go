package balancer_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/balancer"
)

// TestLoad: requests count for as long as they are here, and that includes the wait for
// an upstream.
func TestLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := balancer.New(&balancer.Options{QueueTimeout: 2 * time.Second}) // and no upstream
		var wg sync.WaitGroup
		for i := range 3 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * time.Second)
				b.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://shop.example/", nil))
			})
		}
		time.Sleep(1500 * time.Millisecond)
		if busy, ready := b.Load(); busy != 2*time.Second || ready != 0 {
			t.Errorf("after 1.5 s the load is %v, with %d ready; want 1.5 s of the first request and 0.5 s of the second, and none", busy, ready)
		}
		wg.Wait()
		time.Sleep(time.Hour)
		if busy, _ := b.Load(); busy != 6*time.Second {
			t.Errorf("in the end the load is %v; want 2 s for each of three requests", busy)
		}
	})
}

// TestLatency: a request counts with the time until its answer, the wait for an upstream
// included; one whose client has gone does not.
func TestLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := balancer.New(&balancer.Options{QueueTimeout: 2 * time.Second}) // and no upstream
		serve := func(ctx context.Context) {
			b.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, http.MethodGet, "http://shop.example/", nil))
		}
		serve(t.Context())
		before := b.Latency()
		if n, q := before.Total(), before.Quantile(0.5); n != 1 || q < 2*time.Second || q > 2*time.Second*33/32 {
			t.Errorf("%d requests took %v; want one, which waited 2 s for an upstream", n, q)
		}
		gone, hangUp := context.WithTimeout(t.Context(), time.Second)
		defer hangUp()
		serve(gone)
		if n := b.Latency().Since(before).Total(); n != 0 {
			t.Errorf("%d requests count whose client hung up; want none", n)
		}
	})
}
