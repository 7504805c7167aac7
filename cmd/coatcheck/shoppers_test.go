//go:build unix

package main

import (
	"context"
	"crypto/tls"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/admin"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/fleet"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/shopper"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/uptest"
)

// trouble is what happens to a fleet while shoppers shop. It never takes the
// last server that is ready.
type trouble struct {
	t     *testing.T
	u     *uptest.Up
	rng   *rand.Rand
	kills int
}

func newTrouble(t *testing.T, u *uptest.Up) *trouble {
	seed := rand.Uint64()
	t.Logf("seed of the kills: %d", seed)
	return &trouble{t: t, u: u, rng: rand.New(rand.NewPCG(seed, 0))}
}

// kill kills n servers at once, of those that are ready.
func (x *trouble) kill(n int) {
	x.t.Helper()
	var ready []string
	for _, w := range x.u.Fleet().Workers {
		if w.State == fleet.Ready {
			ready = append(ready, w.Name)
		}
	}
	x.rng.Shuffle(len(ready), func(i, j int) { ready[i], ready[j] = ready[j], ready[i] })
	for _, name := range ready[:max(0, min(n, len(ready)-1))] {
		x.u.Kill(name)
		x.kills++
	}
}

// shopThrough lets n shoppers shop while misfortune has its way, again and again until
// they have shopped for that long.
func shopThrough(t *testing.T, u *uptest.Up, n int, d time.Duration, opts shopper.Options, misfortune func()) *shopper.Result {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan struct{})
	var r *shopper.Result
	var err error
	go func() {
		defer close(done)
		r, err = shopper.Run(ctx, u.Shop, n, &opts)
	}()
	// Not only while the first of them arrive: their requests are in flight.
	u.AwaitFleet("the shoppers arrived", func(s admin.Status) bool { return s.Balancer.Requests > uint64(10*n) })
	for begin := time.Now(); ; {
		misfortune()
		if time.Since(begin) > d {
			break
		}
	}
	cancel()
	<-done
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// mustBeFlawless fails the test if a shopper noticed anything, and if the
// balancer's books differ from the shoppers'.
func mustBeFlawless(t *testing.T, u *uptest.Up, r *shopper.Result) {
	t.Helper()
	t.Logf("the shoppers say:\n%s", r)
	if !r.Flawless() {
		t.Errorf("shoppers noticed: %d sign-outs, %d lost items, %d surplus items, %d wrong users, %d failed requests",
			r.SignOuts, r.LostItems, r.SurplusItems, r.WrongUsers, r.FailedRequests)
	}
	b := u.Fleet().Balancer
	t.Logf("the balancer says: %d requests, %d attempts repeated, %d unrepeatable, %d without a server", b.Requests, b.Retries, b.Unrepeatable, b.NoUpstream)
	if uint64(r.Requests) != b.Requests || uint64(r.UnrepeatableLost) != b.Unrepeatable {
		t.Errorf("the shoppers count %d requests and %d unrepeatable, the balancer %d and %d", r.Requests, r.UnrepeatableLost, b.Requests, b.Unrepeatable)
	}
}

// This is the claim of the whole: servers come, go and are killed, and no
// visitor notices. What is not safe to repeat, and was with a server when that
// was killed, is counted apart: whether it was carried out, nobody can tell
// before looking.
func TestShoppersNeverNoticeKillsAndScaling(t *testing.T) {
	d := 20 * time.Second
	if testing.Short() {
		d = 8 * time.Second
	}
	testKillsAndScaling(t, d)
}

func testKillsAndScaling(t *testing.T, d time.Duration, args ...string) {
	u := uptest.Start(t, append(args, "--workers", "3")...)
	x := newTrouble(t, u)
	r := shopThrough(t, u, 50, d, shopper.Options{Think: 200 * time.Millisecond}, func() {
		for range 3 {
			x.kill(1)
			u.AwaitWorkers(3)
		}
		x.kill(2)
		u.Scale(10)
		x.kill(2)
		u.AwaitWorkers(10)
		x.kill(4)
		u.Scale(2)
		x.kill(1)
		u.AwaitWorkers(2)
		x.kill(1)
		u.Scale(3)
		u.AwaitWorkers(3)
	})
	mustBeFlawless(t, u, r)
	t.Logf("%d servers were killed", x.kills)
	if x.kills < 10 || len(r.Servers) < 10 {
		t.Errorf("%d kills and %d servers are no trial", x.kills, len(r.Servers))
	}
}

func TestShoppersNeverNoticeOverHTTPS(t *testing.T) {
	cert, key, roots := certificate(t)
	u := uptest.Start(t, "--workers", "3", "--tls-cert", cert, "--tls-key", key)
	x := newTrouble(t, u)
	opts := shopper.Options{Think: 100 * time.Millisecond, TLS: &tls.Config{RootCAs: roots}}
	r := shopThrough(t, u, 10, 3*time.Second, opts, func() {
		x.kill(2)
		u.AwaitWorkers(3)
	})
	mustBeFlawless(t, u, r)
	if u.Cookie != "__Host-session" || u.Insecure {
		t.Errorf("over HTTPS the shop's cookie is %s, insecure: %t", u.Cookie, u.Insecure)
	}
}
