package fleet

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"
)

// maxEvents bounds the memory of a fleet that runs for months.
const maxEvents = 5000

// Kind is what happened.
type Kind string

// The kinds of events.
const (
	Started       Kind = "started"
	BecameReady   Kind = "ready"
	Unhealthy     Kind = "unhealthy" // fails its health checks; it recovers or is replaced
	Failed        Kind = "failed"    // did not start
	Delayed       Kind = "delayed"   // the next start waits
	BeganDraining Kind = "draining"  // by request, or because there were too many
	Drained       Kind = "drained"   // and ended
	Killed        Kind = "killed"    // by us
	Died          Kind = "died"      // by itself or by somebody else
	Scaled        Kind = "scaled"
)

// Kinds are all of them.
var Kinds = []Kind{Started, BecameReady, Unhealthy, Failed, Delayed, BeganDraining, Drained, Killed, Died, Scaled}

// Event is something that happened to the fleet or, if Worker is not "", to one
// worker.
type Event struct {
	Time   time.Time `json:"time"`
	Kind   Kind      `json:"kind"`
	Worker string    `json:"worker,omitzero"`
	Detail string    `json:"detail,omitzero"`
}

type events struct {
	logger *slog.Logger

	mu      sync.Mutex
	kept    []Event
	total   int           // ever
	changed chan struct{} // closed and renewed at every event
	counts  map[Kind]int  // ever
}

func (e *events) add(k Kind, worker, detail string) {
	e.mu.Lock()
	if len(e.kept) == maxEvents {
		e.kept = slices.Delete(e.kept, 0, 1)
	}
	e.kept = append(e.kept, Event{Time: time.Now().UTC(), Kind: k, Worker: worker, Detail: detail})
	e.total++
	close(e.changed)
	e.changed = make(chan struct{})
	if e.counts == nil {
		e.counts = make(map[Kind]int)
	}
	e.counts[k]++
	e.mu.Unlock()

	level := slog.LevelInfo
	if k == Failed || k == Died || k == Delayed || k == Unhealthy {
		level = slog.LevelWarn
	}
	attrs := make([]slog.Attr, 0, 2)
	if worker != "" {
		attrs = append(attrs, slog.String("worker", worker))
	}
	if detail != "" {
		attrs = append(attrs, slog.String("detail", detail))
	}
	e.logger.LogAttrs(context.Background(), level, string(k), attrs...)
}

func (e *events) list() []Event {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.kept)
}

func (e *events) since(n int) (fresh []Event, total int, changed <-chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	count := min(max(0, e.total-n), len(e.kept))
	return slices.Clone(e.kept[len(e.kept)-count:]), e.total, e.changed
}

func (e *events) count() map[Kind]int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return maps.Clone(e.counts)
}
