// Package load lets shoppers into a shop at the press of a button, and out again, and
// tells what they meet with while they are there.
package load

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/shopper"
)

// Max bounds the shoppers of a load: they share the machine with the shop.
const Max = 200

// Shown is how many of the shoppers [Load.Steps] tells of: the first ones, shopper-1 to
// shopper-24.
const Shown = 24

// Errors of [Load.Start], for [errors.Is].
var (
	ErrCount   = fmt.Errorf("the number of shoppers must be between 1 and %d, or 0 to stop them", Max)
	ErrRunning = errors.New("shoppers are there already: stop them first, and wait until they have left")
	ErrClosed  = errors.New("the shop is closing")
)

// State is what a load is doing.
type State string

// The states of a load.
const (
	Stopped  State = "stopped"
	Running  State = "running"
	Stopping State = "stopping" // each shopper finishes the step it is at
)

// Status is what the shoppers have met with, since they were let in; when they have
// left, of the last ones.
type Status struct {
	State    State     `json:"state"`
	Shoppers int       `json:"shoppers"`
	Started  time.Time `json:"started,omitzero"`
	shopper.Counts
	// First tells the first discrepancy of each kind.
	First map[shopper.Kind]string `json:"first,omitempty"`
}

// Step is a request of a shopper, or what was wrong in the answer.
type Step struct {
	Time    int64  `json:"t"` // when it was over, in milliseconds since 1970
	Shopper string `json:"shopper"`
	Server  string `json:"server"` // "" if none answered
	// Fault is what was wrong, or "".
	Fault shopper.Kind `json:"fault,omitempty"`
}

// maxSteps bounds the steps that wait for [Load.Steps].
const maxSteps = 1000

// Load is a load, with nobody there at first. Its methods may be called concurrently.
type Load struct {
	shop string
	opts shopper.Options

	mu     sync.Mutex
	closed bool
	cancel context.CancelFunc
	crowd  *shopper.Crowd // nil before the first
	asked  bool           // to leave
	began  time.Time
	shown  map[string]bool
	steps  []Step
}

// New returns a load on the shop at that address. Its shoppers look at a page for think
// on average. A nil configuration of TLS is the system's.
func New(shop string, think time.Duration, conf *tls.Config) *Load {
	l := &Load{shop: shop, cancel: func() {}}
	l.opts = shopper.Options{
		Think: think,
		TLS:   conf,
		Observe: func(r shopper.Request) {
			l.note(Step{r.Start.Add(r.Took).UnixMilli(), r.Shopper, r.Server, r.Fault})
		},
		Notice: func(d shopper.Discrepancy) {
			l.note(Step{d.Time.UnixMilli(), d.Shopper, d.Server, d.Kind})
		},
	}
	return l
}

// Start lets n shoppers in, who stay until [Load.Stop]. It fails if some are there.
func (l *Load) Start(n int) error {
	if n < 1 || n > Max {
		return ErrCount
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		return ErrClosed
	case l.crowd != nil && !gone(l.crowd):
		return ErrRunning
	}
	ctx, cancel := context.WithCancel(context.Background())
	l.shown, l.steps = make(map[string]bool), nil
	for i := range min(n, Shown) {
		l.shown[fmt.Sprintf("shopper-%d", i+1)] = true
	}
	crowd, err := shopper.Start(ctx, l.shop, n, &l.opts)
	if err != nil {
		cancel()
		return err
	}
	l.crowd, l.cancel, l.asked, l.began = crowd, cancel, false, time.Now().UTC()
	return nil
}

// Stop asks the shoppers to leave, and does not wait for it.
func (l *Load) Stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stop()
}

func (l *Load) stop() {
	l.cancel()
	l.asked = true
}

// Close is [Load.Stop], lets nobody in any more, and waits until all have left or ctx
// ends.
func (l *Load) Close(ctx context.Context) {
	l.mu.Lock()
	l.stop()
	l.closed = true // under the same lock: nobody gets in between
	crowd := l.crowd
	l.mu.Unlock()
	if crowd == nil {
		return
	}
	select {
	case <-crowd.Gone():
	case <-ctx.Done():
	}
}

// Status returns what the shoppers have met with so far.
func (l *Load) Status() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.crowd == nil {
		return Status{State: Stopped}
	}
	state := Running
	if l.asked {
		state = Stopping
	}
	if gone(l.crowd) {
		state = Stopped
	}
	r := l.crowd.Result()
	s := Status{State: state, Shoppers: r.Shoppers, Started: l.began, Counts: r.Counts}
	for k, ex := range r.First {
		if s.First == nil {
			s.First = make(map[shopper.Kind]string)
		}
		s.First[k] = ex.Shopper + ": " + ex.What
	}
	return s
}

// Steps returns the steps since the last call of those shoppers who are shown.
func (l *Load) Steps() []Step {
	l.mu.Lock()
	defer l.mu.Unlock()
	steps := l.steps
	l.steps = nil
	return steps
}

func (l *Load) note(s Step) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.shown[s.Shopper] && len(l.steps) < maxSteps {
		l.steps = append(l.steps, s)
	}
}

func gone(c *shopper.Crowd) bool {
	select {
	case <-c.Gone():
		return true
	default:
		return false
	}
}
