package session_test

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/store"
)

var (
	modelRuns = flag.Int("model.runs", 10_000, "number of random interleavings")
	modelSeed = flag.Uint64("model.seed", 0, "first seed; 0 takes a random one")
)

// TestModelInterleavings runs a handful of requests on one session at once and
// lets a seeded scheduler decide, store call by store call, who goes next. When
// all is quiet, the store must agree with a model that knows only what the
// requests were told.
func TestModelInterleavings(t *testing.T) {
	seed := *modelSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	runs := *modelRuns
	if testing.Short() {
		runs = min(runs, 500)
	}
	t.Logf("seeds %d to %d", seed, seed+uint64(runs)-1)
	told := map[string]int{}
	for i := range uint64(runs) {
		synctest.Test(t, func(t *testing.T) { newInterleaving(t, seed+i).run(told) })
		if t.Failed() {
			t.Fatalf("replay with -run TestModelInterleavings -model.runs=1 -model.seed=%d", seed+i)
		}
	}
	t.Logf("outcomes: %v", told)
	for _, want := range []string{"add: ok", "add: ended", "renew: ok", "renew: ended", "sign in again: ok", "sign in again: ended", "destroy: ok", "revoke: ok", "revoke all: ok", "read: ok", "read: anonymous", "expire: ok", "touch"} {
		if told[want] == 0 {
			t.Errorf("no run had the outcome %q: the test has lost its reach", want)
		}
	}
}

type interleaving struct {
	t      *testing.T
	rng    *rand.Rand
	st     *calls
	server []*session.Manager
	first  *browser // whose session it is
	handle session.Handle

	mu      sync.Mutex
	waiting []*step // store calls that wait for their turn
	running int
	script  []string

	acked   int  // additions that were acknowledged
	ended   bool // an end was acknowledged, or the session expired
	renewed []*browser
}

type step struct {
	what string
	turn chan struct{}
}

func newInterleaving(t *testing.T, seed uint64) *interleaving {
	x := &interleaving{t: t, rng: rand.New(rand.NewPCG(seed, 1)), st: newCalls()}
	for range 2 {
		x.server = append(x.server, newManager(t, x.st, nil))
	}
	x.first = newBrowser(t)
	x.first.do(x.server[0], func(s *session.Session) {
		check(t, s.SignIn(t.Context(), "alice", nil))
		check(t, count.Set(s, 0))
		x.handle = s.Handle()
	})
	return x
}

func (x *interleaving) run(told map[string]int) {
	if x.rng.IntN(3) == 0 { // long enough ago that activity will be recorded
		time.Sleep(20 * time.Minute)
	}
	x.st.before = func(op string, _ store.Key) error {
		s := &step{op, make(chan struct{})}
		x.mu.Lock()
		x.waiting = append(x.waiting, s)
		x.mu.Unlock()
		<-s.turn
		return nil
	}
	kinds := []string{"add", "add", "add", "renew", "renew", "read", "destroy", "revoke", "revoke all"}
	signsIn := x.rng.IntN(3) == 0
	if signsIn { // once and without a renewal: of two, each gets a session of its own
		kinds = slices.DeleteFunc(kinds, func(kind string) bool { return kind == "renew" })
	}
	expires := x.rng.IntN(8) == 0
	if expires { // an end of its own
		kinds = kinds[:slices.Index(kinds, "destroy")]
	}
	for i := range 2 + x.rng.IntN(4) {
		kind := kinds[x.rng.IntN(len(kinds))]
		if signsIn && i == 1 {
			kind = "sign in again"
		}
		x.running++
		go x.request(i, kind, x.server[x.rng.IntN(len(x.server))], told)
	}
	for {
		synctest.Wait()
		x.mu.Lock()
		if x.running == 0 {
			x.mu.Unlock()
			break
		}
		if len(x.waiting) == 0 { // somebody pauses before trying again
			x.mu.Unlock()
			time.Sleep(time.Millisecond)
			continue
		}
		if expires && x.rng.IntN(6) == 0 {
			expires = false
			x.ended = true
			x.script = append(x.script, "the session expires")
			told["expire: ok"]++
			x.mu.Unlock()
			time.Sleep(session.AAL2.Idle + time.Second)
			continue
		}
		i := x.rng.IntN(len(x.waiting))
		s := x.waiting[i]
		x.waiting = slices.Delete(x.waiting, i, i+1)
		x.script = append(x.script, s.what)
		told[s.what]++
		x.mu.Unlock()
		close(s.turn)
	}
	x.st.before = nil
	x.judge()
}

// request is one request of one kind; it tells the model what it was told.
func (x *interleaving) request(i int, kind string, m *session.Manager, told map[string]int) {
	b := x.first.same()
	outcome := "anonymous"
	note := func(err error) {
		switch {
		case err == nil:
			outcome = "ok"
		case errors.Is(err, session.ErrEnded):
			outcome = "ended"
		case errors.Is(err, session.ErrUnavailable) && x.expired():
			outcome = "late" // an hour passed in the middle of the call
		default:
			outcome = "failed"
			x.t.Errorf("request %d, %s: %v", i, kind, err)
		}
	}
	ctx := x.t.Context()
	if kind == "revoke" || kind == "revoke all" { // an administrator; needs no session
		var err error
		if kind == "revoke" {
			_, err = m.Revoke(ctx, "alice", x.handle)
		} else {
			_, err = m.RevokeAll(ctx, "alice")
		}
		note(err)
	} else {
		resp := b.serve(m, func(w http.ResponseWriter, r *http.Request) {
			s := m.From(r.Context())
			if s.Owner() == "" {
				return
			}
			switch kind {
			case "add":
				check(x.t, count.Update(s, add(1)))
				note(s.Commit(ctx))
			case "renew":
				check(x.t, count.Update(s, add(1)))
				note(s.Renew(ctx))
			case "sign in again":
				check(x.t, count.Update(s, add(1)))
				note(s.SignIn(ctx, "alice", nil))
			case "read":
				_ = must(count.Get(s))(x.t)
				outcome = "ok"
			case "destroy":
				note(s.Destroy(ctx))
			}
		})
		if resp.StatusCode >= 500 && !x.expired() {
			x.t.Errorf("request %d, %s: status %d", i, kind, resp.StatusCode)
		}
		if set := resp.Header["Set-Cookie"]; len(set) > 0 && (outcome == "ended" || outcome == "anonymous" || kind == "read" || kind == "add") {
			x.t.Errorf("request %d, %s, outcome %s: it sets a cookie", i, kind, outcome)
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.running--
	told[kind+": "+outcome]++
	x.script = append(x.script, fmt.Sprintf("[%d %s: %s]", i, kind, outcome))
	if outcome != "ok" {
		return
	}
	switch kind {
	case "add":
		x.acked++
	case "renew", "sign in again":
		x.acked++
		x.renewed = append(x.renewed, b)
	case "destroy", "revoke", "revoke all":
		x.ended = true
	}
}

func (x *interleaving) expired() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.ended
}

// judge compares the store with the model.
func (x *interleaving) judge() {
	live := x.st.live(x.t)
	m := x.server[0]
	_, oldCount := x.first.same().look(m)
	oldOwner, _ := x.first.same().look(m)
	alive := 0
	for _, b := range append(x.renewed, x.first) {
		owner, n := b.same().look(m)
		if owner == "" {
			continue
		}
		alive++
		if n != x.acked {
			x.t.Errorf("the session counts %d; %d additions were acknowledged", n, x.acked)
		}
	}
	switch {
	case x.ended && (len(live) > 0 || alive > 0):
		x.t.Errorf("the session ended, yet %d records live and %d IDs work", len(live), alive)
	case !x.ended && (len(live) != 1 || alive != 1):
		x.t.Errorf("the session did not end; %d records live and %d IDs work, want 1 and 1", len(live), alive)
	}
	if len(x.renewed) > 0 && oldOwner != "" {
		x.t.Errorf("the session was renewed, yet its old ID works and counts %d", oldCount)
	}
	if x.t.Failed() {
		x.t.Logf("what happened: %s", strings.Join(x.script, ", "))
	}
}
