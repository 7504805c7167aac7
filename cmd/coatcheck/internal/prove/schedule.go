package prove

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/shopper"
)

// An act is something that happens to the fleet, or to its store.
type act struct {
	at time.Duration
	do deed
	n  int // of scale
}

// A deed is what an act does.
type deed int

const (
	kill  deed = iota
	scale      // to n workers
	storeDown
	storeUp
	storeSlow
	storeFast
)

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
	slowBegins, slowEnds   = 0.70, 0.90
)

// Streams of random numbers. Those of shoppers are the small numbers.
const (
	scheduleKills = 1<<63 + iota
	visiting
	choice
	scheduleRestarts
)

// outage is how long a store is down that restarts: or less, where so many are to be.
const outage = time.Second

func newSchedule(c Config) schedule {
	var s schedule
	rng := rand.New(rand.NewPCG(c.Seed, scheduleKills))
	for i := range c.Kills { // one in each of as many parts, at any time of that
		part := (float64(i) + rng.Float64()) / float64(c.Kills)
		s.acts = append(s.acts, act{at: share(c.Duration, killsBegin+part*(killsEnd-killsBegin))})
	}
	if c.ScaleTo > 0 {
		s.acts = append(s.acts,
			act{share(c.Duration, scaleUpAt), scale, c.ScaleTo},
			act{share(c.Duration, scaleDownAt), scale, c.Workers},
		)
	}
	if c.Sessions == External {
		s.acts = append(s.acts, c.storeActs()...)
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

// storeActs are what happens to the store: where there is one, for others have no such
// trouble.
func (c Config) storeActs() (acts []act) {
	rng := rand.New(rand.NewPCG(c.Seed, scheduleRestarts))
	for i := range c.StoreRestarts { // one in each of as many parts, and back in it
		part := share(c.Duration, (killsEnd-killsBegin)/float64(c.StoreRestarts))
		length := min(outage, part/2)
		at := share(c.Duration, killsBegin) + time.Duration(i)*part + time.Duration(rng.Float64()*float64(part-length))
		acts = append(acts, act{at: at, do: storeDown}, act{at: at + length, do: storeUp})
	}
	if c.SlowStore > 0 {
		acts = append(acts,
			act{at: share(c.Duration, slowBegins), do: storeSlow},
			act{at: share(c.Duration, slowEnds), do: storeFast},
		)
	}
	return acts
}

func share(d time.Duration, part float64) time.Duration { return time.Duration(float64(d) * part) }

// arrivalRate returns how many shoppers come a second, so that as many are there at once,
// on average, as there are to be: each stays for the steps of a journey.
func (c Config) arrivalRate() float64 {
	return float64(c.Shoppers) / (shopper.MeanSteps * c.Think.Seconds())
}
