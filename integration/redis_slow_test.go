package integration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/redis/rueidis"
	"github.com/rs/zerolog"

	"github.com/coatcheck/coatcheck/internal/testserver"
	"github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/breaker"
)

// link is the way to a Redis of its own, and what can go wrong with both.
type link struct {
	proxy *toxiproxy.Proxy
	relay *relay // behind the proxy
	admin rueidis.Client
	url   string
}

func newLink(t testing.TB) *link {
	t.Helper()
	srv := testserver.Start(t, "redis", nil)
	relay := newRelay(t, srv.Nodes[0].Addr)
	proxy := toxiproxy.NewProxy(toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop()), "redis", "127.0.0.1:0", relay.addr())
	if err := proxy.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Stop)
	return &link{proxy, relay, redisClient(t, srv, srv.Nodes[0].Addr, ""), "redis://" + proxy.Listen}
}

// toxic puts toxics into both directions of the proxy, and returns what takes
// them out again.
func (l *link) toxic(t testing.TB, kind, attributes string, directions ...string) (lift func()) {
	t.Helper()
	for _, d := range directions {
		text := fmt.Sprintf(`{"name": %q, "type": %q, "stream": %q, "attributes": %s}`, kind+d, kind, d, attributes)
		if _, err := l.proxy.Toxics.AddToxicJson(strings.NewReader(text)); err != nil {
			t.Fatal(err)
		}
	}
	return func() {
		for _, d := range directions {
			if err := l.proxy.Toxics.RemoveToxic(context.Background(), kind+d); err != nil {
				t.Error(err)
			}
		}
	}
}

// relay passes connections on. It can forget those that there are, as a firewall
// does that was restarted: they stay open, and nothing comes through any more.
type relay struct {
	ln      net.Listener
	forgets atomic.Pointer[atomic.Bool] // of the connections from now on
}

func newRelay(t testing.TB, to string) *relay {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{ln: ln}
	r.forgets.Store(new(atomic.Bool))
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			a, err := ln.Accept()
			if err != nil {
				return
			}
			b, err := net.Dial("tcp", to)
			if err != nil {
				a.Close()
				continue
			}
			forgotten := r.forgets.Load()
			go pass(a, b, forgotten)
			go pass(b, a, forgotten)
		}
	}()
	return r
}

func (r *relay) addr() string { return r.ln.Addr().String() }

func (r *relay) forget() { r.forgets.Swap(new(atomic.Bool)).Store(true) }

// pass copies until either side ends.
func pass(from, to net.Conn, forgotten *atomic.Bool) {
	defer from.Close()
	defer to.Close()
	_, _ = io.Copy(unless{to, forgotten}, from)
}

type unless struct {
	io.Writer
	forgotten *atomic.Bool
}

func (u unless) Write(p []byte) (int, error) {
	if u.forgotten.Load() {
		return len(p), nil
	}
	return u.Writer.Write(p)
}

// metered counts the calls that reach the store inside of it, and those under way.
type metered struct {
	store.Store
	began, underWay, most atomic.Int64
}

func (m *metered) enter() func() {
	m.began.Add(1)
	n := m.underWay.Add(1)
	for old := m.most.Load(); n > old && !m.most.CompareAndSwap(old, n); old = m.most.Load() {
	}
	return func() { m.underWay.Add(-1) }
}

func (m *metered) Get(ctx context.Context, k store.Key) (store.Record, error) {
	defer m.enter()()
	return m.Store.Get(ctx, k)
}

func (m *metered) Create(ctx context.Context, k store.Key, r store.Record) error {
	defer m.enter()()
	return m.Store.Create(ctx, k, r)
}

func (m *metered) Replace(ctx context.Context, k store.Key, old uint64, r store.Record) error {
	defer m.enter()()
	return m.Store.Replace(ctx, k, old, r)
}

func (m *metered) Touch(ctx context.Context, k store.Key, expires time.Time) error {
	defer m.enter()()
	return m.Store.Touch(ctx, k, expires)
}

func (m *metered) Delete(ctx context.Context, k store.Key) (bool, error) {
	defer m.enter()()
	return m.Store.Delete(ctx, k)
}

// circuit keeps what the breaker told.
type circuit struct {
	mu      sync.Mutex
	changes []breaker.Change
	began   int64 // calls that had reached the store when it first opened
	refused atomic.Int64
}

func (c *circuit) count(to breaker.State) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, ch := range c.changes {
		if ch.To == to {
			n++
		}
	}
	return n
}

// TestRedisOutage: whatever happens to Redis or to the way there, requests with a
// session are answered soon, those without are not affected, and everything
// recovers by itself. The load is steady: each user sends a request after the
// answer to the last.
func TestRedisOutage(t *testing.T) {
	const pause = 4 * time.Second
	faults := map[string]struct {
		begin func(testing.TB, *link) (lift func())
		brief bool // it ends by itself
	}{
		"paused server": {func(t testing.TB, l *link) func() {
			if err := l.admin.Do(t.Context(), l.admin.B().ClientPause().Timeout(pause.Milliseconds()).All().Build()).Error(); err != nil {
				t.Fatal(err)
			}
			return func() {}
		}, true},
		"black hole": {func(t testing.TB, l *link) func() {
			return l.toxic(t, "timeout", `{"timeout": 0}`, "upstream", "downstream")
		}, false},
		"forgotten connection": {func(_ testing.TB, l *link) func() {
			l.relay.forget()
			return func() {}
		}, true},
		"slow server": {func(t testing.TB, l *link) func() {
			return l.toxic(t, "latency", `{"latency": 3000}`, "downstream")
		}, false},
		"refused connection": {func(t testing.TB, l *link) func() {
			l.proxy.Stop()
			return func() {
				if err := l.proxy.Start(); err != nil {
					t.Error(err)
				}
			}
		}, false},
	}
	for _, name := range slices.Sorted(maps.Keys(faults)) {
		t.Run(name, func(t *testing.T) {
			if testing.Short() && name != "black hole" {
				t.Skip("takes seconds; -short takes the black hole")
			}
			redisOutage(t, faults[name].begin, faults[name].brief)
		})
	}
}

const (
	outageUsers  = 12
	outageGuests = 3
	outagePace   = 10 * time.Millisecond
	outageCrowd  = 200
)

func redisOutage(t *testing.T, begin func(testing.TB, *link) func(), brief bool) {
	l := newLink(t)
	inner := &metered{Store: redisOpen(t, l.url, nil)}
	var c circuit
	const timeout = 500 * time.Millisecond
	b, err := breaker.New(inner, &breaker.Options{
		Timeout: timeout,
		OpenFor: 100 * time.Millisecond,
		OnStateChange: func(ch breaker.Change) {
			c.mu.Lock()
			defer c.mu.Unlock()
			if ch.To == breaker.Open && c.began == 0 {
				c.began = inner.began.Load()
			}
			c.changes = append(c.changes, ch)
		},
		OnCall: func(call breaker.Call) {
			if errors.Is(call.Err, breaker.ErrOpen) {
				c.refused.Add(1)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	s := openShop(t, b, session.Options{StoreTimeout: 2 * timeout, CommitTimeout: 2 * timeout})
	tr := shopTransport(t)

	users := make([]*outageUser, outageUsers)
	for i := range users {
		users[i] = &outageUser{browser: newBrowser(t, tr), name: fmt.Sprintf("user %d", i), phase: "before", took: map[string][]time.Duration{}}
		users[i].must(t, s, "/signin?v=user"+fmt.Sprint(i))
	}
	tr.CloseIdleConnections()
	eventually(t, "idle connections closing", func() bool { return inner.underWay.Load() == 0 })
	before := runtime.NumGoroutine()

	// The load.
	stop := make(chan struct{})
	var load sync.WaitGroup
	for _, u := range users {
		load.Go(func() { u.shop(t, s, stop) })
	}
	var guests atomic.Int64
	for range outageGuests {
		load.Go(func() {
			guest := newBrowser(t, tr)
			for paced(stop) {
				guest.must(t, s, "/")
				guests.Add(1)
			}
		})
	}
	var peak atomic.Int64
	load.Go(func() {
		for paced(stop) {
			peak.Store(max(peak.Load(), int64(runtime.NumGoroutine())))
		}
	})
	end := sync.OnceFunc(func() { close(stop); load.Wait() })
	defer end()
	everybody := func(n int) func() bool {
		return func() bool {
			for _, u := range users {
				if u.count() < n {
					return false
				}
			}
			return true
		}
	}
	eventually(t, "ten purchases of every user", everybody(10))
	if n := c.count(breaker.Open); n != 0 {
		t.Fatalf("the circuit opened %d times before anything was wrong", n)
	}
	for _, u := range users {
		u.setPhase("fault")
	}

	// The fault.
	lift := begin(t, l)
	eventually(t, "the circuit opening", func() bool { return c.count(breaker.Open) > 0 })
	var crowd sync.WaitGroup
	var crowdTook [outageCrowd]time.Duration
	for i := range outageCrowd {
		crowd.Go(func() {
			r := users[i%outageUsers].copied(t, s).ask(t, s, "/")
			if r.status != http.StatusServiceUnavailable && !(brief && r.status == http.StatusOK) {
				t.Errorf("one of a crowd got %d while the circuit was open; want 503", r.status)
			}
			crowdTook[i] = r.took
		})
	}
	crowd.Wait()
	probes := 3
	if brief {
		probes = 1
	}
	eventually(t, "failed probes and refused calls", func() bool {
		return c.count(breaker.HalfOpen) >= probes && c.refused.Load() >= 300
	})
	guestsMeanwhile := guests.Load()
	began := inner.began.Load() // before the probes that allowed them
	halfOpen := int64(c.count(breaker.HalfOpen))
	reached := began - c.began
	if closed := c.count(breaker.Closed); closed == 0 && reached > halfOpen+outageUsers {
		t.Errorf("after the circuit had opened, %d calls reached the store; want no more than its %d probes and the %d that were on their way",
			reached, halfOpen, outageUsers)
	}
	if most := inner.most.Load(); most > outageUsers {
		t.Errorf("%d calls were under way at once; a store that hangs must not hold more than there were when it began to, %d", most, outageUsers)
	}

	// And its end.
	lift()
	eventually(t, "the circuit closing", func() bool { return b.State() == breaker.Closed })
	for _, u := range users {
		u.setPhase("after")
	}
	goal := 0
	for _, u := range users {
		goal = max(goal, u.count())
	}
	eventually(t, "ten more purchases of every user", everybody(goal+10))
	if guests.Load() == guestsMeanwhile {
		t.Error("no request without a cookie was answered")
	}
	end()

	var acknowledged, open int
	took := map[string][]time.Duration{}
	for _, u := range users {
		u.settle(t, s)
		acknowledged += u.acknowledged
		open += u.ambiguous
		for k, ds := range u.took {
			took[k] = append(took[k], ds...)
		}
	}
	c.checkSequence(t)
	tr.CloseIdleConnections()
	slack := 20
	eventually(t, fmt.Sprintf("the goroutines of the outage ending (%d before, want at most %d more)", before, slack),
		func() bool { return runtime.NumGoroutine() <= before+slack })

	for _, k := range slices.Sorted(maps.Keys(took)) {
		t.Logf("%-25s %s", k+":", spread(took[k]))
	}
	t.Logf("%-25s %s", "a crowd, circuit open:", spread(crowdTook[:]))
	t.Logf("%d requests without a cookie, all 200; %d purchases acknowledged, %d left open, none made twice", guests.Load(), acknowledged, open)
	t.Logf("%d calls refused, %d reached the store while the circuit was open or half-open, by %d probes; at most %d under way at once",
		c.refused.Load(), reached, halfOpen, inner.most.Load())
	t.Logf("goroutines: %d before, %d at most, %d after", before, peak.Load(), runtime.NumGoroutine())
}

// paced waits a little, and reports whether to go on.
func paced(stop <-chan struct{}) bool {
	select {
	case <-stop:
		return false
	case <-time.After(outagePace):
		return true
	}
}

// outageUser buys one thing after the other.
type outageUser struct {
	*browser
	name string

	mu           sync.Mutex
	phase        string
	acknowledged int
	ambiguous    int
	last         int // what the cart held at the last answer
	took         map[string][]time.Duration
}

func (u *outageUser) count() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.acknowledged
}

func (u *outageUser) setPhase(p string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.phase = p
}

func (u *outageUser) shop(t testing.TB, s *shop, stop <-chan struct{}) {
	for paced(stop) {
		cookie := u.cookie(s)
		r := u.ask(t, s, "/add")
		u.mu.Lock()
		kind := fmt.Sprintf("%s, %d %s", u.phase, r.status, r.outcome)
		u.took[kind] = append(u.took[kind], r.took)
		switch r.status {
		case http.StatusOK:
			u.acknowledged++
			if r.Owner == "" || r.Cart <= u.last {
				t.Errorf("%s: a cart of %d after one of %d, owner %q", u.name, r.Cart, u.last, r.Owner)
			}
			u.last = r.Cart
		case http.StatusServiceUnavailable:
			if r.cookies != 0 || u.cookie(s) != cookie {
				t.Errorf("%s: a 503 changed the cookies", u.name)
			}
			if r.outcome == "ambiguous" {
				u.ambiguous++
			}
		default:
			t.Errorf("%s: status %d %s; want 200 or 503", u.name, r.status, r.outcome)
		}
		u.mu.Unlock()
	}
}

// settle checks that what the user was told is what is stored.
func (u *outageUser) settle(t testing.TB, s *shop) {
	t.Helper()
	r := u.must(t, s, "/")
	if want := strings.ReplaceAll(u.name, " ", ""); r.Owner != want {
		t.Errorf("%s is signed in as %q after the outage; want %q", u.name, r.Owner, want)
	}
	if r.Cart < u.acknowledged || r.Cart > u.acknowledged+u.ambiguous {
		t.Errorf("%s: the cart has %d things; %d purchases were acknowledged and %d left open, so a write was lost or made twice",
			u.name, r.Cart, u.acknowledged, u.ambiguous)
	}
}

// checkSequence: closed, open, half-open, in the end closed.
func (c *circuit) checkSequence(t testing.TB) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	var text []string
	for i, ch := range c.changes {
		if i == 0 && ch.From != breaker.Closed || i > 0 && ch.From != c.changes[i-1].To {
			t.Errorf("change %d of the circuit was from %v", i, ch.From)
		}
		if ch.To == breaker.Closed && ch.From != breaker.HalfOpen {
			t.Errorf("the circuit closed from %v, without a probe", ch.From)
		}
		text = append(text, ch.To.String())
	}
	if n := len(text); n == 0 || text[n-1] != "closed" || !slices.Contains(text, "half-open") {
		t.Errorf("the circuit went closed → %s; want it to open, be half-open and close", strings.Join(text, " → "))
		return
	}
	t.Logf("circuit: closed → %s", strings.Join(text, " → "))
}

// TestRedisWriteInFlight: a write that is sent when the answers, or everything,
// stop coming through happens once or not at all, and its user is told the truth:
// that it happened, or that this is open.
func TestRedisWriteInFlight(t *testing.T) {
	for _, lost := range []struct {
		what       string
		directions []string
		open       int // what a write that is left open has done
	}{
		{"answers", []string{"downstream"}, 1},
		{"everything", []string{"downstream", "upstream"}, 0},
	} {
		for _, back := range []bool{true, false} {
			name := lost.what + " lost, for good"
			if back {
				name = lost.what + " lost, and back while the user waits"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				l := newLink(t)
				opened := make(chan struct{})
				tell := sync.OnceFunc(func() { close(opened) })
				b, err := breaker.New(redisOpen(t, l.url, nil), &breaker.Options{
					Timeout: 300 * time.Millisecond,
					OpenFor: 100 * time.Millisecond,
					OnStateChange: func(ch breaker.Change) {
						if ch.To == breaker.Open {
							tell()
						}
					},
				})
				if err != nil {
					t.Fatal(err)
				}
				opts := session.Options{CommitTimeout: time.Second}
				if back {
					opts.CommitTimeout = time.Minute
				}
				s := openShop(t, b, opts)
				tr := shopTransport(t)
				var users [outageUsers]*browser
				var replies [outageUsers]reply
				var held sync.WaitGroup
				for i := range users {
					users[i] = newBrowser(t, tr)
					users[i].must(t, s, fmt.Sprintf("/signin?v=user%d", i))
					users[i].must(t, s, "/add")
					held.Go(func() { replies[i] = users[i].ask(t, s, "/held") })
				}
				for range users {
					<-s.arrived
				}
				lift := l.toxic(t, "timeout", `{"timeout": 0}`, lost.directions...)
				close(s.gate)
				<-opened // by these writes: nothing else is going on
				if back {
					lift()
				}
				held.Wait()
				if !back {
					lift()
				}
				eventually(t, "the circuit closing", func() bool {
					return newBrowser(t, tr).ask(t, s, "/add").status == http.StatusOK
				})
				for i, u := range users {
					want, status, outcome := 2, http.StatusOK, ""
					if !back {
						want, status, outcome = 1+lost.open, http.StatusServiceUnavailable, "ambiguous"
					}
					if r := replies[i]; r.status != status || r.outcome != outcome {
						t.Errorf("user %d was told %d %q; want %d %q", i, r.status, r.outcome, status, outcome)
					}
					if r := u.must(t, s, "/"); r.Cart != want || r.Owner != fmt.Sprint("user", i) {
						t.Errorf("user %d: owner %q, cart of %d; want %d, or the write was lost or made twice", i, r.Owner, r.Cart, want)
					}
				}
			})
		}
	}
}
