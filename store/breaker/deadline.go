package breaker

import (
	"context"
	"sync"
	"time"
)

// deadline is context.WithDeadline without its cost (four allocations and a
// timer) for calls that never wait: it starts the timer when somebody asks for
// Done. A store in memory never does, one on the network always.
type deadline struct {
	context.Context // the caller's
	at              time.Time

	mu      sync.Mutex
	inner   context.Context // set by the first Done, and once Err is not nil
	cancel  context.CancelFunc
	stopped bool
}

// limited returns ctx with the deadline at, and what to stop in the end: nil if
// that of ctx is no later.
func limited(ctx context.Context, at time.Time) (context.Context, *deadline) {
	if d, ok := ctx.Deadline(); ok && !at.Before(d) {
		return ctx, nil
	}
	d := &deadline{Context: ctx, at: at}
	return d, d
}

func (d *deadline) Deadline() (time.Time, bool) { return d.at, true }

func (d *deadline) Done() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.start().Done()
}

func (d *deadline) Err() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.inner == nil && !d.stopped && d.Context.Err() == nil && time.Now().Before(d.at) {
		return nil
	}
	return d.start().Err() // which stays what it is
}

// Value asks the inner context once there is one, so that contexts derived
// from d find it and are not watched by a goroutine each.
func (d *deadline) Value(key any) any {
	d.mu.Lock()
	inner := d.inner
	d.mu.Unlock()
	if inner != nil {
		return inner.Value(key)
	}
	return d.Context.Value(key)
}

// start returns the inner context. The caller holds d.mu.
func (d *deadline) start() context.Context {
	if d.inner == nil {
		d.inner, d.cancel = context.WithDeadline(d.Context, d.at)
		if d.stopped {
			d.cancel()
		}
	}
	return d.inner
}

// stop ends the context and frees its timer. d may be nil.
func (d *deadline) stop() {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stopped = true
	if d.cancel != nil {
		d.cancel()
	}
}
