package breaker_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/breaker"
	"github.com/coatcheck/coatcheck/store/memstore"
	"github.com/coatcheck/coatcheck/store/storetest"
)

// A store that stops answering costs a few callers their deadline, and the rest
// nothing. Here it does so on command.
func Example() {
	server := storetest.NewFaults(memstore.New(), storetest.Every(storetest.Fault{Block: true}))
	st, err := breaker.New(server, &breaker.Options{
		Timeout:  50 * time.Millisecond,
		Failures: 3,
		OpenFor:  time.Hour,
		OnStateChange: func(c breaker.Change) {
			fmt.Printf("%v, was %v: %v\n", c.To, c.From, c.Err)
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}

	ctx := context.Background()
	for range 3 {
		_, err := st.Get(ctx, store.Key{1})
		fmt.Println("waited for the deadline:", errors.Is(err, context.DeadlineExceeded))
	}
	_, err = st.Get(ctx, store.Key{1})
	fmt.Println("refused at once:", errors.Is(err, breaker.ErrOpen))

	// Output:
	// waited for the deadline: true
	// waited for the deadline: true
	// open, was closed: storetest: Get blocked: context deadline exceeded
	// waited for the deadline: true
	// refused at once: true
}
