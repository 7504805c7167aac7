package balancer

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

const (
	// slowGrace is how long a client may be silent while its body, or its reading of a response, is waited for.
	slowGrace = 30 * time.Second
	// slowRate, in bytes per second, is what it must keep up over time. A modem of 1990 did; an attack that holds thousands of
	// connections open at one byte each does not.
	slowRate = 256
)

// limitSlowBody bounds the time spent on waiting for a request's body: slowGrace, and more for each byte that has arrived. Only the time in
// Read counts, so a slow upstream is not blamed on its client.
func limitSlowBody(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Body != nil && r.Body != http.NoBody {
			sb := &slowBody{ReadCloser: r.Body, rc: http.NewResponseController(w), budget: slowGrace}
			defer sb.end()
			r2 := *r
			r2.Body = sb
			r = &r2
		}
		next.ServeHTTP(w, r)
	})
}

type slowBody struct {
	io.ReadCloser
	rc     *http.ResponseController
	budget time.Duration // used by Read alone

	mu    sync.Mutex
	ended bool
}

func (b *slowBody) Read(p []byte) (int, error) {
	began := time.Now()
	if err := b.deadline(began.Add(b.budget)); err != nil {
		return b.ReadCloser.Read(p) // a ResponseWriter that is not a server's
	}
	n, err := b.ReadCloser.Read(p)
	b.budget += time.Duration(n)*time.Second/slowRate - time.Since(began)
	b.budget = min(b.budget, slowGrace)
	if err == nil || err == io.EOF {
		// The time until the next Read is not the client's, and in HTTP/2 a deadline that passes between two spoils the stream.
		_ = b.deadline(time.Time{})
	}
	return n, err
}

// deadline leaves the connection alone once the handler has returned: a transport's goroutine may still be in Read then, and the deadline is
// the server's, for the next request.
func (b *slowBody) deadline(t time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended {
		return nil
	}
	return b.rc.SetReadDeadline(t)
}

func (b *slowBody) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
}

// Listener returns l with protection from clients that read their response too slowly or not at all: a connection is cut when a write to it
// makes no sensible progress for 30 seconds. A stream that has nothing to send is not affected, however long it lasts. Use it under TLS, too:
// server.ServeTLS(Listener(l), …).
func Listener(l net.Listener) net.Listener { return slowListener{l} }

type slowListener struct{ net.Listener }

func (l slowListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &slowConn{Conn: c}, nil
}

type slowConn struct {
	net.Conn

	mu       sync.Mutex
	deadline time.Time // set by the server or a handler
}

func (c *slowConn) Write(p []byte) (int, error) {
	written := 0
	for {
		c.mu.Lock()
		user, until := c.deadline, time.Now().Add(slowGrace)
		if !user.IsZero() && user.Before(until) {
			until = user
		}
		err := c.Conn.SetWriteDeadline(until)
		c.mu.Unlock()
		if err != nil {
			return written, err
		}
		n, err := c.Conn.Write(p[written:])
		written += n
		if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) || until.Equal(user) || n < int(slowRate*slowGrace/time.Second) {
			return written, err
		}
	}
}

func (c *slowConn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	return c.Conn.SetWriteDeadline(t)
}

func (c *slowConn) SetDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	return c.Conn.SetDeadline(t)
}

// CloseWrite lets the end of an upgraded connection pass through.
func (c *slowConn) CloseWrite() error {
	if cw, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return errors.ErrUnsupported
}
