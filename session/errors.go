package session

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/coatcheck/coatcheck/store"
)

// Errors that an app can act on, matched with [errors.Is].
var (
	// ErrEnded: the session ended while this request was using it, so its
	// changes were not kept. The error is an [*EndedError] with the reason.
	ErrEnded = errors.New("session has ended")

	// ErrUnavailable: the store could not be reached in time, or takes no writes.
	// Nothing is known to be lost: the cookie is kept and the user stays signed in.
	// If a Commit returns it and it is no ErrAmbiguous, nothing was changed.
	ErrUnavailable = errors.New("session store is unavailable")

	// ErrConflict: an attribute that this request had read was changed by
	// another request before this one set it, and [Options.RejectStaleSet] is on.
	ErrConflict = store.ErrConflict

	// ErrAmbiguous: the answer to a write was lost and it cannot be told any
	// more whether it happened. No change was made twice.
	ErrAmbiguous = store.ErrAmbiguous

	// ErrTooLarge: the values of the session exceed [Options.MaxSize] or what the
	// store accepts. Nothing was written.
	ErrTooLarge = store.ErrTooLarge

	// ErrDecode: the stored value of one attribute does not decode into its
	// type. The error is a [*DecodeError] with the name of the attribute. The
	// other attributes are not affected.
	ErrDecode = errors.New("session attribute does not decode")

	// ErrHeadersSent: a change needs a cookie, but the header of the response
	// has left already. Make the change, or call [Session.Commit], before the
	// first byte is written.
	ErrHeadersSent = errors.New("response header was already sent, so the session cookie cannot be set")

	// ErrFinished: the handler of the request has returned, so its session takes
	// no more changes. A goroutine that outlives its request needs a store of its
	// own for what it does.
	ErrFinished = errors.New("the request of this session is over")

	// ErrRefused: the function given to [Attr.Update] returned an error when it
	// ran again on newer values. The error wraps that error too.
	ErrRefused = errors.New("session update refused on newer values")
)

// Reason says why a session ended.
type Reason string

// Reasons. They are exact on the server that ended the session and where a
// record of the end is left; elsewhere they are ReasonUnknown.
const (
	ReasonUnknown  Reason = "unknown"
	ReasonIdle     Reason = "idle timeout"
	ReasonAbsolute Reason = "absolute timeout"
	ReasonLogout   Reason = "logout"
	ReasonRevoked  Reason = "revoked"
	ReasonRenewed  Reason = "renewed"
)

// EndedError is the ErrEnded with its reason.
type EndedError struct{ Reason Reason }

func (e *EndedError) Error() string { return fmt.Sprintf("%v (%s)", ErrEnded, e.Reason) }

// Is makes errors.Is(err, ErrEnded) true.
func (e *EndedError) Is(target error) bool { return target == ErrEnded }

// DecodeError is the ErrDecode of one attribute.
type DecodeError struct {
	Attr string
	Err  error // from the codec; may quote the stored value, so Error leaves it out
}

func (e *DecodeError) Error() string { return fmt.Sprintf("%v: %q", ErrDecode, e.Attr) }

// Is makes errors.Is(err, ErrDecode) true.
func (e *DecodeError) Is(target error) bool { return target == ErrDecode }

// Unwrap returns the codec's error.
func (e *DecodeError) Unwrap() error { return e.Err }

// logoutError is the error of a logout that has cleared the cookie and not ended the
// session in the store.
type logoutError struct{ error }

func (e *logoutError) Unwrap() error { return e.error }

// unavailable wraps an error of a store that could not answer.
func unavailable(err error) error { return fmt.Errorf("%w: %w", ErrUnavailable, err) }

// StatusCode returns the HTTP status that answers err: 503 for ErrUnavailable,
// 409 Conflict for ErrEnded, ErrConflict and ErrRefused, else 500. An
// ErrAmbiguous of a store that answers, and confirms what it has, is a 500: a 503
// invites a retry, which could apply the change twice.
func StatusCode(err error) int {
	switch {
	case errors.Is(err, ErrUnavailable):
		return http.StatusServiceUnavailable
	case errors.Is(err, ErrEnded), errors.Is(err, ErrConflict), errors.Is(err, ErrRefused):
		return http.StatusConflict
	default:
		return http.StatusInternalServerError
	}
}

// DefaultErrorHandler answers with [StatusCode], a line of text that says what
// the user can do, and for a 503 a Retry-After of one second. The text holds
// nothing of err.
func DefaultErrorHandler(w http.ResponseWriter, _ *http.Request, err error) {
	status := StatusCode(err)
	text := "Something went wrong and the change may not have been saved. Please check before you try again."
	switch status {
	case http.StatusServiceUnavailable:
		text = "The service is briefly unavailable. Your session is kept; please try again in a moment."
		if errors.Is(err, ErrAmbiguous) {
			text = "The service is briefly unavailable. Your session is kept; please check in a moment whether your change was saved."
		}
		if _, ok := errors.AsType[*logoutError](err); ok {
			text = "You are signed out in this browser, but the service is briefly unavailable: a copy of your session may live there until it expires."
		}
		w.Header().Set("Retry-After", "1")
	case http.StatusConflict:
		text = "Your session changed in the meantime, so this change was not saved. Please reload and try again."
	}
	w.Header().Set("Cache-Control", "no-store")
	http.Error(w, text, status)
}
