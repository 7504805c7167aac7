package session_test

import (
	"net/http/httptest"
	"testing"

	"github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/session/sessiontest"
)

// TestHello is a test of an app's handler, hello of the example of a whole app,
// for a visitor who has been there twice.
func TestHello(t *testing.T) {
	r := sessiontest.Request(t, nil, httptest.NewRequest("GET", "/", nil), func(s *session.Session) {
		if err := visits.Set(s, 2); err != nil {
			t.Fatal(err)
		}
	})
	w := httptest.NewRecorder()
	hello(w, r)
	if got, want := w.Body.String(), "This is your visit number 3.\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if n, err := visits.Get(session.From(r.Context())); n != 3 || err != nil {
		t.Errorf("%d visits are kept (%v), want 3", n, err)
	}
}
