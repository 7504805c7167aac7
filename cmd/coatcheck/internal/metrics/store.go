package metrics

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Store tells of the session store as a process sees it at the moment of a scrape.
type Store struct {
	// Ping asks the store. If nil, that is not told.
	Ping func(context.Context) error
	// Breaker returns the state of the circuit breaker around the store, "" if there
	// is none.
	Breaker func() string
}

// pingTimeout is far below a scrape's, which is ten seconds by default.
const pingTimeout = time.Second

var (
	storeUp = prometheus.NewDesc("coatcheck_store_up",
		"Whether the session store answered at this scrape.", nil, nil)
	storePing = prometheus.NewDesc("coatcheck_store_ping_duration_seconds",
		"How long the session store took to answer at this scrape, or not to.", nil, nil)
	storeBreaker = prometheus.NewDesc("coatcheck_store_breaker_state",
		"1 for the state that the circuit breaker around the session store is in, and 0 for the others.", []string{"state"}, nil)
)

// breakerStates are all that [Store.Breaker] may return.
var breakerStates = []string{"closed", "open", "half-open", "connecting"}

// Describe implements [prometheus.Collector].
func (s *Store) Describe(out chan<- *prometheus.Desc) {
	out <- storeUp
	out <- storePing
	out <- storeBreaker
}

// Collect implements [prometheus.Collector].
func (s *Store) Collect(out chan<- prometheus.Metric) {
	if s.Ping != nil {
		ctx, cancel := context.WithTimeout(context.Background(), pingTimeout)
		defer cancel()
		began := time.Now()
		err := s.Ping(ctx)
		out <- prometheus.MustNewConstMetric(storePing, prometheus.GaugeValue, time.Since(began).Seconds())
		out <- prometheus.MustNewConstMetric(storeUp, prometheus.GaugeValue, oneIf(err == nil))
	}
	state := s.Breaker() // which the ping may have changed
	if state == "" {
		return
	}
	for _, b := range breakerStates {
		out <- prometheus.MustNewConstMetric(storeBreaker, prometheus.GaugeValue, oneIf(b == state), b)
	}
}

func oneIf(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
