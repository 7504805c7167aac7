//go:build unix

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/shopper"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/uptest"
	"github.com/coatcheck/coatcheck/internal/testserver"
)

// served is a place behind a balancer: an address at which one `coatcheck serve` after
// the other listens.
type served struct {
	t     *testing.T
	place int
	addr  string
	store string

	name   string // of the one that is there now
	cmd    *exec.Cmd
	exited chan struct{}
	said   *strings.Builder // its standard error, once it has exited
}

// newServed starts the first one, at a port that nothing else uses.
func newServed(t *testing.T, place int, store string) *served {
	s := &served{t: t, place: place, store: store}
	for range 20 {
		// Below the ports that Linux gives to outgoing connections: the next one must
		// find it free.
		s.addr = fmt.Sprintf("127.0.0.1:%d", 10000+rand.IntN(10000))
		if ln, err := net.Listen("tcp", s.addr); err == nil {
			ln.Close()
			if s.start() {
				return s
			}
		}
	}
	t.Fatalf("no server started; the last one said: %s", s.said)
	return nil
}

// start starts the next one and reports whether it serves.
func (s *served) start() bool {
	s.t.Helper()
	generation := 1
	if s.name != "" {
		_, last, _ := strings.Cut(s.name, ".")
		_, _ = fmt.Sscan(last, &generation)
		generation++
	}
	s.name = fmt.Sprintf("server-%d.%d", s.place, generation)
	s.cmd = exec.Command(uptest.Binary(s.t), "serve", "--json", "--listen", s.addr, "--name", s.name,
		"--store", s.store, "--drain-delay", "2s")
	s.said = new(strings.Builder)
	s.cmd.Stderr = s.said
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	var ready struct{ URL string }
	err = json.NewDecoder(out).Decode(&ready)
	s.exited = make(chan struct{})
	cmd, exited := s.cmd, s.exited
	go func() {
		_ = cmd.Wait() // the state tells
		close(exited)
	}()
	if err != nil {
		s.kill()
		return false
	}
	return true
}

// kill kills the server that is there and returns when it is gone.
func (s *served) kill() {
	_ = s.cmd.Process.Kill()
	<-s.exited
}

// drain asks it to end, and returns when it has.
func (s *served) drain() {
	s.t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		s.t.Fatal(err)
	}
	select {
	case <-s.exited:
	case <-time.After(uptest.Patience):
		s.kill()
		s.t.Errorf("%s did not end after SIGTERM", s.name)
	}
	if code := s.cmd.ProcessState.ExitCode(); code != 0 {
		s.t.Errorf("%s was drained and ended with status %d: %s", s.name, code, s.said)
	}
}

// A death is the time in which a server was killed: at its begin it served, and when it is
// over nothing is left of it.
type death struct {
	server      string
	begin, over time.Time
	replaced    time.Time // when the next one served
}

// witness hears of every request, and knows of every death.
type witness struct {
	mu     sync.Mutex
	by     map[string]int // requests answered, by server
	faults []shopper.Request
	deaths []death
	drains []death // of those whose balancer does not ask whether they drain

	// For Caddy before 2.11.3, which gives the next server of a change whose first one
	// refused the connection all but its body, and then cannot tell what that did; and
	// which does not let a change wait until one of the servers is no longer out.
	lenient bool
}

func (w *witness) observe(r shopper.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.by[r.Server]++
	if r.Fault != "" {
		w.faults = append(w.faults, r)
	}
}

func (w *witness) answered(server string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.by[server]
}

// under reports whether a request was under way while one of the servers died of which
// that is asked.
func (w *witness) under(r shopper.Request, is func(death) bool) bool {
	return slices.ContainsFunc(w.deaths, func(d death) bool {
		over := d.over
		if w.lenient && r.Method == http.MethodPost {
			over = d.replaced
			if r.Status == http.StatusServiceUnavailable { // and a GET waits
				over = over.Add(time.Second) // the Caddyfile's fail_duration
			}
		}
		return is(d) && r.Start.Before(over) && r.Start.Add(r.Took).After(d.begin)
	})
}

// judge returns what no kill excuses, and how many answers a kill cut short.
func (w *witness) judge() (unexcused []shopper.Request, cut int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range w.faults {
		switch {
		// What had reached a server, nobody can send again.
		case (r.Fault == shopper.Unrepeatable || w.lenient && r.Method == http.MethodPost && r.Status == http.StatusServiceUnavailable) &&
			w.under(r, func(death) bool { return true }):
		// Nor what waited to be accepted when a server that drained closed its port.
		case r.Fault == shopper.Unrepeatable && slices.ContainsFunc(w.drains, func(d death) bool {
			return r.Start.Before(d.over) && r.Start.Add(r.Took).After(d.begin)
		}):
		// Nor can an answer be begun anew of which the visitor has a part: a page is more
		// than one write of its server.
		case r.Method == http.MethodGet && r.Status == http.StatusOK && w.under(r, func(d death) bool { return d.server == r.Server }):
			cut++
		default:
			unexcused = append(unexcused, r)
		}
	}
	return unexcused, cut
}

// The servers need no balancer of ours: behind nginx, HAProxy or Caddy, each with the
// file in deploy, visitors notice neither that servers are killed nor that they are
// drained.
func TestShoppersNeverNoticeBehindOtherBalancers(t *testing.T) {
	if testing.Short() {
		t.Skip("kills servers behind three balancers, for half a minute")
	}
	uptest.Binary(t)
	// All at once, also on two processors: they mostly wait.
	var wg sync.WaitGroup
	for _, kind := range []string{"nginx", "haproxy", "caddy"} {
		wg.Go(func() { t.Run(kind, func(t *testing.T) { testBehind(t, kind) }) })
	}
	wg.Wait()
}

func testBehind(t *testing.T, kind string) {
	store := "sqlite:" + filepath.Join(t.TempDir(), "sessions.db")
	var places []*served
	var config []string
	for i := range 3 {
		s := newServed(t, i+1, store)
		t.Cleanup(s.kill)
		places = append(places, s)
		config = append(config, "upstream "+s.addr)
	}
	balancer := testserver.Start(t, kind, &testserver.Options{Config: config})
	pem, err := os.ReadFile(balancer.TLS.CA)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}}
	uptest.Await(t, "the balancer reaches a server", func() bool {
		resp, err := client.Get(balancer.URL + "/healthz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})

	seed := rand.Uint64()
	t.Logf("%s %s; seed of the kills: %d", kind, balancer.Version, seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	w := &witness{by: make(map[string]int), lenient: kind == "caddy" && strings.HasPrefix(balancer.Version, "2.6.")}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	var r *shopper.Result
	go func() {
		defer close(done)
		r, err = shopper.Run(ctx, balancer.URL, 10, &shopper.Options{
			Think: 100 * time.Millisecond, Seed: seed, TLS: &tls.Config{RootCAs: roots}, Observe: w.observe,
		})
	}()
	defer func() { cancel(); <-done }()

	inUse := func(places ...*served) {
		t.Helper()
		for _, s := range places {
			uptest.Await(t, s.name+" answers shoppers", func() bool { return w.answered(s.name) > 10 })
		}
	}
	replace := func(places ...*served) {
		t.Helper()
		var deaths []death
		for _, s := range places {
			d := death{server: s.name, begin: time.Now()}
			s.kill()
			d.over = time.Now()
			deaths = append(deaths, d)
		}
		for i, s := range places {
			if !s.start() {
				t.Fatalf("%s did not start again: %s", s.addr, s.said)
			}
			deaths[i].replaced = time.Now()
		}
		w.mu.Lock()
		w.deaths = append(w.deaths, deaths...)
		w.mu.Unlock()
	}
	kill := func(places ...*served) {
		t.Helper()
		replace(places...)
		inUse(places...)
	}
	inUse(places...)
	for round := range 2 {
		kill(places[rng.IntN(3)])
		// The worst that can be: a server is back, and the balancer has just seen it fail
		// when the others die.
		last := rng.IntN(3)
		replace(places[last])
		kill(places[(last+1)%3], places[(last+2)%3])
		inUse(places...)
		drained := places[(last+round)%3]
		d := death{server: drained.name, begin: time.Now()}
		drained.drain()
		if kind == "nginx" { // which goes on sending until the port is closed
			d.over = time.Now()
			w.mu.Lock()
			w.drains = append(w.drains, d)
			w.mu.Unlock()
		}
		if !drained.start() {
			t.Fatalf("%s did not start again: %s", drained.addr, drained.said)
		}
		inUse(drained)
	}
	cancel()
	<-done
	if err != nil {
		t.Fatal(err)
	}

	unexcused, cut := w.judge()
	t.Logf("%d kills and 2 drains; %d answers were cut short by a kill; the shoppers say:\n%s", len(w.deaths), cut, r)
	if r.SignOuts+r.LostItems+r.SurplusItems+r.WrongUsers > 0 {
		t.Errorf("shoppers noticed: %d sign-outs, %d lost items, %d surplus items, %d wrong users", r.SignOuts, r.LostItems, r.SurplusItems, r.WrongUsers)
	}
	for _, f := range unexcused {
		t.Errorf("%s %s failed with %d by %q after %v, and no kill excuses it", f.Method, f.Path, f.Status, f.Server, f.Took)
	}
	if len(w.deaths) < 8 || len(r.Servers) < 13 {
		t.Errorf("%d kills and %d servers are no trial", len(w.deaths), len(r.Servers))
	}
}
