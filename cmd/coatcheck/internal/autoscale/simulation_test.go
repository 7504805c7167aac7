package autoscale_test

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/autoscale"
)

// A shape is a load: how many requests arrive a second, by the time since the start.
type shape func(time.Duration) float64

func steady(rate float64) shape { return func(time.Duration) float64 { return rate } }

// spike is ten times the rate from one minute on, for two.
func spike(rate float64) shape {
	return func(t time.Duration) float64 {
		if t >= time.Minute && t < 3*time.Minute {
			return 10 * rate
		}
		return rate
	}
}

// ramp grows to ten times the rate in ten minutes, and falls again.
func ramp(rate float64) shape {
	return func(t time.Duration) float64 {
		x := t.Minutes() / 10
		if x > 1 {
			x = max(2-x, 0)
		}
		return rate * (1 + 9*x)
	}
}

// sawtooth grows to five times the rate in twenty seconds and falls at once, again and
// again.
func sawtooth(rate float64) shape {
	return func(t time.Duration) float64 {
		return rate * (1 + 4*math.Mod(t.Seconds(), 20)/20)
	}
}

// simulated is a fleet in which each request takes service, each worker does so many at
// once without getting slower, and a new worker is ready after boot. What does not fit
// waits.
type simulated struct {
	load    shape
	began   time.Time
	last    time.Time
	service time.Duration
	atOnce  float64 // of one worker
	boot    time.Duration

	inside  float64 // requests in flight and waiting
	busy    float64 // their time, in seconds
	ready   int
	booting []time.Time // when they are ready
}

const step = 10 * time.Millisecond

// measure lets time pass since it was asked last.
func (f *simulated) measure() autoscale.Load {
	for now := time.Now(); f.last.Before(now); f.last = f.last.Add(step) {
		f.booting = slices.DeleteFunc(f.booting, func(at time.Time) bool {
			if at.After(f.last) {
				return false
			}
			f.ready++
			return true
		})
		served := min(f.inside, f.atOnce*float64(f.ready)) / f.service.Seconds() * step.Seconds()
		f.inside += f.load(f.last.Sub(f.began))*step.Seconds() - served
		f.busy += f.inside * step.Seconds()
	}
	return autoscale.Load{Busy: time.Duration(f.busy * float64(time.Second)), Ready: f.ready}
}

func (f *simulated) scale(n int) {
	for f.ready+len(f.booting) < n {
		f.booting = append(f.booting, time.Now().Add(f.boot))
	}
	for f.ready+len(f.booting) > n {
		if i := len(f.booting) - 1; i >= 0 {
			f.booting = f.booting[:i]
		} else {
			f.ready--
		}
	}
}

// moment is what a simulation was like at one decision.
type moment struct {
	at time.Duration
	autoscale.Decision
	before  int // workers ready
	waiting float64
}

// simulate runs a fleet that starts with the least number of workers.
func simulate(t *testing.T, c autoscale.Config, load shape, d time.Duration) (moments []moment) {
	t.Helper()
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		f := &simulated{load: load, began: now, last: now, service: 100 * time.Millisecond, atOnce: 20, boot: 500 * time.Millisecond, ready: c.Min}
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		autoscale.Run(ctx, autoscale.New(c), f.measure, func(d autoscale.Decision) {
			moments = append(moments, moment{time.Since(now), d, f.ready, max(0, f.inside-f.atOnce*float64(f.ready))})
			f.scale(d.Workers)
		})
	})
	if testing.Verbose() {
		was := 0
		for _, m := range moments {
			if m.Workers != was {
				t.Logf("%4v  %4d → %4d workers  panic %-5t  %.0f wait  %s", m.at.Round(time.Second), was, m.Workers, m.Panic, m.waiting, m.Reason)
			}
			was = m.Workers
		}
	}
	return moments
}

// at returns the decision at a time.
func at(t *testing.T, moments []moment, d time.Duration) moment {
	t.Helper()
	for _, m := range moments {
		if m.at >= d {
			return m
		}
	}
	t.Fatalf("the simulation ended before %v", d)
	return moment{}
}

// turns counts how often the number of workers changed its direction.
func turns(moments []moment) (n int) {
	direction := 0
	for i := range moments[1:] {
		d := moments[i+1].Workers - moments[i].Workers
		if d != 0 && direction != 0 && (d > 0) != (direction > 0) {
			n++
		}
		if d != 0 {
			direction = d
		}
	}
	return n
}

func TestSpike(t *testing.T) {
	c := autoscale.Config{Min: 2, Max: 40, Target: 10}
	m := simulate(t, c, spike(150), 6*time.Minute) // 15 at once, then 150
	if got := at(t, m, time.Minute-time.Second); got.Workers != 2 || got.Panic {
		t.Errorf("before the spike: %+v; want 2 workers and no panic", got)
	}
	if got := at(t, m, time.Minute+10*time.Second); got.before < 8 || !got.Panic {
		t.Errorf("ten seconds into the spike: %+v; want at least 8 workers ready, in panic", got)
	}
	if got := at(t, m, time.Minute+30*time.Second); got.Workers < 15 || got.waiting > 0 {
		t.Errorf("thirty seconds into the spike: %+v; want at least 15 workers and nobody waiting", got)
	}
	for _, m := range m {
		if m.Panic && m.at > time.Minute+10*time.Second && m.Workers < 8 {
			t.Errorf("after %v, in panic, %d workers: a panic takes none away", m.at, m.Workers)
		}
	}
	if got := at(t, m, 5*time.Minute); got.Workers != 2 || got.Panic {
		t.Errorf("two minutes after the spike: %+v; want 2 workers again", got)
	}
	if n := turns(m); n != 1 {
		t.Errorf("the number of workers changed its direction %d times; want up, then down", n)
	}
}

func TestRamp(t *testing.T) {
	c := autoscale.Config{Min: 2, Max: 40, Target: 10}
	m := simulate(t, c, ramp(200), 20*time.Minute)
	for _, x := range m {
		need := ramp(200)(x.at) / 100 // on target
		if x.at > time.Minute && (float64(x.Workers) < need*0.8-1 || float64(x.Workers) > need*1.5+2) {
			t.Errorf("after %v there are %d workers for a load of %.1f", x.at, x.Workers, need)
		}
		if x.waiting > 0 {
			t.Errorf("after %v %.0f requests wait", x.at, x.waiting)
		}
	}
	if n := turns(m); n != 1 {
		t.Errorf("the number of workers changed its direction %d times; want up, then down", n)
	}
}

func TestSawtooth(t *testing.T) {
	c := autoscale.Config{Min: 1, Max: 40, Target: 10}
	m := simulate(t, c, sawtooth(200), 10*time.Minute) // 20 to 100 at once
	i := slices.IndexFunc(m, func(m moment) bool { return m.at >= 3*time.Minute })
	few, many := math.MaxInt, 0
	for _, x := range m[i:] {
		few, many = min(few, x.Workers), max(many, x.Workers)
	}
	if few < 5 || many > 10 || many-few > 2 {
		t.Errorf("%d to %d workers; want about as many as the average takes, 6, or the peak, 10, and no swinging", few, many)
	}
}

func TestIdle(t *testing.T) {
	for _, rate := range []float64{0, 1} {
		for _, m := range simulate(t, autoscale.Config{Min: 3, Max: 10}, steady(rate), 5*time.Minute) {
			if m.Workers != 3 || m.Panic {
				t.Fatalf("with %v requests a second after %v: %+v; want the least, 3 workers", rate, m.at, m.Decision)
			}
		}
	}
}

// TestThousandWorkers: the algorithm knows no size. Growing is bounded by the rate
// alone, and shrinking goes by halves.
func TestThousandWorkers(t *testing.T) {
	c := autoscale.Config{Min: 100, Max: 1000, Target: 10}
	m := simulate(t, c, spike(9000), 8*time.Minute) // 900 at once, then 9,000
	if got := at(t, m, time.Minute+15*time.Second); got.before < 900 {
		t.Errorf("fifteen seconds into the spike %d workers are ready; want 900", got.before)
	}
	most := 0
	for i, x := range m {
		most = max(most, x.Workers)
		if i > 0 && x.Workers < m[i-1].Workers/2 {
			t.Errorf("after %v, %d → %d workers at once; want no more than half to go", x.at, m[i-1].Workers, x.Workers)
		}
	}
	if most > 1000 {
		t.Errorf("%d workers; want at most 1000", most)
	}
	if got := m[len(m)-1]; got.Workers != 100 {
		t.Errorf("%d workers in the end; want 100", got.Workers)
	}
}

// TestDelay: fewer workers must be enough for as long as the delay before one goes.
func TestDelay(t *testing.T) {
	const delay = 90 * time.Second
	load := spike(150)
	c := autoscale.Config{Min: 2, Max: 40, Target: 10}
	ends := func(m []moment) time.Duration {
		high := 0
		for _, x := range m {
			high = max(high, x.Workers)
			if high > 2 && x.Workers < high {
				return x.at
			}
		}
		t.Fatal("no worker went")
		return 0
	}
	without := ends(simulate(t, c, load, 10*time.Minute))
	c.DownDelay = delay
	with := ends(simulate(t, c, load, 10*time.Minute))
	if d := with - without; d < delay-5*time.Second || d > delay+5*time.Second {
		t.Errorf("the first worker went after %v, and with a delay of %v after %v", without, delay, with)
	}
}

func TestRates(t *testing.T) {
	m := simulate(t, autoscale.Config{Min: 1, Max: 100, Target: 1, MaxUpRate: 2}, steady(1000), time.Minute)
	for i := range m[1:] {
		if was, n := m[i+1].before, m[i+1].Workers; n > 2*max(was, m[i].Workers) {
			t.Errorf("%d workers were ready, and then there were to be %d; want at most twice as many", was, n)
		}
	}
}

// Workers are added for what waits, too: with none ready, or fewer than there should be.
func TestWaitingCounts(t *testing.T) {
	s := autoscale.New(autoscale.Config{Min: 1, Max: 10, Target: 10})
	d := s.Observe(autoscale.Sample{At: time.Unix(0, 0), Concurrency: 50, Ready: 0})
	if d.Workers != 5 || !d.Panic {
		t.Errorf("50 requests and no worker: %+v; want 5 at once", d)
	}
}

// The same samples lead to the same decisions.
func TestDeterministic(t *testing.T) {
	c := autoscale.Config{Min: 1, Max: 50, Target: 3, DownDelay: 20 * time.Second}
	a, b := simulate(t, c, sawtooth(300), 5*time.Minute), simulate(t, c, sawtooth(300), 5*time.Minute)
	for i := range a {
		if a[i].Decision != b[i].Decision {
			t.Fatalf("decision %d is %+v, and the second time %+v", i, a[i].Decision, b[i].Decision)
		}
	}
}

func TestValidate(t *testing.T) {
	for _, c := range []struct {
		config autoscale.Config
		says   string
	}{
		{autoscale.Config{Min: 0, Max: 5}, "at least 1"},
		{autoscale.Config{Min: 6, Max: 5}, "below the least"},
		{autoscale.Config{Min: 1, Max: 5, Target: -1}, "target"},
		{autoscale.Config{Min: 1, Max: 5, Target: math.NaN()}, "target"},
		{autoscale.Config{Min: 1, Max: 5, Target: math.Inf(1)}, "target"},
		{autoscale.Config{Min: 1, Max: 5, Window: time.Second}, "too short"},
		{autoscale.Config{Min: 1, Max: 5, PanicThreshold: 1}, "threshold"},
		{autoscale.Config{Min: 1, Max: 5, MaxDownRate: 0.5}, "rates"},
		{autoscale.Config{Min: 1, Max: 5, DownDelay: -1}, "negative"},
	} {
		err := c.config.Validate()
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%+v: %v; want something about %q", c.config, err, c.says)
		}
	}
	if err := (autoscale.Config{Min: 1, Max: 1}).Validate(); err != nil {
		t.Errorf("one worker, always: %v", err)
	}
}

func ExampleScaler() {
	s := autoscale.New(autoscale.Config{Min: 2, Max: 20, Target: 10})
	at := time.Unix(0, 0)
	for _, concurrency := range []float64{12, 14, 95} {
		at = at.Add(autoscale.Interval)
		d := s.Observe(autoscale.Sample{At: at, Concurrency: concurrency, Ready: 2})
		fmt.Println(d.Workers, d.Panic, d.Reason)
	}
	// Output:
	// 2 false 12.0 requests at once in the last 1m0s, 10 for each worker
	// 2 false 14.0 requests at once in the last 1m0s, 10 for each worker
	// 6 true 54.5 requests at once in the last 1m0s, 10 for each worker
}
