// Package autoscale decides how many workers there should be for the requests that
// there are.
//
// It follows the autoscaler of Knative Serving
// (https://knative.dev/docs/serving/autoscaling/): each worker should have a target of
// requests at once. The average over a stable window says how many workers that takes.
// The average over a panic window, a tenth as long, says so sooner; when it asks for
// twice as many workers as are ready the scaler panics: it goes by the higher of the two,
// and takes no worker away until nothing asked for so many during a whole stable window. Without
// panic one decision leaves at least half of the workers, rounded down.
//
// It differs where the place is another. There are never fewer than one worker, so
// nothing wakes up from zero. The one balancer knows every request, in flight or waiting for
// a worker, so none is estimated from a sample of the workers, and averages are those of
// time, not of measurements. It decides every second, and not every two; it does not begin
// in panic; and its target is what a worker should have, where Knative's is a limit of
// which it aims at 70 %.
package autoscale

import (
	"errors"
	"fmt"
	"math"
	"time"
)

// Defaults of [Config]; but for the target, those of Knative.
const (
	DefaultTarget         = 10.0
	DefaultWindow         = time.Minute
	DefaultPanicThreshold = 2.0
	DefaultMaxUpRate      = 1000.0
	DefaultMaxDownRate    = 2.0
	panicShare            = 10 // of the stable window is one of the panic window
)

// Config says what a [Scaler] aims at.
type Config struct {
	Min, Max int // bounds of the number of workers

	// Target is how many requests at once one worker should have, those that wait for
	// a worker included. If zero, DefaultTarget.
	Target float64

	// Window is the stable window. If zero, DefaultWindow. The panic window is a tenth
	// of it.
	Window time.Duration

	// PanicThreshold is the number of workers that the panic window asks for, as a
	// multiple of those that are ready, from which on it is panic. If zero,
	// DefaultPanicThreshold.
	PanicThreshold float64

	// MaxUpRate and MaxDownRate bound one decision: to so many times the workers that
	// are ready, and to no fewer than one of so many. If zero, the defaults.
	MaxUpRate, MaxDownRate float64

	// DownDelay is how long fewer workers must have been enough before some go. With
	// zero, the stable window alone delays that.
	DownDelay time.Duration
}

// Complete returns the configuration with defaults for what is zero.
func (c Config) Complete() Config {
	if c.Target == 0 {
		c.Target = DefaultTarget
	}
	if c.Window == 0 {
		c.Window = DefaultWindow
	}
	if c.PanicThreshold == 0 {
		c.PanicThreshold = DefaultPanicThreshold
	}
	if c.MaxUpRate == 0 {
		c.MaxUpRate = DefaultMaxUpRate
	}
	if c.MaxDownRate == 0 {
		c.MaxDownRate = DefaultMaxDownRate
	}
	return c
}

// Validate returns what is wrong with the configuration.
func (c Config) Validate() error {
	d := c.Complete()
	switch {
	case c.Min < 1:
		return errors.New("the least number of workers must be at least 1: nothing else would start the first")
	case c.Max < c.Min:
		return fmt.Errorf("the greatest number of workers, %d, is below the least, %d", c.Max, c.Min)
	case !(d.Target > 0) || math.IsInf(d.Target, 0):
		return fmt.Errorf("the target of %v requests for each worker is not above zero", c.Target)
	case d.Window < MinWindow:
		return fmt.Errorf("a window of %v is too short: use at least %v, for ten measurements fit into it and one into the tenth that tells a spike", c.Window, MinWindow)
	case !(d.PanicThreshold > 1):
		return fmt.Errorf("the panic threshold of %v is not above 1", c.PanicThreshold)
	case !(d.MaxUpRate > 1) || !(d.MaxDownRate > 1):
		return errors.New("the rates of change must be above 1, or nothing ever changes")
	case c.DownDelay < 0:
		return fmt.Errorf("the delay of %v is negative", c.DownDelay)
	}
	return nil
}

// MinWindow is the shortest stable window.
const MinWindow = 10 * Interval

// Interval is the time between two measurements.
const Interval = time.Second

// Sample is one measurement.
type Sample struct {
	At time.Time
	// Concurrency is the number of requests in flight or waiting for a worker, on
	// average since the sample before.
	Concurrency float64
	Ready       int // workers that are sent requests
}

// Decision is what a [Scaler] makes of the samples so far.
type Decision struct {
	Workers int     // that there should be
	Panic   bool    // the panic window counts, and no worker goes
	Stable  float64 // requests at once, on average over the stable window
	Burst   float64 // over the panic window
	Reason  string  // in words, why so many
}

// A Scaler turns a series of samples into decisions. It has no clock and starts nothing:
// the same samples lead to the same decisions. It is not safe for concurrent use.
type Scaler struct {
	config   Config
	samples  []Sample // of the stable window and one before
	panicked time.Time
	peak     int      // the most that was decided during this panic
	recent   []wanted // decisions of the delay, each lower than those before it
}

type wanted struct {
	at time.Time
	n  int
}

// New returns a Scaler. The configuration must be valid.
func New(c Config) *Scaler { return &Scaler{config: c.Complete()} }

// Observe adds a sample, which must be later than those before, and decides.
func (s *Scaler) Observe(x Sample) Decision {
	c := s.config
	s.samples = append(s.samples, x)
	for len(s.samples) > 2 && !s.samples[1].At.After(x.At.Add(-c.Window)) {
		s.samples = s.samples[1:]
	}
	d := Decision{Stable: s.average(x.At, c.Window), Burst: s.average(x.At, c.Window/panicShare)}
	ready := max(x.Ready, 1)
	most := int(math.Ceil(c.MaxUpRate * float64(ready)))
	least := int(math.Floor(float64(ready) / c.MaxDownRate))
	stable, burst := s.workersFor(d.Stable), s.workersFor(d.Burst)

	switch {
	case float64(burst) >= c.PanicThreshold*float64(ready):
		s.panicked = x.At
	case !s.panicked.IsZero() && x.At.Sub(s.panicked) > c.Window:
		s.panicked, s.peak = time.Time{}, 0
	}
	d.Panic = !s.panicked.IsZero()

	d.Workers = min(max(stable, least), most)
	d.Reason = fmt.Sprintf("%.1f requests at once in the last %v, %v for each worker", d.Stable, c.Window, c.Target)
	if d.Panic {
		if n := min(max(burst, least), most); n > d.Workers {
			d.Workers = n
			d.Reason = fmt.Sprintf("%.1f requests at once in the last %v, %v for each worker", d.Burst, c.Window/panicShare, c.Target)
		}
		if d.Workers < s.peak {
			d.Reason = fmt.Sprintf("a burst that asked for %d is not %v past", s.peak, c.Window)
		}
		s.peak = max(s.peak, min(d.Workers, c.Max))
		d.Workers = s.peak
	}
	if n := s.delayed(x.At, d.Workers); n > d.Workers {
		d.Workers = n
		d.Reason = fmt.Sprintf("%d were needed less than %v ago", n, c.DownDelay)
	}
	if n := min(max(d.Workers, c.Min), c.Max); n != d.Workers {
		d.Reason += fmt.Sprintf(", within %d and %d", c.Min, c.Max)
		d.Workers = n
	}
	return d
}

// workersFor returns how many workers are on target with so many requests at once.
func (s *Scaler) workersFor(concurrency float64) int {
	return int(math.Ceil(min(concurrency/s.config.Target, float64(math.MaxInt32))))
}

// average returns the concurrency over the window that ends now, of which the samples
// may cover less.
func (s *Scaler) average(now time.Time, window time.Duration) float64 {
	from := now.Add(-window)
	var sum, covered float64
	for i := len(s.samples) - 1; i > 0; i-- {
		begin, end := s.samples[i-1].At, s.samples[i].At
		if begin.Before(from) {
			begin = from
		}
		if !begin.Before(end) {
			break
		}
		d := end.Sub(begin).Seconds()
		sum += d * s.samples[i].Concurrency
		covered += d
	}
	if covered == 0 { // the first
		return s.samples[len(s.samples)-1].Concurrency
	}
	return sum / covered
}

// delayed returns the most workers that were wanted within the delay.
func (s *Scaler) delayed(now time.Time, n int) int {
	for len(s.recent) > 0 && s.recent[len(s.recent)-1].n <= n {
		s.recent = s.recent[:len(s.recent)-1]
	}
	s.recent = append(s.recent, wanted{now, n})
	for now.Sub(s.recent[0].at) > s.config.DownDelay {
		s.recent = s.recent[1:]
	}
	return s.recent[0].n
}
