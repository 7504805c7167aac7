package shopper_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"time"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/shop"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/shopper"
	"github.com/coatcheck/coatcheck/store/memstore"
)

// Ten shoppers go on two journeys each.
func Example() {
	h, err := shop.New(memstore.New(), "worker-1", &shop.Options{InsecureCookie: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	srv := httptest.NewServer(h)
	defer srv.Close()
	r, err := shopper.Run(context.Background(), srv.URL, 10, &shopper.Options{
		Journeys: 2,
		Think:    time.Millisecond,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%d journeys, %d sign-outs, %d lost items, %d failed requests\n", r.Journeys, r.SignOuts, r.LostItems, r.FailedRequests)
	// Output: 20 journeys, 0 sign-outs, 0 lost items, 0 failed requests
}
