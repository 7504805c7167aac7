//go:build unix

package main

import (
	"net/http"
	"os"
	"slices"
	"syscall"
	"testing"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/admin"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/balancer"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/fleet"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/uptest"
)

// A stopped process keeps its connections, and the kernel goes on accepting more
// of them for it: only its health checks tell.
func TestFrozenWorkerKeepsNobodyWaitingAndIsReplaced(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds: run it without -short")
	}
	t.Parallel() // it waits most of its time
	u := uptest.Start(t, "--workers", "2")
	frozen := u.Fleet().Workers[0]
	if err := syscall.Kill(frozen.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	statuses := make(chan int, 2)
	get := func() {
		resp, err := http.Get(u.Shop + "/api/session")
		if err != nil {
			t.Error(err)
			statuses <- 0
			return
		}
		resp.Body.Close()
		statuses <- resp.StatusCode
	}
	go get()
	go get() // one of both goes to the frozen one
	for range 2 {
		if got := <-statuses; got != http.StatusOK {
			t.Errorf("a request was answered %d", got)
		}
	}
	u.AwaitFleet("the frozen worker is not called ready", func(s admin.Status) bool {
		i := slices.IndexFunc(s.Workers, func(w admin.Worker) bool { return w.Name == frozen.Name })
		return i < 0 || s.Workers[i].State != fleet.Ready
	})
	u.AwaitFleet("the frozen worker is replaced", func(s admin.Status) bool {
		return slices.Equal(names(s), []string{"worker-2", "worker-3"}) && s.Workers[1].State == fleet.Ready
	})
	mustBeGone(t, []int{frozen.PID})
}

func TestFrozenWorkersDoNotSpoilTheEnd(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds: run it without -short")
	}
	t.Parallel()
	for _, known := range []bool{true, false} {
		u := uptest.Start(t, "--workers", "2")
		workers := pids(u.Fleet())
		if err := syscall.Kill(workers[0], syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		if known {
			u.AwaitFleet("the worker is held down", func(s admin.Status) bool {
				return slices.ContainsFunc(s.Balancer.Upstreams, func(b balancer.UpstreamStatus) bool { return b.State == balancer.Down })
			})
		}
		u.Signal(os.Interrupt)
		if code := u.Wait(); code != exitOK {
			t.Errorf("status %d, though no request was in flight; known to be frozen: %v", code, known)
		}
		mustBeGone(t, workers)
	}
}
