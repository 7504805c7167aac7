package shopper

import (
	"encoding/json"
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
