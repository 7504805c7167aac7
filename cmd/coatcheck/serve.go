package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/handover"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/metrics"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/stop"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/storeurl"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/worker"
)

type serveCommand struct {
	Listen         string        `help:"Address of the server. Port 0 picks a free one; without HOST it listens on every network interface. Default: ${default}." default:"127.0.0.1:8080" placeholder:"HOST:PORT"`
	Metrics        string        `help:"Address at which Prometheus scrapes metrics; without a host, this machine only. Off by default." placeholder:"HOST:PORT"`
	Store          string        `help:"Where sessions are kept: ${stores}. Their parameters are in docs/operations.md. The default is a SQLite file in the user's cache folder." placeholder:"URL" env:"COATCHECK_STORE"`
	NearCache      bool          `help:"Keep copies of sessions in memory: most reads ask no store, and what other servers change is seen within a second."`
	Name           string        `help:"Name of the server in X-Served-By. The default is made of the machine's name and the port." placeholder:"NAME"`
	InsecureCookie bool          `help:"Use the development cookie, which browsers send over plain HTTP. Without it the balancer in front must speak HTTPS."`
	NoMigrate      bool          `help:"Refuse a store whose schema is missing instead of setting it up."`
	DrainDelay     time.Duration `help:"After SIGTERM, how long to serve on with /readyz at 503, for balancers that poll it. Default: ${default}." default:"0s" placeholder:"TIME"`
	DrainTimeout   time.Duration `help:"After that, how long to wait for requests in flight. Default: ${default}." default:"20s" placeholder:"TIME"`
	Supervised     bool          `hidden:"" help:"Take the configuration from the parent on standard input, and end with it."`
}

// Validate is called by kong; its errors are errors of usage.
func (c *serveCommand) Validate() error {
	if c.Supervised {
		return nil
	}
	u, err := storeurl.Parse(c.Store)
	if err != nil {
		return fmt.Errorf("--store: %w", err)
	}
	if c.NearCache {
		if err := u.CheckNearCache(); err != nil {
			return fmt.Errorf("--near-cache: %w", err)
		}
	}
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		return fmt.Errorf("--listen: %q is not host:port, as 127.0.0.1:8080", c.Listen)
	}
	if c.Metrics != "" {
		if _, err := metrics.Address(c.Metrics); err != nil {
			return fmt.Errorf("--metrics: %w", err)
		}
	}
	if c.DrainDelay < 0 || c.DrainTimeout <= 0 {
		return errors.New("--drain-delay must not be negative and --drain-timeout must be positive")
	}
	return nil
}

// Run is called by kong.
func (c *serveCommand) Run(p *printer) error {
	ctx, end := context.WithCancelCause(context.Background())
	defer end(nil)
	polite, now, release := stop.Notify(ctx)
	defer release()
	defer endSurely(now)()
	if c.Supervised {
		return supervised(polite, now, end, p)
	}
	return worker.Run(polite, now, worker.Config{
		Name:           c.Name,
		Listen:         c.Listen,
		Metrics:        c.Metrics,
		Store:          c.Store,
		NearCache:      c.NearCache,
		VerifyOnly:     c.NoMigrate,
		Sweep:          true,
		InsecureCookie: c.InsecureCookie,
		DrainDelay:     c.DrainDelay,
		DrainTimeout:   c.DrainTimeout,
	}, newShop, p.logger, func(r worker.Ready) error {
		if r.Migrated {
			p.logger.Info("set up the session store", "store", r.Store)
		}
		return p.result(struct {
			Name    string `json:"name"`
			URL     string `json:"url"`
			Store   string `json:"store"`
			Cookie  string `json:"cookie"`
			Metrics string `json:"metrics,omitzero"`
		}{r.Name, r.URL, r.Store.String(), r.Cookie, r.Metrics},
			fmt.Sprintf("%s ready: %s%s", r.Name, r.URL, withMetrics(r.Metrics)))
	})
}

// reportedError is an error that was told where it matters.
type reportedError struct{ error }

var errParentGone = errors.New("the parent is gone")

// parentGrace is how long an orphan may take to close its store.
const parentGrace = time.Second

// supervised is a worker of `coatcheck up`.
func supervised(polite, now context.Context, end context.CancelCauseFunc, p *printer) error {
	var c worker.Config
	gone, err := handover.Receive(os.Stdin, &c)
	if err != nil {
		return err
	}
	go func() {
		<-gone
		// The balancer is gone too: nobody waits for what is in flight.
		time.AfterFunc(parentGrace, func() { os.Exit(exitFailed) })
		end(errParentGone)
	}()
	reported := false
	err = worker.Run(polite, now, c, newShop, p.logger, func(r worker.Ready) error {
		reported = true
		return handover.Send(os.Stdout, handover.Report{URL: r.URL})
	})
	if err != nil && !reported && now.Err() == nil {
		// The parent says it, in the worker's name.
		if handover.Send(os.Stdout, handover.Report{Error: err.Error()}) == nil {
			return reportedError{err}
		}
	}
	return err
}
