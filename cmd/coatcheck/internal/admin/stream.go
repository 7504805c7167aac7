package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/balancer"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/fleet"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/latency"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/load"
)

const streamPath = "/api/stream"

const (
	// maxStreams bounds the streams that are open at once.
	maxStreams = 16

	// streamTimeout is how long a client may take to read what it was sent.
	streamTimeout = 10 * time.Second

	// keptPoints and keptSteps are how many measurements, and how old steps, a page that is
	// opened starts with: as many as its plots show.
	keptPoints = 61
	keptSteps  = 30 * time.Second
)

// Point is one measurement of the traffic.
type Point struct {
	Time int64 `json:"t"` // in milliseconds since 1970
	// Rate is how many requests came since the last point, a second.
	Rate float64 `json:"rate"`
	// Requests are those that each server was sent since the last point, a second. A server
	// that went meanwhile is not among them, and a request that was repeated is there twice.
	Requests map[string]float64 `json:"requests"`
	// P50 and P99 are how long requests since the last point waited for their answers,
	// in milliseconds; missing if there was none.
	P50 *float64 `json:"p50_ms,omitempty"`
	P99 *float64 `json:"p99_ms,omitempty"`
	// Ping is how long the last round trip to the store took that ended since the last
	// point, in milliseconds; missing if there was none.
	Ping *float64 `json:"ping_ms,omitempty"`
}

// Snapshot is what a stream says at each measurement.
type Snapshot struct {
	Status
	Load  load.Status `json:"load"`
	Point Point       `json:"point"`
	Steps []load.Step `json:"steps"` // since the last one
}

// Hello is what a stream says first.
type Hello struct {
	Points []Point       `json:"points"` // of the last minute
	Steps  []load.Step   `json:"steps"`  // of the last half of it
	Events []fleet.Event `json:"events"` // the last ones
}

// feed is what streams tell.
type feed struct {
	ended chan struct{} // closed when there will be no more

	mu       sync.Mutex
	streams  int
	store    Store         // as of the last answer
	answered bool          // since the last measurement
	wanted   chan struct{} // tells that the store is to be asked
	points   []Point
	steps    []load.Step
	snapshot json.RawMessage // the last one
	changed  chan struct{}   // closed and renewed at each
}

// Run measures until ctx ends, and then ends the streams. It is called once.
func (h *Handler) Run(ctx context.Context) {
	var pinging sync.WaitGroup
	pinging.Go(func() { h.watchStore(ctx) })
	defer pinging.Wait()
	defer close(h.feed.ended)
	m := newMeter(h.opts.Balancer(), h.opts.Latency())
	tick := time.NewTicker(h.opts.Interval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			h.publish(h.measure(&m))
		case <-ctx.Done():
			return
		}
	}
}

// watchStore asks the store how it is, first and whenever somebody wants to know: apart
// from the measurements, which a store that does not answer must not hold up.
func (h *Handler) watchStore(ctx context.Context) {
	for {
		st := h.opts.Store(ctx)
		h.feed.mu.Lock()
		h.feed.store, h.feed.answered = st, true
		h.feed.mu.Unlock()
		select {
		case <-h.feed.wanted:
		case <-ctx.Done():
			return
		}
	}
}

// storeNow returns the state of the store as of an answer since the last call; without one
// it is unknown.
func (f *feed) storeNow() Store {
	f.mu.Lock()
	defer f.mu.Unlock()
	st := f.store
	if !f.answered {
		st.State, st.Breaker, st.Ping, st.Error = "unknown", "", 0, ""
	}
	f.answered = false
	return st
}

// askStore has the store asked before the next measurement. It is called with f.mu held,
// while somebody looks on: an answer may cost money.
func (f *feed) askStore() {
	select {
	case f.wanted <- struct{}{}:
	default: // it is to be asked already
	}
}

// meter is what the last measurement saw.
type meter struct {
	at       time.Time
	waits    latency.Counts
	total    uint64
	requests map[string]uint64
}

func newMeter(b balancer.Status, waits latency.Counts) meter {
	return meter{time.Now(), waits, b.Requests, requests(b)}
}

func requests(b balancer.Status) map[string]uint64 {
	n := make(map[string]uint64)
	for _, up := range b.Upstreams {
		n[up.Name] = up.Requests
	}
	return n
}

func (h *Handler) measure(last *meter) Snapshot {
	s := Snapshot{Status: h.statusWith(h.feed.storeNow()), Load: h.opts.Load.Status(), Steps: h.opts.Load.Steps()}
	if s.Steps == nil {
		s.Steps = []load.Step{}
	}
	now := newMeter(s.Balancer, h.opts.Latency())
	passed := now.at.Sub(last.at).Seconds()
	s.Point = Point{Time: now.at.UnixMilli(), Rate: float64(now.total-last.total) / passed, Requests: make(map[string]float64)}
	for name, n := range now.requests {
		s.Point.Requests[name] = float64(n-last.requests[name]) / passed
	}
	if waits := now.waits.Since(last.waits); waits.Total() > 0 {
		s.Point.P50, s.Point.P99 = ms(waits.Quantile(0.5)), ms(waits.Quantile(0.99))
	}
	if s.Store.State == "ok" {
		s.Point.Ping = &s.Store.Ping
	}
	*last = now
	return s
}

func ms(d time.Duration) *float64 { return new(float64(d.Microseconds()) / 1000) }

// publish hands the streams what was measured.
func (h *Handler) publish(s Snapshot) {
	b, err := json.Marshal(s)
	if err != nil { // a number that JSON has no word for
		h.opts.Logger.Error("admin: a measurement is skipped", "err", err)
		return
	}
	f := &h.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	f.points = append(f.points, s.Point)
	f.points = f.points[max(0, len(f.points)-keptPoints):]
	f.steps = append(f.steps, s.Steps...)
	old := 0
	for old < len(f.steps) && f.steps[old].Time < s.Point.Time-keptSteps.Milliseconds() {
		old++
	}
	f.steps = f.steps[old:]
	f.snapshot = b
	close(f.changed)
	f.changed = make(chan struct{})
	if f.streams > 0 {
		f.askStore()
	}
}

// enter reports whether there is room for a stream, which leave must follow.
func (f *feed) enter() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.streams == maxStreams {
		return false
	}
	f.streams++
	if f.streams == 1 {
		f.askStore()
	}
	return true
}

func (f *feed) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.streams--
}

// current returns the last snapshot, and a channel that is closed at the next one.
func (f *feed) current() (json.RawMessage, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.snapshot, f.changed
}

// hello returns what a stream says first, and its channel for the next snapshot.
func (f *feed) hello(events []fleet.Event) (Hello, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return Hello{append([]Point{}, f.points...), append([]load.Step{}, f.steps...), append([]fleet.Event{}, events...)}, f.changed
}

// getStream answers GET /api/stream, until the client has gone or all ends.
func (h *Handler) getStream(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	if r.Method == http.MethodHead { // which the mux takes for a GET, and whose end nothing written would tell of
		return
	}
	if !h.feed.enter() {
		w.Header().Set("Retry-After", "5")
		writeError(w, http.StatusServiceUnavailable, fmt.Sprintf("%d streams are open, and there may be no more: close a page", maxStreams))
		return
	}
	defer h.feed.leave()
	rc := http.NewResponseController(w)
	send := func(kind string, v any) bool {
		data, err := json.Marshal(v)
		if err != nil {
			h.opts.Logger.Error("admin: a stream ends", "err", err)
			return false
		}
		// The server's own limit is for answers that end soon. All but a recorder in a test
		// can have another.
		_ = rc.SetWriteDeadline(time.Now().Add(streamTimeout))
		if _, err := fmt.Fprintf(w, "event: %s\ndata: %s\n\n", kind, data); err != nil {
			return false
		}
		return rc.Flush() == nil
	}

	events, told, happened := h.opts.Fleet.EventsSince(0)
	catchUp := func() bool {
		events, told, happened = h.opts.Fleet.EventsSince(told)
		for _, e := range events {
			if !send("event", e) {
				return false
			}
		}
		return true
	}
	hello, changed := h.feed.hello(events[max(0, len(events)-shownEvents):])
	if _, err := fmt.Fprint(w, "retry: 1000\n"); err != nil || !send("hello", hello) {
		return
	}
	for {
		select {
		case <-r.Context().Done():
			return
		case <-h.feed.ended:
			catchUp()
			return
		case <-happened:
			if !catchUp() {
				return
			}
		case <-changed:
			var snapshot json.RawMessage
			snapshot, changed = h.feed.current()
			// First what happened before it, which explains it.
			if !catchUp() || !send("snapshot", snapshot) {
				return
			}
		}
	}
}
