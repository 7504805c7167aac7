package breaker

import (
	"context"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

type key struct{}

// A deadline behaves as context.WithDeadline does, whether Done or Err is asked
// first, and however it ends.
func TestDeadline(t *testing.T) {
	for name, tt := range map[string]struct {
		end  func(parent context.CancelFunc, d *deadline)
		want error
	}{
		"it passes":               {func(context.CancelFunc, *deadline) { time.Sleep(time.Second) }, context.DeadlineExceeded},
		"the caller hangs up":     {func(cancel context.CancelFunc, _ *deadline) { cancel() }, context.Canceled},
		"the call has returned":   {func(_ context.CancelFunc, d *deadline) { d.stop() }, context.Canceled},
		"passes, then hangs up":   {func(cancel context.CancelFunc, _ *deadline) { time.Sleep(time.Second); cancel() }, nil},
		"it passes, then returns": {func(_ context.CancelFunc, d *deadline) { time.Sleep(time.Second); d.stop() }, nil},
	} {
		for _, early := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				parent, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "v"))
				defer cancel()
				ctx, d := limited(parent, time.Now().Add(time.Second))
				if d == nil {
					t.Fatal("no deadline for a caller without one")
				}
				if ctx.Err() != nil {
					t.Fatalf("%s: has ended before it began", name)
				}
				derived := ctx
				if early {
					var stop context.CancelFunc
					derived, stop = context.WithCancel(ctx)
					defer stop()
				}
				tt.end(cancel, d)
				synctest.Wait()
				err := ctx.Err()
				if err == nil || tt.want != nil && err != tt.want {
					t.Errorf("%s: Err = %v; want %v", name, err, tt.want)
				}
				select {
				case <-ctx.Done():
				default:
					t.Errorf("%s: it has ended, and Done is open", name)
				}
				if derived.Err() == nil {
					t.Errorf("%s: what is derived from it lives on", name)
				}
				cancel()
				time.Sleep(2 * time.Second)
				if again := ctx.Err(); again != err {
					t.Errorf("%s: Err was %v, and is %v", name, err, again)
				}
				if ctx.Value(key{}) != "v" {
					t.Errorf("%s: the caller's values are lost", name)
				}
			})
		}
	}
}

func TestEarlierDeadlineStays(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if got, d := limited(ctx, time.Now().Add(time.Hour)); got != ctx || d != nil {
		t.Error("a caller's earlier deadline got another around it")
	}
}

// What a store derives from a context that it waits for is not watched by a
// goroutine.
func TestDerivedContextHasNoGoroutine(t *testing.T) {
	ctx, d := limited(t.Context(), time.Now().Add(time.Hour))
	defer d.stop()
	_ = ctx.Done()
	before := runtime.NumGoroutine()
	derived, cancel := context.WithCancel(ctx)
	defer cancel()
	_ = derived.Done()
	if n := runtime.NumGoroutine() - before; n > 0 {
		t.Errorf("deriving a context started %d goroutines", n)
	}
}
