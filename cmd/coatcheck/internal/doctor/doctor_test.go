package doctor_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/doctor"
	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/memstore"
	"github.com/coatcheck/coatcheck/store/storetest"
)

// find returns the finding about that, or fails the test.
func find(t *testing.T, r *doctor.Report, check string) doctor.Finding {
	t.Helper()
	for _, f := range r.Findings {
		if f.Check == check {
			return f
		}
	}
	t.Fatalf("nothing is said about %s: %+v", check, r.Findings)
	return doctor.Finding{}
}

func examine(t *testing.T, st store.Store, opts *doctor.Options) *doctor.Report {
	t.Helper()
	r, err := doctor.Examine(t.Context(), st, opts)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// fill puts sessions of those sizes into a store.
func fill(t *testing.T, st store.Store, sizes ...int) {
	t.Helper()
	now := time.Now()
	for i, n := range sizes {
		r := store.Record{Version: 1, Handle: store.Handle{1}, Owner: "alice", Created: now, Deadline: now.Add(time.Hour), Expires: now.Add(time.Hour), Data: make([]byte, n)}
		if err := st.Create(t.Context(), store.Key{byte(i), byte(i >> 8), 1}, r); err != nil {
			t.Fatal(err)
		}
	}
}

func TestHealthyStore(t *testing.T) {
	st := memstore.New()
	fill(t, st, 100, 200, 300)
	var steps []string
	r := examine(t, st, &doctor.Options{
		Rounds: 20, Verify: func(context.Context) error { return nil },
		Progress: func(what string) { steps = append(steps, what) },
	})
	if r.Worst() != store.SeverityOK || len(r.Findings) != 4 {
		t.Errorf("findings %+v; want four, and nothing wrong", r.Findings)
	}
	if len(r.Operations) != 5 || r.Operations[1].Name != "get" || r.Operations[1].Count != 20 || r.Operations[1].P50 <= 0 || r.Operations[1].P99 < r.Operations[1].P50 {
		t.Errorf("operations %+v; want five, each measured 20 times", r.Operations)
	}
	if want := (doctor.Sessions{Count: 3, P50: 200, P90: 300, P99: 300, Max: 300}); r.Sessions == nil || *r.Sessions != want {
		t.Errorf("sessions %+v; want %+v", r.Sessions, want)
	}
	left := 0
	for range st.List(t.Context()) {
		left++
	}
	if left != 3 {
		t.Errorf("%d records are left; want the three that were there", left)
	}
	if len(steps) != 4 {
		t.Errorf("told of %q; want four steps", steps)
	}
}

func TestSizes(t *testing.T) {
	st := memstore.New()
	fill(t, st, 100, 5000, 6000, 300, 400)
	r := examine(t, st, &doctor.Options{Rounds: 1})
	if f := find(t, r, "session-size"); f.Severity != store.SeverityWarning || !strings.Contains(f.Evidence, "2 of 5 sessions") || f.Fix == "" {
		t.Errorf("%+v; want a warning about 2 of 5 sessions, and a fix", f)
	}
	r = examine(t, st, &doctor.Options{Rounds: 1, Sample: 4})
	if r.Sessions.Count != 4 || !r.Sessions.More {
		t.Errorf("%+v; want that 4 were looked at, of more", r.Sessions)
	}
}

// TestSlowStore: what visitors would notice is a warning.
func TestSlowStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := storetest.NewFaults(memstore.New(), func(storetest.Call) storetest.Fault {
			time.Sleep(20 * time.Millisecond)
			return storetest.Fault{}
		})
		r := examine(t, st, &doctor.Options{Rounds: 3})
		if f := find(t, r, "latency"); f.Severity != store.SeverityWarning || !strings.Contains(f.Evidence, "20ms") {
			t.Errorf("%+v; want a warning about 20 ms", f)
		}
	})
}

// forgetful is a store with a fault of its own.
type forgetful struct {
	*memstore.Store
	keeps, loses bool
}

func (s forgetful) Delete(ctx context.Context, k store.Key) (bool, error) {
	if s.keeps {
		return true, nil
	}
	return s.Store.Delete(ctx, k)
}

func (s forgetful) Replace(ctx context.Context, k store.Key, old uint64, r store.Record) error {
	if s.loses {
		return nil
	}
	return s.Store.Replace(ctx, k, old, r)
}

// TestSickStores: a store that does not do what it says is found out.
func TestSickStores(t *testing.T) {
	down := storetest.NewFaults(memstore.New(), func(c storetest.Call) storetest.Fault {
		if c.Method == "Create" {
			return storetest.Fault{Err: errors.New("no space left")}
		}
		return storetest.Fault{}
	})
	for name, c := range map[string]struct {
		st   store.Store
		says string
	}{
		"takes nothing":     {down, "no space left"},
		"deletes nothing":   {forgetful{Store: memstore.New(), keeps: true}, "still there"},
		"sees no conflicts": {forgetful{Store: memstore.New(), loses: true}, "no conflict"},
	} {
		r := examine(t, c.st, &doctor.Options{Rounds: 2})
		if f := find(t, r, "operations"); f.Severity != store.SeverityCritical || !strings.Contains(f.Evidence, c.says) || r.Worst() != store.SeverityCritical || len(r.Operations) != 0 {
			t.Errorf("%s: %+v; want critical, with %q, and no figures", name, f, c.says)
		}
	}
	r := examine(t, memstore.New(), &doctor.Options{Rounds: 1, Verify: func(context.Context) error { return errors.New("there is no table") }})
	if f := r.Findings[0]; f.Check != "schema" || f.Severity != store.SeverityCritical || !strings.Contains(f.Fix, "schema apply") {
		t.Errorf("%+v; want what is wrong with the schema first", f)
	}
}

func TestText(t *testing.T) {
	r := &doctor.Report{
		Findings: []doctor.Finding{
			{"eviction", store.SeverityCritical, "users are evicted", "set noeviction"},
			{"version", store.SeverityUnknown, "not told", ""},
			{"tls", store.SeverityOK, "encrypted", ""},
		},
		Operations: []doctor.Operation{{"get", 10, 1234567, 45678901}},
		Sessions:   &doctor.Sessions{Count: 3, More: true, P50: 200, P99: 3000, Max: 3 << 20},
	}
	want := `critical  eviction        users are evicted
                          → set noeviction
1 checks found nothing wrong, and 1 learned nothing; --all shows them

  operation     p50     p99
        get  1.23ms  45.7ms

3 sessions, of more: half up to 200 B, 99 of 100 up to 2.93 KiB, the largest 3 MiB`
	if got := r.Text(false); got != want {
		t.Errorf("the report is\n%s\nwant\n%s", got, want)
	}
	if all := r.Text(true); !strings.Contains(all, "ok        tls             encrypted") || strings.Contains(all, "--all") {
		t.Errorf("the whole report is\n%s", all)
	}
}

func TestEndedContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if r, err := doctor.Examine(ctx, memstore.New(), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("%+v, %v; want the context's error", r, err)
	}
}
