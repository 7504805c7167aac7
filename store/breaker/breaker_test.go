package breaker_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/breaker"
	"github.com/coatcheck/coatcheck/store/memstore"
	"github.com/coatcheck/coatcheck/store/storetest"
)

var (
	errDown = errors.New("connection refused")
	down    = storetest.Every(storetest.Fault{Err: errDown})
	hangs   = storetest.Every(storetest.Fault{Block: true})
)

func wrap(t testing.TB, inner store.Store, opts *breaker.Options) *breaker.Breaker {
	t.Helper()
	b, err := breaker.New(inner, opts)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// bubble runs f on a breaker around a store with faults, in fake time.
func bubble(t *testing.T, opts *breaker.Options, f func(t *testing.T, b *breaker.Breaker, faults *storetest.Faults)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		faults := storetest.NewFaults(memstore.New(), nil)
		f(t, wrap(t, faults, opts), faults)
	})
}

func get(t *testing.T, b *breaker.Breaker) error {
	_, err := b.Get(t.Context(), store.Key{1})
	return err
}

func wantState(t *testing.T, b *breaker.Breaker, want breaker.State, when string) {
	t.Helper()
	if got := b.State(); got != want {
		t.Fatalf("%s the circuit is %v; want %v", when, got, want)
	}
}

// open fails calls until the circuit is open.
func open(t *testing.T, b *breaker.Breaker, faults *storetest.Faults) {
	t.Helper()
	faults.SetHook(down)
	for range 5 {
		time.Sleep(25 * time.Millisecond)
		if err := get(t, b); !errors.Is(err, errDown) {
			t.Fatalf("Get of a store that is down: %v; want its error", err)
		}
	}
	wantState(t, b, breaker.Open, "after five failures in 100 ms")
}

func record() store.Record {
	now := time.Now()
	return store.Record{Version: 1, Owner: "alice", Created: now, Deadline: now.Add(time.Hour), Expires: now.Add(time.Hour), Data: []byte("d")}
}

func TestContract(t *testing.T) {
	for name, inner := range map[string]func() store.Store{
		"one":    func() store.Store { return memstore.New() },
		"shards": func() store.Store { return newShards(3) },
	} {
		c := storetest.Config{
			New:      func(t *testing.T) store.Store { return wrap(t, inner(), nil) },
			Second:   func(_ *testing.T, s store.Store) store.Store { return s },
			Synctest: true,
		}
		t.Run(name, func(t *testing.T) {
			storetest.Run(t, c)
			storetest.RunScripts(t, c)
		})
	}
}

func TestOpensAndCloses(t *testing.T) {
	bubble(t, nil, func(t *testing.T, b *breaker.Breaker, faults *storetest.Faults) {
		open(t, b, faults)
		faults.SetHook(nil) // it is back, and nobody looks yet
		time.Sleep(499 * time.Millisecond)
		if err := get(t, b); !errors.Is(err, breaker.ErrOpen) || faults.Count("Get") != 0 {
			t.Fatalf("before OpenFor has passed: %v, and %d calls reached the store; want a refusal and none", err, faults.Count("Get"))
		}
		time.Sleep(2 * time.Millisecond)
		wantState(t, b, breaker.HalfOpen, "after OpenFor")
		if err := get(t, b); !errors.Is(err, store.ErrNotFound) {
			t.Fatalf("the probe: %v; want the store's answer", err)
		}
		wantState(t, b, breaker.Closed, "after a probe that was answered")
	})
}

func TestFailedProbeReopens(t *testing.T) {
	bubble(t, nil, func(t *testing.T, b *breaker.Breaker, faults *storetest.Faults) {
		open(t, b, faults)
		for range 3 {
			time.Sleep(501 * time.Millisecond)
			if err := get(t, b); !errors.Is(err, errDown) {
				t.Fatalf("the probe: %v; want the store's error", err)
			}
			wantState(t, b, breaker.Open, "after a failed probe")
			if err := get(t, b); !errors.Is(err, breaker.ErrOpen) {
				t.Fatalf("after a failed probe: %v; want a refusal", err)
			}
		}
	})
}

// A few odd errors, and all those of one broken connection, are no outage.
func TestOddErrorsDoNotOpen(t *testing.T) {
	t.Run("four in a row", func(t *testing.T) {
		bubble(t, nil, func(t *testing.T, b *breaker.Breaker, faults *storetest.Faults) {
			for range 20 {
				faults.SetHook(down)
				for range 4 {
					time.Sleep(time.Second)
					_ = get(t, b)
				}
				faults.SetHook(nil)
				_ = get(t, b)
			}
			wantState(t, b, breaker.Closed, "after rows of four failures")
		})
	})
	t.Run("one broken connection", func(t *testing.T) {
		bubble(t, nil, func(t *testing.T, b *breaker.Breaker, faults *storetest.Faults) {
			faults.SetHook(down)
			for range 64 {
				_ = get(t, b)
			}
			wantState(t, b, breaker.Closed, "after 64 failures at one moment")
			time.Sleep(100 * time.Millisecond)
			_ = get(t, b)
			wantState(t, b, breaker.Open, "when they go on for 100 ms")
		})
	})
}

// Refused calls return at once and alone: no time passes, no goroutine waits,
// nothing is sent.
func TestRefusesEverybodyAtOnce(t *testing.T) {
	bubble(t, nil, func(t *testing.T, b *breaker.Breaker, faults *storetest.Faults) {
		open(t, b, faults)
		faults.SetHook(hangs)
		begin := time.Now()
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() {
				err := b.Replace(t.Context(), store.Key{1}, 1, record())
				if !errors.Is(err, breaker.ErrOpen) || errors.Is(err, store.ErrAmbiguous) || errors.Is(err, errDown) {
					t.Errorf("Replace while open: %v; want ErrOpen, and neither ErrAmbiguous nor what opened it", err)
				}
			})
		}
		wg.Wait()
		if d := time.Since(begin); d != 0 {
			t.Errorf("refusals took %v; want none", d)
		}
		if n := faults.Count("Replace"); n != 0 {
			t.Errorf("%d calls reached the store while open", n)
		}
	})
}

func TestRefusalExplains(t *testing.T) {
	bubble(t, nil, func(t *testing.T, b *breaker.Breaker, faults *storetest.Faults) {
		open(t, b, faults)
		refusal := get(t, b)
		if !errors.Is(refusal, breaker.ErrOpen) || !errors.Is(refusal, store.ErrNotAsked) || !errors.Is(refusal, store.ErrUnapplied) || errors.Is(refusal, store.ErrAmbiguous) {
			t.Errorf("refusal %v: want ErrOpen, store.ErrNotAsked and store.ErrUnapplied, and not ErrAmbiguous", refusal)
		}
		text := refusal.Error()
		for _, want := range []string{"breaker: get: circuit open (since 00:00:00.125Z", "last error: connection refused"} {
			if !strings.Contains(text, want) {
				t.Errorf("refusal %q does not hold %q", text, want)
			}
		}
		if got, want := b.Status(), "open since 2000-01-01T00:00:00Z"; got != want {
			t.Errorf("Status = %q; want %q: no error, which may name a server", got, want)
		}
		s := b.States()
		if len(s) != 1 || s[0].State != breaker.Open || !errors.Is(s[0].Err, errDown) {
			t.Errorf("States = %+v; want one that is open, with its error", s)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := b.Get(ended, store.Key{1}); !errors.Is(err, context.Canceled) {
			t.Errorf("Get with an ended context while open: %v; want context.Canceled", err)
		}
	})
}

// A store that hangs costs each caller one Timeout at most, and nobody anything
// once the circuit is open.
func TestHangingStore(t *testing.T) {
	bubble(t, nil, func(t *testing.T, b *breaker.Breaker, faults *storetest.Faults) {
		faults.SetHook(hangs)
		const workers = 64
		var slow, refused atomic.Int64
		var wg sync.WaitGroup
		end := time.Now().Add(10 * time.Second)
		for i := range workers {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * time.Millisecond) // not in step
				for time.Now().Before(end) {
					ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second) // as the manager does
					begin := time.Now()
					_, err := b.Get(ctx, store.Key{1})
					cancel()
					switch d := time.Since(begin); {
					case errors.Is(err, breaker.ErrOpen) && d == 0:
						refused.Add(1)
					case errors.Is(err, context.DeadlineExceeded) && d == time.Second:
						slow.Add(1)
					default:
						t.Errorf("Get: %v after %v; want the deadline after 1 s, or a refusal at once", err, d)
					}
					time.Sleep(10 * time.Millisecond)
				}
			})
		}
		wg.Wait()
		// Each worker's first call, then one probe each 1.5 s.
		if n := slow.Load(); n < workers || n > workers+7 {
			t.Errorf("%d calls waited for the deadline; want %d and one probe each 1.5 s for 10 s", n, workers)
		}
		if refused.Load() == 0 {
			t.Error("no call was refused")
		}
		faults.SetHook(nil)
		time.Sleep(501 * time.Millisecond)
		if err := get(t, b); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("when the store is back: %v; want its answer", err)
		}
	})
}

// The breaker's deadline opens the circuit; the caller's does not.
func TestWhoseDeadline(t *testing.T) {
	for _, tt := range []struct {
		name  string
		limit time.Duration // the caller's
		wait  time.Duration // for how long a call hangs
		want  breaker.State
	}{
		{"a later one of the caller", 2 * time.Second, time.Second, breaker.Open},
		{"none of the caller", 0, time.Second, breaker.Open},
		{"the same, begun a little earlier", time.Second - time.Millisecond, time.Second - time.Millisecond, breaker.Open},
		{"an earlier one of the caller", 300 * time.Millisecond, 300 * time.Millisecond, breaker.Closed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, nil, func(t *testing.T, b *breaker.Breaker, faults *storetest.Faults) {
				faults.SetHook(hangs)
				for range 5 {
					ctx, cancel := t.Context(), context.CancelFunc(func() {})
					if tt.limit > 0 {
						ctx, cancel = context.WithTimeout(ctx, tt.limit)
					}
					begin := time.Now()
					err := b.Create(ctx, store.Key{1}, record())
					cancel()
					if d := time.Since(begin); !errors.Is(err, context.DeadlineExceeded) || d != tt.wait {
						t.Errorf("Create: %v after %v; want context.DeadlineExceeded after %v", err, d, tt.wait)
					}
				}
				wantState(t, b, tt.want, "after five of them")
			})
		})
	}
}

func TestCancellationDoesNotCount(t *testing.T) {
	bubble(t, nil, func(t *testing.T, b *breaker.Breaker, faults *storetest.Faults) {
		faults.SetHook(hangs)
		for range 20 {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(500*time.Millisecond, cancel)
			if _, err := b.Get(ctx, store.Key{1}); !errors.Is(err, context.Canceled) {
				t.Fatalf("Get: %v; want context.Canceled", err)
			}
		}
		wantState(t, b, breaker.Closed, "after the callers hung up")

		// Nor does it decide a probe, whose place is free again.
		open(t, b, faults)
		time.Sleep(501 * time.Millisecond)
		faults.SetHook(hangs)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(500*time.Millisecond, cancel)
		_, _ = b.Get(ctx, store.Key{1})
		wantState(t, b, breaker.HalfOpen, "after a probe whose caller hung up")
		faults.SetHook(nil)
		if err := get(t, b); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("the next probe: %v; want the store's answer", err)
		}
	})
}

func TestWhatCounts(t *testing.T) {
	for _, tt := range []struct {
		err        error
		want       breaker.State // after many of them
		wantProbed breaker.State // after a probe that got it
	}{
		{store.ErrNotFound, breaker.Closed, breaker.Closed},
		{store.ErrConflict, breaker.Closed, breaker.Closed},
		{store.ErrCorrupt, breaker.Closed, breaker.Closed},
		{store.ErrUnconfirmed, breaker.Closed, breaker.HalfOpen},
		{store.ErrInvalid, breaker.Closed, breaker.HalfOpen},
		{store.ErrTooLarge, breaker.Closed, breaker.HalfOpen},
		{store.ErrRejected, breaker.Closed, breaker.HalfOpen},
		{store.ErrUnapplied, breaker.Open, breaker.Open},
		{store.ErrAmbiguous, breaker.Open, breaker.Open},
		{errDown, breaker.Open, breaker.Open},
		{context.DeadlineExceeded, breaker.Open, breaker.Open}, // a driver's own
	} {
		t.Run(tt.err.Error(), func(t *testing.T) {
			fault := storetest.Every(storetest.Fault{Err: fmt.Errorf("store: %w", tt.err)})
			bubble(t, nil, func(t *testing.T, b *breaker.Breaker, faults *storetest.Faults) {
				faults.SetHook(fault)
				for range 20 {
					if err := get(t, b); !errors.Is(err, tt.err) && !errors.Is(err, breaker.ErrOpen) {
						t.Fatalf("Get: %v; want the inner error", err)
					}
					time.Sleep(20 * time.Millisecond)
				}
				wantState(t, b, tt.want, "after many of them")
			})
			bubble(t, nil, func(t *testing.T, b *breaker.Breaker, faults *storetest.Faults) {
				open(t, b, faults)
				time.Sleep(501 * time.Millisecond)
				faults.SetHook(fault)
				_ = get(t, b)
				wantState(t, b, tt.wantProbed, "after a probe that got it")
			})
		})
	}
}

// A write that the deadline cuts keeps what the inner store says of it.
func TestCutWriteStaysAmbiguous(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := hooked{Store: memstore.New(), replace: func(ctx context.Context) error {
			<-ctx.Done()
			return fmt.Errorf("store: replace: %w: %w", store.ErrAmbiguous, ctx.Err())
		}}
		b := wrap(t, inner, nil)
		err := b.Replace(t.Context(), store.Key{1}, 1, record())
		if !errors.Is(err, store.ErrAmbiguous) || !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, breaker.ErrOpen) {
			t.Errorf("Replace: %v; want ErrAmbiguous and context.DeadlineExceeded", err)
		}
	})
}

// hooked is a store without capabilities whose Get or Replace is another.
type hooked struct {
	store.Store
	get     func(context.Context) error
	replace func(context.Context) error
}

func (h hooked) Capability(any) bool { return false }

func (h hooked) Get(ctx context.Context, _ store.Key) (store.Record, error) {
	return store.Record{}, h.get(ctx)
}

func (h hooked) Replace(ctx context.Context, _ store.Key, _ uint64, _ store.Record) error {
	return h.replace(ctx)
}

func TestProbesAreFew(t *testing.T) {
	bubble(t, &breaker.Options{Probes: 3}, func(t *testing.T, b *breaker.Breaker, faults *storetest.Faults) {
		open(t, b, faults)
		time.Sleep(501 * time.Millisecond)
		faults.SetHook(func(storetest.Call) storetest.Fault {
			time.Sleep(100 * time.Millisecond)
			return storetest.Fault{}
		})
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() { _ = get(t, b) })
		}
		wg.Wait()
		if n := faults.Count("Get"); n != 3 {
			t.Errorf("%d calls passed while half-open; want 3", n)
		}
		wantState(t, b, breaker.Closed, "after three probes that were answered")
	})
}

// A panic in the inner store, or a goroutine that ends there, frees its place.
func TestPanicFreesTheProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		do := func(context.Context) error { return errDown }
		b := wrap(t, hooked{Store: memstore.New(), get: func(ctx context.Context) error { return do(ctx) }}, nil)
		for b.State() == breaker.Closed {
			_ = get(t, b)
			time.Sleep(25 * time.Millisecond)
		}
		time.Sleep(501 * time.Millisecond)
		do = func(context.Context) error { panic("a bug") }
		func() {
			defer func() {
				if recover() != "a bug" {
					t.Error("the panic did not reach the caller as it was")
				}
			}()
			_ = get(t, b)
		}()
		wantState(t, b, breaker.HalfOpen, "after a probe that panicked")
		do = func(context.Context) error { runtime.Goexit(); return nil }
		var wg sync.WaitGroup
		wg.Go(func() { _ = get(t, b) })
		wg.Wait()
		do = func(context.Context) error { return store.ErrNotFound }
		if err := get(t, b); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("the next call: %v; want it to be the probe", err)
		}
	})
}

func TestOnStateChange(t *testing.T) {
	var b *breaker.Breaker
	var seen []string
	opts := &breaker.Options{OnStateChange: func(c breaker.Change) {
		_ = b.State() // the hook may look
		seen = append(seen, fmt.Sprintf("%v to %v at %v: %v", c.From, c.To, c.At.Format(".000"), c.Err))
	}}
	bubble(t, opts, func(t *testing.T, br *breaker.Breaker, faults *storetest.Faults) {
		b = br
		open(t, b, faults)
		time.Sleep(501 * time.Millisecond)
		_ = get(t, b) // fails
		time.Sleep(501 * time.Millisecond)
		faults.SetHook(nil)
		_ = get(t, b)
		want := []string{
			"closed to open at .125: connection refused",
			"open to half-open at .626: <nil>",
			"half-open to open at .626: connection refused",
			"open to half-open at .127: <nil>",
			"half-open to closed at .127: <nil>",
		}
		if !slices.Equal(seen, want) {
			t.Errorf("the hook was told\n\t%s\nwant\n\t%s", strings.Join(seen, "\n\t"), strings.Join(want, "\n\t"))
		}
	})
}

// Under load from all sides the hook sees each change once, one after the other.
func TestOnStateChangeIsInOrder(t *testing.T) {
	last := breaker.Closed
	var changes, inside int
	opts := &breaker.Options{OpenFor: time.Millisecond, OnStateChange: func(c breaker.Change) {
		inside++
		if inside != 1 || c.From != last {
			t.Errorf("change from %v to %v after one to %v, %d at once", c.From, c.To, last, inside)
		}
		last = c.To
		changes++
		time.Sleep(3 * time.Millisecond) // others would get in
		inside--
	}}
	bubble(t, opts, func(t *testing.T, b *breaker.Breaker, faults *storetest.Faults) {
		var up atomic.Bool
		faults.SetHook(func(storetest.Call) storetest.Fault {
			if up.Load() {
				return storetest.Fault{}
			}
			return storetest.Fault{Err: errDown}
		})
		end := time.Now().Add(5 * time.Second)
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				for time.Now().Before(end) {
					_ = get(t, b)
					up.Store(time.Now().UnixMilli()/500%2 == 0)
					time.Sleep(time.Duration(i+1) * time.Millisecond)
				}
			})
		}
		wg.Wait()
	})
	if changes < 20 {
		t.Errorf("%d changes; want many, or this shows nothing", changes)
	}
}

func TestOnCall(t *testing.T) {
	var seen []string
	opts := &breaker.Options{OnCall: func(c breaker.Call) {
		seen = append(seen, fmt.Sprintf("%s %d %v %v", c.Method, c.Shard, c.Duration, errors.Is(c.Err, breaker.ErrOpen)))
	}}
	bubble(t, opts, func(t *testing.T, b *breaker.Breaker, faults *storetest.Faults) {
		faults.SetHook(storetest.Nth("Touch", 1, storetest.Fault{Block: true}))
		_ = b.Touch(t.Context(), store.Key{1}, time.Now())
		_ = get(t, b) // ends the row of failures
		open(t, b, faults)
		seen = seen[:1]
		_ = get(t, b)
		if want := []string{"touch 0 1s false", "get 0 0s true"}; !slices.Equal(seen, want) {
			t.Errorf("the hook was told %q; want %q", seen, want)
		}
	})
}

func TestPing(t *testing.T) {
	bubble(t, nil, func(t *testing.T, b *breaker.Breaker, faults *storetest.Faults) {
		p, ok := store.As[store.Pinger](b)
		if !ok {
			t.Fatal("no Pinger around a store that has it")
		}
		open(t, b, faults)
		faults.SetHook(hangs)
		begin := time.Now()
		if err := p.Ping(t.Context()); !errors.Is(err, breaker.ErrOpen) || time.Since(begin) != 0 {
			t.Errorf("Ping while open: %v after %v; want a refusal at once", err, time.Since(begin))
		}
		// Without any other traffic, Ping closes it again.
		faults.SetHook(nil)
		time.Sleep(501 * time.Millisecond)
		if err := p.Ping(t.Context()); err != nil {
			t.Errorf("Ping when the store is back: %v", err)
		}
		wantState(t, b, breaker.Closed, "after a Ping that was answered")
	})
}

func TestListHasADeadlinePerRecord(t *testing.T) {
	bubble(t, nil, func(t *testing.T, b *breaker.Breaker, faults *storetest.Faults) {
		for i := range 3 {
			if err := b.Create(t.Context(), store.Key{byte(i)}, record()); err != nil {
				t.Fatal(err)
			}
		}
		l, _ := store.As[store.Lister](b)
		n := 0
		for _, err := range l.List(t.Context()) {
			if err != nil {
				t.Fatalf("List whose caller takes its time: %v", err)
			}
			n++
			time.Sleep(time.Minute)
		}
		if n != 3 {
			t.Errorf("List yielded %d records; want 3", n)
		}
		faults.SetHook(hangs)
		begin := time.Now()
		var last error
		for _, err := range l.List(t.Context()) {
			last = err
		}
		if d := time.Since(begin); !errors.Is(last, context.DeadlineExceeded) || d != time.Second {
			t.Errorf("List of a store that hangs: %v after %v; want the deadline after 1 s", last, d)
		}
	})
}

func TestWatchHasNoDeadline(t *testing.T) {
	bubble(t, nil, func(t *testing.T, b *breaker.Breaker, faults *storetest.Faults) {
		w, ok := store.As[store.Watcher](b)
		if !ok {
			t.Fatal("no Watcher around a store that has it")
		}
		open(t, b, faults)
		faults.SetHook(nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		begin := time.Now()
		err := w.Watch(ctx, func(time.Time) {}, func([]store.Key) {})
		if d := time.Since(begin); d != time.Hour {
			t.Errorf("Watch ended after %v: %v; want its own hour", d, err)
		}
	})
}

// Sweep and List tell nothing of the store's health, whatever becomes of them.
func TestMaintenanceDoesNotCount(t *testing.T) {
	bubble(t, nil, func(t *testing.T, b *breaker.Breaker, faults *storetest.Faults) {
		faults.SetHook(hangs)
		sw, _ := store.As[store.Sweeper](b)
		for range 20 {
			begin := time.Now()
			if _, err := sw.Sweep(t.Context(), 1); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != time.Second {
				t.Fatalf("Sweep: %v after %v; want the deadline after 1 s", err, time.Since(begin))
			}
		}
		wantState(t, b, breaker.Closed, "after sweeps that took too long")
		open(t, b, faults)
		if _, err := sw.Sweep(t.Context(), 1); !errors.Is(err, breaker.ErrOpen) {
			t.Errorf("Sweep while open: %v; want a refusal", err)
		}
	})
}

func TestNewRefusesBadOptions(t *testing.T) {
	for name, opts := range map[string]breaker.Options{
		"Timeout":  {Timeout: -1},
		"OpenFor":  {OpenFor: -1},
		"Failures": {Failures: -1},
		"Probes":   {Probes: -1},
	} {
		if _, err := breaker.New(memstore.New(), &opts); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("New with a negative %s: %v; want an error that names it", name, err)
		}
	}
	if _, err := breaker.New(nil, nil); err == nil {
		t.Error("New without a store: no error")
	}
	if _, err := breaker.New(&shards{}, nil); err == nil {
		t.Error("New of a store with no shards at all: no error")
	}
}

func TestForwardsWhatIsThere(t *testing.T) {
	for want, inner := range map[bool]store.Store{true: newShards(2), false: hooked{Store: memstore.New()}} {
		b := wrap(t, inner, nil)
		for name, ok := range map[string]bool{
			"OwnerIndex": has[store.OwnerIndex](b), "Lister": has[store.Lister](b), "Sweeper": has[store.Sweeper](b),
			"GetMany": has[store.GetMany](b), "Pinger": has[store.Pinger](b), "Watcher": has[store.Watcher](b),
			"FreshReader": has[store.FreshReader](b), "Sharded": has[store.Sharded](b), "Inspector": has[store.Inspector](b),
			"Confirmer": has[store.Confirmer](b),
		} {
			if ok != want {
				t.Errorf("%s found: %v, around a store that has it: %v", name, ok, want)
			}
		}
	}
}

func has[T any](s store.Store) bool {
	_, ok := store.As[T](s)
	return ok
}

func TestStateString(t *testing.T) {
	for s, want := range map[breaker.State]string{
		breaker.Closed: "closed", breaker.HalfOpen: "half-open", breaker.Open: "open", 7: "state(7)", -1: "state(-1)",
	} {
		if text, err := s.MarshalText(); string(text) != want || err != nil {
			t.Errorf("State(%d) in text: %q, %v; want %q", int(s), text, err, want)
		}
	}
}
