package autoscale

import (
	"context"
	"time"
)

// Load is what there is to measure at one moment.
type Load struct {
	// Busy is the time of all requests so far, those in flight or waiting for a worker
	// included: with ten at once it grows by ten seconds each second.
	Busy  time.Duration
	Ready int // workers that are sent requests
}

// Run measures every [Interval] until ctx ends, and passes each decision on.
func Run(ctx context.Context, s *Scaler, load func() Load, decided func(Decision)) {
	tick := time.NewTicker(Interval)
	defer tick.Stop()
	was, at := load().Busy, time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now, l := time.Now(), load()
		if !now.After(at) {
			continue
		}
		decided(s.Observe(Sample{At: now, Concurrency: float64(l.Busy-was) / float64(now.Sub(at)), Ready: l.Ready}))
		was, at = l.Busy, now
	}
}
