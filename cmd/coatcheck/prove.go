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
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/console"
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
	Workers  *int          `help:"How many web servers to keep. Default: 3." placeholder:"N" xor:"workers"`
	Kills    int           `help:"How many servers to kill by SIGKILL, at times that the seed decides. Default: ${default}." default:"20" placeholder:"N"`
	ScaleTo  *int          `help:"To how many servers to scale for a fifth of the time, and back; 0 for no scaling. Default: 10." placeholder:"N" xor:"scale"`
	Spike    float64       `help:"By how much more shoppers come for a fifth of the time." placeholder:"FACTOR"`
	Auto     string        `name:"autoscale" help:"Keep as many web servers as the load takes, in place of --workers and --scale-to." placeholder:"MIN:MAX" xor:"workers,scale"`
	Target   float64       `name:"autoscale-target" help:"How many requests at once one web server is for; few, as the shop answers in a millisecond or two. Default: ${default}." default:"0.1" placeholder:"N"`
	Window   time.Duration `name:"autoscale-window" help:"Over how long the load is averaged; a tenth of it tells a burst, after which no server goes for as long. Default: ${default}." default:"10s" placeholder:"TIME"`
	Restarts int           `name:"store-restarts" help:"How often the store breaks all connections and takes none for a second; what it answers 503 for then is counted apart. It must be a server on this machine." placeholder:"N"`
	Slow     time.Duration `name:"slow-store" help:"By how much later the store answers for a fifth of the time. It must be a server on this machine." placeholder:"TIME"`
	Think    time.Duration `help:"How long a shopper looks at a page, on average. Default: ${default}." default:"1s" placeholder:"TIME"`
	Seed     uint64        `help:"What the shoppers do, when they come and what is killed depends on it alone. Default: random, and told." placeholder:"N"`
	Store    string        `help:"The store of external sessions: ${stores}. The default is a SQLite file of the experiment's own." placeholder:"URL"`
	Report   string        `help:"Also write the result as a page of HTML." placeholder:"FILE"`
	Log      string        `help:"Write what the servers log to a file." placeholder:"FILE"`

	config prove.Config
}

// Validate is called by kong; its errors are errors of usage.
func (c *proveCommand) Validate() error {
	const maxDuration, maxShoppers, maxKills = time.Hour, 100_000, 1000 // of more kills the events are forgotten
	const maxRestarts, maxSlow = 1000, 500 * time.Millisecond           // a call may take a second, and is not one round trip always
	workers, scaleTo := 3, 10
	if c.Workers != nil {
		workers = *c.Workers
	}
	if c.ScaleTo != nil {
		scaleTo = *c.ScaleTo
	}
	switch {
	case c.Duration < time.Second || c.Duration > maxDuration:
		return fmt.Errorf("--duration must be between 1s and %v", maxDuration)
	case c.Shoppers < 1 || c.Shoppers > maxShoppers:
		return fmt.Errorf("--shoppers must be between 1 and %d", maxShoppers)
	case workers < 1 || workers > fleet.MaxWorkers:
		return fmt.Errorf("--workers: %w", fleet.ErrCount)
	case c.Kills < 0 || c.Kills > maxKills:
		return fmt.Errorf("--kills must be between 0 and %d", maxKills)
	case scaleTo < 0 || scaleTo > fleet.MaxWorkers:
		return fmt.Errorf("--scale-to must be between 0, for no scaling, and %d", fleet.MaxWorkers)
	case c.Spike != 0 && !(c.Spike >= 1 && c.Spike <= 1000):
		return errors.New("--spike must be between 1 and 1000")
	case c.Restarts < 0 || c.Restarts > maxRestarts:
		return fmt.Errorf("--store-restarts must be between 0 and %d", maxRestarts)
	case c.Slow < 0 || c.Slow > maxSlow:
		return fmt.Errorf("--slow-store must be between 0 and %v", maxSlow)
	case c.Think < time.Millisecond || c.Think > time.Minute:
		return errors.New("--think must be between 1ms and 1m")
	}
	c.config = prove.Config{
		Sessions: prove.Mode(c.Sessions), Duration: c.Duration, Shoppers: c.Shoppers, Workers: workers,
		Kills: c.Kills, ScaleTo: scaleTo, Spike: c.Spike, Think: c.Think, Seed: c.Seed, StoreRestarts: c.Restarts, SlowStore: c.Slow,
		WorkerArgs: []string{"serve", "--supervised"},
	}
	if c.Auto != "" {
		lo, hi, err := minMax(c.Auto)
		if err == nil {
			err = checkScaling(c.Target, c.Window)
		}
		if err != nil {
			return err
		}
		if hi > fleet.MaxWorkers {
			return fmt.Errorf("--autoscale: %w", fleet.ErrCount)
		}
		scaling := autoscale.Config{Min: lo, Max: hi, Target: c.Target, Window: c.Window}
		if err := scaling.Validate(); err != nil {
			return fmt.Errorf("--autoscale: %w", err)
		}
		c.config.Workers, c.config.ScaleTo, c.config.Autoscale = lo, 0, &scaling
	}
	switch external := c.config.Sessions == prove.External; {
	case c.Compare && !external:
		return errors.New("--compare runs the experiment with all kinds of sessions: leave --sessions out")
	case c.Store != "" && !external:
		return fmt.Errorf("--sessions %s keeps sessions in memory: leave --store out", c.Sessions)
	}
	if c.Store != "" {
		u, err := storeurl.Parse(c.Store)
		if err != nil {
			return fmt.Errorf("--store: %w", err)
		}
		if !u.Shared() {
			return fmt.Errorf("--store: %v is the memory of one process; for the control of the experiment use --sessions local", u)
		}
		if _, err := u.Server(); err != nil && (c.Restarts > 0 || c.Slow > 0) {
			return fmt.Errorf("--store: %w", err)
		}
		c.config.Store = u
	}
	return c.config.Validate()
}

// Run is called by kong.
func (c *proveCommand) Run(p *printer) error {
	polite, now, release := stop.Notify(context.Background())
	defer release()
	defer endSurely(now)()
	if c.config.Seed == 0 {
		c.config.Seed = rand.Uint64N(1<<53-1) + 1 // which JSON's readers keep
	}
	report, err := open("--report", c.Report, 0)
	if err != nil {
		return err
	}
	log, err := open("--log", c.Log, os.O_TRUNC)
	if err != nil {
		return err
	}
	if log != nil {
		defer log.Close()
		c.config.Log = log
	}
	modes := []prove.Mode{c.config.Sessions}
	if c.Compare {
		modes = []prove.Mode{prove.External, prove.Sticky, prove.Local}
	}
	where := "shared sessions in a SQLite file of their own"
	switch {
	case c.config.Sessions == prove.Sticky:
		where = "sessions in the memory of each server, behind a sticky balancer"
	case c.config.Sessions == prove.Local:
		where = "sessions in the memory of each server"
	case c.Store != "":
		where = "shared sessions in " + c.config.Store.String()
	}
	if c.Compare {
		where += ", then in memory"
	}
	_, _ = fmt.Fprintf(p.stderr, "coatcheck: about %d shoppers at once for %v, seed %d, %s\n", c.Shoppers, c.Duration, c.config.Seed, where)
	var results []*prove.Result
	for _, mode := range modes {
		config := c.config
		config.Sessions = mode
		var r *prove.Result
		r, err = prove.Run(polite, config, func(at prove.Progress) {
			if p.stderr.Live() {
				p.stderr.SetStatus(progressLine(mode, at), console.Width())
			}
		})
		p.stderr.SetStatus("", 0)
		if r != nil {
			results = append(results, r)
		}
		if err != nil {
			break // and show what there is
		}
	}
	if len(results) == 0 {
		return errors.Join(err, abandon(report))
	}
	if report != nil {
		wErr := report.Truncate(0)
		if wErr == nil || !regular(report) {
			_, wErr = report.Write(prove.Page(results))
		}
		if wErr = errors.Join(wErr, report.Close()); wErr != nil {
			err = errors.Join(err, fmt.Errorf("--report: %w", wErr))
		}
	}
	text := results[0].Text()
	var v any = results[0]
	if c.Compare {
		text += "\n\n" + prove.Compare(results)
		v = struct {
			*prove.Result
			Compare []*prove.Result `json:"compare"`
		}{results[0], results}
	}
	if err := errors.Join(err, p.result(v, text)); err != nil {
		return err
	}
	if results[0].Sessions == prove.External && !results[0].Flawless {
		return statusError(exitFailed)
	}
	return nil
}

// regular reports whether f is a file, and no pipe or terminal.
func regular(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode().IsRegular()
}

// abandon closes a report that there is nothing to write to, and removes it if it was empty
// before, too.
func abandon(report *os.File) error {
	if report == nil {
		return nil
	}
	info, err := report.Stat()
	err = errors.Join(err, report.Close())
	if err == nil && info.Mode().IsRegular() && info.Size() == 0 {
		err = os.Remove(report.Name())
	}
	if err != nil {
		return fmt.Errorf("--report: %w", err)
	}
	return nil
}

// open opens the file of a flag for writing, and makes it if need be; none if the flag is not
// given.
func open(flag, name string, how int) (*os.File, error) {
	if name == "" {
		return nil, nil
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|how, 0o666)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	return f, nil
}

// progressLine shows how far it is.
func progressLine(mode prove.Mode, p prove.Progress) string {
	const width = 20
	full := min(width, int(p.Elapsed*width/p.Duration))
	return fmt.Sprintf("%s [%s%s] %3.0fs of %v  %d servers  %d requests  %d failed", mode,
		strings.Repeat("█", full), strings.Repeat("·", width-full), p.Elapsed.Seconds(), p.Duration, p.Ready, p.Requests, p.Faults)
}
