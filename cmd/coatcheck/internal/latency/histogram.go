// Package latency counts how long things took, in a histogram whose size does not
// grow with their number.
package latency

import (
	"math"
	"math/bits"
	"sync/atomic"
	"time"
)

// steps is how many buckets a doubling has, as a power of two.
const steps = 5

// longest is the longest duration that there is, in microseconds. It has 54 bits.
const longest = math.MaxInt64 / int64(time.Microsecond)

// size is the number of buckets: the last one holds the longest duration.
const size = (54-steps-1)<<steps + int(longest>>(54-steps-1)) + 1

// A Histogram counts durations in microseconds, in buckets whose width is at most
// a 32nd of what they hold. Its zero value is empty. Its methods may be called
// concurrently, and take no lock.
type Histogram struct{ buckets [size]atomic.Uint64 }

// Add counts a duration. One below zero counts as zero.
func (h *Histogram) Add(d time.Duration) { h.buckets[bucket(d)].Add(1) }

// Counts returns what was counted so far. What is added meanwhile may be in it or not.
func (h *Histogram) Counts() Counts {
	c := make(Counts, size)
	for i := range h.buckets {
		c[i] = h.buckets[i].Load()
	}
	return c
}

// Counts are how many durations each bucket of a [Histogram] held at one moment. Nil is
// none.
type Counts []uint64

// Since returns what was counted after the earlier counts of the same histogram.
func (c Counts) Since(earlier Counts) Counts {
	if earlier == nil {
		return c
	}
	d := make(Counts, len(c))
	for i := range c {
		d[i] = c[i] - earlier[i]
	}
	return d
}

// Total returns how many durations there are.
func (c Counts) Total() (n uint64) {
	for _, k := range c {
		n += k
	}
	return n
}

// Quantile returns the shortest of the durations that at least the share q of them did
// not exceed, up to 3 % too high; 0 if there are none. A q below 0 counts as 0, which is
// the shortest, and one above 1 as 1, which is the longest: so is 0.99 of fewer than 100.
func (c Counts) Quantile(q float64) time.Duration {
	n := c.Total()
	if n == 0 {
		return 0
	}
	rank := uint64(max(1, math.Ceil(min(q, 1)*float64(n)))) // the nearest one, from 1
	for i, k := range c {
		if rank <= k {
			return upper(i)
		}
		rank -= k
	}
	return upper(size - 1) // of more than 2^53, where a float64 is not exact
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
	if bucket == size-1 {
		return math.MaxInt64
	}
	shift := max(0, bucket>>steps-1)
	us := (bucket-shift<<steps+1)<<shift - 1
	return time.Duration(us)*time.Microsecond + time.Microsecond - 1
}
