// Package shopper sends shoppers to a shop: each has a browser with a cookie jar
// of its own, goes on journeys over real HTTP, and knows what the shop must hold
// for it. What the shop says otherwise is classified and counted, with the first
// of each kind told in full.
//
// A shopper knows what was acknowledged, and no more: after a request without an
// answer the shop may hold either, and the next answer tells which. If a server was
// killed in the middle of it, only the answer to the next change does.
package shopper

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// Options of [Start], [Run] and [Arrive].
type Options struct {
	// Duration is after how long the shoppers stop. If zero, they stop for
	// another reason.
	Duration time.Duration

	// Journeys is after how many journeys each shopper stops. If zero, they stop
	// for another reason.
	Journeys int

	// Think is how long a shopper looks at a page before the next step, on
	// average. If zero, it is 100 ms.
	Think time.Duration

	// Seed decides what the shoppers do. If zero, it is random, and the result
	// tells it.
	Seed uint64

	// TLS is the configuration of the shoppers' connections. If nil, it is the
	// system's.
	TLS *tls.Config

	// Observe is told of every request when it is over, by many goroutines at
	// once. If nil, nobody is.
	Observe func(Request)

	// Notice is told of every discrepancy in what the shop says when it is noticed, by
	// many goroutines at once. If nil, nobody is.
	Notice func(Discrepancy)
}

// A Request is what came of one request.
type Request struct {
	Shopper string
	Method  string
	Path    string
	Start   time.Time
	Took    time.Duration
	Status  int    // 0 if there was no answer
	Server  string // what X-Served-By said
	Fault   Kind   // FailedRequest, Unrepeatable or ""
}

// A Discrepancy is one between an answer and what a shopper knows.
type Discrepancy struct {
	Time    time.Time
	Shopper string
	Server  string // that gave the answer
	Kind    Kind   // SignOut, WrongUser, LostItem or SurplusItem
}

// Run lets n shoppers shop at the address, and returns what they met with when all have
// stopped. They do as [Start] says.
func Run(ctx context.Context, shop string, n int, opts *Options) (*Result, error) {
	c, err := Start(ctx, shop, n, opts)
	if err != nil {
		return nil, err
	}
	<-c.Gone()
	return c.Result(), nil
}

// Start lets n shoppers shop at the address. They stop when the options say so or ctx
// ends; then each finishes the step it is at, for a request that is cut off would look
// like a fault of the shop.
func Start(ctx context.Context, shop string, n int, opts *Options) (*Crowd, error) {
	o, err := complete(shop, opts)
	if err != nil {
		return nil, err
	}
	if n < 1 {
		return nil, fmt.Errorf("shopper: %d shoppers: there must be at least one", n)
	}
	cancel := func() {}
	if o.Duration > 0 {
		ctx, cancel = context.WithTimeout(ctx, o.Duration)
	}
	c := &Crowd{tally: newTally(n, o.Seed, o), gone: make(chan struct{})}
	var wg sync.WaitGroup
	for i := range n {
		s := newShopper(i, shop, o, c.tally)
		wg.Go(func() { s.shopFor(ctx, o.Journeys) })
	}
	go func() {
		defer close(c.gone)
		defer cancel()
		wg.Wait()
	}()
	return c, nil
}

// A Crowd is shoppers who shop. Its methods may be called concurrently.
type Crowd struct {
	tally *tally
	gone  chan struct{}
}

// Gone returns a channel that is closed when all of them have stopped.
func (c *Crowd) Gone() <-chan struct{} { return c.gone }

// Result returns what they met with so far.
func (c *Crowd) Result() *Result { return c.tally.result() }

// Arrive lets a shopper come at each of the times, in order, counted from the call, and go
// on one journey: an open model, in which a shop that is slow gets no rest. It returns
// when the last has left; if ctx ends, none comes any more, and those in the shop
// finish the step that they are at. It returns an error if this machine ran out of files or
// ports: that is no fault of the shop. Options.Duration and Options.Journeys do not apply.
func Arrive(ctx context.Context, shop string, times []time.Duration, opts *Options) (*Result, error) {
	o, err := complete(shop, opts)
	if err != nil {
		return nil, err
	}
	t := newTally(0, o.Seed, o)
	var wg sync.WaitGroup
	began := time.Now()
	for i, at := range times {
		if !pause(ctx, at-time.Since(began)) {
			break
		}
		t.r.Shoppers++ // which nobody else touches
		s := newShopper(i, shop, o, t)
		wg.Go(func() {
			defer s.client.CloseIdleConnections()
			s.shopOnce(ctx)
		})
	}
	wg.Wait()
	if err := t.exhausted(); err != nil {
		return nil, fmt.Errorf("shopper: this machine has not enough for so many shoppers, and the shop is not to blame: %w", err)
	}
	return t.result(), nil
}

// complete checks the address and fills in what is zero.
func complete(shop string, opts *Options) (o Options, err error) {
	if opts != nil {
		o = *opts
	}
	if u, err := url.Parse(shop); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return o, errors.New("shopper: the shop's address must be like http://127.0.0.1:8080")
	}
	if o.Think == 0 {
		o.Think = 100 * time.Millisecond
	}
	if o.Seed == 0 {
		o.Seed = rand.Uint64()
	}
	return o, nil
}

// newShopper returns the shopper of that number.
func newShopper(i int, shop string, o Options, t *tally) *shopper {
	return &shopper{
		name:  fmt.Sprintf("shopper-%d", i+1),
		shop:  strings.TrimSuffix(shop, "/"),
		rng:   rand.New(rand.NewPCG(o.Seed, uint64(i))),
		think: o.Think,
		tally: t,
		client: &http.Client{
			Transport: &http.Transport{TLSClientConfig: o.TLS, MaxIdleConnsPerHost: 2}, // two tabs
			Timeout:   patience,
			CheckRedirect: func(*http.Request, []*http.Request) error {
				return http.ErrUseLastResponse
			},
		},
	}
}

// shopper is one of them. Its name is also the one it signs in by.
type shopper struct {
	name   string
	shop   string
	rng    *rand.Rand
	think  time.Duration
	tally  *tally
	client *http.Client

	belief belief

	mu          sync.Mutex
	trace       []string // the last requests
	interrupted bool     // something was wrong in this journey
}

func (s *shopper) shopFor(ctx context.Context, journeys int) {
	defer s.client.CloseIdleConnections()
	// Not all at once.
	if !pause(ctx, time.Duration(s.rng.Float64()*float64(s.think))) {
		return
	}
	for i := 0; journeys == 0 || i < journeys; i++ {
		if !s.shopOnce(ctx) {
			return
		}
	}
}

// shopOnce is one journey. It reports whether there was time for all of it.
func (s *shopper) shopOnce(ctx context.Context) bool {
	plan := newPlan(s.rng, s.think)
	s.takeFreshBrowser()
	s.interrupted = false
	s.tally.begin()
	for _, st := range plan {
		if !pause(ctx, st.think) {
			return false
		}
		s.take(st)
	}
	return true
}

// pause reports whether there is time for another step.
func pause(ctx context.Context, d time.Duration) bool {
	if ctx.Err() != nil {
		return false
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (s *shopper) takeFreshBrowser() {
	s.client.Jar, _ = cookiejar.New(nil) // never an error
	s.belief = belief{{}}
}

// take takes a step and looks at what the shop says then.
func (s *shopper) take(st step) {
	if st.signedIn && !s.belief.mayBe(s.name) {
		// What was noticed has cost the sign-in: a person would sign in again.
		s.signIn()
		s.check()
	}
	switch st.kind {
	case browse:
		s.browse()
	case signIn:
		s.signIn()
	case signOut:
		s.signOut()
	case addOne:
		s.add(st.items[0])
	case addInTwoTabs:
		s.addInTwoTabs(st.items)
	}
	s.check()
}

func (s *shopper) signIn() {
	a := s.send(http.MethodPost, "/login", url.Values{"user": {s.name}, "password": {"demo"}})
	s.changed(a, toSignIn(s.name))
}

func (s *shopper) signOut() {
	a := s.send(http.MethodPost, "/logout", nil)
	s.changed(a, toSignOut())
}

func (s *shopper) add(it item) {
	s.changed(s.sendItem(it), toAdd(it))
}

// addInTwoTabs adds all at once. What an answer says may be without the other
// addition, so none is judged.
func (s *shopper) addInTwoTabs(items []item) {
	if !s.belief.mustBe(s.name) {
		// Parallel first requests of a visitor without a cookie make a session each.
		for _, it := range items {
			s.add(it)
		}
		return
	}
	answers := make([]answer, len(items))
	var wg sync.WaitGroup
	for i, it := range items {
		wg.Go(func() { answers[i] = s.sendItem(it) })
	}
	wg.Wait()
	// In any order.
	there, back := s.belief, s.belief
	for i := range items {
		there = there.after(toAdd(items[i]), answers[i].outcome)
		j := len(items) - 1 - i
		back = back.after(toAdd(items[j]), answers[j].outcome)
	}
	s.belief = there
	for _, p := range back {
		s.belief = s.belief.with(p)
	}
}

func (s *shopper) sendItem(it item) answer {
	return s.send(http.MethodPost, "/cart", url.Values{"sku": {it.sku}, "qty": {fmt.Sprint(it.qty)}})
}

// changed takes an answer to a change into account.
func (s *shopper) changed(a answer, c *change) {
	s.belief = s.belief.after(c, a.outcome)
	if a.outcome == answered {
		s.judge(a)
	}
}

func (s *shopper) browse() {
	s.send(http.MethodGet, "/", nil)
}

// check asks the shop who the shopper is and what is in the cart.
func (s *shopper) check() {
	if a := s.send(http.MethodGet, "/api/session", nil); a.outcome == answered {
		s.judge(a)
	}
	if len(s.belief.now()) > maxBelief {
		s.takeFreshBrowser() // too much is unknown to judge the next answer by
	}
}

// judge compares an answer with what the shopper believes. After a discrepancy
// it goes on in a fresh browser, so that one fault is counted once.
func (s *shopper) judge(a answer) {
	v := s.belief.judge(a.state)
	if v == (verdict{}) {
		s.belief = s.belief.seen(a.state)
		return
	}
	s.tally.discrepancy(v, a.server, s.example(fmt.Sprintf("%s said %s where %s was right", orNobody(a.server), a.state, s.belief)))
	s.takeFreshBrowser()
}

// example tells what is wrong.
func (s *shopper) example(what string) Example {
	ex := s.told(what)
	s.mu.Lock()
	defer s.mu.Unlock()
	ex.interrupts = !s.interrupted
	s.interrupted = true
	return ex
}

// told tells what happened, which is no fault.
func (s *shopper) told(what string) Example {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Example{Shopper: s.name, What: what, Trace: slices.Clone(s.trace)}
}
