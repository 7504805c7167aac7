package balancer

import (
	"context"
	"slices"
	"time"
)

// maxWaiting bounds the queue for an upstream: past it, waiting would only move the overload into memory.
const maxWaiting = 1024

// acquire takes the upstream called home if that is ready, else the one whose turn it is, leaving out those in tried, and counts a request in flight there; release must follow. It
// returns nil if there is none. An upstream that is ejected or down is taken only if no better one is left: if all are suspected, the
// suspicion is worth less than an attempt. One that is silent is not taken while there is a queue to wait in: a request that it swallows
// may not be repeatable.
func (b *Balancer) acquire(tried []*upstream, home string) *upstream {
	b.mu.Lock()
	defer b.mu.Unlock()
	if up := b.find(home); home != "" && up != nil && up.state == Ready && !up.ejected() && !slices.Contains(tried, up) {
		up.requests++
		up.inFlight++
		return up
	}
	second := -1
	for i := range b.ring {
		at := (b.next + i) % len(b.ring)
		up := b.ring[at]
		if slices.Contains(tried, up) {
			continue
		}
		switch {
		case up.state == Ready && !up.ejected():
			return b.take(at)
		case up.silent() && b.opts.QueueTimeout > 0:
		case second < 0 && (up.state == Ready || up.state == Down):
			second = at
		}
	}
	if second >= 0 {
		return b.take(second)
	}
	return nil
}

func (b *Balancer) take(at int) *upstream {
	up := b.ring[at]
	b.next = (at + 1) % len(b.ring)
	up.requests++
	up.inFlight++
	return up
}

func (b *Balancer) release(up *upstream) {
	b.mu.Lock()
	defer b.mu.Unlock()
	up.inFlight--
	if up.inFlight == 0 && up.retired.Err() != nil {
		close(up.drained) // retired upstreams are never taken again, so this happens once
	}
}

// await waits for the set of upstreams to change since the call, until the deadline. It reports whether it did.
func (b *Balancer) await(ctx context.Context, changed <-chan struct{}, deadline time.Time) bool {
	if b.waiting.Add(1) > maxWaiting {
		b.waiting.Add(-1)
		return false
	}
	defer b.waiting.Add(-1)
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case <-changed:
		return true
	case <-timer.C:
		return false
	case <-ctx.Done():
		return false
	}
}

func (b *Balancer) changes() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.changed
}
