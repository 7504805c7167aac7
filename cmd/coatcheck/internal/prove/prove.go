// Package prove is an experiment: shoppers on real HTTP go on their journeys while the
// servers of a fleet are killed, added and drained, and every discrepancy that they meet
// with is counted. With the same seed the same shoppers come at the same times and the
// same trouble happens, wherever sessions are kept: in a store that all servers
// share, in each server's memory, or there behind a balancer that brings everybody back to
// the same server.
package prove

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/autoscale"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/console"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/fleet"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/shopper"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/storeurl"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/up"
)

// Mode is where sessions are kept.
type Mode string

// The modes.
const (
	External Mode = "external" // in a store that all servers share
	Local    Mode = "local"    // in the memory of each server
	Sticky   Mode = "sticky"   // the same, and visitors come back to their server
)

// Config is what the experiment is.
type Config struct {
	Sessions Mode
	Duration time.Duration
	Shoppers int // at once, on average
	Workers  int
	Kills    int // by SIGKILL
	ScaleTo  int // workers, for a fifth of the time; 0 for no scaling
	// Spike is by how much more shoppers come for a fifth of the time; 0 for no more.
	Spike     float64
	Autoscale *autoscale.Config // in place of a fixed number of workers
	Seed      uint64
	Think     time.Duration // between two steps of a shopper, on average
	// StoreRestarts is how often the store breaks all connections and takes none for a
	// second. SlowStore is by how much later it answers for a fifth of the time. Both need a
	// Store of which [storeurl.URL.Server] returns no error, and are for external sessions.
	StoreRestarts int
	SlowStore     time.Duration
	// Store is where external sessions are kept. If zero, in a SQLite file that is made
	// for the experiment and removed after it.
	Store storeurl.URL
	// Log gets what the fleet logs. If nil, nobody does.
	Log io.Writer
	// WorkerArgs are as those of [up.Config].
	WorkerArgs []string
}

// maxArrivals bounds the shoppers of one experiment.
const maxArrivals = 1_000_000

// Validate returns what makes no sense of it.
func (c Config) Validate() error {
	expected := c.arrivalRate() * c.Duration.Seconds() * max(1, c.Spike)
	switch {
	case expected > maxArrivals:
		return fmt.Errorf("%.0f shoppers would come, more than %d: let fewer be there at once, for a shorter time or with more time to think", expected, maxArrivals)
	case expected < 1:
		return errors.New("no shopper would come in so short a time: let it last longer, or more be there at once")
	case (c.StoreRestarts > 0 || c.SlowStore > 0) && !c.Store.Shared():
		return errors.New("trouble of the store takes a server: a file, which is the default, does not restart and is not far away; name a store on this machine with --store, as redis://127.0.0.1")
	case time.Duration(c.StoreRestarts)*(outage+recovery) > c.Duration/2:
		return fmt.Errorf("so many restarts of the store leave no time in which it must work, for what fails %v after each is excused: have %d at most, or let it last longer", recovery, c.Duration/2/(outage+recovery))
	case c.Kills > 0 && c.Workers == 1 && c.ScaleTo < 2 && c.Autoscale == nil:
		return errors.New("the last server is never killed, so that with one there are no kills: have more servers, or no kills")
	}
	return nil
}

// troublesStore reports whether something happens to the store.
func (c Config) troublesStore() bool {
	return c.Sessions == External && (c.StoreRestarts > 0 || c.SlowStore > 0)
}

// Progress is how far an experiment is.
type Progress struct {
	Elapsed, Duration time.Duration
	Ready             int // workers
	Requests, Faults  int // so far
}

// Settings are what repeats an experiment, with the seed.
type Settings struct {
	Duration float64 `json:"duration"` // seconds
	Shoppers int     `json:"shoppers"` // at once
	Think    float64 `json:"think"`    // seconds
	Workers  int     `json:"workers"`
	Kills    int     `json:"kills"`
	ScaleTo  int     `json:"scale_to"`
	Spike    float64 `json:"spike"`
	Restarts int     `json:"store_restarts"`
	Slow     float64 `json:"slow_store"` // seconds

	Autoscale string `json:"autoscale,omitempty"` // MIN:MAX
}

// flags are those of `coatcheck prove` that say the same, but for the store and for how load
// was measured for --autoscale.
func (s Settings) flags() string {
	seconds := func(of float64) time.Duration { return time.Duration(of * float64(time.Second)) }
	b := fmt.Sprintf("--duration %v --shoppers %d --think %v --kills %d", seconds(s.Duration), s.Shoppers, seconds(s.Think), s.Kills)
	if s.Autoscale != "" {
		b += " --autoscale " + s.Autoscale
	} else {
		b += fmt.Sprintf(" --workers %d --scale-to %d", s.Workers, s.ScaleTo)
	}
	if s.Spike != 0 {
		b += fmt.Sprintf(" --spike %v", s.Spike)
	}
	if s.Restarts > 0 {
		b += fmt.Sprintf(" --store-restarts %d", s.Restarts)
	}
	if s.Slow > 0 {
		b += fmt.Sprintf(" --slow-store %v", seconds(s.Slow))
	}
	return b
}

// Result is what came of an experiment.
type Result struct {
	Sessions Mode     `json:"sessions"`
	Store    string   `json:"store"` // without credentials
	Settings Settings `json:"settings"`
	Seconds  float64  `json:"seconds"`
	Kills    int      `json:"kills"` // that happened
	Flawless bool     `json:"flawless"`
	*shopper.Result
	// Unavailable are requests that were answered 503, or changes answered 500, while
	// the store was down or right after. They are not among the failed: without a store there is no session.
	Unavailable int           `json:"unavailable_requests"`
	Outages     []Outage      `json:"outages,omitempty"`
	Repeated    uint64        `json:"repeated"` // requests that were sent to another server
	Timeline    []Moment      `json:"timeline"`
	Events      []fleet.Event `json:"events"`

	began time.Time
}

// Outage is a time in which the store was down, in seconds since the beginning.
type Outage struct {
	From float64 `json:"from"`
	To   float64 `json:"to"`
}

// Moment is a part of the experiment.
type Moment struct {
	At       float64        `json:"at"`       // seconds since the beginning
	Ready    int            `json:"ready"`    // workers that are sent requests
	Requests map[string]int `json:"requests"` // answered by each server
	Failed   int            `json:"failed"`   // the unrepeatable ones included
	P50      float64        `json:"p50_ms"`
	P99      float64        `json:"p99_ms"`
}

// Run runs the experiment. It returns an error if the fleet could not be started or did
// not stay up, or if ctx ends; and with a result one if the fleet did not end well.
func Run(ctx context.Context, c Config, progress func(Progress)) (*Result, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if c.Log == nil {
		c.Log = io.Discard
	}
	u := c.Store
	if c.Sessions != External || u == (storeurl.URL{}) {
		dir, leave, err := makeRoom()
		if err != nil {
			return nil, err
		}
		defer leave()
		if u, err = storeurl.Parse("sqlite:" + filepath.Join(dir, "sessions.db")); err != nil {
			return nil, err
		}
	}
	reached := u
	var between *relay
	if c.troublesStore() {
		addr, err := u.Server()
		if err != nil {
			return nil, err
		}
		if between, err = newRelay(addr); err != nil {
			return nil, err
		}
		defer between.close()
		reached = u.Via(between.port())
	}
	config := up.Config{
		Listen: "127.0.0.1:0", Admin: "127.0.0.1:0",
		Workers: c.Workers, Autoscale: c.Autoscale, Store: reached,
		Apart: c.Sessions != External, Sticky: c.Sessions == Sticky,
		WorkerArgs: c.WorkerArgs,
	}
	if err := config.Validate(); err != nil {
		return nil, err
	}

	log := console.New(c.Log, false)
	defer log.Flush(time.Second)
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	ready := make(chan up.Running, 1)
	ended := make(chan error, 1)
	go func() {
		ended <- up.Run(serving, ctx, config, log, slog.New(slog.NewTextHandler(log, nil)), func(r up.Running) error {
			ready <- r
			return nil
		})
	}()
	var f up.Running
	select {
	case f = <-ready:
	case err := <-ended:
		return nil, err
	case <-ctx.Done():
		stop()
		<-ended
		return nil, context.Cause(ctx)
	}
	r, err := experiment(ctx, c, f, between, ended, progress)
	stop()
	if err == nil {
		err = <-ended
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if r == nil {
		return nil, fmt.Errorf("the fleet: %w", err)
	}
	r.Sessions, r.Store = c.Sessions, u.String()
	switch {
	case c.Sessions == Sticky:
		r.Store = "the memory of each server, behind a sticky balancer"
	case c.Sessions == Local:
		r.Store = "the memory of each server"
	case c.Store == storeurl.URL{}:
		r.Store = "a SQLite file"
	}
	if err != nil { // of its end, when all was counted
		err = fmt.Errorf("the fleet: %w", err)
	}
	return r, err
}

// experiment lets the shoppers in.
func experiment(ctx context.Context, c Config, f up.Running, between *relay, ended <-chan error, progress func(Progress)) (*Result, error) {
	plan := newSchedule(c)
	shopping, closing := context.WithTimeout(ctx, c.Duration)
	defer closing()
	var failure error
	failed := make(chan struct{})
	go func() {
		defer close(failed)
		select {
		case failure = <-ended: // which is no end of the experiment's
			if failure == nil {
				failure = errors.New("it ended by itself")
			}
			closing()
		case <-shopping.Done():
		}
	}()
	began := time.Now()
	line := newTimeline(began, c.Duration)
	var wg sync.WaitGroup
	var done performed
	wg.Go(func() { done = perform(shopping, c, f.Fleet, between, began, plan.acts) })
	wg.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			n := 0
			for _, w := range f.Fleet.Workers() {
				if w.State == fleet.Ready {
					n++
				}
			}
			requests, faults := line.ready(n)
			progress(Progress{time.Since(began), c.Duration, n, requests, faults})
			select {
			case <-tick.C:
			case <-shopping.Done():
				return
			}
		}
	})
	shoppers, err := shopper.Arrive(shopping, f.Shop, plan.arrivals, &shopper.Options{Think: c.Think, Seed: c.Seed, Observe: line.request})
	took := time.Since(began)
	closing()
	wg.Wait()
	<-failed
	if err = errors.Join(err, failure); err != nil {
		return nil, err
	}
	if shoppers.Journeys == 0 {
		return nil, errors.New("no shopper came: let it last longer")
	}
	if c.Kills > 0 && done.kills == 0 {
		return nil, errors.New("no server was killed, for there never was a second one ready: have more servers, or give them more time")
	}
	r := &Result{
		Settings: Settings{
			Duration: c.Duration.Seconds(), Shoppers: c.Shoppers, Think: c.Think.Seconds(), Workers: c.Workers, Kills: c.Kills,
			ScaleTo: c.ScaleTo, Spike: c.Spike, Restarts: c.StoreRestarts, Slow: c.SlowStore.Seconds(),
		},
		Seconds: took.Seconds(), Kills: done.kills, Outages: done.outages, Result: shoppers,
		Repeated: f.Balancer().Retries, Timeline: line.moments(), Events: f.Fleet.Events(), began: began,
	}
	if c.Autoscale != nil {
		r.Settings.Autoscale = fmt.Sprintf("%d:%d", c.Autoscale.Min, c.Autoscale.Max)
	}
	if n := unexcused(line.unrepeatable, r.Events); n > 0 {
		r.UnrepeatableLost -= n
		r.FailedRequests += n
		r.First[shopper.FailedRequest] = r.First[shopper.Unrepeatable]
	}
	var example *shopper.Example
	if r.Unavailable, example = excused(line.failed, began, done.outages); r.Unavailable > 0 {
		r.FailedRequests -= r.Unavailable
		delete(r.First, shopper.FailedRequest) // which may be an excused one
		if example != nil {
			r.First[shopper.FailedRequest] = *example
		}
	}
	r.Flawless = r.Result.Flawless()
	return r, nil
}

// grace is how far a kill and its event, or an answer, may be apart.
const grace = time.Second

// unexcused returns how many of the changes without an answer were not with a server when
// that was killed: it may have died by itself, or have been stuck.
func unexcused(lost []shopper.Request, events []fleet.Event) (n int) {
	for _, r := range lost {
		if !slices.ContainsFunc(events, func(e fleet.Event) bool {
			return e.Kind == fleet.Killed && e.Time.After(r.Start.Add(-grace)) && e.Time.Before(r.Start.Add(r.Took+grace))
		}) {
			n++
		}
	}
	return n
}

// recovery is how long after the store is back its servers may not know it: a circuit that
// opened lets nothing through for half a second, and the call after that may take one.
const recovery = 2 * time.Second

// excused returns how many of the requests that failed were refused as in an outage, and
// there while the store was down or right after; and the first that was not.
func excused(failed []shopper.Request, began time.Time, outages []Outage) (n int, first *shopper.Example) {
	for _, r := range failed {
		from, to := r.Start.Sub(began), r.Start.Add(r.Took).Sub(began)
		switch {
		case ofOutage(r) && slices.ContainsFunc(outages, func(o Outage) bool {
			return to.Seconds() >= o.From && from.Seconds() <= o.To+recovery.Seconds()
		}):
			n++
		case first == nil:
			first = &shopper.Example{Shopper: r.Shopper, What: fmt.Sprintf("%s %s → %d after %.1f s, in %v", r.Method, r.Path, r.Status, from.Seconds(), r.Took)}
		}
	}
	return n, first
}

// ofOutage reports whether r was answered as in an outage of the store. 500 is the answer
// to a change whose own answer from the store was lost, where another has come since:
// whether it was carried out, nobody can tell.
func ofOutage(r shopper.Request) bool {
	return r.Status == http.StatusServiceUnavailable || r.Status == http.StatusInternalServerError && r.Method == http.MethodPost
}

// steered is the part of a fleet that trouble comes to.
type steered interface {
	Workers() []fleet.Worker
	Scale(n int) error
	Kill(ctx context.Context, name string) error
}

// performed is what has happened.
type performed struct {
	kills   int
	outages []Outage
}

// perform lets happen what is to happen. The last worker that is ready is never killed: it
// is the fleet that is tried, not its absence. In the end the store is as it was.
func perform(ctx context.Context, c Config, f steered, between *relay, began time.Time, acts []act) (done performed) {
	if between != nil {
		defer func() {
			between.setDown(false)
			between.setLate(0)
		}()
	}
	rng := rand.New(rand.NewPCG(c.Seed, choice))
	for _, a := range acts {
		select {
		case <-time.After(time.Until(began.Add(a.at))):
		case <-ctx.Done():
			return done
		}
		switch a.do {
		case kill:
			pick := rng.Uint64() // also if nobody is killed
			var names []string
			for _, w := range f.Workers() {
				if w.State == fleet.Ready {
					names = append(names, w.Name)
				}
			}
			if len(names) > 1 && f.Kill(ctx, names[pick%uint64(len(names))]) == nil {
				done.kills++
			}
		case scale:
			_ = f.Scale(a.n) // within bounds, and fails only when all ends
		case storeDown:
			done.outages = append(done.outages, Outage{From: time.Since(began).Seconds(), To: c.Duration.Seconds()})
			between.setDown(true)
		case storeUp:
			between.setDown(false)
			done.outages[len(done.outages)-1].To = time.Since(began).Seconds()
		case storeSlow:
			between.setLate(c.SlowStore)
		case storeFast:
			between.setLate(0)
		}
	}
	return done
}

// makeRoom returns a folder of the experiment's own in the user's cache folder, which
// leave removes, and removes those of experiments that were killed.
func makeRoom() (dir string, leave func(), err error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", nil, fmt.Errorf("folder of the experiment: %w; set HOME, or name a store with --store", err)
	}
	rooms := filepath.Join(cache, "coatcheck", "prove")
	if err := os.MkdirAll(rooms, 0o700); err != nil {
		return "", nil, fmt.Errorf("folder of the experiment: %w; name a store with --store", err)
	}
	old, _ := os.ReadDir(rooms) // else they stay
	for _, e := range old {
		removeUnlocked(filepath.Join(rooms, e.Name()))
	}
	if dir, err = os.MkdirTemp(rooms, ""); err != nil {
		return "", nil, err
	}
	unlock, err := lock(dir)
	if err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	return dir, func() {
		_ = os.RemoveAll(dir)
		unlock()
	}, nil
}
