//go:build !race

package session_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/coatcheck/coatcheck/store/memstore"
)

// TestReadAllocations: a signed-in read through the whole middleware allocates at
// most so much more than the bare handler.
func TestReadAllocations(t *testing.T) {
	m := newManager(t, memstore.New(), nil)
	cookie := signedInCookie(t, m)
	handlers := readHandlers(t, m)
	allocs := func(h http.Handler) float64 {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.AddCookie(cookie)
		return testing.AllocsPerRun(200, func() { h.ServeHTTP(&discard{h: http.Header{}}, r) })
	}
	bare := allocs(handlers["bare"])
	for name, most := range map[string]float64{"int": 14, "struct": 26} {
		if more := allocs(handlers[name]) - bare; more > most {
			t.Errorf("reading one %s costs %v allocations more than the bare handler, want at most %v", name, more, most)
		}
	}
}
