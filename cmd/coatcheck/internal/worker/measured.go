package worker

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/balancer"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/metrics"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/storeurl"
	"github.com/coatcheck/coatcheck/session"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// measurement is what a worker that is measured has for it. All methods of a nil one do
// nothing: it is not measured, which costs nothing.
type measurement struct {
	registry *prometheus.Registry
	sessions *metrics.Sessions
	server   *metrics.Server // nil if the parent asks
}

// measure returns nil if the configuration asks for no metrics.
func measure(c Config) (*measurement, error) {
	if c.Metrics == "" && c.MetricsSecret == "" {
		return nil, nil
	}
	m := &measurement{registry: metrics.New()}
	m.sessions = metrics.NewSessions(m.registry)
	m.sessions.Serves()
	if c.Metrics != "" {
		var err error
		if m.server, err = metrics.Listen(c.Metrics); err != nil {
			return nil, fmt.Errorf("--metrics %w", err)
		}
	}
	return m, nil
}

// observer returns what sessions are observed by, nil if nothing observes them.
func (m *measurement) observer() func(context.Context, session.Event) {
	if m == nil {
		return nil
	}
	return m.sessions.Observe
}

// handler returns h, which answers with the metrics who knows the secret.
func (m *measurement) handler(secret string, h http.Handler, logger *slog.Logger) http.Handler {
	if m == nil || secret == "" {
		return h
	}
	return balancer.OnSecret(secret, metrics.Handler(m.registry, logger), h)
}

// count counts the requests that h has, if no parent does.
func (m *measurement) count(h http.Handler) http.Handler {
	if m == nil || m.server == nil {
		return h
	}
	inFlight := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "coatcheck_http_requests_in_flight",
		Help: "Requests that the server has now.",
	})
	m.registry.MustRegister(inFlight)
	return promhttp.InstrumentHandlerInFlight(inFlight, h)
}

// watch has each scrape tell of the store. ping is nil if somebody else asks it.
func (m *measurement) watch(ping func(context.Context) error, state func() storeurl.State) {
	if m != nil {
		m.registry.MustRegister(&metrics.Store{Ping: ping, Breaker: func() string { return state().Breaker }})
	}
}

// serve serves the metrics on their own address until close, and sends why it ended.
func (m *measurement) serve(served chan<- error, logger *slog.Logger) {
	if m != nil && m.server != nil {
		go func() { served <- m.server.Serve(m.registry, logger) }()
	}
}

func (m *measurement) url() string {
	if m == nil || m.server == nil {
		return ""
	}
	return m.server.URL
}

func (m *measurement) close() error {
	if m == nil || m.server == nil {
		return nil
	}
	return m.server.Close()
}
