package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/autoscale"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/stop"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/storeurl"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/up"
)

type upCommand struct {
	Listen    string        `help:"Address of the shop. Port 0 picks a free one; without HOST it listens on every network interface. Default: ${default}." default:"127.0.0.1:8080" placeholder:"HOST:PORT"`
	Admin     string        `help:"Address of the admin interface, on loopback. Port 0 picks a free one. Default: ${default}." default:"127.0.0.1:8081" placeholder:"HOST:PORT"`
	Metrics   string        `help:"Address at which Prometheus scrapes metrics of everything; without a host, this machine only. Off by default." placeholder:"HOST:PORT"`
	Workers   *int          `help:"How many web servers to keep. Default: 3." placeholder:"N" xor:"count"`
	Autoscale string        `help:"Keep as many web servers as the load takes, from MIN to MAX, instead. Setting their number by hand pauses that." placeholder:"MIN:MAX" xor:"count"`
	Target    float64       `name:"autoscale-target" help:"How many requests at once one web server is for. Default: ${default}." default:"10" placeholder:"N"`
	Window    time.Duration `name:"autoscale-window" help:"Over how long the load is averaged; a tenth of it tells a burst, after which no server goes for as long. Default: ${default}." default:"1m" placeholder:"TIME"`
	Store     string        `help:"Where sessions are kept: ${stores}. Their parameters are in docs/operations.md. The default is a SQLite file in the user's cache folder." placeholder:"URL" env:"COATCHECK_STORE"`
	NearCache bool          `help:"Each worker keeps copies of sessions in memory: most reads ask no store, and what another worker changes is seen within a second."`
	NoMigrate bool          `help:"Refuse a store whose schema is missing instead of setting it up."`
	TLSCert   string        `name:"tls-cert" help:"Certificate chain in PEM; the shop is then HTTPS and its cookie the strict one." placeholder:"FILE"`
	TLSKey    string        `name:"tls-key" help:"Private key of the certificate in PEM." placeholder:"FILE"`

	config up.Config
}

// Validate is called by kong; its errors are errors of usage.
func (c *upCommand) Validate() error {
	u, err := storeurl.Parse(c.Store)
	if err != nil {
		return fmt.Errorf("--store: %w", err)
	}
	workers, scaling, err := c.count()
	if err != nil {
		return err
	}
	c.config = up.Config{
		Listen:     c.Listen,
		Admin:      c.Admin,
		Metrics:    c.Metrics,
		Workers:    workers,
		Autoscale:  scaling,
		Store:      u,
		NearCache:  c.NearCache,
		NoMigrate:  c.NoMigrate,
		TLSCert:    c.TLSCert,
		TLSKey:     c.TLSKey,
		WorkerArgs: []string{"serve", "--supervised"},
	}
	return c.config.Validate()
}

const defaultWorkers = 3

// count returns how many workers to start, and by what to change that.
func (c *upCommand) count() (workers int, scaling *autoscale.Config, err error) {
	switch {
	case c.Workers != nil:
		return *c.Workers, nil, nil
	case c.Autoscale == "":
		return defaultWorkers, nil, nil
	}
	lo, hi, err := minMax(c.Autoscale)
	if err != nil {
		return 0, nil, err
	}
	if err := checkScaling(c.Target, c.Window); err != nil {
		return 0, nil, err
	}
	return lo, &autoscale.Config{Min: lo, Max: hi, Target: c.Target, Window: c.Window}, nil
}

// checkScaling refuses zeros, which the package would take for its defaults.
func checkScaling(target float64, window time.Duration) error {
	switch {
	case !(target > 0):
		return errors.New("--autoscale-target must be above 0")
	case window <= 0:
		return errors.New("--autoscale-window must be above 0")
	}
	return nil
}

// minMax reads the value of --autoscale.
func minMax(s string) (lo, hi int, err error) {
	least, most, ok := strings.Cut(s, ":")
	lo, err1 := strconv.Atoi(least)
	hi, err2 := strconv.Atoi(most)
	if !ok || err1 != nil || err2 != nil {
		return 0, 0, fmt.Errorf("--autoscale: %q is not MIN:MAX, as 2:10", s)
	}
	return lo, hi, nil
}

// Run is called by kong.
func (c *upCommand) Run(p *printer) error {
	polite, now, release := stop.Notify(context.Background())
	defer release()
	defer endSurely(now)()
	return up.Run(polite, now, c.config, p.stderr, p.logger, func(r up.Running) error {
		workers := "workers"
		if r.Workers == 1 {
			workers = "worker"
		}
		return p.result(r.Ready, fmt.Sprintf("%d %s ready: shop %s admin %s%s", r.Workers, workers, r.Shop, r.AdminLink(), withMetrics(r.Metrics)))
	})
}

// withMetrics returns the end of a ready line.
func withMetrics(url string) string {
	if url == "" {
		return ""
	}
	return " metrics " + url
}
