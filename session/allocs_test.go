//go:build !race

package session_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/coatcheck/coatcheck/store/memstore"
)

// TestReadAllocations: a signed-in read through the whole middleware allocates at
// most so much more than the bare handler. The key of its session is ready from the
// last one.
func TestReadAllocations(t *testing.T) {
	m := newManager(t, memstore.New(), nil)
	cookie := signedInCookie(t, m)
	handlers := readHandlers(t, m)
	bare := allocs(handlers["bare"], cookie)
	for name, most := range map[string]float64{"int": 8, "struct": 14} {
		if more := allocs(handlers[name], cookie) - bare; more > most {
			t.Errorf("reading one %s costs %v allocations more than the bare handler, want at most %v", name, more, most)
		}
	}
}

func allocs(h http.Handler, c *http.Cookie) float64 {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.AddCookie(c)
	return testing.AllocsPerRun(200, func() { h.ServeHTTP(&discard{h: http.Header{}}, r) })
}
