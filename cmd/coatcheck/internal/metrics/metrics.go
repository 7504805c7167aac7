// Package metrics is what the processes of coatcheck tell Prometheus of themselves:
// figures only. No name, owner, session ID, key or address is in them, so they may be
// scraped by whoever may know how busy a shop is.
package metrics

import (
	"bytes"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Path is where a process serves its metrics.
const Path = "/metrics"

// New returns a registry with what Go and the operating system say of this process.
func New() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// maxScrapes bounds how many scrapes a process answers at a time.
const maxScrapes = 4

// Handler answers each request with what g has. What it cannot have is logged and left
// out.
func Handler(g prometheus.Gatherer, logger *slog.Logger) http.Handler {
	h := promhttp.HandlerFor(g, promhttp.HandlerOpts{
		ErrorLog:            errorLog{logger},
		ErrorHandling:       promhttp.ContinueOnError,
		MaxRequestsInFlight: maxScrapes,
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a := answer{header: w.Header(), status: http.StatusOK}
		h.ServeHTTP(&a, r)
		w.WriteHeader(a.status)
		_, _ = a.body.WriteTo(w) // an error is the client's going
	})
}

// answer is one that is kept until it is whole: who reads slowly, or not at all, keeps
// nobody else from scraping.
type answer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (a *answer) Header() http.Header         { return a.header }
func (a *answer) WriteHeader(status int)      { a.status = status }
func (a *answer) Write(b []byte) (int, error) { return a.body.Write(b) }

type errorLog struct{ logger *slog.Logger }

func (l errorLog) Println(v ...any) { l.logger.Warn("metrics: " + fmt.Sprint(v...)) }

// Address returns the address to listen on that the flag's value means: HOST:PORT, and
// without a host that of this machine alone.
func Address(flag string) (string, error) {
	host, port, err := net.SplitHostPort(flag)
	if err != nil || port == "" {
		return "", fmt.Errorf("%q is not host:port, as 127.0.0.1:8082; other machines can scrape it where host is an address that they reach", flag)
	}
	if host == "" {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port), nil
}

// Server serves metrics by itself.
type Server struct {
	URL string

	server   *http.Server
	listener net.Listener
}

// Listen returns a server that listens on the address that [Address] makes of the flag's
// value, and does not serve yet. Close it when done.
func Listen(flag string) (*Server, error) {
	addr, err := Address(flag)
	if err != nil {
		return nil, err
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; choose another address, or port 0 for a free one", addr, err)
	}
	return &Server{URL: "http://" + ln.Addr().String() + Path, listener: ln, server: &http.Server{}}, nil
}

// Serve serves what g has until Close, and returns nil then.
func (s *Server) Serve(g prometheus.Gatherer, logger *slog.Logger) error {
	mux := http.NewServeMux()
	mux.Handle("GET "+Path, Handler(g, logger))
	s.server.Handler = mux
	s.server.ReadTimeout = 5 * time.Second
	s.server.WriteTimeout = 30 * time.Second
	s.server.IdleTimeout = 2 * time.Minute // scrapes come each minute at least
	s.server.MaxHeaderBytes = 16 << 10
	s.server.ErrorLog = log.New(logWriter{logger}, "", 0)
	if err := s.server.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("metrics: %w", err)
	}
	return nil
}

// Close ends Serve, whoever scrapes.
func (s *Server) Close() error {
	err := s.server.Close()
	if lnErr := s.listener.Close(); !errors.Is(lnErr, net.ErrClosed) {
		err = errors.Join(err, lnErr)
	}
	return err
}

type logWriter struct{ logger *slog.Logger }

func (w logWriter) Write(b []byte) (int, error) {
	w.logger.Warn("metrics: " + string(b[:max(0, len(b)-1)]))
	return len(b), nil
}
