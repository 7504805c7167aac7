package session

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
)

// responseWriter commits the session before the first byte of a response, or
// its final header, leaves. It buffers nothing. It alone touches the header:
// the session may be used by another goroutine meanwhile, as that of
// [http.TimeoutHandler].
//
// It always has Flush, Hijack and ReadFrom, since routers assert them on the
// writer they are given; where the server's own writer lacks one, the error is
// the one that [http.ResponseController] gives.
type responseWriter struct {
	http.ResponseWriter
	r       *http.Request
	session *Session
	inner   []*Session  // those of other managers in the same request, inside of this one
	entry   http.Header // the header as it was before the handler ran
	began   bool        // the header has left, or is about to
	left    bool        // the header has left
	failed  error       // why the commit failed; the error handler has answered
}

var (
	_ http.Flusher    = (*responseWriter)(nil)
	_ http.Hijacker   = (*responseWriter)(nil)
	_ io.ReaderFrom   = (*responseWriter)(nil)
	_ io.StringWriter = (*responseWriter)(nil)
)

func (w *responseWriter) init(inner http.ResponseWriter, r *http.Request, s *Session) {
	w.ResponseWriter, w.r, w.session = inner, r, s
	if h := inner.Header(); len(h) > 0 {
		w.entry = h.Clone()
	}
}

// begin commits the session. After an error the response is the error
// handler's, and nothing of the handler's may follow.
func (w *responseWriter) begin() error {
	if w.began {
		return w.failed
	}
	w.began = true
	if err := w.session.Commit(w.r.Context()); err != nil {
		w.fail(err)
		return w.failed
	}
	w.session.finishHeader(w.Header())
	return nil
}

// fail lets the error handler answer, with the header as it was when the
// handler began: a Content-Length or Content-Encoding left over would garble
// the error. Cookies that tell of something already done stay.
func (w *responseWriter) fail(err error) {
	h := w.Header()
	clear(h)
	maps.Copy(h, w.entry)
	for _, s := range w.inner {
		s.writeCookie(h)
	}
	w.session.finishHeader(h)
	w.failed, w.left = err, true
	m := w.session.m
	m.log().Log(w.r.Context(), outageLevel(err), "session: commit failed", "error", err)
	if errors.Is(err, ErrUnavailable) {
		m.observe(w.r.Context(), Event{Kind: EventUnavailable, Err: err})
	}
	m.opts.ErrorHandler(w.ResponseWriter, w.r, err)
}

// finish commits what is left when the handler has returned.
func (w *responseWriter) finish() {
	if !w.began {
		_ = w.begin() // fail has answered
	}
	if w.failed != nil {
		w.session.finish()
		return
	}
	w.session.commitLate(w.r.Context())
}

// abandon is finish for a handler that panicked: nothing is committed. But what
// the handler has already done to the ID must reach the browser, if something
// outside turns the panic into an answer.
func (w *responseWriter) abandon() {
	if !w.began {
		w.session.finishHeader(w.Header())
	}
	w.session.finish()
}

// WriteHeader commits the session and sends the header. Informational headers
// (1xx but for 101, which is final) leave without a commit.
func (w *responseWriter) WriteHeader(code int) {
	if code >= 100 && code < 200 && code != http.StatusSwitchingProtocols {
		if w.failed == nil {
			w.ResponseWriter.WriteHeader(code)
		}
		return
	}
	if w.begin() == nil {
		w.left = true
		w.ResponseWriter.WriteHeader(code)
	}
}

func (w *responseWriter) Write(b []byte) (int, error) {
	if err := w.begin(); err != nil {
		return 0, err
	}
	w.left = true
	return w.ResponseWriter.Write(b)
}

// WriteString saves the copy that Write would need.
func (w *responseWriter) WriteString(s string) (int, error) {
	if err := w.begin(); err != nil {
		return 0, err
	}
	w.left = true
	return io.WriteString(w.ResponseWriter, s)
}

// ReadFrom lets the server send files without copying them (sendfile).
func (w *responseWriter) ReadFrom(src io.Reader) (int64, error) {
	if err := w.begin(); err != nil {
		return 0, err
	}
	w.left = true
	return io.Copy(w.ResponseWriter, src)
}

// Flush is FlushError for those who cannot see an error.
func (w *responseWriter) Flush() { _ = w.FlushError() }

// FlushError commits the session and sends what the server has buffered.
func (w *responseWriter) FlushError() error {
	if err := w.begin(); err != nil {
		return err
	}
	err := http.NewResponseController(w.ResponseWriter).Flush()
	w.leave(err)
	return err
}

// Hijack commits the session and gives away the connection. It fails if that
// would lose the session cookie, which a hijacker's own header does not hold.
func (w *responseWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if err := w.begin(); err != nil {
		return nil, nil, err
	}
	if !w.left && w.session.cookiePending() {
		err := fmt.Errorf("session: hijacking now would lose the session cookie; send the header with WriteHeader first, or change the session in an earlier request: %w", http.ErrNotSupported)
		w.leave(err)
		return nil, nil, err
	}
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	w.leave(err)
	return conn, rw, err
}

// leave notes that the header has left, unless err says that the server's
// writer cannot do what was asked: then the handler does something else, before
// which its changes are committed.
func (w *responseWriter) leave(err error) {
	if !w.left && errors.Is(err, http.ErrNotSupported) {
		w.began = false
		w.session.headerStays()
		return
	}
	w.left = true
}

// Unwrap lets [http.ResponseController] reach the server's own writer.
func (w *responseWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// wraps reports whether w stands between the handler and other.
func (w *responseWriter) wraps(other http.ResponseWriter) bool {
	for {
		if rw, ok := other.(*responseWriter); ok && rw == w {
			return true
		}
		u, ok := other.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return false
		}
		other = u.Unwrap()
	}
}
