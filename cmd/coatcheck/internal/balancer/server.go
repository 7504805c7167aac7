package balancer

import (
	"log"
	"log/slog"
	"net/http"
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
	return &http.Server{
		Handler:           limitSlowBody(h),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          log.New(&limitedLog{logger: logger}, "", 0),
	}
}
