package session

import (
	"context"
	"sync"
	"time"
)

// callContext is context.WithDeadline without its cost (four allocations and a
// timer) for the calls that never wait: it starts the timer when somebody asks
// for Done. A store in memory never does, one on the network always.
type callContext struct {
	parent   context.Context
	deadline time.Time

	mu     sync.Mutex
	inner  context.Context // set by the first Done
	cancel context.CancelFunc
	err    error // once Err has said something, it says nothing else
}

func (c *callContext) Deadline() (time.Time, bool) {
	if d, ok := c.parent.Deadline(); ok && d.Before(c.deadline) {
		return d, true
	}
	return c.deadline, true
}

func (c *callContext) Done() <-chan struct{} { return c.start().Done() }

func (c *callContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state()
}

// state is Err with c.mu held.
func (c *callContext) state() error {
	switch {
	case c.err != nil:
	case c.inner != nil:
		c.err = c.inner.Err()
	case c.parent.Err() != nil:
		c.err = c.parent.Err()
	case !time.Now().Before(c.deadline):
		c.err = context.DeadlineExceeded
	}
	return c.err
}

// Value asks the inner context once there is one, so that contexts derived
// from c find it and are not watched by a goroutine each.
func (c *callContext) Value(key any) any {
	c.mu.Lock()
	inner := c.inner
	c.mu.Unlock()
	if inner != nil {
		return inner.Value(key)
	}
	return c.parent.Value(key)
}

// start returns the inner context. If c has ended, that has ended in the same
// way.
func (c *callContext) start() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inner != nil {
		return c.inner
	}
	switch err := c.state(); err {
	case nil, c.parent.Err():
		c.inner, c.cancel = context.WithDeadline(c.parent, c.deadline)
	case context.Canceled:
		c.inner, c.cancel = context.WithCancel(context.WithoutCancel(c.parent))
		c.cancel()
	default:
		c.inner, c.cancel = context.WithDeadline(context.WithoutCancel(c.parent), c.deadline)
	}
	return c.inner
}

// stop ends the context and frees its timer.
func (c *callContext) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cancel != nil {
		c.cancel()
	} else if c.state() == nil {
		c.err = context.Canceled
	}
}
