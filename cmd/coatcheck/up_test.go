//go:build unix

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/admin"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/fleet"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/uptest"
)

// servedBy returns the server that answers a request.
func servedBy(t *testing.T, u *uptest.Up) string {
	t.Helper()
	resp, err := http.Get(u.Shop + "/api/session")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var s struct {
		ServedBy string `json:"served_by"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&s); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("GET /api/session: %s, %v", resp.Status, err)
	}
	return s.ServedBy
}

// storeOf returns what the admin interface says of the store, without how long a round
// trip took: it is enough that one did.
func storeOf(t *testing.T, u *uptest.Up) admin.Store {
	t.Helper()
	s := u.Fleet().Store
	if s.Ping <= 0 {
		t.Errorf("a round trip to the store took %v ms", s.Ping)
	}
	s.Ping = 0
	return s
}

func names(s admin.Status) []string {
	var out []string
	for _, w := range s.Workers {
		out = append(out, w.Name)
	}
	return out
}

func pids(s admin.Status) []int {
	var out []int
	for _, w := range s.Workers {
		out = append(out, w.PID)
	}
	return out
}

// mustBeFree fails the test if something still listens there.
func mustBeFree(t *testing.T, address string) {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", u.Host)
	if err != nil {
		t.Errorf("%s is still in use: %v", address, err)
		return
	}
	ln.Close()
}

func mustBeGone(t *testing.T, pids []int) {
	t.Helper()
	for _, pid := range pids {
		if uptest.Alive(pid) {
			t.Errorf("process %d was left behind", pid)
		}
	}
}

func TestUpIsReadyWhenAllWorkersAre(t *testing.T) {
	u := uptest.Start(t, "--workers", "3")
	s := u.Fleet()
	if got, want := names(s), []string{"worker-1", "worker-2", "worker-3"}; !slices.Equal(got, want) {
		t.Errorf("workers %v, want %v", got, want)
	}
	for _, w := range s.Workers {
		if w.State != fleet.Ready {
			t.Errorf("the ready line came while %s was %s", w.Name, w.State)
		}
		if w.PID == u.PID || !uptest.Alive(w.PID) {
			t.Errorf("%s has process %d, which is not a living one of its own", w.Name, w.PID)
		}
	}
	if u.Workers != 3 || s.Target != 3 || s.Store.State != "ok" || s.Store.Kind != "sqlite" {
		t.Errorf("ready %+v, target %d, store %+v", u.Ready, s.Target, s.Store)
	}
	var order []string
	for range 30 {
		order = append(order, servedBy(t, u))
	}
	for i, name := range order {
		if name != order[i%3] {
			t.Fatalf("30 requests were not served in rotation: %v", order)
		}
	}
	if total := u.Fleet().Balancer.Requests; total != 30 {
		t.Errorf("the balancer counts %d requests, want 30", total)
	}
}

func TestUpReplacesKilledWorkers(t *testing.T) {
	u := uptest.Start(t, "--workers", "3")
	killed := u.Fleet().Workers[0]
	u.Kill("worker-1")
	if uptest.Alive(killed.PID) {
		t.Error("worker-1 lived when its kill was answered")
	}
	for range 6 {
		servedBy(t, u)
	}
	s := u.AwaitWorkers(3)
	if got, want := names(s), []string{"worker-2", "worker-3", "worker-4"}; !slices.Equal(got, want) {
		t.Errorf("workers %v, want %v", got, want)
	}
	if !slices.ContainsFunc(u.Events(), func(e fleet.Event) bool { return e.Worker == "worker-1" && e.Kind == fleet.Killed }) {
		t.Errorf("the events do not tell of the kill: %+v", u.Events())
	}

	// By somebody else, all at once: requests wait for the replacements.
	for _, w := range s.Workers {
		if err := syscall.Kill(w.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	servedBy(t, u)
	s = u.AwaitFleet("three workers that are none of the killed", func(s admin.Status) bool {
		return len(s.Workers) == 3 && !slices.ContainsFunc(s.Workers, func(w admin.Worker) bool {
			return w.State != fleet.Ready || slices.Contains([]string{"worker-2", "worker-3", "worker-4"}, w.Name)
		})
	})
	mustBeGone(t, []int{killed.PID})
}

// A new build of the command beside a running one is an everyday thing, and its
// workers would not understand the parent.
func TestWorkersAreOfTheParentsBinary(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("this needs /proc; run it on Linux")
	}
	b, err := os.ReadFile(uptest.Binary(t))
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(t.TempDir(), "coatcheck")
	if err := os.WriteFile(bin, b, 0o700); err != nil {
		t.Fatal(err)
	}
	u := uptest.LaunchBinary(t, bin, "--workers", "1")
	u.AwaitReady()
	if err := os.Remove(bin); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(bin, []byte("#!/bin/sh\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	u.Kill("worker-1")
	if got := names(u.AwaitWorkers(1)); !slices.Equal(got, []string{"worker-2"}) {
		t.Errorf("workers %v, want the replacement, worker-2", got)
	}
}

// What keeps new workers from starting is said, and once it is gone they start;
// those that run go on.
func TestWorkersThatCannotStartAreTriedAgain(t *testing.T) {
	db := filepath.Join(t.TempDir(), "s.db")
	u := uptest.Start(t, "--workers", "2", "--store", "sqlite:"+db)
	if err := os.Rename(db, db+".away"); err != nil {
		t.Fatal(err)
	}
	u.Kill("worker-1")
	uptest.Await(t, "the failure was told", func() bool {
		return slices.ContainsFunc(u.Events(), func(e fleet.Event) bool {
			return e.Kind == fleet.Failed && strings.Contains(e.Detail, "s.db was deleted or moved")
		})
	})
	if got := servedBy(t, u); got != "worker-2" {
		t.Errorf("answered by %s, want worker-2", got)
	}
	if err := os.Rename(db+".away", db); err != nil {
		t.Fatal(err)
	}
	u.AwaitWorkers(2)
}

// A database that was deleted while it is open goes on to take writes, which
// nobody who opens it later would see.
func TestNothingIsAddedToADeletedStore(t *testing.T) {
	db := filepath.Join(t.TempDir(), "s.db")
	u := uptest.Start(t, "--workers", "2", "--store", "sqlite:"+db)
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	visitor := &http.Client{Jar: jar}
	add := func() int {
		resp, err := visitor.PostForm(u.Shop+"/cart", url.Values{"sku": {"apple"}, "qty": {"1"}})
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		return resp.StatusCode
	}
	if got := add(); got != http.StatusOK { // after the redirect
		t.Fatalf("an addition was answered %d", got)
	}
	if err := os.Remove(db); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		if got := add(); got != http.StatusServiceUnavailable {
			t.Errorf("an addition to a deleted store was answered %d, want 503", got)
		}
	}
	if s := u.Fleet().Store; s.State != "unavailable" || !strings.Contains(s.Error, "s.db was deleted or moved") {
		t.Errorf("the status says %+v", s)
	}
	uptest.Await(t, "the log tells of it", func() bool {
		return strings.Contains(u.Stderr(), "msg=\"no session can be read or saved\"")
	})
	// Another file in its place would be another store, even if it is well set up.
	other := uptest.Start(t, "--workers", "1", "--store", "sqlite:"+db)
	for range 4 {
		if got := add(); got != http.StatusServiceUnavailable {
			t.Errorf("an addition beside another store was answered %d, want 503", got)
		}
	}
	u.Kill("worker-1")
	uptest.Await(t, "no worker starts on the other store", func() bool {
		return slices.ContainsFunc(u.Events(), func(e fleet.Event) bool {
			return e.Kind == fleet.Failed && strings.Contains(e.Detail, "s.db was replaced")
		})
	})
	if s := other.Fleet().Store; s.State != "ok" {
		t.Errorf("the other store is %+v", s)
	}
}

func TestUpScales(t *testing.T) {
	u := uptest.Start(t, "--workers", "1")
	u.Scale(4)
	before := u.AwaitWorkers(4)
	u.Scale(2)
	after := u.AwaitWorkers(2)
	if got, want := names(after), []string{"worker-1", "worker-2"}; !slices.Equal(got, want) {
		t.Errorf("scaled down to %v, want the oldest, %v", got, want)
	}
	mustBeGone(t, []int{before.Workers[2].PID, before.Workers[3].PID})
	for range 4 {
		servedBy(t, u)
	}
}

// busy waits until a worker has a request in flight, and returns it.
func busy(t *testing.T, u *uptest.Up) admin.Worker {
	t.Helper()
	var found admin.Worker
	u.AwaitFleet("a request in flight", func(s admin.Status) bool {
		for _, w := range s.Workers {
			if w.InFlight > 0 {
				found = w
				return true
			}
		}
		return false
	})
	return found
}

func TestDrainWaitsForRequestsInFlight(t *testing.T) {
	u := uptest.Start(t, "--workers", "2")
	slow := startSlowPost(t, u)
	w := busy(t, u)
	u.Drain(w.Name)
	s := u.AwaitFleet("a replacement beside the draining worker", func(s admin.Status) bool {
		return len(s.Workers) == 3 && s.Workers[2].State == fleet.Ready
	})
	i := slices.IndexFunc(s.Workers, func(o admin.Worker) bool { return o.Name == w.Name })
	if i < 0 || s.Workers[i].State != fleet.Draining || !uptest.Alive(w.PID) {
		t.Fatalf("%s, which had a request in flight, is %+v", w.Name, s.Workers)
	}
	for range 6 {
		if got := servedBy(t, u); got == w.Name {
			t.Errorf("%s is draining and got a new request", w.Name)
		}
	}
	if got := slow.finish(); got != http.StatusOK {
		t.Errorf("the request in flight was answered %d", got)
	}
	u.AwaitWorkers(2)
	mustBeGone(t, []int{w.PID})
}

func TestScaleDownWaitsForRequestsInFlight(t *testing.T) {
	u := uptest.Start(t, "--workers", "1")
	u.Scale(2)
	u.AwaitWorkers(2)
	// worker-2 is the one to go; give both a request.
	first, second := startSlowPost(t, u), startSlowPost(t, u)
	u.AwaitFleet("both workers busy", func(s admin.Status) bool {
		return s.Workers[0].InFlight == 1 && s.Workers[1].InFlight == 1
	})
	u.Scale(1)
	u.AwaitFleet("worker-2 draining", func(s admin.Status) bool {
		return len(s.Workers) == 2 && s.Workers[1].State == fleet.Draining
	})
	for _, p := range []*slowPost{first, second} {
		if got := p.finish(); got != http.StatusOK {
			t.Errorf("a request in flight was answered %d", got)
		}
	}
	u.AwaitWorkers(1)
}

func TestInterruptLeavesNothingBehind(t *testing.T) {
	for _, tt := range []struct {
		name string
		send func(*uptest.Up)
	}{
		{"SIGINT", func(u *uptest.Up) { u.Signal(os.Interrupt) }},
		{"SIGTERM", func(u *uptest.Up) { u.Signal(syscall.SIGTERM) }},
		{"Ctrl-C in a terminal", func(u *uptest.Up) { u.SignalGroup(syscall.SIGINT) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			temp, dir := t.TempDir(), t.TempDir()
			uptest.Binary(t) // is built elsewhere
			t.Setenv("TMPDIR", temp)
			u := uptest.Start(t, "--store", "sqlite:"+filepath.Join(dir, "s.db"))
			workers := pids(u.Fleet())
			slow := startSlowPost(t, u)
			busy(t, u)
			tt.send(u)
			uptest.Await(t, "the drain began", func() bool { return strings.Contains(u.Stderr(), "msg=\"draining;") })
			if got := slow.finish(); got != http.StatusOK {
				t.Errorf("the request in flight was answered %d", got)
			}
			if code := u.Wait(); code != 0 {
				t.Errorf("status %d after a drain, want 0", code)
			}
			mustBeGone(t, workers)
			mustBeFree(t, u.Shop)
			mustBeFree(t, u.Admin)
			if rest := u.RestOfStdout(); rest != "" {
				t.Errorf("standard output had more than the ready line: %q", rest)
			}
			if left, _ := os.ReadDir(temp); len(left) != 0 {
				t.Errorf("temporary files were left: %v", left)
			}
			if left, _ := os.ReadDir(dir); len(left) != 1 {
				t.Errorf("beside the database %v was left", left)
			}
		})
	}
}

// An interrupt may come at any moment of the start.
func TestInterruptDuringTheStartLeavesNothingBehind(t *testing.T) {
	started := regexp.MustCompile(`msg=started worker=\S+ detail="process (\d+)"`)
	for _, moment := range []string{"", "set up the session store", "worker=worker-1", "worker=worker-3", "msg=ready"} {
		t.Run(moment, func(t *testing.T) {
			u := uptest.Launch(t)
			uptest.Await(t, "the start got so far", func() bool { return moment == "" || strings.Contains(u.Stderr(), moment) })
			u.Signal(os.Interrupt)
			code := u.Wait()
			// Before the signals are caught, the default action ends the process.
			if ready := strings.Contains(u.RestOfStdout(), "shop"); code != 0 && ready || code == 0 && !ready {
				t.Errorf("status %d, ready line printed: %v", code, ready)
			}
			for _, m := range started.FindAllStringSubmatch(u.Stderr(), -1) {
				pid, err := strconv.Atoi(m[1])
				if err != nil {
					t.Fatal(err)
				}
				mustBeGone(t, []int{pid})
			}
		})
	}
}

func TestVisitorWhoNeverFinishesDoesNotSpoilTheEnd(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds: run it without -short")
	}
	t.Parallel() // it waits most of its time
	u := uptest.Start(t, "--workers", "2")
	workers := pids(u.Fleet())
	slow := startSlowPost(t, u)
	busy(t, u)
	u.Signal(os.Interrupt)
	if code := u.Wait(); code != exitOK {
		t.Errorf("status %d, want 0: whoever stops it has no influence on its visitors", code)
	}
	if !strings.Contains(u.Stderr(), "are cut off") || strings.Contains(u.Stderr(), "killing it") {
		t.Errorf("it does not say that a request was cut off, or did not leave the workers time:\n%s", u.Stderr())
	}
	if _, err := slow.complete(); err == nil {
		t.Error("the request was answered, though nobody was left")
	}
	mustBeGone(t, workers)
}

func TestSecondInterruptEndsAtOnce(t *testing.T) {
	u := uptest.Start(t)
	workers := pids(u.Fleet())
	startSlowPost(t, u) // never finished: the drain would wait for it
	busy(t, u)
	u.Signal(os.Interrupt)
	uptest.Await(t, "the drain began", func() bool { return strings.Contains(u.Stderr(), "msg=\"draining;") })
	u.Signal(os.Interrupt)
	if code := u.Wait(); code != exitFailed {
		t.Errorf("status %d after a stop that cut requests off, want %d", code, exitFailed)
	}
	if !strings.Contains(u.Stderr(), "asked a second time") {
		t.Errorf("it does not say why it ended: %s", u.Stderr())
	}
	mustBeGone(t, workers)
	mustBeFree(t, u.Shop)
	mustBeFree(t, u.Admin)
}

func TestWorkersEndWithTheirParent(t *testing.T) {
	u := uptest.Start(t)
	workers := pids(u.Fleet())
	startSlowPost(t, u) // a worker that has something to do must end too
	busy(t, u)
	u.Signal(syscall.SIGKILL)
	u.Wait()
	uptest.Await(t, "the workers of a killed parent ended", func() bool {
		return !slices.ContainsFunc(workers, uptest.Alive)
	})
	mustBeFree(t, u.Shop)
	mustBeFree(t, u.Admin)
}

// What is in the arguments or the environment of a process, others can read.
func TestWorkersShowNoSecret(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("this needs /proc; run it on Linux")
	}
	u := uptest.Start(t)
	for _, w := range u.Fleet().Workers {
		cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", w.PID))
		if err != nil {
			t.Fatal(err)
		}
		args := strings.Split(strings.TrimRight(string(cmdline), "\x00"), "\x00")
		if want := []string{"serve", "--supervised"}; !slices.Equal(args[1:], want) {
			t.Errorf("%s has arguments %q, want %q", w.Name, args[1:], want)
		}
		parent := environ(t, u.PID)
		for _, v := range environ(t, w.PID) {
			if !slices.Contains(parent, v) {
				t.Errorf("%s has %q in its environment, its parent has not", w.Name, v)
			}
			if strings.Contains(v, u.AdminToken) {
				t.Errorf("%s has the token in its environment", w.Name)
			}
		}
	}
}

func environ(t *testing.T, pid int) []string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimRight(string(b), "\x00"), "\x00")
}

func TestWorkersAnswerTheirBalancerOnly(t *testing.T) {
	u := uptest.Start(t, "--workers", "1")
	worker := u.Fleet().Workers[0]
	for _, path := range []string{"/", "/api/session", "/healthz", "/readyz"} {
		resp, err := http.Get(worker.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusForbidden {
			t.Errorf("GET %s past the balancer: %s, want 403: X-Forwarded-For could be forged", path, resp.Status)
		}
	}
}

// Package admin tests the whole of it; this is that the command uses it.
func TestAdminIsGuarded(t *testing.T) {
	u := uptest.Start(t, "--workers", "1")
	adminURL, err := url.Parse(u.Admin)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		rule, host, token, origin string
		want                      int
	}{
		{"with the token", adminURL.Host, u.AdminToken, "", 200},
		{"without", adminURL.Host, "", "", 401},
		{"under a foreign name", "evil.example", u.AdminToken, "", 421},
		{"from the shop's origin", adminURL.Host, u.AdminToken, u.Shop, 403},
	} {
		req, err := http.NewRequest(http.MethodPost, u.Admin+"/api/fleet/workers/worker-1/drain", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = tt.host
		if tt.token != "" {
			req.Header.Set("Authorization", "Bearer "+tt.token)
		}
		if tt.origin != "" {
			req.Header.Set("Origin", tt.origin)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != tt.want {
			t.Errorf("a change %s: %s, want %d", tt.rule, resp.Status, tt.want)
		}
	}
	if strings.Contains(u.Stderr(), u.AdminToken) {
		t.Error("the token is in the log")
	}
}

func TestMemoryStoreDoesNotScale(t *testing.T) {
	u := uptest.Start(t, "--workers", "1", "--store", "memory:")
	req, err := http.NewRequest(http.MethodPost, u.Admin+"/api/fleet/scale", strings.NewReader(`{"workers":2}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+u.AdminToken)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusBadRequest || !bytes.Contains(b, []byte("memory of one process")) {
		t.Errorf("scale of a store in memory: %s %s, want 400 with the reason", resp.Status, b)
	}
}
