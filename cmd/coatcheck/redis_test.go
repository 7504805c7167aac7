//go:build unix

package main

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/admin"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/shopper"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/uptest"
	"github.com/coatcheck/coatcheck/internal/testserver"
)

// onRedis returns the arguments for a fleet on the Redis that the tests share,
// in a corner of its own.
func onRedis(t *testing.T) []string {
	t.Helper()
	prefix := strings.ReplaceAll(t.Name(), "_", "-") + ":"
	return []string{"--store", testserver.Shared(t, "redis").URL + "?prefix=" + prefix}
}

// readyz is what a worker says of itself.
type readyz struct {
	Status    string
	Store     string
	Breaker   string
	NearCache string `json:"near_cache"`
}

// askReadyz asks whichever worker is next.
func askReadyz(t *testing.T, u *uptest.Up) (r readyz, server string) {
	t.Helper()
	resp, err := http.Get(u.Shop + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, json.Unmarshal(b, &r)); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("GET /readyz: %s %s, %v", resp.Status, b, err)
	}
	return r, resp.Header.Get("X-Served-By")
}

// awaitReadyz waits until a worker says what ok wants to hear.
func awaitReadyz(t *testing.T, u *uptest.Up, what string, ok func(readyz) bool) {
	t.Helper()
	uptest.Await(t, what, func() bool {
		r, _ := askReadyz(t, u)
		return ok(r)
	})
}

// awaitEveryReadyz waits until the latest word of every worker is as ok wants it.
func awaitEveryReadyz(t *testing.T, u *uptest.Up, what string, ok func(readyz) bool) {
	t.Helper()
	said := make(map[string]bool)
	uptest.Await(t, what, func() bool {
		r, server := askReadyz(t, u)
		said[server] = ok(r)
		return !slices.ContainsFunc(names(u.Fleet()), func(name string) bool { return !said[name] })
	})
}

func TestUpOnRedis(t *testing.T) {
	const password = "hunter2"
	s := testserver.Start(t, "redis", &testserver.Options{Password: password})
	u := uptest.Start(t, "--workers", "3", "--store", s.URL)
	v := newVisitor(t, u, nil)
	v.post("/cart", url.Values{"sku": {"apple"}, "qty": {"2"}})
	var order []string
	for range 30 {
		order = append(order, v.mustHave("", 2).ServedBy)
	}
	for i, name := range order {
		if name != order[i%3] {
			t.Fatalf("30 requests with one cart were not served in rotation: %v", order)
		}
	}
	want := admin.Store{URL: "redis://" + s.Nodes[0].Addr, Name: "redis://" + s.Nodes[0].Addr, Kind: "redis", Topology: "redis standalone", Shared: true, State: "ok", Breaker: "closed"}
	if got := storeOf(t, u); got != want || u.Store != want.URL {
		t.Errorf("the status says %+v, want %+v; the ready line %s", got, want, u.Store)
	}
	if got, _ := askReadyz(t, u); got != (readyz{"ready", "ok", "closed", "off"}) {
		t.Errorf("GET /readyz says %+v", got)
	}
	if !strings.Contains(u.Stderr(), `msg="session store: persistence"`) {
		t.Error("nobody is told that this server keeps nothing on disk")
	}
	if strings.Contains(u.Stderr(), password) {
		t.Error("the log shows the password")
	}
}

func TestUpOnEveryTopology(t *testing.T) {
	t.Parallel() // it waits for servers to start
	if testing.Short() {
		t.Skip("takes seconds: run it without -short")
	}
	for kind, topology := range map[string]string{
		"redis-tls": "standalone", "redis-sentinel": "sentinel", "redis-cluster": "cluster",
	} {
		t.Run(kind, func(t *testing.T) {
			u := uptest.Start(t, "--workers", "2", "--near-cache", "--store", testserver.Shared(t, kind).URL)
			v := newVisitor(t, u, nil)
			v.post("/login", url.Values{"user": {"alice"}, "password": {"demo"}})
			v.post("/cart", url.Values{"sku": {"apple"}, "qty": {"2"}})
			v.mustHave("alice", 2)
			v.mustHave("alice", 2)
			if s := u.Fleet().Store; !strings.HasPrefix(s.Topology, "redis "+topology) || s.State != "ok" || s.Breaker != "closed" {
				t.Errorf("the status says %+v", s)
			}
			awaitEveryReadyz(t, u, "every worker is told of changes", func(r readyz) bool {
				return r == readyz{"ready", "ok", "closed", "pushed"}
			})
		})
	}
}

func TestShoppersNeverNoticeKillsAndScalingOnRedis(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds: run it without -short")
	}
	const d = 10 * time.Second
	t.Run("plain", func(t *testing.T) { testKillsAndScaling(t, d, onRedis(t)...) })
	t.Run("near-cache", func(t *testing.T) { testKillsAndScaling(t, d, append(onRedis(t), "--near-cache")...) })
}

func TestSignOutEndsTheSessionOnEveryServerOnRedis(t *testing.T) { testSignOut(t, onRedis(t)...) }

// With copies in each server, a sign-out on one reaches the others when it is
// told, for the one who has a copy of the cookie and nothing newer.
func TestSignOutReachesEveryNearCache(t *testing.T) {
	u := uptest.Start(t, append(onRedis(t), "--workers", "3", "--near-cache")...)
	awaitEveryReadyz(t, u, "every worker is told of changes", func(r readyz) bool { return r.NearCache == "pushed" })
	v := newVisitor(t, u, nil)
	v.post("/login", url.Values{"user": {"alice"}, "password": {"demo"}})
	f := &thief{shop: u.Shop, cookie: v.cookie(u), client: new(http.Client)}
	defer f.client.CloseIdleConnections()
	for range 3 { // a copy in every server
		if s, _, err := f.do(http.MethodGet, "/api/session", nil); err != nil || s.User != "alice" {
			t.Fatalf("before the sign-out %s says %q, %v", s.ServedBy, s.User, err)
		}
	}
	v.post("/logout", nil)
	v.mustHave("", 0)
	begin, asked := time.Now(), 0
	ended := make(map[string]bool)
	uptest.Await(t, "the sign-out is known to every server", func() bool {
		s, _, err := f.do(http.MethodGet, "/api/session", nil)
		if err != nil {
			t.Fatal(err)
		}
		asked++
		if ended[s.ServedBy] && s.User != "" {
			t.Errorf("%s had seen the end of the session, and shows it again", s.ServedBy)
		}
		ended[s.ServedBy] = s.User == ""
		return len(ended) == 3 && ended["worker-1"] && ended["worker-2"] && ended["worker-3"]
	})
	t.Logf("every server knew %v and %d requests after the answer to the sign-out", time.Since(begin), asked)
}

// The server of the sessions is killed under shoppers, again and again: they get
// 503 while it is away, and then go on where they were. A web server that dies
// meanwhile is replaced, and those who have no session are served all along.
func TestOutageOfRedisSignsNobodyOut(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds: run it without -short")
	}
	const d = 10 * time.Second
	for _, tt := range []struct {
		name string
		args []string
	}{
		{"plain", nil},
		{"near-cache", []string{"--near-cache"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := testserver.Start(t, "redis", &testserver.Options{Config: []string{"appendonly yes", "appendfsync always"}})
			testOutage(t, d, s, tt.args...)
		})
	}
}

// testOutage kills the server's one node, which keeps what it has acknowledged.
func testOutage(t *testing.T, d time.Duration, s *testserver.Server, args ...string) {
	u := uptest.Start(t, append(args, "--workers", "3", "--store", s.URL)...)
	x := newTrouble(t, u)
	v := newVisitor(t, u, nil)
	v.post("/login", url.Values{"user": {"alice"}, "password": {"demo"}})
	v.post("/cart", url.Values{"sku": {"apple"}, "qty": {"2"}})
	add := func() int {
		resp, err := v.client.PostForm(u.Shop+"/cart", url.Values{"sku": {"pear"}, "qty": {"1"}})
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		return resp.StatusCode
	}

	var mu sync.Mutex
	failed := make(map[int]int)
	var refused []time.Duration // how long a 503 took
	opts := shopper.Options{Think: 100 * time.Millisecond, Observe: func(r shopper.Request) {
		if r.Fault == shopper.FailedRequest {
			mu.Lock()
			defer mu.Unlock()
			failed[r.Status]++
			if r.Status == http.StatusServiceUnavailable {
				refused = append(refused, r.Took)
			}
		}
	}}
	outages := 0
	r := shopThrough(t, u, 20, d, opts, func() {
		before := pids(u.AwaitWorkers(3))
		s.Kill(t, "node-1")
		outages++
		uptest.Await(t, "503 to a change of a session", func() bool { return add() == http.StatusServiceUnavailable })
		for range 6 {
			servedBy(t, u) // has no session
		}
		awaitReadyz(t, u, "a worker's circuit opens", func(r readyz) bool { return r.Store == "unavailable" && r.Breaker == "open" })
		x.kill(1)
		u.AwaitWorkers(3)
		awaitReadyz(t, u, "the new worker serves", func(r readyz) bool { return r.Breaker == "connecting" })
		for range 6 {
			servedBy(t, u)
		}
		s.Restart(t, "node-1")
		back := time.Now()
		awaitEveryReadyz(t, u, "every server has its store again", func(r readyz) bool { return r.Store == "ok" && r.Breaker == "closed" })
		t.Logf("every server had its store again %v after that answered", time.Since(back).Round(time.Millisecond))
		v.mustHave("alice", 2)
		uptest.Await(t, "changes again", func() bool { return add() == http.StatusOK })
		after := pids(u.AwaitWorkers(3))
		if old := slices.DeleteFunc(before, func(pid int) bool { return !slices.Contains(after, pid) }); len(old) != 2 {
			t.Errorf("of three servers %d outlived the outage, want the two that were not killed", len(old))
		}
	})
	t.Logf("the shoppers say:\n%s", r)
	t.Logf("%d outages; failed requests by status: %v", outages, failed)
	if n := len(refused); n > 0 {
		slices.Sort(refused)
		t.Logf("a 503 took %v (p50), %v (p99), %v at most", refused[n/2], refused[n*99/100], refused[n-1])
	}
	if r.SignOuts+r.LostItems+r.SurplusItems+r.WrongUsers > 0 {
		t.Errorf("an outage cost the shoppers %d sign-outs, %d lost items, %d surplus items, %d wrong users", r.SignOuts, r.LostItems, r.SurplusItems, r.WrongUsers)
	}
	for status, n := range failed {
		// 500 is the answer where an answer of the store was lost and another tab has
		// written since: whether the first write is in that, nobody can tell.
		if status != http.StatusServiceUnavailable && status != http.StatusInternalServerError {
			t.Errorf("%d requests were answered %d during the outages, want 503", n, status)
		}
	}
	if failed[http.StatusInternalServerError] > failed[http.StatusServiceUnavailable]/10 {
		t.Errorf("failed requests by status: %v; an outage is answered 503", failed)
	}
	if failed[http.StatusServiceUnavailable] == 0 {
		t.Error("no shopper met with an outage: they were no trial")
	}
	if errs := strings.Count(u.Stderr(), "the circuit is open"); errs == 0 || errs > 4*outages {
		t.Errorf("%d outages were told %d times, want once by each process", outages, errs)
	}
}

// A command that cannot reach its store says so and ends; it is not like a worker
// whose store went away.
func TestUpFailsWithoutItsRedis(t *testing.T) {
	u := uptest.Launch(t, "--workers", "3", "--store", "redis://user:hunter2@127.0.0.1:1")
	if code := u.Wait(); code != exitFailed {
		t.Errorf("status %d, want %d", code, exitFailed)
	}
	if s := u.Stderr(); !strings.Contains(s, "the session store redis://127.0.0.1:1 cannot be used") || strings.Contains(s, "hunter2") {
		t.Errorf("it said %s", s)
	}
}
