//go:build unix

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/uptest"
	"github.com/coatcheck/coatcheck/internal/testserver"
)

// proof is a run of `coatcheck prove --json`.
type proof struct {
	Sessions string `json:"sessions"`
	Kills    int    `json:"kills"`
	Flawless bool   `json:"flawless"`
	Seed     uint64 `json:"seed"`
	Journeys int    `json:"journeys"`
	Requests int    `json:"requests"`

	SignOuts         int `json:"sign_outs"`
	LostItems        int `json:"lost_items"`
	SurplusItems     int `json:"surplus_items"`
	WrongUsers       int `json:"wrong_users"`
	FailedRequests   int `json:"failed_requests"`
	UnrepeatableLost int `json:"unrepeatable_lost"`

	Unavailable int `json:"unavailable_requests"`
	Outages     []struct {
		From float64 `json:"from"`
		To   float64 `json:"to"`
	} `json:"outages"`

	Timeline []struct {
		Ready int `json:"ready"`
	} `json:"timeline"`
	Events []struct {
		Kind string `json:"kind"`
	} `json:"events"`
	Compare []proof `json:"compare"`
}

// experiment is short, and hard on sessions that are in memory.
var experiment = []string{"prove", "--json", "--duration", "10s", "--shoppers", "25", "--think", "150ms", "--kills", "8", "--scale-to", "5", "--seed", "42"}

// runProve runs it in a home of its own, which must be empty after it.
func runProve(t *testing.T, args ...string) (p proof, status int) {
	t.Helper()
	home := t.TempDir()
	cmd := exec.Command(uptest.Binary(t), append(experiment, args...)...)
	cmd.Env = append(os.Environ(), "HOME="+home, "XDG_CACHE_HOME="+home)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	d := json.NewDecoder(&stdout)
	if err := d.Decode(&p); err != nil {
		t.Fatalf("%v; it said:\n%s", err, stderr.String())
	}
	if d.More() {
		t.Error("there is more than one object on standard output")
	}
	if left, _ := filepath.Glob(filepath.Join(home, "coatcheck", "prove", "*")); len(left) != 0 {
		t.Errorf("%v is left", left)
	}
	t.Logf("%v: %d kills, %d journeys, %d requests: %d sign-outs, %d lost items, %d wrong users, %d failed, %d unrepeatable",
		args, p.Kills, p.Journeys, p.Requests, p.SignOuts, p.LostItems, p.WrongUsers, p.FailedRequests, p.UnrepeatableLost)
	return p, cmd.ProcessState.ExitCode()
}

// TestProve: with a shared store nobody notices, and the same shoppers at the same
// times, with the same trouble, notice a lot where sessions are in memory.
func TestProve(t *testing.T) {
	report := filepath.Join(t.TempDir(), "report.html")
	p, status := runProve(t, "--compare", "--report", report)
	if status != 0 || !p.Flawless || p.UnrepeatableLost > p.Requests/20 || p.Sessions != "external" || p.SignOuts+p.LostItems+p.SurplusItems+p.WrongUsers+p.FailedRequests != 0 {
		t.Errorf("status %d, %+v; want that nobody noticed anything", status, p)
	}
	if p.Kills < 2 || p.Journeys < 30 || p.Requests < 300 || p.Seed != 42 {
		t.Errorf("%d kills, %d journeys, %d requests, seed %d are no trial", p.Kills, p.Journeys, p.Requests, p.Seed)
	}
	most := 0
	for _, m := range p.Timeline {
		most = max(most, m.Ready)
	}
	if most < 4 {
		t.Errorf("at most %d servers were ready; want more than the 3 at first, for it was scaled", most)
	}
	if len(p.Compare) != 3 || p.Compare[0].Sessions != "external" {
		t.Fatalf("%d results; want three, the first of the shared store", len(p.Compare))
	}
	for i, want := range []string{"sticky", "local"} {
		c := p.Compare[i+1]
		if c.Sessions != want || c.SignOuts == 0 || c.Journeys < 30 {
			t.Errorf("%+v; want %s, and that visitors were signed out", c, want)
		}
	}
	if sticky, local := p.Compare[1].SignOuts, p.Compare[2].SignOuts; sticky >= local {
		t.Errorf("%d sign-outs with sticky sessions, %d without; want fewer", sticky, local)
	}
	if page, err := os.ReadFile(report); err != nil || !bytes.Contains(page, []byte("</svg>")) {
		t.Errorf("the report: %v, %d bytes", err, len(page))
	}
}

// TestProveWithTroubleOfTheStore: while the store is down nobody has a session, and when it
// is back everybody has.
func TestProveWithTroubleOfTheStore(t *testing.T) {
	for _, kind := range []string{"redis", "postgres"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			p, status := runProve(t, "--store", testserver.Start(t, kind, nil).URL, "--store-restarts", "1", "--slow-store", "20ms", "--kills", "4")
			if p.SignOuts+p.LostItems+p.SurplusItems+p.WrongUsers != 0 {
				t.Errorf("%d sign-outs, %d lost items, %d surplus items, %d wrong users; want that nobody lost anything", p.SignOuts, p.LostItems, p.SurplusItems, p.WrongUsers)
			}
			// How soon servers are themselves again depends on the machine.
			if p.Flawless != (p.FailedRequests == 0) || p.Flawless != (status == 0) {
				t.Errorf("%d failed requests, flawless %t, status %d do not agree", p.FailedRequests, p.Flawless, status)
			}
			if len(p.Outages) != 1 || p.Unavailable == 0 || p.Unavailable > p.Requests/2 || p.Requests < 300 {
				t.Errorf("%d outages, 503 to %d of %d requests are no trial", len(p.Outages), p.Unavailable, p.Requests)
			}
		})
	}
}

// TestProveIsStopped: whichever way it ends, no process and no file stays.
func TestProveIsStopped(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGKILL} {
		t.Run(sig.String(), func(t *testing.T) {
			home := t.TempDir()
			env := append(os.Environ(), "HOME="+home, "XDG_CACHE_HOME="+home)
			cmd := exec.Command(uptest.Binary(t), "prove", "--duration", "60s", "--shoppers", "5", "--kills", "0", "--scale-to", "0")
			cmd.Env = env
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			workers := func() (pids []int) {
				out, _ := exec.Command("pgrep", "-P", strconv.Itoa(cmd.Process.Pid)).Output()
				for _, f := range strings.Fields(string(out)) {
					pid, _ := strconv.Atoi(f)
					pids = append(pids, pid)
				}
				return pids
			}
			var pids []int
			for end := time.Now().Add(uptest.Patience); len(pids) < 3; pids = workers() {
				if time.Now().After(end) {
					t.Fatal("there are no workers")
				}
				time.Sleep(50 * time.Millisecond)
			}
			_ = cmd.Process.Signal(sig)
			stuck := time.AfterFunc(uptest.Patience, func() { _ = cmd.Process.Kill() })
			_ = cmd.Wait() // which tells the status
			if !stuck.Stop() {
				t.Error("it did not end")
			}
			rooms := filepath.Join(home, "coatcheck", "prove", "*")
			if left, _ := filepath.Glob(rooms); sig == syscall.SIGINT && (len(left) != 0 || cmd.ProcessState.ExitCode() != 1) {
				t.Errorf("after an interrupt the status is %d, and %v is left; want 1, and nothing", cmd.ProcessState.ExitCode(), left)
			}
			for _, pid := range pids {
				for end := time.Now().Add(uptest.Patience); uptest.Alive(pid); time.Sleep(50 * time.Millisecond) {
					if time.Now().After(end) {
						t.Fatalf("process %d is left", pid)
					}
				}
			}
			// What a killed one leaves in its folder the next one removes.
			next := exec.Command(uptest.Binary(t), "prove", "--duration", "1s", "--shoppers", "5", "--think", "100ms", "--kills", "0", "--scale-to", "0")
			next.Env = env
			if out, err := next.CombinedOutput(); err != nil {
				t.Fatalf("the next experiment: %v\n%s", err, out)
			}
			if left, _ := filepath.Glob(rooms); len(left) != 0 {
				t.Errorf("%v is left", left)
			}
		})
	}
}
