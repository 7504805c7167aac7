package memstore_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/memstore"
)

// A record is changed only by whoever read its newest version, and one that was
// deleted stays deleted.
func Example() {
	ctx := context.Background()
	st := memstore.New()
	key := store.Key{1}
	now := time.Now()
	r := store.Record{
		Version:  1,
		Owner:    "alice",
		Created:  now,
		Deadline: now.Add(24 * time.Hour),
		Expires:  now.Add(time.Hour),
		Data:     []byte("1 apple"),
	}
	if err := st.Create(ctx, key, r); err != nil {
		fmt.Println(err)
		return
	}

	r.Version, r.Data = 2, []byte("2 apples")
	fmt.Println("replace version 1:", st.Replace(ctx, key, 1, r))
	err := st.Replace(ctx, key, 1, r)
	fmt.Println("replace it again: conflict:", errors.Is(err, store.ErrConflict))

	ended, err := st.DeleteOwner(ctx, "alice")
	fmt.Println("sign alice out everywhere:", ended, err)
	err = st.Replace(ctx, key, 2, r)
	fmt.Println("replace after that: not found:", errors.Is(err, store.ErrNotFound))

	// Output:
	// replace version 1: <nil>
	// replace it again: conflict: true
	// sign alice out everywhere: 1 <nil>
	// replace after that: not found: true
}
