package latency

import (
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"
)

func TestEveryDurationIsInABucketThatHoldsIt(t *testing.T) {
	const us = time.Microsecond
	for _, d := range []time.Duration{-1, 0, 1, us - 1, us, 31 * us, 32 * us, 63 * us, 64 * us, 65 * us, 127 * us, 128 * us, time.Second, time.Hour, 10_000 * time.Hour} {
		b := bucket(d)
		if d > upper(b) {
			t.Errorf("%v is in bucket %d, which ends at %v", d, b, upper(b))
		}
		if b > 0 && d <= upper(b-1) {
			t.Errorf("%v is in bucket %d, but the one before ends at %v", d, b, upper(b-1))
		}
	}
	if b := bucket(math.MaxInt64); b != size-1 || upper(b) != math.MaxInt64 || upper(b-1) < 0 {
		t.Errorf("the longest duration is in bucket %d of %d, which ends at %v, the one before at %v; want it in the last", b, size, upper(b), upper(b-1))
	}
}

func TestQuantilesAreNearlyExact(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	var h Histogram
	h.Add(time.Hour) // which was before
	before := h.Counts()
	var all []time.Duration
	for range 10_000 {
		d := time.Duration(rng.ExpFloat64() * float64(3*time.Millisecond))
		h.Add(d)
		all = append(all, d)
	}
	slices.Sort(all)
	counts := h.Counts().Since(before)
	for _, tt := range []struct {
		q    float64
		rank int
	}{{-1, 1}, {0, 1}, {0.5, 5000}, {0.99, 9900}, {0.999, 9990}, {1, 10_000}, {2, 10_000}} {
		q, want := tt.q, all[tt.rank-1]
		got := counts.Quantile(q)
		if got < want || float64(got) > float64(want)*1.04+float64(time.Microsecond) {
			t.Errorf("quantile %v is %v, want %v and at most 3 %% more", q, got, want)
		}
	}
	if n := counts.Total(); n != 10_000 {
		t.Errorf("%d durations, want those since: 10000", n)
	}
	if again := h.Counts().Since(h.Counts()); again.Total() != 0 || again.Quantile(0.5) != 0 {
		t.Errorf("of nothing the median is %v; want 0", again.Quantile(0.5))
	}
}

// TestQuantilesOfFew: the slowest of a second's few requests is what its 99 % tell.
func TestQuantilesOfFew(t *testing.T) {
	for _, tt := range []struct{ n, median, most int }{{1, 1, 1}, {2, 1, 2}, {3, 2, 3}, {40, 20, 40}, {99, 50, 99}, {100, 50, 99}, {101, 51, 100}} {
		var h Histogram
		for i := range tt.n {
			h.Add(time.Duration(i+1) * time.Second)
		}
		for q, rank := range map[float64]int{0.5: tt.median, 0.99: tt.most} {
			want := upper(bucket(time.Duration(rank) * time.Second))
			if got := h.Counts().Quantile(q); got != want {
				t.Errorf("of 1 s to %d s the quantile %v is %v; want that of %d s, %v", tt.n, q, got, rank, want)
			}
		}
	}
}

// TestConcurrentAdds: none is lost.
func TestConcurrentAdds(t *testing.T) {
	const adders, each = 4, 500_000
	var h Histogram
	var wg sync.WaitGroup
	begin := make(chan struct{})
	for range adders {
		wg.Go(func() {
			<-begin
			for range each {
				h.Add(time.Millisecond)
			}
		})
	}
	close(begin)
	wg.Wait()
	if n := h.Counts().Total(); n != adders*each {
		t.Errorf("%d durations were added, %d counted", adders*each, n)
	}
}

// BenchmarkAdd is what each request pays, with many at once in the same bucket.
func BenchmarkAdd(b *testing.B) {
	var h Histogram
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			h.Add(500 * time.Microsecond)
		}
	})
}

// BenchmarkCounts is what a reader pays, once a second.
func BenchmarkCounts(b *testing.B) {
	var h Histogram
	h.Add(time.Second)
	before := h.Counts()
	b.ReportAllocs()
	for b.Loop() {
		_ = h.Counts().Since(before).Quantile(0.99)
	}
}
