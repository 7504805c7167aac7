// Package up is the main job: a store, a fleet of workers over it, a balancer in
// front of them and an admin interface beside them, started together and ended
// together.
package up

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"sync"
	"time"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/admin"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/autoscale"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/balancer"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/console"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/fleet"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/load"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/metrics"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/storeurl"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/worker"
	"github.com/coatcheck/coatcheck/session"
)

// Config is what the command line says.
type Config struct {
	Listen    string            // of the balancer
	Admin     string            // of the admin interface; loopback
	Metrics   string            // for Prometheus (see [metrics.Address]); "" for none
	Workers   int               // if Autoscale is set, those at the start
	Autoscale *autoscale.Config // nil for a fixed number
	Store     storeurl.URL
	NearCache bool // workers keep copies of sessions in memory
	// Apart gives each worker a store of its own, in its memory, and Sticky brings
	// visitors back to the worker that answered them first: what an app without a
	// shared store does. Store is not used then.
	Apart, Sticky bool
	NoMigrate     bool   // refuse a missing schema instead of setting it up
	TLSCert       string // files; both or none
	TLSKey        string
	// WorkerArgs are the arguments that make this binary a worker that takes its
	// configuration from its parent.
	WorkerArgs []string
}

// Ready is what there is to say when all workers are ready.
type Ready struct {
	Shop       string `json:"shop"`
	Admin      string `json:"admin"`
	AdminToken string `json:"admin_token"`
	Workers    int    `json:"workers"`
	Store      string `json:"store"`
	Cookie     string `json:"cookie"`
	Insecure   bool   `json:"insecure_cookie"`
	Metrics    string `json:"metrics,omitzero"`
}

// Running is a fleet that is ready.
type Running struct {
	Ready
	Fleet    admin.Fleet
	Balancer func() balancer.Status
}

// AdminLink returns the address that signs a browser in to the admin interface.
func (r Ready) AdminLink() string { return r.Admin + "/?token=" + r.AdminToken }

// drainTimeout bounds how long the requests in flight may take when all stops.
const drainTimeout = 20 * time.Second

// stopTimeout is how long a worker may take to end that has nothing in flight.
const stopTimeout = 5 * time.Second

// queueTimeout is how long a request waits for a worker when none is ready, as
// when the only one was killed: a replacement takes a fraction of a second.
const queueTimeout = 10 * time.Second

// Validate returns what is wrong with the configuration on its face, as an error
// that names the flag.
func (c Config) Validate() error {
	most := c.Workers
	if a := c.Autoscale; a != nil {
		if err := a.Validate(); err != nil {
			return fmt.Errorf("--autoscale: %w", err)
		}
		if a.Max > fleet.MaxWorkers {
			return fmt.Errorf("--autoscale: %w", fleet.ErrCount)
		}
		most = a.Max
	} else if c.Workers < 1 || c.Workers > fleet.MaxWorkers {
		return fmt.Errorf("--workers: %w", fleet.ErrCount)
	}
	if err := c.checkShared(most); err != nil {
		return fmt.Errorf("--store: %w", err)
	}
	if c.NearCache {
		if err := c.Store.CheckNearCache(); err != nil {
			return fmt.Errorf("--near-cache: %w", err)
		}
	}
	if (c.TLSCert == "") != (c.TLSKey == "") {
		return errors.New("--tls-cert and --tls-key go together: give both or none")
	}
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		return fmt.Errorf("--listen: %q is not host:port, as 127.0.0.1:8080", c.Listen)
	}
	if err := admin.CheckAddr(c.Admin); err != nil {
		return fmt.Errorf("--admin: %w", err)
	}
	if c.Metrics != "" {
		if _, err := metrics.Address(c.Metrics); err != nil {
			return fmt.Errorf("--metrics: %w", err)
		}
	}
	return nil
}

func (c Config) checkShared(workers int) error {
	if c.Apart {
		return nil
	}
	if workers > 1 && !c.Store.Shared() {
		return fmt.Errorf("%v is the memory of one process: the other workers would not know its sessions, and visitors would lose theirs with every request; use one worker, or a store that they share, as sqlite:PATH or redis://HOST", c.Store)
	}
	return nil
}

// workerStore returns the URL of the store of a worker.
func (c Config) workerStore() string {
	if c.Apart {
		return "memory:"
	}
	return c.Store.Raw()
}

// Run starts everything, calls ready when all workers are, and serves until
// polite ends; then it drains and stops everything. When now ends, it kills the
// workers and returns the context's cause. In both cases it leaves nothing behind.
func Run(polite, now context.Context, c Config, out *console.Console, logger *slog.Logger, ready func(Running) error) (err error) {
	front, err := listen("--listen", c.Listen, net.Listen)
	if err != nil {
		return err
	}
	defer front.Close()
	side, err := listen("--admin", c.Admin, func(_, addr string) (net.Listener, error) { return admin.Listen(addr) })
	if err != nil {
		return err
	}
	defer side.Close()
	measured, err := measure(c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, measured.close()) }()

	var certificates []tls.Certificate
	if c.TLSCert != "" {
		cert, err := tls.LoadX509KeyPair(c.TLSCert, c.TLSKey)
		if err != nil {
			return fmt.Errorf("--tls-cert, --tls-key: %w", err)
		}
		certificates = []tls.Certificate{cert}
	}

	st, err := openStore(polite, c, measured.observer(), logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.close()) }()

	secret, token := rand.Text(), rand.Text() // 130 bits each
	cookie, insecure := "__Host-session", false
	if certificates == nil {
		// Cookies cross the ports of a host.
		cookie, insecure = "session-"+port(front), true
	}
	balancing := &balancer.Options{Secret: secret, Logger: logger, QueueTimeout: queueTimeout}
	if c.Sticky {
		balancing.Sticky = "coatcheck-server-" + port(front)
	}
	bal := balancer.New(balancing)
	workers := fleet.New(bal, func(name string) (*exec.Cmd, any, error) {
		if err := st.check(); err != nil {
			return nil, nil, err // it would have sessions that the others do not know
		}
		cmd, err := self(c.WorkerArgs...)
		return cmd, worker.Config{
			Name:           name,
			Listen:         "127.0.0.1:0",
			Store:          c.workerStore(),
			NearCache:      c.NearCache,
			VerifyOnly:     true, // the parent has set it up
			Sweep:          !c.Store.Shared() || c.Apart,
			Secret:         secret,
			MetricsSecret:  measured.workerSecret(),
			InsecureCookie: insecure,
			InsecureName:   cookie,
			DrainTimeout:   drainTimeout,
		}, err
	}, &fleet.Options{Output: out, Logger: logger, DrainTimeout: drainTimeout, StopTimeout: stopTimeout})
	defer workers.KillAll() // nothing is left behind, whatever happens

	checking, stopChecks := context.WithCancel(context.Background())
	checked := make(chan struct{})
	go func() {
		defer close(checked)
		bal.Run(checking)
	}()
	defer func() { stopChecks(); <-checked }()

	if err := workers.Start(polite, c.Workers); err != nil {
		if polite.Err() != nil {
			return fmt.Errorf("stopped before the workers were ready: %w", context.Cause(polite))
		}
		return err
	}

	var steered admin.Fleet = limited{workers, c}
	if c.Autoscale != nil {
		a := &autoscaled{Fleet: workers, config: c, goal: c.Autoscale.Complete()}
		steered = a
		scaling, stopScaling := context.WithCancel(polite)
		scaled := make(chan struct{})
		go func() {
			defer close(scaled)
			a.run(scaling, bal)
		}()
		defer func() { stopScaling(); <-scaled }()
	}
	frontServer := balancer.NewServer(measured.around(bal), logger)
	frontServer.TLSConfig = &tls.Config{Certificates: certificates, MinVersion: tls.VersionTLS12}
	shop := shopURL(c.Listen, front, certificates != nil)
	shoppers := load.New(shop, think, onlyThis(certificates))
	defer shoppers.Close(now) // when nobody answers them any more
	dashboard := admin.New(admin.Options{
		Token:      token,
		CookieName: "coatcheck-admin-" + port(side),
		Fleet:      steered,
		Balancer:   bal.Status,
		Latency:    bal.Latency,
		Store:      st.status,
		Load:       shoppers,
		Shop:       shop,
		Logger:     logger,
	})
	watching, stopWatching := context.WithCancel(context.Background())
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		dashboard.Run(watching)
	}()
	sideServer := admin.NewServer(dashboard, logger)
	served := make(chan error, 3)
	go func() {
		if certificates != nil {
			served <- frontServer.ServeTLS(balancer.Listener(front), "", "")
		} else {
			served <- frontServer.Serve(balancer.Listener(front))
		}
	}()
	go func() { served <- sideServer.Serve(side) }()
	measured.serve(bal, workers, steered, st, served, logger)
	defer frontServer.Close()
	defer func() {
		stopWatching() // which ends the streams, when they have told the last events
		<-watched
		ending, cancel := context.WithTimeout(now, adminTimeout)
		defer cancel()
		if sideServer.Shutdown(ending) != nil {
			_ = sideServer.Close()
		}
	}()

	r := Ready{
		Shop:       shop,
		Admin:      "http://" + side.Addr().String(),
		AdminToken: token,
		Workers:    c.Workers,
		Store:      c.Store.String(),
		Cookie:     cookie,
		Insecure:   insecure,
		Metrics:    measured.url(),
	}
	if err := ready(Running{r, steered, bal.Status}); err != nil {
		return err
	}
	stopStatus := showStatus(out, r, st.topology(), workers, bal)
	defer stopStatus()

	select {
	case err = <-served:
		err = fmt.Errorf("serve: %w", err)
	case <-polite.Done():
	}
	stopStatus()
	closeShop(now, shoppers)
	return errors.Join(err, shutDown(now, frontServer, workers, bal, logger, drainTimeout))
}

// adminTimeout is how long requests to the admin interface may take when all stops.
const adminTimeout = time.Second

// think is how long the shoppers of the admin interface look at a page, on average.
const think = time.Second

// leaveTimeout is how long they may take to leave: after it their requests are as
// everybody's.
const leaveTimeout = 2 * time.Second

// closeShop asks the shoppers to leave while the shop still answers: else they would count
// as failed what they ask of a shop that closes.
func closeShop(now context.Context, shoppers *load.Load) {
	leaving, cancel := context.WithTimeout(now, leaveTimeout)
	defer cancel()
	shoppers.Close(leaving)
}

// onlyThis returns a configuration that accepts the shop's own certificate and no other:
// it may be for another name than the one that works on this machine, and nobody need
// have signed it.
func onlyThis(certificates []tls.Certificate) *tls.Config {
	if certificates == nil {
		return nil
	}
	own := certificates[0].Certificate[0]
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: true, // in favour of what is stricter:
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 || !bytes.Equal(s.PeerCertificates[0].Raw, own) {
				return errors.New("this is not the shop's certificate")
			}
			return nil
		},
	}
}

// shutDown lets the requests in flight finish, but no longer than the timeout, and
// ends the workers. A visitor who is slower than that is no failure of ours.
func shutDown(now context.Context, front *http.Server, workers *fleet.Fleet, bal *balancer.Balancer, logger *slog.Logger, timeout time.Duration) error {
	if now.Err() != nil {
		return context.Cause(now)
	}
	draining, cancel := context.WithTimeout(now, timeout)
	defer cancel()
	logger.Info("draining; interrupt again to stop at once", "in_flight", bal.Status().InFlight)
	if err := front.Shutdown(draining); err != nil && now.Err() == nil {
		logger.Warn("requests were still in flight and are cut off", "in_flight", bal.Status().InFlight, "after", timeout)
		_ = front.Close() // the listeners are closed already
	}
	// They have time of their own, for the visitors may have used up theirs.
	ending, cancel := context.WithTimeout(now, 2*stopTimeout)
	defer cancel()
	err := workers.Shutdown(ending)
	if now.Err() != nil {
		return context.Cause(now)
	}
	if err == nil {
		logger.Info("stopped")
	}
	return err
}

// listen listens for the flag.
func listen(flag, addr string, listen func(network, addr string) (net.Listener, error)) (net.Listener, error) {
	ln, err := listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w; choose another address, or port 0 for a free one", flag, addr, err)
	}
	return ln, nil
}

func port(ln net.Listener) string {
	_, port, err := net.SplitHostPort(ln.Addr().String())
	if err != nil {
		return "0"
	}
	return port
}

// shopURL returns an address of the shop that works on this machine. A host that
// the user has named stays, for a certificate may be for that name.
func shopURL(flag string, ln net.Listener, secure bool) string {
	scheme := "http"
	if secure {
		scheme = "https"
	}
	host, _, err := net.SplitHostPort(flag)
	if a, perr := netip.ParseAddr(host); err != nil || host == "" || perr == nil && a.IsUnspecified() {
		host = "127.0.0.1"
	}
	return scheme + "://" + net.JoinHostPort(host, port(ln))
}

// parentStore is the store as the parent uses it: to set it up, to sweep it and
// to see whether it answers. A store in memory is its worker's alone.
type parentStore struct {
	url     storeurl.URL
	opened  *storeurl.Opened
	manager *session.Manager
	stop    func()
}

func openStore(ctx context.Context, c Config, observer func(context.Context, session.Event), logger *slog.Logger) (*parentStore, error) {
	p := &parentStore{url: c.Store}
	if !c.Store.Shared() || c.Apart {
		return p, nil
	}
	var err error
	if p.opened, err = c.Store.Open(ctx, storeurl.Options{Create: !c.NoMigrate, Logger: logger}); err != nil {
		return nil, err
	}
	migrated, err := p.opened.Prepare(ctx, c.NoMigrate)
	if err != nil {
		if c.NoMigrate && storeurl.IsSchemaMissing(err) {
			err = fmt.Errorf("%w; leave out --no-migrate to have it set up", err)
		}
		return nil, errors.Join(err, p.opened.Close())
	}
	if migrated {
		logger.Info("set up the session store", "store", c.Store)
	}
	if p.manager, err = session.New(p.opened.Store, &session.Options{Logger: logger, Observer: observer}); err != nil {
		return nil, errors.Join(err, p.opened.Close())
	}
	tending, cancel := context.WithCancel(context.Background())
	var tended sync.WaitGroup
	tended.Go(func() { _ = p.manager.Run(tending) }) // only ever the context's error
	tended.Go(func() { p.opened.Watch(tending, logger) })
	tended.Go(func() { p.opened.Advise(tending, logger) })
	p.stop = func() { cancel(); tended.Wait() }
	return p, nil
}

// check returns why a worker that starts now would open another store.
func (p *parentStore) check() error {
	if p.opened == nil {
		return nil
	}
	return p.opened.Check()
}

func (p *parentStore) close() error {
	if p.opened == nil {
		return nil
	}
	p.stop()
	return p.opened.Close()
}

// topology returns in words where the sessions are.
func (p *parentStore) topology() string {
	if p.opened == nil {
		return p.url.Kind()
	}
	return p.opened.State().Topology
}

func (p *parentStore) status(ctx context.Context) admin.Store {
	s := admin.Store{URL: p.url.String(), Name: p.url.Name(), Kind: p.url.Kind(), Topology: p.topology(), Shared: p.url.Shared(), State: "unknown"}
	if p.manager == nil {
		return s
	}
	s.State = "ok"
	began := time.Now()
	if err := p.manager.Ping(ctx); err != nil {
		s.State, s.Error = "unavailable", err.Error()
	} else {
		s.Ping = float64(time.Since(began).Microseconds()) / 1000
	}
	s.Breaker = p.opened.State().Breaker // which the ping may have changed
	return s
}
