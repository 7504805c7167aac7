package nearcache_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/memstore"
	"github.com/coatcheck/coatcheck/store/nearcache"
)

// Two servers keep copies of the sessions of one store. What one of them changes,
// it sees at once; the other one sees it within MaxStale, or when it asks for
// what is newest.
func Example() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	shared := memstore.New() // a real one would be a database
	opts := &nearcache.Options{MaxStale: time.Minute}
	here, err := nearcache.New(shared, opts)
	if err != nil {
		log.Fatal(err)
	}
	there, err := nearcache.New(shared, opts)
	if err != nil {
		log.Fatal(err)
	}

	key := store.Key{1}
	now := time.Now()
	r := store.Record{Version: 1 << 32, Created: now, Deadline: now.Add(24 * time.Hour), Expires: now.Add(time.Hour), Data: []byte("1 apple")}
	show := func(who string, r store.Record, err error) { fmt.Printf("%s: %s %v\n", who, r.Data, err) }

	show("created", r, here.Create(ctx, key, r))
	got, err := there.Get(ctx, key)
	show("there", got, err)

	r.Version, r.Data = 2<<32, []byte("2 apples")
	show("replaced", r, here.Replace(ctx, key, 1<<32, r))
	got, err = here.Get(ctx, key)
	show("here", got, err)
	got, err = there.Get(ctx, key)
	show("there", got, err)
	got, err = there.GetFresh(ctx, key)
	show("there, fresh", got, err)

	// Output:
	// created: 1 apple <nil>
	// there: 1 apple <nil>
	// replaced: 2 apples <nil>
	// here: 2 apples <nil>
	// there: 1 apple <nil>
	// there, fresh: 2 apples <nil>
}

// Where the store pushes changes, Run drops the copies of what has changed. It
// runs as long as the server does.
func ExampleCache_Run() {
	ctx, stop := context.WithCancel(context.Background())
	cache, err := nearcache.New(memstore.New(), nil)
	if err != nil {
		log.Fatal(err)
	}
	ended := make(chan error)
	go func() { ended <- cache.Run(ctx) }()
	stop()
	fmt.Println(<-ended)
	// Output: context canceled
}
