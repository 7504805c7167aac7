package main

import (
	"context"
	"errors"
	"math/bits"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// concurrency is the number of requests at once, unless a section says otherwise.
const concurrency = 64

// A measurement is what one round of one row brought.
type measurement struct {
	Rate   float64       `json:"requests_per_second"`
	P50    time.Duration `json:"p50_ns"`
	P99    time.Duration `json:"p99_ns"`
	Allocs float64       `json:"allocations_per_request"` // of this process
	CPU    time.Duration `json:"cpu_ns_per_request"`      // of the process that serves, the load included where that is this one
	Server time.Duration `json:"server_cpu_ns_per_request"`
	// Others is the part of the machine's processors that other programs had.
	Others float64 `json:"others"`
}

// drive runs a page for that long, with so many workers, each picking sessions at
// random, after a quarter of the time for warming up. serverCPU returns the
// processor time of the server.
func drive(ctx context.Context, a *app, serverCPU func() (time.Duration, error), p page, cookies []string, workers int, d time.Duration) (measurement, error) {
	if _, err := load(ctx, p, cookies, workers, d/4); err != nil {
		return measurement{}, err
	}
	runtime.GC() // nobody pays for the garbage of the row before
	appCPU := a.cpu
	if appCPU == nil {
		appCPU = func() (time.Duration, error) { return cpuTime(), nil }
	}
	used := func() (app, server, others time.Duration, err error) {
		app, err = appCPU()
		if err == nil {
			server, err = serverCPU()
		}
		others = machineTime() - server - cpuTime()
		if a.cpu != nil {
			others -= app
		}
		return app, server, others, err
	}
	app, server, others, err := used()
	if err != nil {
		return measurement{}, err
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	began := time.Now()
	h, err := load(ctx, p, cookies, workers, d)
	took := time.Since(began)
	if err != nil {
		return measurement{}, err
	}
	runtime.ReadMemStats(&after)
	appEnd, serverEnd, othersEnd, err := used()
	if err != nil {
		return measurement{}, err
	}
	n := float64(h.n)
	return measurement{
		Rate:   n / took.Seconds(),
		P50:    h.quantile(0.50),
		P99:    h.quantile(0.99),
		Allocs: float64(after.Mallocs-before.Mallocs) / n,
		CPU:    time.Duration(float64(appEnd-app) / n),
		Server: time.Duration(float64(serverEnd-server) / n),
		Others: max(0, (othersEnd-others).Seconds()/took.Seconds()/float64(runtime.NumCPU())),
	}, nil
}

// load asks for the page until d is over, an answer is wrong, or ctx ends, and with
// each worker once at least.
func load(ctx context.Context, p page, cookies []string, workers int, d time.Duration) (*histogram, error) {
	var stop atomic.Bool
	timer := time.AfterFunc(d, func() { stop.Store(true) })
	defer timer.Stop()
	defer context.AfterFunc(ctx, func() { stop.Store(true) })()
	hs, errs := make([]histogram, workers), make([]error, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			do, h := p(w), &hs[w]
			random := rand.New(rand.NewPCG(uint64(w), rand.Uint64()))
			began := time.Now()
			for first := true; first || !stop.Load(); first = false {
				i := random.IntN(len(cookies))
				if _, errs[w] = do(i, cookies[i]); errs[w] != nil {
					stop.Store(true)
					return
				}
				now := time.Now()
				h.add(now.Sub(began))
				began = now
			}
		})
	}
	wg.Wait()
	total := &hs[0]
	for w := range hs[1:] {
		total.merge(&hs[1+w])
	}
	return total, errors.Join(append(errs, ctx.Err())...)
}

// histogram counts durations in buckets whose widths are a 64th of them.
type histogram struct {
	n      uint64
	counts [64 * 40]uint32
}

func bucket(d time.Duration) int {
	n := uint64(max(d, 0))
	if n < 64 {
		return int(n)
	}
	shift := bits.Len64(n) - 7
	return min(shift*64+int(n>>shift), 64*40-1)
}

// lower returns the least duration of a bucket.
func lower(b int) time.Duration {
	if b < 128 {
		return time.Duration(b)
	}
	shift := b/64 - 1
	return time.Duration(64+b%64) << shift
}

func (h *histogram) add(d time.Duration) {
	h.n++
	h.counts[bucket(d)]++
}

func (h *histogram) merge(o *histogram) {
	h.n += o.n
	for i, c := range o.counts {
		h.counts[i] += c
	}
}

func (h *histogram) quantile(q float64) time.Duration {
	rank := uint64(q * float64(h.n))
	for b, c := range h.counts {
		if rank < uint64(c) {
			return lower(b)
		}
		rank -= uint64(c)
	}
	return lower(len(h.counts) - 1)
}

// signInAll begins n sessions.
func signInAll(ctx context.Context, a *app, n int) ([]string, error) {
	cookies, errs := make([]string, n), make([]error, concurrency)
	var next atomic.Int64
	var wg sync.WaitGroup
	for w := range errs {
		wg.Go(func() {
			for errs[w] == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				cookies[i], errs[w] = a.signIn(ctx, i)
			}
		})
	}
	wg.Wait()
	return cookies, errors.Join(errs...)
}
