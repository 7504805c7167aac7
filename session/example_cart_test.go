package session_test

import (
	"errors"
	"fmt"
	"log"
	"net/http"

	"github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/store/memstore"
)

type shoppingCart map[string]int

var shopping = session.NewAttr[shoppingCart]("cart")

var errTooMany = errors.New("at most 3 of a kind")

func addApple(c shoppingCart) (shoppingCart, error) {
	if c["apple"] == 3 {
		return nil, errTooMany
	}
	if c == nil {
		c = shoppingCart{}
	}
	c["apple"]++
	return c, nil
}

// A shopping cart that two tabs may fill at the same time. The function given to
// Update runs again if another request was faster, so neither is lost; and since
// it is asked again, its limit holds for what both add.
func ExampleAttr_Update() {
	sessions, err := session.New(memstore.New(), nil)
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /cart", func(w http.ResponseWriter, r *http.Request) {
		s := session.From(r.Context())
		switch err := shopping.Update(s, addApple); {
		case errors.Is(err, errTooMany):
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		case err != nil:
			sessions.HandleError(w, r, err)
			return
		}
		c, _ := shopping.Get(s)
		_, _ = fmt.Fprintln(w, c["apple"], "in the cart")
	})

	g := newGuest(sessions.Handler(mux))
	for range 4 {
		g.visit("POST /cart")
	}
	// Output:
	// POST /cart: 200 1 in the cart
	// POST /cart: 200 2 in the cart
	// POST /cart: 200 3 in the cart
	// POST /cart: 400 at most 3 of a kind
}
