package session

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// deadlineScripts are what may happen to a context in turn. Each is run on
// callContext and on context.WithDeadline, which must look alike at every step.
var deadlineScripts = []struct {
	name  string
	steps []string
}{
	{"nothing", nil},
	{"deadline", []string{"wait"}},
	{"deadline, watched", []string{"done", "wait"}},
	{"stop", []string{"stop"}},
	{"stop, watched", []string{"done", "stop"}},
	{"stop, watched afterwards", []string{"stop", "done"}},
	{"stop twice", []string{"stop", "stop"}},
	{"deadline, then stop", []string{"wait", "stop"}},
	{"deadline, then stop, watched", []string{"done", "wait", "stop"}},
	{"deadline, then stop, watched afterwards", []string{"wait", "stop", "done"}},
	{"stop, then deadline", []string{"stop", "wait"}},
	{"stop, then deadline, watched", []string{"done", "stop", "wait"}},
	{"stop, then deadline, watched afterwards", []string{"stop", "wait", "done"}},
	{"parent canceled", []string{"cancel"}},
	{"parent canceled, watched", []string{"done", "cancel"}},
	{"parent canceled, watched afterwards", []string{"cancel", "done"}},
	{"parent canceled, then deadline", []string{"cancel", "wait"}},
	{"deadline, then parent canceled", []string{"wait", "cancel"}},
	{"deadline, then parent canceled, watched", []string{"done", "wait", "cancel"}},
	{"deadline, then parent canceled, watched afterwards", []string{"wait", "cancel", "done"}},
	{"stop, then parent canceled", []string{"stop", "cancel"}},
	{"child, then deadline", []string{"child", "wait"}},
	{"child, then stop", []string{"child", "stop"}},
	{"child, then parent canceled", []string{"child", "cancel"}},
	{"child after stop", []string{"stop", "child"}},
	{"child after deadline", []string{"wait", "child"}},
	{"child after stop and deadline", []string{"stop", "wait", "child"}},
	{"child after deadline and stop", []string{"wait", "stop", "child"}},
}

type parentKey struct{}

// seen is all that can be seen of a context.
type seen struct {
	Err, Cause   error
	ChildErr     error
	Deadline     time.Time
	HasDeadline  bool
	Done, Parent bool
}

// deadlineUnderTest is a context with a deadline, of one kind or the other.
type deadlineUnderTest struct {
	ctx          context.Context
	stop         context.CancelFunc
	cancelParent context.CancelFunc
	done         <-chan struct{}
	child        context.Context
	stopChild    context.CancelFunc
}

func (d *deadlineUnderTest) close() {
	d.stop()
	d.cancelParent()
	if d.child != nil {
		d.stopChild()
	}
}

func (d *deadlineUnderTest) step(what string, after time.Duration) {
	switch what {
	case "wait":
		time.Sleep(after) // of the bubble's clock
	case "done":
		d.done = d.ctx.Done()
	case "stop":
		d.stop()
	case "cancel":
		d.cancelParent()
	case "child":
		d.child, d.stopChild = context.WithCancel(d.ctx)
	}
	synctest.Wait()
}

func (d *deadlineUnderTest) look() seen {
	s := seen{Err: d.ctx.Err(), Parent: d.ctx.Value(parentKey{}) == "parent"}
	if d.done != nil || d.child != nil || s.Err == nil {
		// Before it is watched, a callContext has no cause but its parent's, who
		// may end later for another.
		s.Cause = context.Cause(d.ctx)
	}
	s.Deadline, s.HasDeadline = d.ctx.Deadline()
	if d.child != nil {
		s.ChildErr = d.child.Err()
	}
	if d.done != nil {
		select {
		case <-d.done:
			s.Done = true
		default:
		}
	}
	return s
}

func TestCallContext(t *testing.T) {
	const limit = time.Second
	for _, parent := range []struct {
		name  string
		limit time.Duration // 0 is none
	}{
		{"no deadline above", 0},
		{"a later deadline above", 2 * limit},
		{"an earlier deadline above", limit / 2},
	} {
		for _, script := range deadlineScripts {
			t.Run(parent.name+"/"+script.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					start := time.Now()
					newParent := func() (context.Context, context.CancelFunc) {
						ctx := context.WithValue(context.Background(), parentKey{}, "parent")
						if parent.limit > 0 {
							return context.WithDeadline(ctx, start.Add(parent.limit))
						}
						return context.WithCancel(ctx)
					}
					var oracle, ours deadlineUnderTest
					above, cancel := newParent()
					oracle.cancelParent = cancel
					oracle.ctx, oracle.stop = context.WithDeadline(above, start.Add(limit))
					above, cancel = newParent()
					ours.cancelParent = cancel
					call := &callContext{parent: above, deadline: start.Add(limit)}
					ours.ctx, ours.stop = call, call.stop
					defer oracle.close()
					defer ours.close()

					for i, what := range append([]string{"begin"}, script.steps...) {
						oracle.step(what, 3*limit/2)
						ours.step(what, 0) // both share the clock
						want, got := oracle.look(), ours.look()
						if got != want {
							t.Fatalf("after step %d, %q:\n got %+v\nwant %+v", i, what, got, want)
						}
					}
				})
			})
		}
	}
}

// What a call leaves behind when it stops: no goroutine, no timer, and no
// watcher for each context that was derived from it.
func TestCallContextLeavesNothing(t *testing.T) {
	// A goroutine that outlives the bubble's function makes synctest.Test fail.
	synctest.Test(t, func(t *testing.T) {
		parent, cancel := context.WithCancel(t.Context())
		defer cancel()
		before := runtime.NumGoroutine()
		for range 100 {
			call := &callContext{parent: parent, deadline: time.Now().Add(time.Hour)}
			_ = call.Done()
			for range 10 {
				_, stopChild := context.WithCancel(call)
				defer stopChild()
			}
			synctest.Wait()
			if n := runtime.NumGoroutine(); n > before {
				t.Fatalf("%d goroutines, %d before: derived contexts are watched by one each", n, before)
			}
			call.stop()
		}
	})
}

// A timer is set only for those who ask for Done.
func TestCallContextCost(t *testing.T) {
	parent := t.Context()
	var call callContext
	allocs := testing.AllocsPerRun(100, func() {
		call = callContext{parent: parent, deadline: time.Now().Add(time.Hour)}
		_ = call.Err()
		_, _ = call.Deadline()
		_ = call.Value(parentKey{})
		call.stop()
	})
	if allocs > 0 {
		t.Errorf("a call that does not wait allocates %v times, want 0", allocs)
	}
}

// Err never takes back what it said, whoever else uses the context.
func TestCallContextRaces(t *testing.T) {
	for range 200 {
		parent, cancel := context.WithCancel(t.Context())
		call := &callContext{parent: parent, deadline: time.Now().Add(time.Minute)}
		var wg sync.WaitGroup
		for _, f := range []func(){
			func() { <-call.Done() },
			func() { _ = call.Value(parentKey{}) },
			func() { _, _ = call.Deadline() },
			func() {
				child, stop := context.WithCancel(call)
				<-child.Done()
				stop()
			},
			func() {
				<-call.Done()
				if first, second := call.Err(), call.Err(); first == nil || !errors.Is(second, first) {
					t.Errorf("after Done, Err returned %v, then %v", first, second)
				}
			},
			call.stop,
			cancel,
		} {
			wg.Go(f)
		}
		wg.Wait()
	}
}
