package balancer

import (
	"sync"
	"time"
)

// A gauge adds up how long requests are here.
type gauge struct {
	mu   sync.Mutex
	n    int
	busy time.Duration // of all of them, until at
	at   time.Time
}

func (g *gauge) add(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pass()
	g.n += n
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
