package up

import (
	"context"
	"errors"
	"sync"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/admin"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/autoscale"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/balancer"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/fleet"
)

// autoscaled is a fleet whose number of workers follows the load, until somebody
// sets it.
type autoscaled struct {
	*fleet.Fleet
	config Config
	goal   autoscale.Config

	mu     sync.Mutex
	pinned bool
	last   autoscale.Decision
}

// run scales the fleet until ctx ends.
func (a *autoscaled) run(ctx context.Context, bal *balancer.Balancer) {
	load := func() autoscale.Load {
		busy, ready := bal.Load()
		return autoscale.Load{Busy: busy, Ready: ready}
	}
	autoscale.Run(ctx, autoscale.New(a.goal), load, func(d autoscale.Decision) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.last = d
		if !a.pinned && d.Workers != a.Target() {
			_ = a.ScaleFor(d.Workers, d.Reason) // which fails only when the fleet stops
		}
	})
}

// Scale sets the number of workers, and keeps it whatever the load.
func (a *autoscaled) Scale(n int) error {
	if err := a.config.checkSize(n); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.Fleet.ScaleFor(n, "set by hand; autoscaling pauses"); err != nil {
		return err
	}
	a.pinned = true
	return nil
}

// Unpin lets the load decide again.
func (a *autoscaled) Unpin() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.pinned = false
	return nil
}

// Autoscaling returns what the load asks for.
func (a *autoscaled) Autoscaling() *admin.Autoscaling {
	a.mu.Lock()
	defer a.mu.Unlock()
	return &admin.Autoscaling{
		Min: a.goal.Min, Max: a.goal.Max, Target: a.goal.Target, Window: a.goal.Window.Seconds(),
		Pinned: a.pinned, Panic: a.last.Panic, Stable: a.last.Stable, Burst: a.last.Burst,
		Workers: a.last.Workers, Reason: a.last.Reason,
	}
}

// limited is a fleet of a fixed size, which does not grow past what its store can
// serve.
type limited struct {
	*fleet.Fleet
	config Config
}

func (l limited) Scale(n int) error {
	if err := l.config.checkSize(n); err != nil {
		return err
	}
	return l.Fleet.Scale(n)
}

// checkSize returns why the store cannot serve so many workers.
func (c Config) checkSize(n int) error {
	if n > fleet.MaxWorkers {
		return nil // which the fleet refuses
	}
	if err := c.checkShared(n); err != nil {
		return countError{err}
	}
	return nil
}

func (limited) Autoscaling() *admin.Autoscaling { return nil }

var errFixed = errors.New("this fleet is not autoscaled: start it with --autoscale MIN:MAX")

func (limited) Unpin() error { return countError{errFixed} }

// countError is a [fleet.ErrCount] with a reason of its own.
type countError struct{ error }

func (countError) Is(target error) bool { return target == fleet.ErrCount }
