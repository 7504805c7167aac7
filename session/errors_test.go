package session_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/coatcheck/coatcheck/session"
)

// What the user is told fits what happened, and tells nothing of the error.
func TestDefaultErrorHandler(t *testing.T) {
	secret := errors.New("dial db7.internal: password for alice refused")
	for _, tt := range []struct {
		err    error
		status int
		says   string
		not    string
	}{
		{session.ErrUnavailable, 503, "Your session is kept; please try again", "check"},
		{fmt.Errorf("%w: %w", session.ErrUnavailable, session.ErrAmbiguous), 503, "Your session is kept; please check in a moment whether", "try again"},
		{session.ErrAmbiguous, 500, "may not have been saved. Please check before you try again", "unavailable"},
		{&session.EndedError{Reason: session.ReasonRevoked}, 409, "was not saved. Please reload", "revoked"},
		{session.ErrConflict, 409, "was not saved. Please reload", ""},
		{session.ErrRefused, 409, "was not saved. Please reload", ""},
		{session.ErrTooLarge, 500, "may not have been saved", "large"},
		{session.ErrHeadersSent, 500, "may not have been saved", "header"},
		{session.ErrFinished, 500, "may not have been saved", ""},
		{&session.DecodeError{Attr: "cart", Err: secret}, 500, "may not have been saved", "cart"},
		{secret, 500, "may not have been saved", ""},
	} {
		err := fmt.Errorf("while saving: %w: %w", tt.err, secret)
		if got := session.StatusCode(err); got != tt.status {
			t.Errorf("the status of %v is %d, want %d", tt.err, got, tt.status)
		}
		w := httptest.NewRecorder()
		session.DefaultErrorHandler(w, httptest.NewRequest(http.MethodGet, "/", nil), err)
		body := w.Body.String()
		if w.Code != tt.status || !strings.Contains(body, tt.says) || tt.not != "" && strings.Contains(body, tt.not) {
			t.Errorf("%v is answered %d %q; want %d, %q and not %q", tt.err, w.Code, body, tt.status, tt.says, tt.not)
		}
		for _, word := range []string{"db7", "alice", "saving"} {
			if strings.Contains(body, word) {
				t.Errorf("the answer to %v quotes the error: %q", tt.err, body)
			}
		}
		if retry := w.Header().Get("Retry-After"); (retry == "1") != (tt.status == 503) || w.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("%v: Retry-After %q, Cache-Control %q", tt.err, retry, w.Header().Get("Cache-Control"))
		}
	}
}
