package store_test

import (
	"context"
	"fmt"

	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/memstore"
)

// A capability is asked for, and what lacks it is told so.
func ExampleAs() {
	var st store.Store = memstore.New()
	idx, ok := store.As[store.OwnerIndex](st)
	if !ok {
		fmt.Println("this store cannot list sessions by owner")
		return
	}
	list, err := idx.ListOwner(context.Background(), "alice")
	fmt.Println(len(list), err)
	// Output: 0 <nil>
}
