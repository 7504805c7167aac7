package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"time"
)

// settings are what a run may choose.
type settings struct {
	family   *family
	kind     string // of the server
	rounds   int
	sessions int // per peer
	stored   int // sessions per peer for the memory on the server
	each     time.Duration
	only     []string // sections; all if empty
}

// results are what a run brought.
type results struct {
	Settings struct {
		Kind     string        `json:"store"`
		Rounds   int           `json:"rounds"`
		Sessions int           `json:"sessions"`
		Stored   int           `json:"stored_sessions"`
		Each     time.Duration `json:"measurement_ns"`
	} `json:"settings"`
	Machine  machine         `json:"machine"`
	Versions []version       `json:"versions"`
	Sections []sectionResult `json:"sections"`
	Memory   []memoryResult  `json:"memory"`
	Bars     []bar           `json:"bars"`
	Missing  []string        `json:"missing,omitempty"`
	// Others is the median of the measurements' Others, 0 where it is not known.
	Others float64 `json:"others"`
}

type sectionResult struct {
	Name  string      `json:"name"`
	Title string      `json:"title"`
	Base  string      `json:"base"`
	Rows  []rowResult `json:"rows"`
}

// rowResult holds medians over the rounds.
type rowResult struct {
	Peer string `json:"peer"`
	measurement
	Low   float64 `json:"lowest_requests_per_second"`
	High  float64 `json:"highest_requests_per_second"`
	Ratio float64 `json:"ratio"` // median of the rounds' ratios to the base's rate

	rounds []measurement
	apart  bool // another process
}

// run measures. What it is at is told to progress.
func run(ctx context.Context, set settings, progress io.Writer) (*results, error) {
	f := set.family
	srv, err := f.start(ctx, set.kind)
	if err != nil {
		return nil, err
	}
	defer srv.stop()
	res := &results{Machine: thisMachine(), Versions: versions(f, srv)}
	res.Settings.Kind = set.kind
	res.Settings.Rounds, res.Settings.Sessions, res.Settings.Stored, res.Settings.Each = set.rounds, set.sessions, set.stored, set.each

	var chosen []section
	for _, s := range f.sections {
		if len(set.only) == 0 || slices.Contains(set.only, s.name) {
			chosen = append(chosen, s)
		}
	}
	if f.memory != nil && set.stored > 0 && (len(set.only) == 0 || slices.Contains(set.only, "memory")) {
		if res.Memory, err = f.memory(ctx, srv.url, set.stored, progress); err != nil {
			return nil, err
		}
	}
	apps, closing, err := openAll(ctx, srv.url, f.peers, chosen, set.sessions, progress, res)
	defer closing()
	if err != nil {
		return nil, err
	}
	for _, s := range chosen {
		r := sectionResult{Name: s.name, Title: s.title, Base: s.base}
		for _, name := range s.peers {
			if apps[name] != nil {
				r.Rows = append(r.Rows, rowResult{Peer: name, apart: apps[name].cpu != nil})
			}
		}
		res.Sections = append(res.Sections, r)
	}
	serverCPU, closeCPU, err := f.cpu(ctx, srv)
	if err != nil {
		return nil, err
	}
	defer closeCPU()
	for round := range set.rounds {
		for i, s := range chosen {
			restore := func() error { return nil }
			if s.relaxed {
				if restore, err = f.relax(ctx, srv.url); err != nil {
					return nil, err
				}
			}
			// Shuffled, since who comes after a peer that writes shares the processors with what the server has put off,
			// such as vacuuming.
			for _, j := range rand.Perm(len(res.Sections[i].Rows)) {
				r := &res.Sections[i].Rows[j]
				a := apps[r.Peer]
				m, err := drive(ctx, a.app, serverCPU, s.page(a.app), a.cookies, s.workers, set.each)
				if err != nil {
					return nil, fmt.Errorf("%s, %s: %w", s.name, r.Peer, err)
				}
				r.rounds = append(r.rounds, m)
				_, _ = fmt.Fprintf(progress, "round %d of %d  %-10s %-42s %9.0f/s  p50 %-9v p99 %v\n",
					round+1, set.rounds, s.name, r.Peer, m.Rate, m.P50, m.P99)
			}
			if err := restore(); err != nil {
				return nil, err
			}
		}
	}
	var every []measurement
	for i := range res.Sections {
		summarise(&res.Sections[i])
		for _, r := range res.Sections[i].Rows {
			every = append(every, r.rounds...)
		}
	}
	res.Others = median(every, func(m measurement) float64 { return m.Others })
	res.Bars = bars(f, res)
	return res, nil
}

// opened is an app with sessions.
type opened struct {
	*app
	cookies []string
}

// openAll opens the peers of the sections, and signs in their users. A peer that
// cannot be had is noted as missing.
func openAll(ctx context.Context, url string, peers []peer, chosen []section, n int, progress io.Writer, res *results) (map[string]*opened, func(), error) {
	apps := make(map[string]*opened)
	closing := func() {
		for _, a := range apps {
			a.close()
		}
	}
	for _, p := range peers {
		if !slices.ContainsFunc(chosen, func(s section) bool { return s.has(p.name) }) {
			continue
		}
		a, err := p.open(ctx, url)
		if errors.Is(err, errMissing) {
			_, _ = fmt.Fprintln(progress, err)
			res.Missing = append(res.Missing, err.Error())
			continue
		}
		if err != nil {
			return apps, closing, fmt.Errorf("%s: %w", p.name, err)
		}
		apps[p.name] = &opened{app: a}
		if apps[p.name].cookies, err = signInAll(ctx, a, n); err != nil {
			return apps, closing, fmt.Errorf("%s: sign in: %w", p.name, err)
		}
	}
	return apps, closing, nil
}

func summarise(s *sectionResult) {
	var base *rowResult
	for i := range s.Rows {
		if s.Rows[i].Peer == s.Base {
			base = &s.Rows[i]
		}
	}
	for i := range s.Rows {
		r := &s.Rows[i]
		r.Rate = median(r.rounds, func(m measurement) float64 { return m.Rate })
		r.P50 = time.Duration(median(r.rounds, func(m measurement) float64 { return float64(m.P50) }))
		r.P99 = time.Duration(median(r.rounds, func(m measurement) float64 { return float64(m.P99) }))
		r.Allocs = median(r.rounds, func(m measurement) float64 { return m.Allocs })
		r.CPU = time.Duration(median(r.rounds, func(m measurement) float64 { return float64(m.CPU) }))
		r.Server = time.Duration(median(r.rounds, func(m measurement) float64 { return float64(m.Server) }))
		r.Low, r.High = r.Rate, r.Rate
		for _, m := range r.rounds {
			r.Low, r.High = min(r.Low, m.Rate), max(r.High, m.Rate)
		}
		if base != nil {
			r.Ratio = ratio(r, base, func(m measurement) float64 { return m.Rate })
		}
	}
}

// ratio is the median of what a is to b, round by round: what disturbs the
// machine for longer than a round disturbs both.
func ratio(a, b *rowResult, f func(measurement) float64) float64 {
	if a == nil || b == nil || len(a.rounds) == 0 || len(a.rounds) != len(b.rounds) {
		return 0
	}
	all := make([]float64, len(a.rounds))
	for i := range all {
		all[i] = f(a.rounds[i]) / f(b.rounds[i])
	}
	slices.Sort(all)
	return middle(all)
}

func median(ms []measurement, f func(measurement) float64) float64 {
	all := make([]float64, len(ms))
	for i, m := range ms {
		all[i] = f(m)
	}
	slices.Sort(all)
	return middle(all)
}

func middle(sorted []float64) float64 {
	n := len(sorted)
	if n == 0 {
		return 0
	}
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// find returns a row of the results, nil if it was not measured.
func (r *results) find(section, peer string) *rowResult {
	for i := range r.Sections {
		if r.Sections[i].Name != section {
			continue
		}
		for j := range r.Sections[i].Rows {
			if r.Sections[i].Rows[j].Peer == peer {
				return &r.Sections[i].Rows[j]
			}
		}
	}
	return nil
}

type machine struct {
	OS   string `json:"os"`
	CPU  string `json:"cpu"`
	CPUs int    `json:"cpus"`
	Go   string `json:"go"`
}

func thisMachine() machine {
	return machine{OS: runtime.GOOS + "/" + runtime.GOARCH, CPU: cpuModel(), CPUs: runtime.GOMAXPROCS(0), Go: runtime.Version()}
}
