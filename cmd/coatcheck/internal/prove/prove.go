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
	case c.Kills > 0 && c.Workers == 1 && c.ScaleTo < 2 && c.Autoscale == nil:
		return errors.New("the last server is never killed, so that with one there are no kills: have more servers, or no kills")
	}
	return nil
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
	Slow     int           `json:"slow_requests"` // slower than a second
	Repeated uint64        `json:"repeated"`      // requests that were sent to another server
	Timeline []Moment      `json:"timeline"`
	Events   []fleet.Event `json:"events"`

	began time.Time
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

// slow is what a visitor calls so.
const slow = time.Second

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
	config := up.Config{
		Listen: "127.0.0.1:0", Admin: "127.0.0.1:0",
		Workers: c.Workers, Autoscale: c.Autoscale, Store: u,
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
	r, err := experiment(ctx, c, f, ended, progress)
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
	case c.Sessions != External:
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
func experiment(ctx context.Context, c Config, f up.Running, ended <-chan error, progress func(Progress)) (*Result, error) {
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
	kills := 0
	wg.Go(func() { kills = perform(shopping, c, f.Fleet, began, plan.acts) })
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
	if c.Kills > 0 && kills == 0 {
		return nil, errors.New("no server was killed, for there never was a second one ready: have more servers, or give them more time")
	}
	r := &Result{
		Settings: Settings{c.Duration.Seconds(), c.Shoppers, c.Think.Seconds(), c.Workers, c.Kills, c.ScaleTo, c.Spike},
		Seconds:  took.Seconds(), Kills: kills, Result: shoppers,
		Slow: line.slow, Repeated: f.Balancer().Retries, Timeline: line.moments(), Events: f.Fleet.Events(), began: began,
	}
	if n := unexcused(line.unrepeatable, r.Events); n > 0 {
		r.UnrepeatableLost -= n
		r.FailedRequests += n
		r.First[shopper.FailedRequest] = r.First[shopper.Unrepeatable]
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

// steered is the part of a fleet that trouble comes to.
type steered interface {
	Workers() []fleet.Worker
	Scale(n int) error
	Kill(ctx context.Context, name string) error
}

// perform lets happen what is to happen, and returns how many workers it has killed. The
// last one that is ready is spared: it is the fleet that is tried, not its absence.
func perform(ctx context.Context, c Config, f steered, began time.Time, acts []act) (kills int) {
	rng := rand.New(rand.NewPCG(c.Seed, choice))
	for _, a := range acts {
		select {
		case <-time.After(time.Until(began.Add(a.at))):
		case <-ctx.Done():
			return kills
		}
		if !a.kill {
			_ = f.Scale(a.scale) // within bounds, and fails only when all ends
			continue
		}
		pick := rng.Uint64() // also if nobody is killed
		var names []string
		for _, w := range f.Workers() {
			if w.State == fleet.Ready {
				names = append(names, w.Name)
			}
		}
		if len(names) > 1 && f.Kill(ctx, names[pick%uint64(len(names))]) == nil {
			kills++
		}
	}
	return kills
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
