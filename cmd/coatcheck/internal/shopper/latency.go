package shopper

import (
	"encoding/json"
	"math/bits"
	"time"
)

// Latency is how long requests took, from the first byte sent to the last byte
// of the answer.
type Latency struct {
	P50, P99 time.Duration // up to 3 % too high
	Max      time.Duration
}

// MarshalJSON returns milliseconds.
func (l Latency) MarshalJSON() ([]byte, error) {
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	return json.Marshal(struct {
		P50 float64 `json:"p50_ms"`
		P99 float64 `json:"p99_ms"`
		Max float64 `json:"max_ms"`
	}{ms(l.P50), ms(l.P99), ms(l.Max)})
}

// steps is how many buckets a doubling has, as a power of two.
const steps = 5

// histogram counts durations in microseconds, in buckets whose width is at most
// a 32nd of what they hold: its size does not grow with a long run.
type histogram struct {
	buckets [64 << steps]uint64
	n       uint64
	max     time.Duration
}

func (h *histogram) add(d time.Duration) {
	h.buckets[bucket(d)]++
	h.n++
	h.max = max(h.max, d)
}

// bucket returns the index of what holds d. The first 64 buckets hold one
// microsecond each, the next 32 hold two, the next 32 four, and so on.
func bucket(d time.Duration) int {
	us := uint64(max(0, d.Microseconds()))
	shift := max(0, bits.Len64(us)-steps-1)
	return shift<<steps + int(us>>shift)
}

// upper returns the greatest duration of a bucket.
func upper(bucket int) time.Duration {
	shift := max(0, bucket>>steps-1)
	us := (bucket-shift<<steps+1)<<shift - 1
	return time.Duration(us)*time.Microsecond + time.Microsecond - 1
}

// quantile returns what the share q of the durations did not exceed.
func (h *histogram) quantile(q float64) time.Duration {
	if h.n == 0 {
		return 0
	}
	rank := uint64(q * float64(h.n-1))
	for i, n := range h.buckets {
		if rank < n {
			return min(upper(i), h.max)
		}
		rank -= n
	}
	return h.max
}

func (h *histogram) latency() Latency {
	return Latency{P50: h.quantile(0.50), P99: h.quantile(0.99), Max: h.max}
}
