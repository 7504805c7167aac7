package load_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/load"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/shop"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/shopper"
	"github.com/coatcheck/coatcheck/store/memstore"
)

// patience bounds every wait, and is never measured.
const patience = time.Minute

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

// forgetful is a shop that loses its sessions when it is told to.
func forgetful(t testing.TB) (address string, forget func()) {
	open := func() http.Handler {
		h, err := shop.New(memstore.New(), "worker-1", &shop.Options{InsecureCookie: true})
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	var now atomic.Value
	now.Store(open())
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { now.Load().(http.Handler).ServeHTTP(w, r) }))
	t.Cleanup(s.Close)
	return s.URL, func() { now.Store(open()) }
}

// TestLoad: shoppers come, are counted and told of while they are there, and leave.
func TestLoad(t *testing.T) {
	address, forget := forgetful(t)
	l := load.New(address, 5*time.Millisecond, nil)
	if s := l.Status(); s.State != load.Stopped || s.Requests != 0 {
		t.Errorf("at first: %+v; want that nobody is there", s)
	}
	for _, n := range []int{-1, 0, load.Max + 1} {
		if err := l.Start(n); !errors.Is(err, load.ErrCount) {
			t.Errorf("%d shoppers: %v; want that they are not let in", n, err)
		}
	}
	const n = load.Shown + 6
	if err := l.Start(n); err != nil {
		t.Fatal(err)
	}
	if err := l.Start(1); !errors.Is(err, load.ErrRunning) {
		t.Errorf("more shoppers while some are there: %v; want that they are not let in", err)
	}
	seen := make(map[string]bool)
	steps := 0
	await(t, "a hundred journeys, and steps of all who are shown", func() bool {
		for _, s := range l.Steps() {
			steps++
			seen[s.Shopper] = true
			if s.Server != "worker-1" || s.Fault != "" || time.Since(time.UnixMilli(s.Time)).Abs() > patience {
				t.Errorf("a step is %+v; want one that worker-1 answered just now", s)
			}
		}
		return l.Status().Journeys >= 100 && len(seen) >= load.Shown
	})
	for i := range load.Shown { // the page follows shopper-1, however many there are
		if name := fmt.Sprint("shopper-", i+1); !seen[name] {
			t.Errorf("no step of %s is told of", name)
		}
	}
	if len(seen) != load.Shown || steps < 100 {
		t.Errorf("%d steps of %d shoppers are told of; want those of %d", steps, len(seen), load.Shown)
	}
	s := l.Status()
	delete(s.First, shopper.SlowRequest) // which this machine may make
	if s.State != load.Running || s.Shoppers != n || s.SignOuts+s.LostItems+s.SurplusItems+s.WrongUsers+s.FailedRequests != 0 || len(s.First) != 0 {
		t.Errorf("in a shop that works: %+v; want %d shoppers who notice nothing", s, n)
	}

	forget()
	var told string
	await(t, "a sign-out is counted and told of", func() bool {
		for _, s := range l.Steps() {
			if s.Fault == shopper.SignOut {
				told = s.Server
			}
		}
		return told != "" && l.Status().SignOuts > 0
	})
	if first := l.Status().First[shopper.SignOut]; told != "worker-1" || !strings.Contains(first, "worker-1 said nobody") {
		t.Errorf("the sign-out is told of as of %q, and the first is %q; want that worker-1 knew nobody", told, first)
	}

	l.Stop()
	await(t, "the shoppers have left", func() bool { return l.Status().State == load.Stopped })
	if err := l.Start(1); err != nil {
		t.Errorf("the next load: %v", err)
	}
	if s := l.Status(); s.Shoppers != 1 || s.SignOuts != 0 {
		t.Errorf("the next load: %+v; want that it is counted from nothing", s)
	}
	l.Close(t.Context())
	if s := l.Status(); s.State != load.Stopped {
		t.Errorf("after Close it is %s", s.State)
	}
	if err := l.Start(1); !errors.Is(err, load.ErrClosed) {
		t.Errorf("after Close: %v; want that nobody is let in", err)
	}
}

// TestStopping: who waits for an answer finishes that step, and nobody takes the place
// meanwhile.
func TestStopping(t *testing.T) {
	let, asked := make(chan struct{}), make(chan struct{}, 10)
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		asked <- struct{}{}
		<-let
	}))
	defer s.Close()
	l := load.New(s.URL, time.Millisecond, nil)
	if err := l.Start(1); err != nil {
		t.Fatal(err)
	}
	<-asked
	l.Stop()
	if got := l.Status().State; got != load.Stopping {
		t.Errorf("with a shopper who waits it is %s", got)
	}
	if err := l.Start(1); !errors.Is(err, load.ErrRunning) {
		t.Errorf("with a shopper who waits: %v; want that no other is let in", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	l.Close(ctx) // returns
	close(let)
	l.Close(t.Context())
	if got := l.Status().State; got != load.Stopped {
		t.Errorf("in the end it is %s", got)
	}
}

func ExampleLoad() {
	l := load.New("http://127.0.0.1:8080", time.Second, nil)
	fmt.Println(l.Status().State)
	fmt.Println(l.Start(1000))
	l.Close(context.Background())
	// Output:
	// stopped
	// the number of shoppers must be between 1 and 200, or 0 to stop them
}
