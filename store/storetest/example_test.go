package storetest_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/memstore"
	"github.com/coatcheck/coatcheck/store/storetest"
)

// The test of a backend.
func ExampleRun() {
	// In a backend's own package this is func TestContract(t *testing.T).
	testContract := func(t *testing.T) {
		c := storetest.Config{
			New:      func(*testing.T) store.Store { return memstore.New() },
			Synctest: true, // only for a store that does no I/O
		}
		storetest.Run(t, c)
		storetest.RunScripts(t, c)
	}
	_ = testContract
}

// An answer is lost: the write has happened, and its caller cannot know.
func ExampleNewFaults() {
	ctx := context.Background()
	inner := memstore.New()
	lost := fmt.Errorf("create: %w", store.ErrAmbiguous)
	st := storetest.NewFaults(inner, storetest.Nth("Create", 1, storetest.Fault{Err: lost, After: true}))

	now := time.Now()
	err := st.Create(ctx, store.Key{1}, store.Record{Created: now, Deadline: now.Add(time.Hour), Expires: now.Add(time.Hour)})
	fmt.Println("ambiguous:", errors.Is(err, store.ErrAmbiguous))
	_, err = inner.Get(ctx, store.Key{1})
	fmt.Println("stored:", err == nil)
	// Output:
	// ambiguous: true
	// stored: true
}
