//go:build unix

package main

import (
	"strings"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/admin"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/fleet"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/shopper"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/uptest"
)

// TestAutoscale: servers come with the load and go when it has gone, and no shopper
// notices. Whoever sets their number is obeyed, whatever the load.
func TestAutoscale(t *testing.T) {
	u := uptest.Start(t, "--autoscale", "1:5", "--autoscale-target", "4", "--autoscale-window", "10s")
	if got := u.Fleet(); got.Target != 1 || u.Workers != 1 || got.Autoscaling == nil || got.Autoscaling.Min != 1 || got.Autoscaling.Max != 5 {
		t.Errorf("at the start there are to be %d workers, and the ready line says %d: %+v; want the least, 1", got.Target, u.Workers, got.Autoscaling)
	}
	r := shopThrough(t, u, 30, 0, shopper.Options{Think: time.Millisecond}, func() {
		u.AwaitFleet("there are as many servers as may be", func(s admin.Status) bool { return s.Target == 5 })
		u.AwaitWorkers(5)
	})
	mustBeFlawless(t, u, r)
	u.AwaitFleet("the load is over, and one server is left", func(s admin.Status) bool { return s.Target == 1 && len(s.Workers) == 1 })
	if killed := len(eventsOf(u, fleet.Killed)) + len(eventsOf(u, fleet.Died)); killed != 0 {
		t.Errorf("%d servers were killed or died; they are to be drained", killed)
	}
	scaled := eventsOf(u, fleet.Scaled)
	if len(scaled) < 2 || !strings.Contains(scaled[0].Detail, "from 1 to ") || !strings.Contains(scaled[0].Detail, "requests at once in the last") {
		t.Errorf("the events say %+v; want growing and shrinking, with the reason", scaled)
	}
	if !strings.Contains(u.Stderr(), "requests at once in the last") {
		t.Error("the log does not say why")
	}

	u.Scale(3)
	u.AwaitWorkers(3)
	decided := u.Fleet().Autoscaling.Workers
	if got := u.Fleet(); !got.Autoscaling.Pinned || got.Target != 3 || decided != 1 {
		t.Errorf("after setting 3 by hand: %d workers, %+v; want 3, and that the load would take 1", got.Target, got.Autoscaling)
	}
	u.Autoscale()
	u.AwaitFleet("the load decides again", func(s admin.Status) bool { return s.Target == 1 && !s.Autoscaling.Pinned })
}

func eventsOf(u *uptest.Up, k fleet.Kind) (events []fleet.Event) {
	for _, e := range u.Events() {
		if e.Kind == k {
			events = append(events, e)
		}
	}
	return events
}

// TestAutoscaleKeepsToTheStore: a store that one worker has for itself serves one, whoever
// asks for more.
func TestAutoscaleKeepsToTheStore(t *testing.T) {
	u := uptest.Start(t, "--autoscale", "1:1", "--store", "memory:")
	if err := u.TryScale(3); err == nil || !strings.Contains(err.Error(), "memory of one process") {
		t.Errorf("scaling to 3 workers with a memory each: %v; want that it is refused", err)
	}
	if got := u.Fleet(); got.Target != 1 || got.Autoscaling.Pinned || got.Autoscaling.Target != 10 || got.Autoscaling.Window != 60 {
		t.Errorf("%d workers, %+v; want one still, as the load decides", got.Target, got.Autoscaling)
	}
}
