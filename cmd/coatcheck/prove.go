package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/autoscale"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/fleet"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/prove"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/stop"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/storeurl"
)

type proveCommand struct {
	Sessions string        `help:"Where sessions are kept: external, a store that all servers share; local, each server's memory; sticky, the same behind a balancer that brings visitors back to their server. Default: ${default}." enum:"external,local,sticky" default:"external"`
	Compare  bool          `help:"Run the same experiment with all three, and show them side by side."`
	Duration time.Duration `help:"How long shoppers come. Default: ${default}." default:"60s" placeholder:"TIME"`
	Shoppers int           `help:"How many are there at once, on average. They come whether the shop is slow or not. Default: ${default}." default:"200" placeholder:"N"`
	Workers  int           `help:"How many web servers to keep. Default: ${default}." default:"3" placeholder:"N"`
	Kills    int           `help:"How many servers to kill by SIGKILL, at times that the seed decides. Default: ${default}." default:"20" placeholder:"N"`
	ScaleTo  int           `help:"To how many servers to scale for a fifth of the time, and back; 0 for no scaling. Default: ${default}." default:"10" placeholder:"N"`
	Spike    float64       `help:"By how much more shoppers come for a fifth of the time." placeholder:"FACTOR"`
	Auto     string        `name:"autoscale" help:"Keep as many web servers as the load takes, in place of --workers and --scale-to." placeholder:"MIN:MAX"`
	Target   float64       `name:"autoscale-target" help:"How many requests at once one web server is for; few, as the shop answers in a millisecond or two. Default: ${default}." default:"0.1" placeholder:"N"`
	Window   time.Duration `name:"autoscale-window" help:"How long fewer web servers must have been enough before some go. Default: ${default}." default:"10s" placeholder:"TIME"`
	Think    time.Duration `help:"How long a shopper looks at a page, on average. Default: ${default}." default:"1s" placeholder:"TIME"`
	Seed     uint64        `help:"What the shoppers do, when they come and what is killed depends on it alone. Default: random, and told." placeholder:"N"`
	Store    string        `help:"The store of external sessions: ${stores}. The default is a SQLite file of the experiment's own." placeholder:"URL" env:"COATCHECK_STORE"`
	Report   string        `help:"Also write the result as a page of HTML." placeholder:"FILE"`

	config prove.Config
}

// Validate is called by kong; its errors are errors of usage.
func (c *proveCommand) Validate() error {
	const maxDuration, maxShoppers, maxKills = time.Hour, 100_000, 10_000
	switch {
	case c.Duration < time.Second || c.Duration > maxDuration:
		return fmt.Errorf("--duration must be between 1s and %v", maxDuration)
	case c.Shoppers < 1 || c.Shoppers > maxShoppers:
		return fmt.Errorf("--shoppers must be between 1 and %d", maxShoppers)
	case c.Workers < 1 || c.Workers > fleet.MaxWorkers:
		return fmt.Errorf("--workers: %w", fleet.ErrCount)
	case c.Kills < 0 || c.Kills > maxKills:
		return fmt.Errorf("--kills must be between 0 and %d", maxKills)
	case c.ScaleTo < 0 || c.ScaleTo > fleet.MaxWorkers:
		return fmt.Errorf("--scale-to must be between 0, for no scaling, and %d", fleet.MaxWorkers)
	case c.Spike != 0 && !(c.Spike >= 1 && c.Spike <= 1000):
		return errors.New("--spike must be between 1 and 1000")
	case c.Think < time.Millisecond || c.Think > time.Minute:
		return errors.New("--think must be between 1ms and 1m")
	}
	c.config = prove.Config{
		Sessions: prove.Mode(c.Sessions), Duration: c.Duration, Shoppers: c.Shoppers, Workers: c.Workers,
		Kills: c.Kills, ScaleTo: c.ScaleTo, Spike: c.Spike, Think: c.Think, Seed: c.Seed,
		WorkerArgs: []string{"serve", "--supervised"},
	}
	if c.Auto != "" {
		lo, hi, err := minMax(c.Auto)
		if err != nil {
			return err
		}
		scaling := autoscale.Config{Min: lo, Max: hi, Target: c.Target, Window: c.Window}
		if err := scaling.Validate(); err != nil {
			return fmt.Errorf("--autoscale: %w", err)
		}
		c.config.Workers, c.config.ScaleTo, c.config.Autoscale = lo, 0, &scaling
	}
	if c.Store == "" {
		return nil
	}
	u, err := storeurl.Parse(c.Store)
	if err != nil {
		return fmt.Errorf("--store: %w", err)
	}
	if !u.Shared() {
		return fmt.Errorf("--store: %v is the memory of one process; for the control of the experiment use --sessions local", u)
	}
	c.config.Store = u
	return nil
}

// Run is called by kong.
func (c *proveCommand) Run(p *printer) error {
	polite, now, release := stop.Notify(context.Background())
	defer release()
	defer endSurely(now)()
	if c.config.Seed == 0 {
		c.config.Seed = rand.Uint64()
	}
	modes := []prove.Mode{c.config.Sessions}
	if c.Compare {
		modes = []prove.Mode{prove.External, prove.Sticky, prove.Local}
	}
	var results []*prove.Result
	for _, mode := range modes {
		config := c.config
		config.Sessions = mode
		if !p.stderr.Live() {
			_, _ = fmt.Fprintf(p.stderr, "coatcheck: %d shoppers for %v, sessions %s, seed %d\n", c.Shoppers, c.Duration, mode, config.Seed)
		}
		r, err := prove.Run(polite, config, func(at prove.Progress) {
			if p.stderr.Live() {
				line := progressLine(mode, at)
				p.stderr.SetStatus(line, len(line))
			}
		})
		p.stderr.SetStatus("", 0)
		if err != nil {
			return err
		}
		results = append(results, r)
	}
	if c.Report != "" {
		if err := os.WriteFile(c.Report, prove.Page(results), 0o644); err != nil {
			return fmt.Errorf("--report: %w", err)
		}
	}
	text := results[0].Text()
	var v any = results[0]
	if c.Compare {
		text += "\n\n" + prove.Compare(results)
		v = struct {
			*prove.Result
			Compare []*prove.Result `json:"compare"`
		}{results[0], results[1:]}
	}
	if err := p.result(v, text); err != nil {
		return err
	}
	if results[0].Sessions == prove.External && !results[0].Flawless() {
		return statusError(exitFailed)
	}
	return nil
}

// progressLine shows how far it is.
func progressLine(mode prove.Mode, p prove.Progress) string {
	const width = 20
	full := min(width, int(p.Elapsed*width/p.Duration))
	return fmt.Sprintf("%s [%s%s] %3.0fs of %v  %d servers  %d requests  %d failed", mode,
		strings.Repeat("█", full), strings.Repeat("·", width-full), p.Elapsed.Seconds(), p.Duration, p.Ready, p.Requests, p.Faults)
}
