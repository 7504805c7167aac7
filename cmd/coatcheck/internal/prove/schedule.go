package prove

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/shopper"
)

// An act is something that happens to the fleet.
type act struct {
	at    time.Duration
	kill  bool
	scale int // if not a kill: to so many workers
}

// A schedule is all that is decided before the experiment begins: by the seed alone, so
// that it is the same wherever sessions are kept.
type schedule struct {
	arrivals []time.Duration
	acts     []act
}

// Parts of the duration in which something is otherwise.
const (
	scaleUpAt, scaleDownAt = 0.40, 0.60
	spikeBegins, spikeEnds = 0.30, 0.50
	killsBegin, killsEnd   = 0.05, 0.95
)

// Streams of random numbers. Those of shoppers are the small numbers.
const (
	scheduleKills = 1<<63 + iota
	visiting
	choice
)

func newSchedule(c Config) schedule {
	var s schedule
	rng := rand.New(rand.NewPCG(c.Seed, scheduleKills))
	for i := range c.Kills { // one in each of as many parts, at any time of that
		part := (float64(i) + rng.Float64()) / float64(c.Kills)
		s.acts = append(s.acts, act{at: share(c.Duration, killsBegin+part*(killsEnd-killsBegin)), kill: true})
	}
	if c.ScaleTo > 0 {
		s.acts = append(s.acts,
			act{at: share(c.Duration, scaleUpAt), scale: c.ScaleTo},
			act{at: share(c.Duration, scaleDownAt), scale: c.Workers},
		)
	}
	slices.SortStableFunc(s.acts, func(a, b act) int { return int(a.at - b.at) })

	rng = rand.New(rand.NewPCG(c.Seed, visiting))
	for at := time.Duration(0); ; {
		rate := c.arrivalRate()
		if c.Spike > 1 && at >= share(c.Duration, spikeBegins) && at < share(c.Duration, spikeEnds) {
			rate *= c.Spike
		}
		at += max(1, time.Duration(rng.ExpFloat64()/rate*float64(time.Second)))
		if at >= c.Duration {
			return s
		}
		s.arrivals = append(s.arrivals, at)
	}
}

func share(d time.Duration, part float64) time.Duration { return time.Duration(float64(d) * part) }

// arrivalRate returns how many shoppers come a second, so that as many are there at once,
// on average, as there are to be: each stays for the steps of a journey.
func (c Config) arrivalRate() float64 {
	return float64(c.Shoppers) / (shopper.MeanSteps * c.Think.Seconds())
}
