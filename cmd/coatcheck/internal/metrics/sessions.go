package metrics

import (
	"context"

	"github.com/coatcheck/coatcheck/session"
	"github.com/prometheus/client_golang/prometheus"
)

// Stores answer in 50 µs, from memory or a local file, to the 2 s that a call may take;
// a commit may take 5 s.
var storeBuckets = []float64{
	0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005,
	0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5,
}

// sizeBuckets are in bytes: a session is small, is warned of over 4 KiB and refused over
// 64 KiB.
var sizeBuckets = []float64{128, 256, 512, 1 << 10, 2 << 10, 4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10}

// Sessions counts the events of the session managers of a process.
type Sessions struct {
	calls         *prometheus.CounterVec
	callTime      *prometheus.HistogramVec
	operations    *prometheus.CounterVec
	operationTime *prometheus.HistogramVec
	events        *prometheus.CounterVec
	size          prometheus.Histogram
}

// NewSessions returns counters of sessions that r has from now on.
func NewSessions(r prometheus.Registerer) *Sessions {
	s := &Sessions{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "coatcheck_store_calls_total",
			Help: "Calls of the session store by operation and outcome.",
		}, []string{"op", "outcome"}),
		callTime: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "coatcheck_store_call_duration_seconds",
			Help:    "How long calls of the session store took, by operation.",
			Buckets: storeBuckets,
		}, []string{"op"}),
		operations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "coatcheck_session_operations_total",
			Help: "What requests did with sessions, with all conflicts and retries, by operation and outcome.",
		}, []string{"op", "outcome"}),
		operationTime: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "coatcheck_session_operation_duration_seconds",
			Help:    "How long requests waited for what they did with sessions, by operation.",
			Buckets: storeBuckets,
		}, []string{"op"}),
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "coatcheck_session_events_total",
			Help: "Events of sessions by kind, as conflict, retry, touch_saved or swept.",
		}, []string{"kind"}),
		size: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "coatcheck_session_size_bytes",
			Help:    "Size of the sealed values of each session that was written.",
			Buckets: sizeBuckets,
		}),
	}
	r.MustRegister(s.calls, s.callTime, s.operations, s.operationTime, s.events, s.size)
	s.zero(session.EventSwept, session.EventSweepFailed)
	return s
}

// Serves begins to count at zero what a web server's sessions do: a counter that is there
// from the start has a rate when it is increased for the first time.
func (s *Sessions) Serves() {
	for _, op := range []string{"get", "create", "replace", "touch", "delete"} {
		for _, outcome := range []string{"ok", "timeout", "error", "not_asked"} {
			s.calls.WithLabelValues(op, outcome)
		}
	}
	for k := range operations {
		for _, outcome := range []string{"ok", "unavailable", "too_large", "error"} {
			s.operations.WithLabelValues(string(k), outcome)
		}
	}
	for k := range events {
		s.zero(k)
	}
	s.zero(revoked)
}

func (s *Sessions) zero(kinds ...session.EventKind) {
	for _, k := range kinds {
		s.events.WithLabelValues(string(k))
	}
}

// operations are the kinds of events that are something a request did.
var operations = kinds(session.EventCommit, session.EventSignIn, session.EventRenew, session.EventDestroy, session.EventRevoke)

// events are the kinds that are counted and no more.
var events = kinds(
	session.EventConflict, session.EventRetry, session.EventTouchSaved, session.EventWriteSaved,
	session.EventStaleSet, session.EventCorrupt, session.EventTouchFailed, session.EventLateChange,
	session.EventUnavailable, session.EventLarge, session.EventStaleRead, session.EventSwept, session.EventSweepFailed,
)

// revoked is the kind that counts sessions ended by revocations, of which one may end many.
const revoked session.EventKind = "revoked"

func kinds(of ...session.EventKind) map[session.EventKind]bool {
	m := make(map[session.EventKind]bool)
	for _, k := range of {
		m[k] = true
	}
	return m
}

// Observe is a [session.Options.Observer]. Nothing but the kind, the method's name, the
// outcome's word and numbers is taken from e.
func (s *Sessions) Observe(_ context.Context, e session.Event) {
	switch {
	case e.Kind == session.EventCall:
		s.calls.WithLabelValues(e.Op, e.Outcome()).Inc()
		s.callTime.WithLabelValues(e.Op).Observe(e.Duration.Seconds())
		if e.Err == nil && e.Size > 0 && (e.Op == "create" || e.Op == "replace") {
			s.size.Observe(float64(e.Size))
		}
	case operations[e.Kind]:
		s.operations.WithLabelValues(string(e.Kind), e.Outcome()).Inc()
		s.operationTime.WithLabelValues(string(e.Kind)).Observe(e.Duration.Seconds())
		if e.Kind == session.EventRevoke {
			s.events.WithLabelValues(string(revoked)).Add(float64(e.N))
		}
	case events[e.Kind]:
		s.events.WithLabelValues(string(e.Kind)).Add(float64(max(1, e.N)))
	}
}
