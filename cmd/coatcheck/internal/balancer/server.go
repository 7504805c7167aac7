package balancer

import (
	"context"
	"errors"
	"log"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// NewServer returns a server for the balancer's front: h is usually a [Balancer], or a handler around one. Its limits suit a server that the
// internet can reach, and leave event streams, WebSockets and slow uploads alone, which the server-wide ReadTimeout and WriteTimeout would
// not: headers must arrive within 10 seconds and fit in 64 KiB, idle connections are closed after 2 minutes, and a body must keep
// coming (see [Listener] for the other direction). A nil logger means slog.Default().
func NewServer(h http.Handler, logger *slog.Logger) *http.Server {
	if logger == nil {
		logger = slog.Default()
	}
	srv := &http.Server{
		Handler:           limitSlowBody(h),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          log.New(&limitedLog{logger: logger}, "", 0),
	}
	var fresh freshConns
	srv.ConnState = fresh.note
	srv.RegisterOnShutdown(fresh.close)
	return srv
}

// Shutdown ends srv, which serves ln behind another balancer: that may have sent a change the moment before, which nobody could tell from one
// that was done if it got no answer. [http.Server.Shutdown] drops a request whose header comes after it has begun. So ln is closed first,
// and what comes within a quarter of a second on connections that srv has accepted is answered; then srv is shut down. It returns what
// [http.Server.Shutdown] does, and srv.Serve a [net.ErrClosed].
func Shutdown(ctx context.Context, srv *http.Server, ln net.Listener) error {
	stopQueue(ln)
	_ = ln.Close() // fails only if somebody else has closed it
	select {
	case <-time.After(shutdownGrace):
	case <-ctx.Done():
	}
	err := srv.Shutdown(ctx)
	if errors.Is(err, net.ErrClosed) { // srv had not noticed yet, and closed ln again
		return nil
	}
	return err
}

// queueGrace is the time in which srv accepts the connections that the kernel has taken for it. Those that are left when ln is closed are reset.
const queueGrace = 30 * time.Millisecond

const shutdownGrace = 250 * time.Millisecond

// freshConns are the connections that have not brought a whole header yet. [http.Server.Shutdown] waits 5 seconds for them, only to drop
// what they bring: a browser that connects in advance, or a client that stops within its header, would hold up every shutdown.
type freshConns struct {
	mu     sync.Mutex
	conns  map[net.Conn]struct{}
	closed bool
}

func (f *freshConns) note(c net.Conn, s http.ConnState) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case s != http.StateNew:
		delete(f.conns, c)
	case f.closed: // accepted at the last moment
		go c.Close()
	default:
		if f.conns == nil {
			f.conns = make(map[net.Conn]struct{})
		}
		f.conns[c] = struct{}{}
	}
}

func (f *freshConns) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	for c := range f.conns {
		go c.Close() // with TLS it may have to wait
	}
}
