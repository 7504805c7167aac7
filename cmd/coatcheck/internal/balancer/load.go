package balancer

import (
	"sync"
	"time"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/latency"
)

// A gauge adds up how long requests are here.
type gauge struct {
	mu   sync.Mutex
	n    int
	busy time.Duration // of all of them, until at
	at   time.Time
}

// add returns when it did.
func (g *gauge) add(n int) time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pass()
	g.n += n
	return g.at
}

func (g *gauge) pass() {
	now := time.Now()
	if g.n > 0 {
		g.busy += time.Duration(g.n) * now.Sub(g.at)
	}
	g.at = now
}

// Load returns how long all requests so far have been in flight or waiting for an upstream, added up: with ten at once it grows by ten
// seconds each second. The difference between two calls, divided by the time between them, is the average number of requests at once. It
// wraps after some 290 years of one request. WebSockets and event streams count for as long as they last.
func (b *Balancer) Load() (busy time.Duration, ready int) {
	b.load.mu.Lock()
	b.load.pass()
	busy = b.load.busy
	b.load.mu.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, up := range b.ring {
		if up.state == Ready {
			ready++
		}
	}
	return busy, ready
}

// Latency returns how long requests so far waited for their answer, since they came: for all of it if it is short, and for its header
// otherwise, so that neither a slow client nor an event stream is in it; nor is the wait for the rest of a slow client's body. The queue, repeats and answers of the balancer's own are.
// The difference between two calls is what happened between them. Requests whose client hung up first, or sent no whole body, do not count.
func (b *Balancer) Latency() latency.Counts { return b.waits.Counts() }
