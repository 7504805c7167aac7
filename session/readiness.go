package session

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"runtime/debug"
	"slices"
	"sync"
	"time"
)

// ReadinessOptions describes a server to those who ask whether it is ready. The zero
// value is one that is never asked to stop.
type ReadinessOptions struct {
	// Draining reports whether the server is about to stop, and should be sent no more
	// requests. If nil, it never is.
	Draining func() bool

	// Details returns more to say, by name, such as the state of a circuit breaker. It
	// is for people to read, and changes no status. If nil, there is nothing more.
	Details func() map[string]string
}

// Readiness returns the handler of the health check by which a load balancer learns
// whether to send requests here: it answers 200, or 503 when the server is draining. Put
// it outside of [Manager.Handler], or have [Options.Skip] exempt it.
//
// The body is a JSON object of strings: "status" is "ready" or "draining", and "store" is
// "ok" or "unavailable", for people to read. An outage of the store is never a 503: it
// would empty the balancer of all servers at once, and visitors without a session, and
// pages that say what is going on, would be gone too.
//
// The store is asked at most about once a second, however many ask here, and waited for
// 300 ms at most: a store that hangs must not make the servers look dead. It is not asked
// again before it has answered. opts may be nil.
func (m *Manager) Readiness(opts *ReadinessOptions) http.Handler {
	r := &readiness{m: m}
	if opts != nil {
		r.opts = *opts
	}
	return r
}

const (
	// readinessAge is how long an answer of the store is good for: a little less than
	// the second after which most balancers ask again.
	readinessAge = 900 * time.Millisecond
	// readinessTimeout is well below a balancer's patience with a health check.
	readinessTimeout = 300 * time.Millisecond
)

type readiness struct {
	m    *Manager
	opts ReadinessOptions

	mu       sync.Mutex
	asked    time.Time     // the last time
	answered chan struct{} // closed when the store has answered that; nil if never asked
	store    string        // what it answered last
}

func (r *readiness) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	state, status := "ready", http.StatusOK
	if r.opts.Draining != nil && r.opts.Draining() { // before the store is waited for
		state, status = "draining", http.StatusServiceUnavailable
	}
	store := r.askStore(req.Context())
	var details map[string]string
	if r.opts.Details != nil {
		details = r.opts.Details() // after the store was asked, which a breaker counts
	}
	var b bytes.Buffer
	b.WriteString(`{"status":"` + state + `","store":"` + store + `"`)
	for _, name := range slices.Sorted(maps.Keys(details)) {
		if name != "status" && name != "store" {
			b.WriteByte(',')
			writeJSONString(&b, name)
			b.WriteByte(':')
			writeJSONString(&b, details[name])
		}
	}
	b.WriteString("}\n")
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // an error is the client's going
}

func writeJSONString(b *bytes.Buffer, s string) {
	text, _ := json.Marshal(s) // strings always marshal
	b.Write(text)
}

// askStore returns what there is to say of the store. Who asks may hang up; the answer is
// for others too.
func (r *readiness) askStore(ctx context.Context) string {
	r.mu.Lock()
	if r.answered == nil || ended(r.answered) && time.Since(r.asked) >= readinessAge {
		r.asked, r.answered = time.Now(), make(chan struct{})
		go r.ping(context.WithoutCancel(ctx), r.answered)
	}
	asked, answered := r.asked, r.answered
	r.mu.Unlock()
	patience := time.NewTimer(readinessTimeout - time.Since(asked))
	defer patience.Stop()
	select {
	case <-answered:
	case <-patience.C:
		if !ended(answered) { // not even when its time is up
			return "unavailable"
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.store
}

// ping asks the store, and closes answered when it has answered. A store may ignore its
// context: nobody waits for this.
func (r *readiness) ping(ctx context.Context, answered chan struct{}) {
	ctx, cancel := context.WithTimeout(ctx, readinessTimeout)
	defer cancel()
	said := "unavailable"
	defer func() {
		if v := recover(); v != nil { // as in a handler, one request's failure is not the process's
			r.m.log().ErrorContext(ctx, "session: the store panicked when it was pinged", "panic", v, "stack", string(debug.Stack()))
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.store = said
		close(answered)
	}()
	if r.m.Ping(ctx) == nil {
		said = "ok"
	}
}

func ended(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
