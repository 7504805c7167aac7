package up

import (
	"bufio"
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/admin"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/balancer"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/fleet"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/metrics"
	"github.com/coatcheck/coatcheck/session"
	"github.com/prometheus/client_golang/prometheus"
)

// measurement is what a fleet that is measured has for it. All methods of a nil one do
// nothing: it is not measured.
type measurement struct {
	registry *prometheus.Registry
	sessions *metrics.Sessions // of the parent, which sweeps
	server   *metrics.Server
	secret   string // for which workers answer with their metrics
	answers  *prometheus.HistogramVec
}

// measure returns nil if the configuration asks for no metrics.
func measure(c Config) (*measurement, error) {
	if c.Metrics == "" {
		return nil, nil
	}
	m := &measurement{registry: metrics.New(), secret: rand.Text()}
	m.sessions = metrics.NewSessions(m.registry)
	m.answers = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "coatcheck_balancer_response_duration_seconds",
		Help:    "Time from a request's arrival to the header of its answer, by the class of its status.",
		Buckets: []float64{0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30},
	}, []string{"code"})
	m.registry.MustRegister(m.answers)
	for _, class := range statusClasses {
		m.answers.WithLabelValues(class)
	}
	var err error
	if m.server, err = metrics.Listen(c.Metrics); err != nil {
		return nil, fmt.Errorf("--metrics %w", err)
	}
	return m, nil
}

// statusClasses are the label code. 1xx is a connection that went on as a WebSocket.
var statusClasses = []string{"1xx", "2xx", "3xx", "4xx", "5xx"}

// observer returns what the parent's sessions are observed by, nil if nothing observes
// them.
func (m *measurement) observer() func(context.Context, session.Event) {
	if m == nil {
		return nil
	}
	return m.sessions.Observe
}

// around returns h, which has its answers timed.
func (m *measurement) around(h http.Handler) http.Handler {
	if m == nil {
		return h
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(&timedWriter{ResponseWriter: w, began: time.Now(), answers: m.answers}, r)
	})
}

// timedWriter notes when the header of an answer leaves: neither a slow client nor an
// event stream is in the time until then.
type timedWriter struct {
	http.ResponseWriter
	began   time.Time
	noted   bool
	answers *prometheus.HistogramVec
}

func (w *timedWriter) note(status int) {
	if w.noted || status < 200 && status != http.StatusSwitchingProtocols {
		return
	}
	w.noted = true
	if class := strconv.Itoa(status/100) + "xx"; status < 600 {
		w.answers.WithLabelValues(class).Observe(time.Since(w.began).Seconds())
	}
}

func (w *timedWriter) WriteHeader(status int) {
	w.note(status)
	w.ResponseWriter.WriteHeader(status)
}

func (w *timedWriter) Write(b []byte) (int, error) {
	w.note(http.StatusOK)
	return w.ResponseWriter.Write(b)
}

// Hijack takes the connection over for a WebSocket, whose 101 the balancer writes itself.
func (w *timedWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err == nil {
		w.note(http.StatusSwitchingProtocols)
	}
	return conn, rw, err
}

// Unwrap lets [http.ResponseController] flush.
func (w *timedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// serve serves the metrics of all there is until close, and sends why it ended.
func (m *measurement) serve(bal *balancer.Balancer, workers *fleet.Fleet, steered admin.Fleet, st *parentStore, served chan<- error, logger *slog.Logger) {
	if m == nil {
		return
	}
	m.registry.MustRegister(&balancerMetrics{bal}, &fleetMetrics{workers, steered})
	if st.manager != nil {
		m.registry.MustRegister(&metrics.Store{
			Ping:    st.manager.Ping,
			Breaker: func() string { return st.opened.State().Breaker },
		})
	}
	list := func() map[string]string {
		urls := make(map[string]string)
		for _, w := range workers.Workers() {
			if w.URL != "" {
				urls[w.Name] = w.URL
			}
		}
		return urls
	}
	// The workers first: who did not answer is counted in this scrape already.
	all := prometheus.Gatherers{metrics.NewWorkers(list, m.secret, m.registry), m.registry}
	go func() { served <- m.server.Serve(all, logger) }()
}

func (m *measurement) url() string {
	if m == nil {
		return ""
	}
	return m.server.URL
}

// workerSecret is what workers are told; "" if nobody asks them.
func (m *measurement) workerSecret() string {
	if m == nil {
		return ""
	}
	return m.secret
}

func (m *measurement) close() error {
	if m == nil {
		return nil
	}
	return m.server.Close()
}

// balancerMetrics tells of the balancer at the moment of a scrape.
type balancerMetrics struct{ balancer *balancer.Balancer }

var (
	balancerRequests     = desc("coatcheck_balancer_requests_total", "Requests received from clients.")
	balancerRetries      = desc("coatcheck_balancer_retries_total", "Attempts at a worker after a request's first.")
	balancerNoUpstream   = desc("coatcheck_balancer_no_upstream_total", "Requests answered 503, since no worker took them.")
	balancerUnrepeatable = desc("coatcheck_balancer_unrepeatable_total", "Requests that may have been carried out by a worker that died before it answered.")
	balancerClientGone   = desc("coatcheck_balancer_client_gone_total", "Requests whose client hung up before there was an answer.")
	balancerInFlight     = desc("coatcheck_balancer_requests_in_flight", "Requests at a worker now, WebSockets and event streams included.")
	balancerBusy         = desc("coatcheck_balancer_busy_seconds_total", "How long requests were in flight or waited for a worker, added up: its rate is the number of requests at once.")
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

func (b *balancerMetrics) Describe(out chan<- *prometheus.Desc) { prometheus.DescribeByCollect(b, out) }

func (b *balancerMetrics) Collect(out chan<- prometheus.Metric) {
	s := b.balancer.Status()
	busy, _ := b.balancer.Load()
	for d, v := range map[*prometheus.Desc]float64{
		balancerRequests:     float64(s.Requests),
		balancerRetries:      float64(s.Retries),
		balancerNoUpstream:   float64(s.NoUpstream),
		balancerUnrepeatable: float64(s.Unrepeatable),
		balancerClientGone:   float64(s.ClientGone),
		balancerBusy:         busy.Seconds(),
	} {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v)
	}
	out <- prometheus.MustNewConstMetric(balancerInFlight, prometheus.GaugeValue, float64(s.InFlight))
}

// fleetMetrics tells of the fleet, and of what the load asks for, at the moment of a
// scrape.
type fleetMetrics struct {
	workers *fleet.Fleet
	steered admin.Fleet
}

var (
	fleetWorkers     = desc("coatcheck_fleet_workers", "Workers by state.", "state")
	fleetTarget      = desc("coatcheck_fleet_target_workers", "Workers that are to be kept.")
	fleetEvents      = desc("coatcheck_fleet_events_total", "Events of workers by kind, as started, died or killed.", "kind")
	autoscaleBound   = desc("coatcheck_autoscale_workers", "Workers by what asks for them: the least and the greatest number, and what the load wants.", "of")
	autoscaleLoad    = desc("coatcheck_autoscale_requests_at_once", "Requests at once on average, over the window and over its last tenth.", "window")
	autoscaleTarget  = desc("coatcheck_autoscale_target_requests", "Requests at once that one worker is for.")
	autoscalePinned  = desc("coatcheck_autoscale_pinned", "Whether the number of workers was set by hand, which pauses autoscaling.")
	autoscalePanic   = desc("coatcheck_autoscale_panic", "Whether a burst is on, or just over, so that no worker goes.")
	fleetWorkerState = []fleet.State{fleet.Starting, fleet.Ready, fleet.Draining}
)

func (f *fleetMetrics) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		fleetWorkers, fleetTarget, fleetEvents,
		autoscaleBound, autoscaleLoad, autoscaleTarget, autoscalePinned, autoscalePanic,
	} {
		out <- d
	}
}

func (f *fleetMetrics) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	states := make(map[fleet.State]int)
	for _, w := range f.workers.Workers() {
		states[w.State]++
	}
	for _, s := range fleetWorkerState {
		gauge(fleetWorkers, float64(states[s]), string(s))
	}
	gauge(fleetTarget, float64(f.workers.Target()))
	counts := f.workers.EventCounts()
	for _, k := range fleet.Kinds {
		out <- prometheus.MustNewConstMetric(fleetEvents, prometheus.CounterValue, float64(counts[k]), string(k))
	}
	a := f.steered.Autoscaling()
	if a == nil {
		return
	}
	gauge(autoscaleBound, float64(a.Min), "min")
	gauge(autoscaleBound, float64(a.Max), "max")
	gauge(autoscaleBound, float64(a.Workers), "load")
	gauge(autoscaleLoad, a.Stable, "stable")
	gauge(autoscaleLoad, a.Burst, "burst")
	gauge(autoscaleTarget, a.Target)
	gauge(autoscalePinned, oneIf(a.Pinned))
	gauge(autoscalePanic, oneIf(a.Panic))
}

func oneIf(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
