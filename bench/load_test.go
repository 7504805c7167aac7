package main

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// A bucket's lower bound is at most a 64th below what is in it.
func TestHistogram(t *testing.T) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 1))
	for range 100_000 {
		d := time.Duration(random.Uint64() >> (24 + random.IntN(40)))
		if low := lower(bucket(d)); low > d || d-low > d/64 {
			t.Fatalf("seed %d: %v is counted as %v", seed, d, low)
		}
	}
	var h histogram
	for i := range 1000 {
		h.add(time.Duration(i) * time.Microsecond)
	}
	for q, want := range map[float64]time.Duration{0: 0, 0.5: 500 * time.Microsecond, 0.99: 990 * time.Microsecond} {
		if got := h.quantile(q); got > want || want-got > want/64 {
			t.Errorf("the %g quantile of 0 to 999 µs is %v; want %v", q, got, want)
		}
	}
	h.add(24 * time.Hour) // counts as the longest there is
	if h.n != 1001 || h.quantile(1) != lower(len(h.counts)-1) && h.quantile(0.9995) < time.Millisecond {
		t.Errorf("a day is counted as %v", h.quantile(0.9999))
	}
}

// Medians are robust, and ratios are taken round by round.
func TestSummarise(t *testing.T) {
	rounds := func(rates ...float64) (ms []measurement) {
		for _, r := range rates {
			ms = append(ms, measurement{Rate: r, P50: time.Duration(r)})
		}
		return ms
	}
	s := sectionResult{Base: "base", Rows: []rowResult{
		{Peer: "fast", rounds: rounds(300, 30, 900)}, // the machine was slow in the second round,
		{Peer: "base", rounds: rounds(100, 10, 100)}, // for both
	}}
	summarise(&s)
	fast, base := s.Rows[0], s.Rows[1]
	if fast.Rate != 300 || fast.Low != 30 || fast.High != 900 || fast.P50 != 300 {
		t.Errorf("median, lowest, highest, p50 of 300, 30, 900 are %v, %v, %v, %v", fast.Rate, fast.Low, fast.High, fast.P50)
	}
	if fast.Ratio != 3 || base.Ratio != 1 {
		t.Errorf("ratios are %v and %v; want 3, the median of 3, 3 and 9, and 1", fast.Ratio, base.Ratio)
	}
	if got := middle([]float64{1, 2}); got != 1.5 {
		t.Errorf("median of two is %v; want 1.5", got)
	}
}

// A wrong answer ends a measurement.
func TestLoadChecks(t *testing.T) {
	wrong := errors.New("wrong")
	p := func(worker int) op {
		n := 0
		return func(int, string) ([]byte, error) {
			if n++; worker == 1 && n == 10 {
				return nil, wrong
			}
			return nil, nil
		}
	}
	if _, err := load(t.Context(), p, []string{""}, 3, time.Hour); !errors.Is(err, wrong) {
		t.Errorf("load = %v; want the error of the worker that got a wrong answer", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := load(ctx, p, []string{""}, 1, time.Hour); !errors.Is(err, context.Canceled) {
		t.Errorf("load = %v; want it to end with its context", err)
	}
}

func TestWrongAnswers(t *testing.T) {
	for name, err := range map[string]error{
		"another user":  checkGreeting(1, 200, []byte(greetings[2])),
		"an error page": checkGreeting(1, 500, []byte(greetings[1])),
		"no cart":       checkCart(1, 200, []byte(greetings[1])),
		"no ok":         checkOK(1, 200, nil),
	} {
		if !errors.Is(err, errAnswer) {
			t.Errorf("%s passes for an answer: %v", name, err)
		}
	}
	if err := errors.Join(checkGreeting(1, 200, []byte(greetings[1])), checkCart(1, 200, []byte(greetings[1]+" 2")), checkOK(1, 200, []byte("ok"))); err != nil {
		t.Error(err)
	}
}

// No two workers write the same key, and none writes one that is not there.
func TestOwn(t *testing.T) {
	owner := map[int]int{}
	for _, n := range []int{concurrency, 1000, 10_000} {
		for w := range concurrency {
			for i := range n {
				k := own(i, w)
				if k < 0 || k >= n {
					t.Fatalf("of %d keys, a worker writes number %d", n, k)
				}
				if o, ok := owner[k]; ok && o != w {
					t.Fatalf("workers %d and %d both write key %d", o, w, k)
				}
				owner[k] = w
			}
		}
	}
}

// A busy machine is told of.
func TestOthers(t *testing.T) {
	for share, want := range map[float64]string{0.04: "Other programs had 4 %", 0.31: "**Other programs had 31 %"} {
		if got := others(&results{Others: share}); !strings.HasPrefix(got, want) {
			t.Errorf("with a share of %v the results say %q; want %q", share, got, want)
		}
	}
	busy := bars(&redisFamily, &results{
		Others: 0.31,
		Memory: []memoryResult{{Peer: coatcheck, Bytes: 1}, {Peer: scsGoRedis, Bytes: 2}},
		Sections: []sectionResult{{Name: "read", Rows: []rowResult{
			{Peer: coatcheck, rounds: []measurement{{Rate: 10}}}, {Peer: scsGoRedis, rounds: []measurement{{Rate: 1}}},
		}}},
	})
	if len(busy) != 2 || !busy[0].Busy || busy[1].Busy {
		t.Errorf("on a busy machine the bars are %+v; want that of memory alone to be judged", busy)
	}
	if runtime.GOOS != "linux" {
		return
	}
	began := machineTime()
	for before := cpuTime(); cpuTime() < before+50*time.Millisecond; {
	}
	if took := machineTime() - began; took < 30*time.Millisecond {
		t.Errorf("50 ms of this process count as %v of the machine", took)
	}
}

// One quick run of a few sections, from the flags to the files.
func TestCommand(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds: run it without -short")
	}
	for kind, test := range map[string]struct {
		only           string
		sections, bars int
		plotted        int // bars of the plot
		want           []string
	}{
		"redis":    {"read,write,delay-1", 3, 6, 14, []string{"at least 5.5", "go-redis"}},
		"postgres": {"read,read-relaxed,latency-1", 3, 3, 11, []string{"at least 0.8", "pgxstore"}},
		"mariadb":  {"read,read-relaxed,write", 3, 2, 14, []string{"at least 4", "go-sql-driver"}},
	} {
		t.Run(kind, func(t *testing.T) {
			f, err := familyOf(kind)
			if err != nil {
				t.Fatal(err)
			}
			serverOf(t, f) // or skip
			dir := t.TempDir()
			var out, progress strings.Builder
			args := []string{"--store", kind, "--rounds", "2", "--each", "20ms", "--sessions", "64", "--stored", "64", "--only", test.only, "--json", "--out", dir}
			if err := command(t.Context(), args, &out, &progress); err != nil {
				t.Fatalf("%v\n%s", err, progress.String())
			}
			var res results
			if err := json.Unmarshal([]byte(out.String()), &res); err != nil {
				t.Fatal(err)
			}
			server := time.Duration(0)
			for _, s := range res.Sections {
				for _, r := range s.Rows {
					if r.Rate <= 0 || r.Low > r.Rate || r.High < r.Rate || r.P50 <= 0 || r.P99 < r.P50 || r.Ratio <= 0 || r.CPU < 0 || r.Server < 0 {
						t.Errorf("%s, %s: not a measurement: %+v", s.Name, r.Peer, r)
					}
					server += r.Server
				}
			}
			if server == 0 && runtime.GOOS == "linux" {
				t.Error("the server has used no processor time")
			}
			if len(res.Sections) != test.sections || len(res.Bars) != test.bars {
				t.Errorf("%d sections and %d bars; want %d and %d", len(res.Sections), len(res.Bars), test.sections, test.bars)
			}
			if !slices.ContainsFunc(res.Versions, func(v version) bool { return v.Name == "server" && v.Version != "" }) {
				t.Errorf("the server's version is missing from %v", res.Versions)
			}
			report, err := os.ReadFile(filepath.Join(dir, kind+".md"))
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range append(test.want, "--store "+kind+" --rounds 2", "| "+coatcheck+" |", "lowest", "("+kind+".svg)") {
				if !strings.Contains(string(report), want) {
					t.Errorf("%s.md does not say %q", kind, want)
				}
			}
			svg, err := os.ReadFile(filepath.Join(dir, kind+".svg"))
			if err != nil {
				t.Fatal(err)
			}
			for d := xml.NewDecoder(strings.NewReader(string(svg))); ; {
				if _, err := d.Token(); errors.Is(err, io.EOF) {
					break
				} else if err != nil {
					t.Fatalf("%s.svg: %v", kind, err)
				}
			}
			if n := strings.Count(string(svg), "<rect"); n != test.plotted {
				t.Errorf("%s.svg has %d bars; want %d", kind, n, test.plotted)
			}
		})
	}
}

// What a session takes on the server is more than its values, and the index is a
// part of it.
func TestMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds: run it without -short")
	}
	// A server of its own: it is erased.
	s, err := redisFamily.start(t.Context(), "redis")
	available(t, err)
	defer s.stop()
	admin, err := newClient(s.url, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	for _, name := range []string{coatcheck, scsGoRedis} {
		m, err := memoryOf(t.Context(), admin, s.url, find(t, &redisFamily, name), 1000)
		if err != nil {
			t.Fatal(err)
		}
		if m.Bytes < 200 || m.Bytes > 2000 {
			t.Errorf("%s: a session with 156 bytes of values takes %v bytes", name, m.Bytes)
		}
		if indexed := m.Index > 0; indexed != (name == coatcheck) || m.Index > m.Bytes/2 {
			t.Errorf("%s: of %v bytes the owner index takes %v", name, m.Bytes, m.Index)
		}
	}
}

// Each table has its place in the notes, and each place a table.
func TestNotes(t *testing.T) {
	eachFamily(t, func(t *testing.T, f *family) {
		text, err := f.text()
		if err != nil {
			t.Fatal(err)
		}
		var res results
		for _, s := range f.sections {
			if !strings.Contains(text, "{{"+s.name+"}}") {
				t.Errorf("%s has no place for %q", f.notes, s.name)
			}
			res.Sections = append(res.Sections, sectionResult{Name: s.name})
		}
		var b strings.Builder
		if err := writeReport(&b, f, &res); err != nil {
			t.Fatal(err)
		}
		if i := strings.Index(b.String(), "{{"); i >= 0 {
			t.Errorf("%s has a place that nothing fills: %.30s", f.notes, b.String()[i:])
		}
	})
}

// Every name in a section, a plot or a bar is that of a peer: one that is not there
// would be left out.
func TestNames(t *testing.T) {
	eachFamily(t, func(t *testing.T, f *family) {
		var res results
		for _, s := range f.sections {
			r := sectionResult{Name: s.name}
			for _, name := range s.peers {
				find(t, f, name)
				r.Rows = append(r.Rows, rowResult{Peer: name, rounds: []measurement{{Rate: 1, P50: 1}}})
			}
			if !s.has(s.base) {
				t.Errorf("section %s has no row for its base, %q", s.name, s.base)
			}
			if s.relaxed && f.relax == nil {
				t.Errorf("section %s cannot be relaxed", s.name)
			}
			res.Sections = append(res.Sections, r)
		}
		for _, p := range f.panels {
			for _, name := range p.peers {
				if res.find(p.section, name) == nil {
					t.Errorf("the plot's %q is not in section %s", name, p.section)
				}
			}
		}
		for _, p := range f.peers {
			if !slices.ContainsFunc(f.sections, func(s section) bool { return s.has(p.name) }) {
				t.Errorf("%q is in no section", p.name)
			}
		}
		want := map[*family]int{&redisFamily: 8, &postgresFamily: 3, &mariadbFamily: 2, &mongoFamily: 2, &dynamoFamily: 2}[f] // without that of memory
		if got := len(bars(f, &res)); got != want {
			t.Errorf("%d bars; want %d: one names a row that is not there", got, want)
		}
	})
}

func TestFlags(t *testing.T) {
	for _, args := range [][]string{
		{"--rounds", "0"}, {"--sessions", "1"}, {"--sessions", "1000000"}, {"--only", "reed"}, {"--store", "mariadb", "--only", "memory"}, {"--store", "etcd"}, {"word"}, {"--no-such-flag"},
	} {
		if err := command(t.Context(), args, io.Discard, io.Discard); err == nil {
			t.Errorf("bench %v runs", args)
		}
	}
}

func TestFigures(t *testing.T) {
	for f, want := range map[float64]string{0: "0", 999: "999", 1234: "1,230", 98765: "98,800", 1234567: "1,230,000"} {
		if got := thousands(f); got != want {
			t.Errorf("thousands(%v) = %s; want %s", f, got, want)
		}
	}
	for d, want := range map[time.Duration]string{0: "0 ns", 999: "999 ns", 3456: "3.46 µs", 34567: "34.6 µs", 345678 * time.Microsecond: "346 ms"} {
		if got := brief(d); got != want {
			t.Errorf("brief(%d) = %s; want %s", d, got, want)
		}
	}
}
