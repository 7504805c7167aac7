package doctor

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/coatcheck/coatcheck/store"
)

// Operation is how long one of the store's operations takes, asked one at a time.
type Operation struct {
	Name  string        `json:"name"`
	Count int           `json:"count"`
	P50   time.Duration `json:"p50_ns"`
	P99   time.Duration `json:"p99_ns"`
}

// trial is how long what is written to measure would stay.
const trial = time.Minute

// measure puts records of its own through their lives. It returns why, if the store does
// not treat them as it must.
func measure(ctx context.Context, st store.Store, rounds int) ([]Operation, error) {
	names := []string{"create", "get", "replace", "touch", "delete"}
	took := make([][]time.Duration, len(names))
	for i := range took {
		took[i] = make([]time.Duration, 0, rounds)
	}
	for range rounds {
		if err := one(ctx, st, func(op int, d time.Duration) { took[op] = append(took[op], d) }); err != nil {
			return nil, err
		}
	}
	ops := make([]Operation, len(names))
	for i, name := range names {
		slices.Sort(took[i])
		ops[i] = Operation{name, rounds, percentile(took[i], 50), percentile(took[i], 99)}
	}
	return ops, nil
}

// one is the life of one record.
func one(ctx context.Context, st store.Store, note func(op int, took time.Duration)) error {
	var k store.Key
	_, _ = rand.Read(k[:]) // never fails: crypto/rand ends the program instead
	now := time.Now()
	r := store.Record{
		Version: 1, Created: now, Deadline: now.Add(2 * trial), Expires: now.Add(trial),
		Data: make([]byte, 300), // of a small session
	}
	_, _ = rand.Read(r.Data)
	next := r
	next.Version = 2
	var got store.Record
	var existed bool
	done := false
	defer func() {
		if !done {
			_, _ = st.Delete(context.WithoutCancel(ctx), k) // else it expires
		}
	}()
	steps := []func() error{
		func() error { return st.Create(ctx, k, r) },
		func() (err error) { got, err = st.Get(ctx, k); return err },
		func() error { return st.Replace(ctx, k, r.Version, next) },
		func() error { return st.Touch(ctx, k, r.Expires.Add(trial/2)) },
		func() (err error) { existed, err = st.Delete(ctx, k); return err },
	}
	for i, step := range steps {
		began := time.Now()
		if err := step(); err != nil {
			return err
		}
		note(i, time.Since(began))
		switch {
		case i == 1 && got.Version != r.Version:
			return fmt.Errorf("what was created has version %d, and read version %d", r.Version, got.Version)
		case i == 2:
			if err := st.Replace(ctx, k, r.Version, next); !errors.Is(err, store.ErrConflict) {
				return fmt.Errorf("a change of what somebody has changed meanwhile is no conflict (%v)", err)
			}
		}
	}
	if !existed {
		return errors.New("what was created was not there to be deleted")
	}
	if _, err := st.Get(ctx, k); !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("what was deleted is still there (%v)", err)
	}
	done = true
	return nil
}

// percentile returns the p-th percentile, by nearest rank, of what is sorted and not
// empty.
func percentile[T any](sorted []T, p int) T {
	return sorted[max(0, (len(sorted)*p+99)/100-1)]
}

// round leaves three digits.
func round(d time.Duration) time.Duration {
	unit := time.Duration(1)
	for d/unit >= 1000 {
		unit *= 10
	}
	return d.Round(unit)
}
