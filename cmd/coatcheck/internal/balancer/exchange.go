package balancer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"time"
)

// maxBroken bounds how many upstreams may read one safe request and break its connection before the request itself is suspected: a page that
// crashes its server must not be shown to every server. Those that are found dead do not count, for a whole fleet may be killed at once.
const maxBroken = 3

// maxStale bounds how often one request is tried again on the upstream whose pooled connection turned out to be dead.
const maxStale = 3

// maxAhead is the length, in bytes, up to which a response is read whole before the client gets its first byte: while that is not sent, a
// worker that dies between two writes of its answer can still be replaced by another. It is a page of HTML or an answer of an API. A
// response whose length is not announced may be a stream, and is never held back.
const maxAhead = 64 << 10

// An exchange is one client's request on its way through one or more attempts. It is the Transport of its own copy of the ReverseProxy.
type exchange struct {
	b     *Balancer
	began time.Time
	body  *replayBody // nil if there is none
	up    *upstream   // where the request is counted as in flight
	tried []*upstream
}

// A failure is why an exchange could not be answered by an upstream.
type failure struct {
	status       int
	unrepeatable bool // may have reached an upstream, and was not repeated
}

func (f *failure) Error() string { return "balancer: " + http.StatusText(f.status) }

func (ex *exchange) release() {
	if ex.up != nil {
		ex.b.release(ex.up)
		ex.up = nil
	}
}

// RoundTrip gets the answer to the request, and notes how long that took.
func (ex *exchange) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		ex.body = &replayBody{src: req.Body} // ReverseProxy closes req.Body when all is over
	}
	resp, err := ex.send(req)
	took := time.Since(ex.began)
	if ex.body != nil {
		if ex.body.clientErr() != nil {
			return resp, err // the answer is that there was no whole request
		}
		took -= ex.body.slowness()
	}
	if req.Context().Err() == nil { // else nobody waits for it any more
		ex.b.waits.Add(took)
	}
	return resp, err
}

// send sends the request to one upstream after another until one answers or the request may not be sent again.
func (ex *exchange) send(req *http.Request) (*http.Response, error) {
	b := ex.b
	body := ex.body
	repeatable := isSafe(req.Method) && body == nil
	home := b.home(req)
	deadline := time.Now().Add(b.opts.QueueTimeout)
	broken, stale := 0, 0

	for attempts := 0; ; attempts++ {
		changed := b.changes()
		if ex.up == nil { // a connection that was found dead leaves it set: same upstream, new connection
			ex.up = b.acquire(ex.tried, home)
		}
		if ex.up == nil {
			if b.opts.QueueTimeout > 0 && b.await(req.Context(), changed, deadline) {
				ex.tried = ex.tried[:0]
				continue
			}
			if req.Context().Err() != nil {
				b.clientGone.Add(1)
				return nil, &failure{status: statusClientGone}
			}
			b.noUpstream.Add(1)
			b.log.limited("no upstream for a request", "method", req.Method)
			return nil, &failure{status: http.StatusServiceUnavailable}
		}
		if attempts > 0 {
			b.retries.Add(1)
		}

		up := ex.up
		t := b.attempt(up, req, body, repeatable)
		if t.err == nil {
			b.settle(up, home, t.resp)
			return t.resp, nil
		}

		switch {
		case req.Context().Err() != nil:
			ex.release()
			b.clientGone.Add(1)
			return nil, &failure{status: statusClientGone}
		case body != nil && body.clientErr() != nil:
			ex.release()
			f := &failure{status: clientErrStatus(body.clientErr())}
			if f.status == http.StatusBadRequest {
				b.clientGone.Add(1) // the connection ended within the body, or what came was no HTTP
			}
			return nil, f
		case t.abandoned:
		case t.dialFailed():
			b.eject(up, t.err)
		case t.sent() == 0 && t.reused && stale < maxStale && (body == nil || body.fresh()):
			// The upstream may be well, and only its old connections dead. They would all be met one by one.
			stale++
			up.transport.CloseIdleConnections()
			continue
		case t.conn != nil && t.conn.cut.Load():
			b.connBroken(up)
		}

		ex.release()
		ex.tried = append(ex.tried, up)
		// A request that was abandoned may still have been being written.
		reached := t.sent() > 0 || t.abandoned && t.conn != nil
		lost := reached && (t.abandoned || t.conn.cut.Load()) // without an answer, by the upstream's fault
		if lost && !t.conn.rst.Load() {
			broken++ // it had read the request, which may be why
		}
		switch {
		case !reached && t.retryable() && (body == nil || body.fresh()):
			continue
		case lost && repeatable && broken < maxBroken:
			continue
		}
		f := &failure{status: http.StatusBadGateway, unrepeatable: reached && !repeatable}
		var ne net.Error
		if t.abandoned || errors.As(t.err, &ne) && ne.Timeout() {
			f.status = http.StatusGatewayTimeout
		}
		if f.unrepeatable {
			b.unrepeatable.Add(1)
		}
		b.log.limited("request failed", "method", req.Method, "upstream", up.name, "status", f.status, "unrepeatable", f.unrepeatable)
		return nil, f
	}
}

// A try is the outcome of one attempt.
type try struct {
	resp   *http.Response
	err    error
	conn   *conn // the last connection that was used; nil if there was none
	base   int64 // conn.sent before the request
	reused bool

	abandoned bool // for the upstream fell silent
}

// attempt sends the request to the upstream once. http.Transport may still replay it by itself on another connection to the same upstream,
// but only if nothing was sent or the request is repeatable (see rewrite for what makes that true).
func (b *Balancer) attempt(up *upstream, req *http.Request, body *replayBody, repeatable bool) *try {
	t := &try{}
	trace := &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		t.conn, t.reused = info.Conn.(*conn), info.Reused
		t.base = t.conn.sent.Load()
		if info.Reused && !repeatable && t.conn.hungUp() {
			t.conn.Close() // so that nothing is written, and that is certain
		}
	}}
	// The context has to outlive the response's body. It ends with that of the client's request.
	ctx, cancel := context.WithCancelCause(req.Context())
	alive := b.patience(up)
	stop := context.AfterFunc(alive, func() { cancel(errMute) })
	out := req.WithContext(httptrace.WithClientTrace(ctx, trace))
	target := *req.URL
	target.Scheme, target.Host = "http", up.host
	out.URL = &target // and not out.Host: cross-origin checks compare Origin with the Host that the client sent
	if body != nil {
		out.Body = body.attempt()
	}
	t.resp, t.err = up.transport.RoundTrip(out)
	whole := false
	if t.err == nil {
		whole, t.err = readAhead(t.resp)
	}
	if !stop() && t.err == nil && !whole {
		// The silence began when the answer did, and the rest of it is lost.
		t.resp.Body.Close()
		t.err = errMute
	}
	if t.err != nil {
		t.abandoned = req.Context().Err() == nil && context.Cause(ctx) == errMute
		cancel(nil)
	}
	if t.err == nil {
		up.fails.Store(0)
		if t.resp.StatusCode != http.StatusSwitchingProtocols { // whose body is the connection
			t.resp.Body = &watchedBody{ReadCloser: t.resp.Body, ctx: req.Context(), conn: t.conn, b: b, up: up}
		}
	}
	return t
}

// readAhead replaces the body of a short response by what it holds, and reports whether all of the response has come.
func readAhead(resp *http.Response) (whole bool, err error) {
	if resp.Body == http.NoBody {
		return true, nil
	}
	if resp.ContentLength <= 0 || resp.ContentLength > maxAhead {
		return false, nil
	}
	defer resp.Body.Close()
	b := bytes.NewBuffer(make([]byte, 0, resp.ContentLength+bytes.MinRead)) // else it would grow to find the end
	if _, err := b.ReadFrom(resp.Body); err != nil {
		return false, fmt.Errorf("response broke off: %w", err)
	}
	resp.Body = io.NopCloser(b)
	return true, nil
}

// patience returns the context that ends when it makes no more sense to wait for an answer of the upstream.
func (b *Balancer) patience(up *upstream) context.Context {
	b.mu.Lock()
	defer b.mu.Unlock()
	if up.silent() {
		return context.Background() // it was the last resort
	}
	return up.alive
}

func (t *try) dialFailed() bool {
	var op *net.OpError
	return t.conn == nil && errors.As(t.err, &op) && op.Op == "dial"
}

// sent is the number of bytes of the request that left on the last connection. RoundTrip has waited for its writing goroutine, unless
// the response timed out, when something had been sent.
func (t *try) sent() int64 {
	if t.conn == nil {
		return 0
	}
	return t.conn.sent.Load() - t.base
}

// retryable reports whether an attempt of which nothing was sent failed for a reason that another upstream may not share.
func (t *try) retryable() bool { return t.conn != nil || t.dialFailed() || t.abandoned }

func isSafe(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	return false
}

func clientErrStatus(err error) int {
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return http.StatusRequestEntityTooLarge
	case errors.Is(err, os.ErrDeadlineExceeded):
		return http.StatusRequestTimeout
	}
	return http.StatusBadRequest
}

// A watchedBody notices when the upstream breaks off in the middle of a response.
type watchedBody struct {
	io.ReadCloser
	ctx  context.Context
	conn *conn
	b    *Balancer
	up   *upstream
}

func (w *watchedBody) Read(p []byte) (int, error) {
	n, err := w.ReadCloser.Read(p)
	if err != nil && err != io.EOF && w.ctx.Err() == nil && w.conn.cut.Load() {
		w.b.connBroken(w.up)
	}
	return n, err
}
