package latency_test

import (
	"fmt"
	"time"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/latency"
)

// The difference between two readings is what happened between them.
func ExampleHistogram() {
	var h latency.Histogram
	h.Add(time.Second)
	before := h.Counts()
	h.Add(20 * time.Microsecond)
	h.Add(40 * time.Microsecond)
	h.Add(60 * time.Microsecond)
	recent := h.Counts().Since(before)
	fmt.Println(recent.Total(), recent.Quantile(0.5).Round(time.Microsecond))
	// Output: 3 41µs
}
