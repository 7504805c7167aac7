package shopper

import (
	"encoding/json"
	"math/rand/v2"
	"slices"
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
}

func TestQuantilesAreNearlyExact(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	var h histogram
	var all []time.Duration
	for range 10_000 {
		d := time.Duration(rng.ExpFloat64() * float64(3*time.Millisecond))
		h.add(d)
		all = append(all, d)
	}
	slices.Sort(all)
	for _, q := range []float64{0, 0.5, 0.99, 0.999, 1} {
		want := all[int(q*float64(len(all)-1))]
		got := h.quantile(q)
		if got < want || float64(got) > float64(want)*1.04+float64(time.Microsecond) {
			t.Errorf("quantile %v is %v, want %v and at most 3 %% more", q, got, want)
		}
	}
}

func TestLatencyOfNothing(t *testing.T) {
	if l := new(histogram).latency(); l != (Latency{}) {
		t.Errorf("no requests took %+v", l)
	}
}

func TestLatencyInJSONIsInMilliseconds(t *testing.T) {
	b, err := json.Marshal(Latency{P50: 1500 * time.Microsecond, P99: 20 * time.Millisecond, Max: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"p50_ms":1.5,"p99_ms":20,"max_ms":1000}`; string(b) != want {
		t.Errorf("%s, want %s", b, want)
	}
}
