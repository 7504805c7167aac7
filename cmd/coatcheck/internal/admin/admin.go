// Package admin is the small web interface through which the fleet of `coatcheck
// up` is watched and steered: JSON under /api/, and a dashboard for people.
//
// Whoever can use it can kill processes, so it listens on loopback only and
// guards against the ways in which a web page that the user happens to visit
// could reach it: by a host name that resolves to 127.0.0.1 (DNS rebinding), by
// a form that posts across origins, and by simply trying without the token.
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/balancer"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/fleet"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/latency"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/load"
)

// Fleet is what is steered: a [fleet.Fleet], whose size somebody or the load decides.
type Fleet interface {
	Workers() []fleet.Worker
	Target() int
	Events() []fleet.Event
	EventsSince(n int) (fresh []fleet.Event, total int, changed <-chan struct{})
	Scale(n int) error // which pins an autoscaled fleet
	Unpin() error
	Autoscaling() *Autoscaling // nil if it has a fixed number of workers
	Kill(ctx context.Context, name string) error
	Drain(name string) error
}

// Load is the shoppers who can be let in: a [load.Load].
type Load interface {
	Start(shoppers int) error
	Stop()
	Status() load.Status
	Steps() []load.Step
}

// Options are what the interface shows and who may use it. All but CookieName,
// Shop, Interval and Logger are required.
type Options struct {
	// Token is what each request has to bring.
	Token string
	// CookieName is the cookie that carries the token in a browser. Cookies
	// cross the ports of a host, so it should hold the port. If zero,
	// "coatcheck-admin".
	CookieName string
	// Fleet is what is steered.
	Fleet Fleet
	// Balancer returns the state of the balancer in front of the fleet.
	Balancer func() balancer.Status
	// Latency returns how long its requests waited for their answers so far.
	Latency func() latency.Counts
	// Store returns the state of the session store.
	Store func(context.Context) Store
	// Load is the shoppers who can be let in.
	Load Load
	// Shop is the address of the shop. If zero, no page leads there.
	Shop string
	// Interval is how often [Handler.Run] measures. If zero, each second.
	Interval time.Duration
	// Logger gets what keeps the interface from showing something. If nil, slog.Default().
	Logger *slog.Logger
}

// Store is the state of the session store.
type Store struct {
	URL string `json:"url"` // without credentials
	// Name is what the page calls it: of a file not the whole path.
	Name string `json:"name"`
	Kind string `json:"kind"`
	// Topology is the kind and how its servers are arranged, as "redis cluster".
	Topology string `json:"topology"`
	Shared   bool   `json:"shared"` // by all workers
	// State is "ok", "unavailable", or "unknown" for a store that only its
	// worker can reach, and in a stream for one that has not answered since the
	// last snapshot.
	State string `json:"state"`
	// Breaker is the state of the parent's own circuit around a store on the
	// network. Each worker has one, too, whose state its /readyz tells.
	Breaker string `json:"breaker,omitzero"`
	// Ping is how long a round trip took, in milliseconds; it is missing if there was none.
	Ping  float64 `json:"ping_ms,omitzero"`
	Error string  `json:"error,omitzero"`
}

// Worker is one worker in the answer of GET /api/fleet.
type Worker struct {
	Name     string      `json:"name"`
	PID      int         `json:"pid"`
	URL      string      `json:"url"`
	State    fleet.State `json:"state"`
	Requests uint64      `json:"requests"`
	InFlight int         `json:"in_flight"`
	Started  time.Time   `json:"started"`
}

// Autoscaling is what the load asks for.
type Autoscaling struct {
	Min     int     `json:"min"`
	Max     int     `json:"max"`
	Target  float64 `json:"target"`  // requests at once for each worker
	Window  float64 `json:"window"`  // seconds
	Pinned  bool    `json:"pinned"`  // the number of workers was set by hand
	Panic   bool    `json:"panic"`   // a burst is on, or just over: no worker goes
	Stable  float64 `json:"stable"`  // requests at once, over the window
	Burst   float64 `json:"burst"`   // and over the last tenth of it
	Workers int     `json:"workers"` // that there should be for them; 0 before the first measurement
	Reason  string  `json:"reason"`
}

// Status is the answer of GET /api/fleet.
type Status struct {
	Workers []Worker `json:"workers"`
	Target  int      `json:"target"` // how many workers are kept
	// Autoscaling is missing if nothing but Target decides that.
	Autoscaling *Autoscaling    `json:"autoscaling,omitzero"`
	Balancer    balancer.Status `json:"balancer"`
	Store       Store           `json:"store"`
}

// Handler is the interface. Its methods may be called concurrently.
type Handler struct {
	opts    Options
	guarded http.Handler
	feed    feed
}

// New returns the interface. [Handler.Run] must run for its streams to tell anything.
// New panics if the token is empty.
func New(opts Options) *Handler {
	if opts.Interval <= 0 {
		opts.Interval = time.Second
	}
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	h := &Handler{opts: opts, feed: feed{wanted: make(chan struct{}, 1), changed: make(chan struct{}), ended: make(chan struct{})}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", h.page)
	mux.HandleFunc("GET /api/fleet", h.getFleet)
	mux.HandleFunc("GET /api/events", h.getEvents)
	mux.HandleFunc("GET "+streamPath, h.getStream)
	mux.HandleFunc("GET /api/load", h.getLoad)
	mux.HandleFunc("POST /api/load", h.postLoad)
	mux.HandleFunc("POST /api/fleet/scale", h.postScale)
	mux.HandleFunc("POST /api/fleet/autoscale", h.postAutoscale)
	mux.HandleFunc("POST /api/fleet/workers/{name}/kill", h.postKill)
	mux.HandleFunc("POST /api/fleet/workers/{name}/drain", h.postDrain)
	mux.HandleFunc("POST /load", h.formLoad)
	mux.HandleFunc("POST /scale", h.formScale)
	mux.HandleFunc("POST /autoscale", h.formAutoscale)
	mux.HandleFunc("POST /workers/{name}/kill", h.formKill)
	mux.HandleFunc("POST /workers/{name}/drain", h.formDrain)
	h.guarded = guard(opts.Token, opts.CookieName, jsonErrors(mux))
	return h
}

// ServeHTTP serves the page and the API.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.guarded.ServeHTTP(w, r) }

// jsonErrors answers what the mux does not know in JSON, too.
func jsonErrors(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h, pattern := mux.Handler(r)
		if pattern != "" {
			mux.ServeHTTP(w, r) // not h: the mux sets the path values
			return
		}
		e := &errorWriter{header: w.Header()}
		h.ServeHTTP(e, r)
		writeError(w, e.status, strings.ToLower(http.StatusText(e.status)))
	})
}

// errorWriter keeps the header and the status of an answer, not its body.
type errorWriter struct {
	header http.Header
	status int
}

func (e *errorWriter) Header() http.Header         { return e.header }
func (e *errorWriter) WriteHeader(status int)      { e.status = status }
func (e *errorWriter) Write(b []byte) (int, error) { return len(b), nil }

// NewServer returns a server with limits for h, which [New] made.
func NewServer(h http.Handler, logger *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          log.New(logWriter{logger}, "", 0),
	}
}

type logWriter struct{ logger *slog.Logger }

func (w logWriter) Write(b []byte) (int, error) {
	w.logger.Warn("admin: " + string(b[:max(0, len(b)-1)]))
	return len(b), nil
}

// CheckAddr returns an error that says what to do if addr, a host and port to
// listen on, could be reached from other machines.
func CheckAddr(addr string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("%q is not host:port", addr)
	}
	if !loopback(host) {
		return fmt.Errorf("%q can be reached from other machines, and whoever reaches the admin port can kill processes; use 127.0.0.1, and an SSH tunnel to come from elsewhere", addr)
	}
	return nil
}

// Listen listens on addr, and again refuses what is not loopback: a name could
// resolve to anything.
func Listen(addr string) (net.Listener, error) {
	if err := CheckAddr(addr); err != nil {
		return nil, err
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	if a, ok := ln.Addr().(*net.TCPAddr); !ok || !a.IP.IsLoopback() {
		return nil, errors.Join(fmt.Errorf("%q resolves to %v, which other machines can reach", addr, ln.Addr()), ln.Close())
	}
	return ln, nil
}

// status returns the answer of GET /api/fleet.
func (h *Handler) status(ctx context.Context) Status { return h.statusWith(h.opts.Store(ctx)) }

func (h *Handler) statusWith(st Store) Status {
	s := Status{
		Workers:     []Worker{},
		Target:      h.opts.Fleet.Target(),
		Autoscaling: h.opts.Fleet.Autoscaling(),
		Balancer:    h.opts.Balancer(),
		Store:       st,
	}
	upstreams := make(map[string]balancer.UpstreamStatus)
	for _, u := range s.Balancer.Upstreams {
		upstreams[u.Name] = u
	}
	for _, w := range h.opts.Fleet.Workers() {
		u := upstreams[w.Name]
		s.Workers = append(s.Workers, Worker{
			Name: w.Name, PID: w.PID, URL: w.URL, State: w.State, Started: w.Started,
			Requests: u.Requests, InFlight: u.InFlight,
		})
	}
	return s
}

func (h *Handler) getFleet(w http.ResponseWriter, r *http.Request) {
	writeJSON(w, http.StatusOK, h.status(r.Context()))
}

func (h *Handler) getEvents(w http.ResponseWriter, _ *http.Request) {
	events := h.opts.Fleet.Events()
	if events == nil {
		events = []fleet.Event{}
	}
	writeJSON(w, http.StatusOK, struct {
		Events []fleet.Event `json:"events"`
	}{events})
}

func (h *Handler) postScale(w http.ResponseWriter, r *http.Request) {
	n, err := readCount(w, r, "workers")
	if err == nil {
		err = h.opts.Fleet.Scale(n)
	}
	h.answer(w, r, err)
}

func (h *Handler) postAutoscale(w http.ResponseWriter, r *http.Request) {
	h.answer(w, r, h.opts.Fleet.Unpin())
}

func (h *Handler) postKill(w http.ResponseWriter, r *http.Request) {
	h.answer(w, r, h.opts.Fleet.Kill(r.Context(), r.PathValue("name")))
}

func (h *Handler) postDrain(w http.ResponseWriter, r *http.Request) {
	h.answer(w, r, h.opts.Fleet.Drain(r.PathValue("name")))
}

func (h *Handler) getLoad(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, h.opts.Load.Status())
}

func (h *Handler) postLoad(w http.ResponseWriter, r *http.Request) {
	n, err := readCount(w, r, "shoppers")
	if err == nil {
		err = h.setLoad(n)
	}
	if err != nil {
		writeError(w, statusOf(err), err.Error())
		return
	}
	h.getLoad(w, r)
}

// setLoad lets n shoppers in, or with 0 out.
func (h *Handler) setLoad(n int) error {
	if n == 0 {
		h.opts.Load.Stop()
		return nil
	}
	return h.opts.Load.Start(n)
}

// answer answers a change with the fleet as it is now, or with why it failed.
func (h *Handler) answer(w http.ResponseWriter, r *http.Request, err error) {
	if err != nil {
		writeError(w, statusOf(err), err.Error())
		return
	}
	writeJSON(w, http.StatusOK, h.status(r.Context()))
}

// badRequest is an error in what the client sent.
type badRequest struct{ error }

func statusOf(err error) int {
	_, bad := errors.AsType[badRequest](err)
	tooLarge := new(http.MaxBytesError)
	switch {
	case errors.As(err, &tooLarge):
		return http.StatusRequestEntityTooLarge
	case bad, errors.Is(err, fleet.ErrCount), errors.Is(err, load.ErrCount):
		return http.StatusBadRequest
	case errors.Is(err, fleet.ErrUnknown):
		return http.StatusNotFound
	case errors.Is(err, load.ErrRunning):
		return http.StatusConflict
	case errors.Is(err, fleet.ErrStopped), errors.Is(err, load.ErrClosed):
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// maxBody is far more than any request to this interface needs, in bytes.
const maxBody = 4 << 10

// readCount reads a body that holds one whole number under the name of the field.
func readCount(w http.ResponseWriter, r *http.Request, field string) (int, error) {
	if ct := r.Header.Get("Content-Type"); ct != "" {
		// curl -d without -H says that it is a form; the body is JSON all the same.
		mt, _, err := mime.ParseMediaType(ct)
		if err != nil || mt != "application/json" && mt != "application/x-www-form-urlencoded" && mt != "text/plain" {
			return 0, badRequest{errors.New("the body must be JSON")}
		}
	}
	want := fmt.Sprintf(`the body must be {%q:N} with a whole number N`, field)
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	var body map[string]*int
	if err := dec.Decode(&body); err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return 0, err
		}
		return 0, badRequest{errors.New(want)}
	}
	if len(body) != 1 || body[field] == nil {
		return 0, badRequest{errors.New(want)}
	}
	if _, err := dec.Token(); err != io.EOF {
		return 0, badRequest{errors.New(want + " and nothing after it")}
	}
	return *body[field], nil
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client may be gone
}

func writeError(w http.ResponseWriter, status int, message string) {
	writeJSON(w, status, struct {
		Error string `json:"error"`
	}{message})
}
