package main

import (
	"net/http"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/shop"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/worker"
	"github.com/coatcheck/coatcheck/store"
)

// newShop is the app that the workers serve.
func newShop(st store.Store, s worker.Site) (http.Handler, error) {
	return shop.New(st, s.Name, &shop.Options{
		CookieName:     s.CookieName,
		InsecureCookie: s.InsecureCookie,
		Draining:       s.Draining,
		Details: func() map[string]string {
			st := s.StoreState()
			details := map[string]string{"near_cache": st.NearCache}
			if st.Breaker != "" {
				details["breaker"] = st.Breaker
			}
			return details
		},
		Logger:   s.Logger,
		Observer: s.Observer,
	})
}
