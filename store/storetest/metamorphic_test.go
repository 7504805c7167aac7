package storetest

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/memstore"
)

func naiveModel(*testing.T) store.Store { return new(naive) }

// memstore is the model of every other store; the naive one is its own.
func TestScriptsOfMemstore(t *testing.T) {
	for seed := range uint64(200) {
		compareStores(t, t, Config{New: memory, Synctest: true}, naiveModel, seed)
	}
}

func TestScriptsOnTheRealClock(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for records to expire: some seconds; run without -short")
	}
	RunScripts(t, Config{New: func(*testing.T) store.Store { return new(naive) }}, 1, 2)
}

func TestScriptsOfFaults(t *testing.T) {
	RunScripts(t, Config{New: func(*testing.T) store.Store { return NewFaults(memstore.New(), nil) }, Synctest: true})
}

// forgetful loses the label in a Replace that lowers the deadline.
type forgetful struct{ *memstore.Store }

func (f forgetful) Replace(ctx context.Context, k store.Key, old uint64, r store.Record) error {
	if stored, err := f.Get(ctx, k); err == nil && r.Deadline.Before(stored.Deadline) {
		r.Label = nil
	}
	return f.Store.Replace(ctx, k, old, r)
}

// early takes what expires within a minute for expired.
type early struct{ *memstore.Store }

func (e early) Get(ctx context.Context, k store.Key) (store.Record, error) {
	r, err := e.Store.Get(ctx, k)
	if err == nil && !r.Live(time.Now().Add(time.Minute)) {
		return store.Record{}, store.ErrNotFound
	}
	return r, err
}

func TestScriptsFindAndMinimise(t *testing.T) {
	for name, broken := range map[string]func(*testing.T) store.Store{
		"forgetful": func(*testing.T) store.Store { return forgetful{memstore.New()} },
		"early":     func(*testing.T) store.Store { return early{memstore.New()} },
	} {
		t.Run(name, func(t *testing.T) {
			var rec recorder
			for seed := uint64(0); seed < 50 && !rec.failed; seed++ {
				compareStores(t, &rec, Config{New: broken, Synctest: true}, naiveModel, seed)
			}
			text := rec.text.String()
			if !rec.failed {
				t.Fatal("50 scripts found no difference")
			}
			for _, want := range []string{"seed ", "the store:", "the model:", "  1  Create"} {
				if !strings.Contains(text, want) {
					t.Errorf("the report lacks %q:\n%s", want, text)
				}
			}
			_, script, _ := strings.Cut(text, "shortest script found:")
			if steps := strings.Count(strings.TrimSpace(script), "\n") + 1; steps > 4 {
				t.Errorf("the shortest script has %d steps; want at most 4:\n%s", steps, text)
			}
		})
	}
}
