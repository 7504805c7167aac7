package prove

import (
	"slices"
	"sync"
	"time"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/shopper"
)

// slots is in how many parts the time is divided.
const slots = 120

// A timeline collects what happened when. Its methods are safe for concurrent use.
type timeline struct {
	began time.Time
	width time.Duration // of a slot

	mu       sync.Mutex
	slots    []slot
	requests int
	faults   int

	unrepeatable []shopper.Request
	failed       []shopper.Request
}

type slot struct {
	ready   int // at least
	seen    bool
	servers map[string]int
	failed  int
	took    []time.Duration
}

func newTimeline(began time.Time, d time.Duration) *timeline {
	return &timeline{began: began, width: max(d/slots, time.Millisecond)}
}

// slotLocked returns the slot of a time; what comes after the end is in the last one.
func (l *timeline) slotLocked(at time.Time) *slot {
	i := min(max(0, int(at.Sub(l.began)/l.width)), slots-1)
	for len(l.slots) <= i {
		s := slot{servers: map[string]int{}}
		if n := len(l.slots); n > 0 {
			s.ready = l.slots[n-1].ready
		}
		l.slots = append(l.slots, s)
	}
	return &l.slots[i]
}

// request notes a request when it is over.
func (l *timeline) request(r shopper.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.slotLocked(r.Start.Add(r.Took))
	l.requests++
	if r.Server != "" {
		s.servers[r.Server]++
	}
	if r.Fault != "" {
		s.failed++
	}
	switch r.Fault {
	case shopper.FailedRequest:
		l.faults++
		l.failed = append(l.failed, r)
	case shopper.Unrepeatable:
		l.unrepeatable = append(l.unrepeatable, r)
	}
	s.took = append(s.took, r.Took)
}

// ready notes how many workers are ready now, and returns how many requests there were so
// far and how many of them failed.
func (l *timeline) ready(n int) (requests, faults int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.slotLocked(time.Now()); !s.seen || n < s.ready { // or a kill would not show
		s.ready, s.seen = n, true
	}
	return l.requests, l.faults
}

// moments returns the timeline.
func (l *timeline) moments() []Moment {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]Moment, len(l.slots))
	for i, s := range l.slots {
		m := Moment{At: (time.Duration(i) * l.width).Seconds(), Ready: s.ready, Requests: s.servers, Failed: s.failed}
		if n := len(s.took); n > 0 {
			slices.Sort(s.took)
			m.P50 = milliseconds(s.took[(n-1)/2])
			m.P99 = milliseconds(s.took[(n-1)*99/100])
		}
		out[i] = m
	}
	return out
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
