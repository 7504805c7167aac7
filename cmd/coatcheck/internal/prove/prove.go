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
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/autoscale"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/balancer"
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
	// WorkerArgs are as those of [up.Config].
	WorkerArgs []string
}

// Progress is how far an experiment is.
type Progress struct {
	Elapsed, Duration time.Duration
	Ready             int // workers
	Requests, Faults  int // so far
}

// Result is what came of an experiment.
type Result struct {
	Sessions Mode    `json:"sessions"`
	Store    string  `json:"store"` // without credentials
	Seconds  float64 `json:"seconds"`
	Workers  int     `json:"workers"`
	Kills    int     `json:"kills"` // that happened
	*shopper.Result
	Slow     int             `json:"slow_requests"` // slower than a second
	Repeated uint64          `json:"repeated"`      // requests that were sent to another server
	Timeline []Moment        `json:"timeline"`
	Events   []fleet.Event   `json:"events"`
	Balancer balancer.Status `json:"-"`

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
// not stay up, or if ctx ends.
func Run(ctx context.Context, c Config, progress func(Progress)) (*Result, error) {
	u := c.Store
	if c.Sessions != External || u == (storeurl.URL{}) {
		dir, err := makeRoom()
		if err != nil {
			return nil, err
		}
		defer os.RemoveAll(dir)
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

	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	ready := make(chan up.Running, 1)
	ended := make(chan error, 1)
	go func() {
		ended <- up.Run(serving, ctx, config, console.New(io.Discard, false), slog.New(slog.DiscardHandler), func(r up.Running) error {
			ready <- r
			return nil
		})
	}()
	var f up.Running
	select {
	case f = <-ready:
	case err := <-ended:
		return nil, err
	}
	r, err := experiment(ctx, c, f, ended, progress)
	stop()
	if err == nil {
		err = <-ended
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("the fleet: %w", err)
	}
	r.Sessions, r.Store = c.Sessions, u.String()
	switch {
	case c.Sessions != External:
		r.Store = "the memory of each server"
	case c.Store == storeurl.URL{}:
		r.Store = "a SQLite file"
	}
	return r, nil
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
	status := f.Balancer()
	return &Result{
		Seconds: took.Seconds(), Workers: c.Workers, Kills: kills, Result: shoppers,
		Slow: line.slow, Repeated: status.Retries, Timeline: line.moments(), Events: f.Fleet.Events(), Balancer: status, began: began,
	}, nil
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
	rng := rand.New(rand.NewPCG(c.Seed, scheduleKills+10))
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

// makeRoom returns a folder of the experiment's own in the user's cache folder, and
// removes those of experiments that were killed.
func makeRoom() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("folder of the experiment: %w; set HOME, or name a store with --store", err)
	}
	rooms := filepath.Join(cache, "coatcheck", "prove")
	if err := os.MkdirAll(rooms, 0o700); err != nil {
		return "", fmt.Errorf("folder of the experiment: %w; name a store with --store", err)
	}
	old, _ := os.ReadDir(rooms) // else they stay
	for _, e := range old {
		pid, _, _ := strings.Cut(e.Name(), "-")
		if n, err := strconv.Atoi(pid); err == nil && n != os.Getpid() && !alive(n) {
			_ = os.RemoveAll(filepath.Join(rooms, e.Name()))
		}
	}
	return os.MkdirTemp(rooms, strconv.Itoa(os.Getpid())+"-")
}
