//go:build unix

package fleet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/handover"
)

// The test binary is also the worker, with its behaviour as argument.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "worker" {
		os.Exit(work(os.Args[2]))
	}
	os.Exit(m.Run())
}

type config struct{ Name, Secret string }

func work(behaviour string) int {
	terminated := make(chan os.Signal, 1)
	signal.Notify(terminated, syscall.SIGTERM)
	var c config
	gone, err := handover.Receive(os.Stdin, &c)
	if err != nil {
		return 1
	}
	switch behaviour {
	case "refuses":
		_ = handover.Send(os.Stdout, handover.Report{Error: "the store is not there"})
		return 1
	case "dies":
		fmt.Fprintln(os.Stderr, "out of luck")
		return 3
	case "hangs":
		<-gone
		return 1
	case "prints":
		fmt.Println("an app printed this")
		fmt.Fprint(os.Stderr, "no end of line")
	}
	_ = handover.Send(os.Stdout, handover.Report{URL: "http://" + c.Name})
	switch behaviour {
	case "stubborn":
		signal.Ignore(syscall.SIGTERM)
	case "shortlived":
		return 0
	}
	select {
	case <-terminated:
		return 0
	case <-gone:
		return 1
	}
}

// router records what a Fleet tells it, and holds drains until it is told to let
// them go.
type router struct {
	mu     sync.Mutex
	calls  []string
	routed map[string]string
	busy   chan struct{} // nil: nothing in flight

	unhealthy string // the worker that never passes a health check

	sick    map[string]bool // workers that were ready and fail their health checks
	changed chan struct{}   // closed and renewed when sick changes; nil until then
}

func (r *router) record(call, name string) {
	r.calls = append(r.calls, call+" "+name)
}

func (r *router) Add(name string, u *url.URL) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.routed == nil {
		r.routed = make(map[string]string)
	}
	r.routed[name] = u.String()
	r.record("add", name)
	return nil
}

func (r *router) Drain(ctx context.Context, name string) error {
	r.mu.Lock()
	r.record("drain", name)
	delete(r.routed, name)
	r.broadcastLocked()
	busy := r.busy
	r.mu.Unlock()
	if busy == nil {
		return nil
	}
	select {
	case <-busy:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *router) WaitReady(ctx context.Context, name string) error {
	if r.unhealthy == name {
		<-ctx.Done()
		return ctx.Err()
	}
	return r.wait(ctx, name, false)
}

func (r *router) WaitDown(ctx context.Context, name string) error { return r.wait(ctx, name, true) }

func (r *router) wait(ctx context.Context, name string, sick bool) error {
	for {
		r.mu.Lock()
		_, routed := r.routed[name]
		is := r.sick[name]
		if r.changed == nil {
			r.changed = make(chan struct{})
		}
		changed := r.changed
		r.mu.Unlock()
		switch {
		case !routed:
			return errors.New("gone")
		case is == sick:
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// setSick makes a worker fail its health checks, or pass them again.
func (r *router) setSick(name string, sick bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sick == nil {
		r.sick = make(map[string]bool)
	}
	r.sick[name] = sick
	r.broadcastLocked()
}

func (r *router) broadcastLocked() {
	if r.changed != nil {
		close(r.changed)
	}
	r.changed = make(chan struct{})
}

func (r *router) Remove(name string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.record("remove", name)
	delete(r.routed, name)
	r.broadcastLocked()
	return nil
}

func (r *router) names() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var names []string
	for n := range r.routed {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// buffer is a bytes.Buffer that several goroutines may use.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// newFleet returns a fleet whose nth worker, from 1, behaves as the function
// says; its processes are gone when the test ends.
func newFleet(t *testing.T, r *router, opts *Options, behaviour func(n int) string) *Fleet {
	t.Helper()
	n := 0
	f := New(r, func(name string) (*exec.Cmd, any, error) {
		n++
		return exec.Command(os.Args[0], "worker", behaviour(n)), config{Name: name}, nil
	}, opts)
	t.Cleanup(f.KillAll)
	return f
}

func normal(int) string { return "normal" }

func names(ws []Worker) []string {
	var out []string
	for _, w := range ws {
		out = append(out, w.Name)
	}
	return out
}

// settle waits until the fleet has exactly these workers, all of them ready.
func settle(t *testing.T, f *Fleet, want ...string) {
	t.Helper()
	eventually(t, f, fmt.Sprintf("ready workers %v", want), func() bool {
		for _, w := range f.workers {
			if w.State != Ready {
				return false
			}
		}
		var got []string
		for _, w := range f.workers {
			got = append(got, w.Name)
		}
		return slices.Equal(got, want)
	})
}

// eventually waits for a condition on the fleet, which is locked meanwhile.
func eventually(t *testing.T, f *Fleet, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := f.await(ctx, ok); err != nil {
		t.Fatalf("never happened: %s; workers %+v, events %+v", what, f.Workers(), f.Events())
	}
}

func mustStart(t *testing.T, f *Fleet, n int) {
	t.Helper()
	if err := f.Start(t.Context(), n); err != nil {
		t.Fatal(err)
	}
}

func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }

func TestStartReturnsWhenAllAreReadyAndRouted(t *testing.T) {
	r := new(router)
	f := newFleet(t, r, nil, normal)
	mustStart(t, f, 3)
	ws := f.Workers()
	if got, want := names(ws), []string{"worker-1", "worker-2", "worker-3"}; !slices.Equal(got, want) {
		t.Errorf("workers %v, want %v", got, want)
	}
	for _, w := range ws {
		if w.State != Ready || w.PID == 0 || w.URL != "http://"+w.Name {
			t.Errorf("Start returned with %+v", w)
		}
	}
	if got := r.names(); len(got) != 3 {
		t.Errorf("Start returned with only %v routed", got)
	}
}

func TestStartFailsWithTheWorkersOwnMessage(t *testing.T) {
	for _, tt := range []struct{ behaviour, want string }{
		{"refuses", "the store is not there"},
		{"dies", "exit status 3: out of luck"},
		{"hangs", "it was not ready within 200ms"},
	} {
		t.Run(tt.behaviour, func(t *testing.T) {
			opts := new(Options)
			if tt.behaviour == "hangs" {
				opts.StartTimeout = 200 * time.Millisecond
			}
			f := newFleet(t, new(router), opts, func(n int) string {
				if n == 2 {
					return tt.behaviour
				}
				return "normal"
			})
			err := f.Start(t.Context(), 3)
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "did not start") {
				t.Errorf("Start = %v, want an error that says %q", err, tt.want)
			}
			if ws := f.Workers(); len(ws) != 0 {
				t.Errorf("a failed start left %+v", ws)
			}
		})
	}
}

func TestStartFailsIfAWorkerIsNeverHealthy(t *testing.T) {
	r := &router{unhealthy: "worker-2"}
	f := newFleet(t, r, &Options{StartTimeout: 2 * time.Second}, normal)
	if err := f.Start(t.Context(), 2); err == nil || !strings.Contains(err.Error(), "worker-2 did not start: it was not ready within") {
		t.Errorf("Start = %v, want that worker-2 was not ready in time", err)
	}
	if left := r.names(); len(left) != 0 {
		t.Errorf("a failed start left %v routed", left)
	}
}

func TestStartFailsIfTheBinaryIsMissing(t *testing.T) {
	f := New(new(router), func(string) (*exec.Cmd, any, error) {
		return exec.Command("/nonexistent/coatcheck"), nil, nil
	}, nil)
	if err := f.Start(t.Context(), 1); err == nil || !strings.Contains(err.Error(), "worker-1 did not start") {
		t.Errorf("Start = %v, want that worker-1 did not start", err)
	}
	f.KillAll()
}

func TestKilledWorkerIsReplacedUnderANewName(t *testing.T) {
	r := new(router)
	f := newFleet(t, r, nil, normal)
	mustStart(t, f, 2)
	pid := f.Workers()[0].PID
	if err := f.Kill(t.Context(), "worker-1"); err != nil {
		t.Fatal(err)
	}
	if alive(pid) {
		t.Errorf("process %d lives, or was not reaped, when Kill returned", pid)
	}
	if slices.Contains(names(f.Workers()), "worker-1") {
		t.Error("the dead are among the workers")
	}
	settle(t, f, "worker-2", "worker-3")
	if got, want := r.names(), []string{"worker-2", "worker-3"}; !slices.Equal(got, want) {
		t.Errorf("routed %v, want %v", got, want)
	}
	if !slices.ContainsFunc(f.Events(), func(e Event) bool {
		return e.Kind == Killed && e.Worker == "worker-1" && e.Detail == "signal: killed"
	}) {
		t.Errorf("no SIGKILL of worker-1 among the events %+v", f.Events())
	}
	if err := f.Kill(t.Context(), "worker-1"); !errors.Is(err, ErrUnknown) {
		t.Errorf("Kill of a worker that is gone = %v, want ErrUnknown", err)
	}
}

func TestWorkersKilledByOthersAreReplacedWithoutDelay(t *testing.T) {
	f := newFleet(t, new(router), nil, normal)
	mustStart(t, f, 2)
	for round := 1; round <= 4; round++ {
		for _, w := range f.Workers() {
			if err := syscall.Kill(w.PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
		settle(t, f, fmt.Sprintf("worker-%d", 2*round+1), fmt.Sprintf("worker-%d", 2*round+2))
	}
	for _, e := range f.Events() {
		if e.Kind == Delayed {
			t.Errorf("a server that somebody killed was replaced with a delay: %+v", e)
		}
	}
}

func TestWorkersThatDieYoungAreReplacedWithDelay(t *testing.T) {
	f := newFleet(t, new(router), nil, func(n int) string {
		if n > 1 && n < 5 {
			return "shortlived"
		}
		return "normal"
	})
	mustStart(t, f, 1)
	if err := f.Scale(2); err != nil {
		t.Fatal(err)
	}
	settle(t, f, "worker-1", "worker-5")
	if !slices.ContainsFunc(f.Events(), func(e Event) bool { return e.Kind == Delayed }) {
		t.Errorf("workers that die as soon as they are ready are started again and again without delay: %+v", f.Events())
	}
}

func TestScaleUpAndDown(t *testing.T) {
	r := new(router)
	f := newFleet(t, r, nil, normal)
	mustStart(t, f, 1)
	if err := f.Scale(4); err != nil {
		t.Fatal(err)
	}
	settle(t, f, "worker-1", "worker-2", "worker-3", "worker-4")
	if err := f.Scale(2); err != nil {
		t.Fatal(err)
	}
	settle(t, f, "worker-1", "worker-2")
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, call := range []string{"drain worker-3", "drain worker-4"} {
		if !slices.Contains(r.calls, call) {
			t.Errorf("scaled down without %q: %v", call, r.calls)
		}
	}
}

func TestScaleRefusesBadCounts(t *testing.T) {
	f := newFleet(t, new(router), nil, normal)
	for _, n := range []int{-1, 0, MaxWorkers + 1} {
		if err := f.Scale(n); !errors.Is(err, ErrCount) {
			t.Errorf("Scale(%d) = %v, want ErrCount", n, err)
		}
	}
}

func TestDrainWaitsForRequestsInFlightAndReplaces(t *testing.T) {
	r := &router{busy: make(chan struct{})}
	f := newFleet(t, r, nil, normal)
	mustStart(t, f, 2)
	pid := f.Workers()[0].PID
	if err := f.Drain("worker-1"); err != nil {
		t.Fatal(err)
	}
	eventually(t, f, "a replacement", func() bool {
		return len(f.workers) == 3 && f.workers[2].State == Ready
	})
	if w := f.Workers()[0]; w.State != Draining || !alive(pid) {
		t.Errorf("worker with a request in flight: %+v, alive %v; want it draining and alive", w, alive(pid))
	}
	close(r.busy)
	settle(t, f, "worker-2", "worker-3")
	if alive(pid) {
		t.Error("the drained process lives")
	}
}

func TestDrainIsBounded(t *testing.T) {
	r := &router{busy: make(chan struct{})} // never free
	f := newFleet(t, r, &Options{DrainTimeout: 50 * time.Millisecond}, normal)
	mustStart(t, f, 2)
	if err := f.Drain("worker-1"); err != nil {
		t.Fatal(err)
	}
	settle(t, f, "worker-2", "worker-3")
}

func TestDrainOfTheOnlyWorkerKeepsItRoutedUntilItsReplacementIs(t *testing.T) {
	r := new(router)
	f := newFleet(t, r, nil, normal)
	mustStart(t, f, 1)
	if err := f.Drain("worker-1"); err != nil {
		t.Fatal(err)
	}
	settle(t, f, "worker-2")
	r.mu.Lock()
	defer r.mu.Unlock()
	if add, drain := slices.Index(r.calls, "add worker-2"), slices.Index(r.calls, "drain worker-1"); add < 0 || drain < add {
		t.Errorf("nobody served for a while: %v", r.calls)
	}
}

func TestStubbornWorkerIsKilledAfterItsDrain(t *testing.T) {
	f := newFleet(t, new(router), &Options{StopTimeout: 50 * time.Millisecond}, func(n int) string {
		if n == 1 {
			return "stubborn"
		}
		return "normal"
	})
	mustStart(t, f, 2)
	if err := f.Drain("worker-1"); err != nil {
		t.Fatal(err)
	}
	settle(t, f, "worker-2", "worker-3")
}

func TestWorkerThatFailsItsHealthChecksIsNotReadyUntilItPasses(t *testing.T) {
	r := new(router)
	f := newFleet(t, r, &Options{UnhealthyTimeout: time.Hour}, normal)
	mustStart(t, f, 2)
	r.setSick("worker-1", true)
	eventually(t, f, "worker-1 is not ready", func() bool { return f.workers[0].State == Starting })
	r.setSick("worker-1", false)
	settle(t, f, "worker-1", "worker-2")
	if !slices.ContainsFunc(f.Events(), func(e Event) bool { return e.Kind == Unhealthy && e.Worker == "worker-1" }) {
		t.Errorf("the events do not tell of it: %+v", f.Events())
	}
}

func TestWorkerThatStaysUnhealthyIsReplaced(t *testing.T) {
	for _, n := range []int{1, 2} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			r := new(router)
			f := newFleet(t, r, &Options{UnhealthyTimeout: 50 * time.Millisecond}, normal)
			mustStart(t, f, n)
			// A stopped process has no ear for SIGTERM.
			if err := syscall.Kill(f.Workers()[0].PID, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			r.setSick("worker-1", true)
			if n == 1 {
				settle(t, f, "worker-2")
			} else {
				settle(t, f, "worker-2", "worker-3")
			}
			if !slices.ContainsFunc(f.Events(), func(e Event) bool { return e.Kind == Killed && e.Worker == "worker-1" }) {
				t.Errorf("worker-1 was not killed: %+v", f.Events())
			}
		})
	}
}

func TestUnhealthyWorkerThatDiesIsNoFailedStart(t *testing.T) {
	r := new(router)
	f := newFleet(t, r, &Options{UnhealthyTimeout: time.Hour}, normal)
	mustStart(t, f, 1)
	r.setSick("worker-1", true)
	eventually(t, f, "worker-1 is not ready", func() bool { return f.workers[0].State == Starting })
	if err := syscall.Kill(f.Workers()[0].PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	settle(t, f, "worker-2")
	if slices.ContainsFunc(f.Events(), func(e Event) bool { return e.Kind == Failed }) {
		t.Errorf("the death of a worker that had served is told as a failed start: %+v", f.Events())
	}
}

func TestShutdownDoesNotWaitForTheStopped(t *testing.T) {
	for _, known := range []bool{true, false} {
		t.Run(fmt.Sprintf("known=%v", known), func(t *testing.T) {
			opts := &Options{UnhealthyTimeout: time.Hour, StopTimeout: time.Hour}
			if !known {
				opts.StopTimeout = 50 * time.Millisecond
			}
			r := new(router)
			f := newFleet(t, r, opts, normal)
			mustStart(t, f, 2)
			if err := syscall.Kill(f.Workers()[0].PID, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			if known {
				r.setSick("worker-1", true)
				eventually(t, f, "worker-1 is not ready", func() bool { return f.workers[0].State == Starting })
			}
			if err := f.Shutdown(t.Context()); err != nil {
				t.Errorf("Shutdown = %v, though nobody lost anything", err)
			}
			if ws := f.Workers(); len(ws) != 0 {
				t.Errorf("Shutdown left %+v", ws)
			}
		})
	}
}

func TestRestartBacksOff(t *testing.T) {
	f := newFleet(t, new(router), nil, func(n int) string {
		if n > 1 && n < 6 {
			return "dies"
		}
		return "normal"
	})
	mustStart(t, f, 1)
	if err := f.Scale(2); err != nil {
		t.Fatal(err)
	}
	settle(t, f, "worker-1", "worker-6")
	delays := 0
	for _, e := range f.Events() {
		if e.Kind == Delayed {
			delays++
		}
	}
	if delays != 3 {
		t.Errorf("4 failed starts were followed by %d delays, want 3 (the first failure costs none): %+v", delays, f.Events())
	}
}

func TestBackoffGrowsIsBoundedAndEnds(t *testing.T) {
	var b backoff
	now := time.Unix(0, 0)
	var last time.Duration
	for i := range 20 {
		b.failed(now)
		d := b.wait(now)
		if i > 0 && (d < last || d > backoffMax || d == 0) {
			t.Errorf("after %d failures the wait is %v, after one less %v", i+1, d, last)
		}
		last = d
	}
	if d := b.wait(now.Add(backoffMax)); d != 0 {
		t.Errorf("%v remain after the longest wait", d)
	}
	b.died(now, settled)
	if d := b.wait(now); d != 0 {
		t.Errorf("a worker that had served for %v waits %v for its replacement", settled, d)
	}
}

func TestShutdownLeavesNoProcess(t *testing.T) {
	f := newFleet(t, new(router), nil, normal)
	mustStart(t, f, 3)
	ws := f.Workers()
	if err := f.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, w := range ws {
		if alive(w.PID) {
			t.Errorf("%s lives after the shutdown", w.Name)
		}
	}
	if err := f.Scale(2); !errors.Is(err, ErrStopped) {
		t.Errorf("Scale after Shutdown = %v, want ErrStopped", err)
	}
}

func TestShutdownIsBounded(t *testing.T) {
	f := newFleet(t, new(router), nil, func(int) string { return "stubborn" })
	mustStart(t, f, 2)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.Shutdown(ctx); err == nil {
		t.Error("Shutdown killed workers and did not say so")
	}
	if ws := f.Workers(); len(ws) != 0 {
		t.Errorf("Shutdown left %+v", ws)
	}
}

func TestWorkersHaveTheirOwnProcessGroup(t *testing.T) {
	f := newFleet(t, new(router), nil, normal)
	mustStart(t, f, 1)
	pid := f.Workers()[0].PID
	if pgid, err := syscall.Getpgid(pid); err != nil || pgid != pid {
		t.Errorf("the group of worker %d is %d (%v): Ctrl-C in a terminal would reach it", pid, pgid, err)
	}
}

func TestOutputNamesTheWorker(t *testing.T) {
	out := new(buffer)
	f := newFleet(t, new(router), &Options{Output: out}, func(int) string { return "prints" })
	mustStart(t, f, 1)
	if err := f.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"worker-1 | an app printed this\n", "worker-1 | no end of line\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("output %q lacks %q", out, want)
		}
	}
}

func TestEventsAreBounded(t *testing.T) {
	f := New(new(router), nil, nil)
	for i := range 2 * maxEvents {
		f.events.add(Scaled, "", fmt.Sprint(i))
	}
	es := f.Events()
	if len(es) != maxEvents || es[len(es)-1].Detail != fmt.Sprint(2*maxEvents-1) {
		t.Errorf("%d events, the last %+v; want the last %d", len(es), es[len(es)-1], maxEvents)
	}
}

func TestLinesSplitsAndBounds(t *testing.T) {
	var got []string
	l := &lines{emit: func(s string) { got = append(got, s) }}
	for _, s := range []string{"a", "b\nc\r\n", "\n", strings.Repeat("x", maxLine+1), "rest"} {
		if _, err := io.WriteString(l, s); err != nil {
			t.Fatal(err)
		}
	}
	l.flush()
	want := []string{"ab", "c", "", strings.Repeat("x", maxLine+1), "rest"}
	if !slices.Equal(got, want) {
		t.Errorf("got %d lines %.60q, want %d", len(got), got, len(want))
	}
}

// A Fleet starts workers and tells a router about them.
func ExampleFleet() {
	f := New(printer{}, func(name string) (*exec.Cmd, any, error) {
		return exec.Command(os.Args[0], "worker", "normal"), config{Name: name}, nil
	}, nil)
	if err := f.Start(context.Background(), 1); err != nil {
		fmt.Println(err)
		return
	}
	_ = f.Shutdown(context.Background())
	// Output:
	// http.Get will reach worker-1
	// worker-1 is gone
}

type printer struct{}

func (printer) Add(name string, _ *url.URL) error {
	fmt.Println("http.Get will reach", name)
	return nil
}
func (printer) Drain(context.Context, string) error     { return nil }
func (printer) WaitReady(context.Context, string) error { return nil }

func (printer) WaitDown(ctx context.Context, _ string) error {
	<-ctx.Done()
	return ctx.Err()
}

func (printer) Remove(name string) error {
	fmt.Println(name, "is gone")
	return nil
}

// TestEventsSince: who asks for what is new gets each event once, and is told of the
// next; what is forgotten is counted still.
func TestEventsSince(t *testing.T) {
	f := New(nil, nil, nil)
	fresh, total, changed := f.EventsSince(0)
	if len(fresh) != 0 || total != 0 {
		t.Errorf("%d events of %d in a fleet in which nothing has happened", len(fresh), total)
	}
	f.events.add(Started, "worker-1", "")
	select {
	case <-changed:
	default:
		t.Error("who waits is not told of an event")
	}
	if fresh, total, _ = f.EventsSince(total); len(fresh) != 1 || total != 1 || fresh[0].Worker != "worker-1" {
		t.Errorf("after one event: %+v of %d", fresh, total)
	}
	for range maxEvents {
		f.events.add(Scaled, "", "")
	}
	if fresh, total, _ = f.EventsSince(0); len(fresh) != maxEvents || total != maxEvents+1 || fresh[0].Kind != Scaled {
		t.Errorf("%d events of %d; want those that are kept, of all", len(fresh), total)
	}
	if fresh, _, _ = f.EventsSince(total); len(fresh) != 0 {
		t.Errorf("%d events are new to who knows all", len(fresh))
	}
}
