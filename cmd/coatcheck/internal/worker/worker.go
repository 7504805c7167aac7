// Package worker runs one web server over a session store: a worker of `coatcheck
// up`, or `coatcheck serve` behind any other balancer.
package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/balancer"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/storeurl"
	"github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/store"
)

// Config is what a worker needs to know. The parent of a fleet hands it over as
// JSON (see package handover), for it may hold secrets.
type Config struct {
	// Name is the server's name in X-Served-By. If zero, the name of the machine
	// and the port.
	Name string
	// Listen is the address to listen on.
	Listen string
	// Store is the store's URL, as from [storeurl.URL.Raw].
	Store string
	// VerifyOnly refuses a store whose schema is missing instead of setting it up.
	VerifyOnly bool
	// Sweep removes expired sessions, and tells if the store goes away or is set up
	// badly. In a fleet the parent does that.
	Sweep bool
	// NearCache keeps copies of sessions in the worker's memory for a second.
	NearCache bool
	// Secret, if not "", is what a request must carry to be answered (see
	// [balancer.RequireSecret]).
	Secret string
	// Metrics, if not "", is the address to serve metrics on (see [metrics.Address]),
	// and MetricsSecret what a request must carry to be answered with them on Listen:
	// by that the parent of a fleet asks.
	Metrics       string
	MetricsSecret string
	// InsecureCookie is the development cookie, for plain HTTP, under the name
	// InsecureName or, if zero, the default one.
	InsecureCookie bool
	InsecureName   string
	// DrainDelay is how long the worker goes on as before, but for its
	// readiness, when it is asked to stop, for balancers that need time to notice.
	DrainDelay time.Duration
	// DrainTimeout bounds the wait for requests in flight after that.
	DrainTimeout time.Duration
}

// Site is what an app is told about the worker that it runs in.
type Site struct {
	Name           string
	CookieName     string
	InsecureCookie bool
	// Draining reports whether the worker is about to stop: /readyz is then 503.
	Draining func() bool
	// StoreState returns what to say of the store, besides whether it answers.
	StoreState func() storeurl.State
	Logger     *slog.Logger
	// Observer is to be told of the sessions' events; nil if nobody measures.
	Observer func(context.Context, session.Event)
}

// App makes the web app that a worker serves, with its sessions in the store. Its
// GET /readyz must not answer 2xx while the site is draining.
type App func(store.Store, Site) (http.Handler, error)

// Ready is what there is to say of a worker that can serve.
type Ready struct {
	Name     string
	URL      string
	Cookie   string // its name
	Store    storeurl.URL
	Migrated bool   // the store's schema was missing or old, and was set up
	Metrics  string // their URL, if they have an address of their own
}

// Run serves the app until polite ends, then lets the requests in flight finish;
// when now ends, it stops at once and returns the context's cause. It calls ready
// when it can serve.
func Run(polite, now context.Context, c Config, app App, logger *slog.Logger, ready func(Ready) error) (err error) {
	u, err := storeurl.Parse(c.Store)
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", c.Listen, err)
	}
	defer ln.Close()
	measured, err := measure(c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, measured.close()) }()
	// With a store that is away, visitors without a session are served.
	opened, err := u.Open(polite, storeurl.Options{Create: !c.VerifyOnly, Patient: true, NearCache: c.NearCache, Logger: logger})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, opened.Close()) }()
	migrated, err := opened.Prepare(polite, c.VerifyOnly)
	if err != nil {
		return err
	}
	cookie := "__Host-session"
	if c.InsecureCookie {
		cookie = cmp.Or(c.InsecureName, "session")
	}

	name := c.Name
	if name == "" {
		name = defaultName(ln.Addr())
	}
	var draining atomic.Bool
	h, err := app(opened.Store, Site{
		Name: name, CookieName: cookie, InsecureCookie: c.InsecureCookie,
		Draining: draining.Load, StoreState: opened.State, Logger: logger, Observer: measured.observer(),
	})
	if err != nil {
		return err
	}
	if c.Secret != "" {
		h = balancer.RequireSecret(c.Secret, h)
	}
	h = measured.handler(c.MetricsSecret, measured.count(h), logger)
	srv := balancer.NewServer(closing(&draining, h), logger)

	tending, stop := context.WithCancel(now)
	var tended sync.WaitGroup
	defer func() { stop(); tended.Wait() }()
	tended.Go(func() { opened.Run(tending) })
	var ping func(context.Context) error
	if c.Sweep {
		manager, err := session.New(opened.Store, &session.Options{Logger: logger, Observer: measured.observer()})
		if err != nil {
			return err
		}
		ping = manager.Ping
		tended.Go(func() { _ = manager.Run(tending) }) // only ever the context's error
		tended.Go(func() { opened.Watch(tending, logger) })
		tended.Go(func() { opened.Advise(tending, logger) })
	}
	served := make(chan error, 2)
	go func() { served <- srv.Serve(ln) }()
	measured.watch(ping, opened.State)
	measured.serve(served, logger)
	r := Ready{Name: name, URL: "http://" + ln.Addr().String(), Cookie: cookie, Store: u, Migrated: migrated, Metrics: measured.url()}
	if err := ready(r); err != nil {
		return errors.Join(err, srv.Close())
	}

	select {
	case err := <-served:
		return fmt.Errorf("serve: %w", err)
	case <-polite.Done():
	}
	draining.Store(true)
	if c.Secret == "" { // else the parent says it
		logger.Info("draining", "server", name)
	}
	wait(now, c.DrainDelay)
	shutdown := srv.Shutdown
	if c.Secret == "" { // else the parent sends nothing any more
		shutdown = func(ctx context.Context) error { return balancer.Shutdown(ctx, srv, ln) }
	}
	return drain(now, srv, shutdown, c.DrainTimeout)
}

// closing ends each connection with its answer once the worker drains. A balancer that
// kept one could send a change on it at the moment at which the worker closes it, and
// nobody could tell whether that was done.
func closing(draining *atomic.Bool, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if draining.Load() {
			w.Header().Set("Connection", "close")
		}
		h.ServeHTTP(w, r)
	})
}

// drain lets the requests in flight finish, until now or the timeout ends them.
func drain(now context.Context, srv *http.Server, shutdown func(context.Context) error, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(now, timeout)
	defer cancel()
	err := shutdown(ctx)
	if now.Err() != nil {
		return errors.Join(context.Cause(now), srv.Close())
	}
	if err == nil {
		return nil
	}
	closeErr := srv.Close()
	if !errors.Is(err, context.DeadlineExceeded) {
		return errors.Join(err, closeErr)
	}
	return errors.Join(fmt.Errorf("requests were still in flight %v after the stop began, and were cut off", timeout), closeErr)
}

func wait(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

func defaultName(a net.Addr) string {
	host, err := os.Hostname()
	if err != nil {
		host = "server"
	}
	_, port, err := net.SplitHostPort(a.String())
	if err != nil {
		return host
	}
	return host + "-" + port
}
