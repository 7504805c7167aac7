package session

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/coatcheck/coatcheck/store"
)

// queues holds a line for each record that requests of this process are writing.
// Standing in line saves attempts that would lose, and reading what the one in
// front has just written; what is correct is decided by compare-and-swap alone.
type queues struct {
	mu sync.Mutex
	m  map[store.Key]*queue
}

type queue struct {
	turn    chan struct{} // holds one token while somebody has its turn
	members int           // in line or having its turn
	newest  store.Record  // the last one written in this line; its who has the turn
}

// line is a place in a queue. The zero line is in none.
type line struct {
	qs  *queues
	key store.Key
	q   *queue
}

// join waits for its turn or the end of ctx, whose error it returns.
func (l *line) join(ctx context.Context, qs *queues, k store.Key) error {
	qs.mu.Lock()
	q := qs.m[k]
	if q == nil {
		if qs.m == nil {
			qs.m = make(map[store.Key]*queue)
		}
		q = &queue{turn: make(chan struct{}, 1)}
		qs.m[k] = q
	}
	q.members++
	qs.mu.Unlock()
	select {
	case q.turn <- struct{}{}:
		*l = line{qs, k, q}
		return nil
	case <-ctx.Done():
		qs.quit(k, q)
		return ctx.Err()
	}
}

// newest returns the record that was last written in this line, or a zero one.
func (l *line) newest() store.Record { return l.q.newest }

// handOn leaves the record that was just written to the next in line.
func (l *line) handOn(r store.Record) {
	if l.q != nil {
		l.q.newest = r
	}
}

// newerThan reports whether a was written after b, by the half of the version
// that counts.
func newerThan(a, b store.Record) bool { return a.Version>>32 > b.Version>>32 }

// leave gives the turn to the next in line, if it has it.
func (l *line) leave() {
	if l.q == nil {
		return
	}
	<-l.q.turn
	l.qs.quit(l.key, l.q)
	*l = line{}
}

func (qs *queues) quit(k store.Key, q *queue) {
	qs.mu.Lock()
	defer qs.mu.Unlock()
	if q.members--; q.members == 0 {
		delete(qs.m, k)
	}
}

// pauses are the bounds of the pause before a further try: full jitter below a
// bound that doubles from first to last.
type pauses struct{ first, last time.Duration }

var (
	afterConflict = pauses{200 * time.Microsecond, 12800 * time.Microsecond}
	afterFailure  = pauses{2 * time.Millisecond, 512 * time.Millisecond}
)

// wait pauses, or returns early when ctx ends. The first try is 0.
func (p pauses) wait(ctx context.Context, try int) {
	bound := p.first << min(try, 32)
	if bound > p.last {
		bound = p.last
	}
	t := time.NewTimer(rand.N(bound))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
