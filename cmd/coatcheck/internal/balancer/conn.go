package balancer

import (
	"errors"
	"net"
	"sync/atomic"
	"syscall"
)

// A conn is a connection to an upstream that knows what http.Transport's errors do not tell: whether a byte of a request left, and whether
// it was the upstream that ended the connection.
type conn struct {
	net.Conn
	sent atomic.Int64 // bytes handed to the kernel; while a write is under way, all of it counts
	cut  atomic.Bool  // ended by the other side or by the network, not by us
	rst  atomic.Bool  // ended by a reset: the kernel of a process that dies before it has read what came sends one
}

func (c *conn) Write(p []byte) (int, error) {
	c.sent.Add(int64(len(p)))
	n, err := c.Conn.Write(p)
	c.sent.Add(int64(n - len(p)))
	c.note(err)
	return n, err
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.note(err)
	return n, err
}

func (c *conn) note(err error) {
	if err != nil && !errors.Is(err, net.ErrClosed) {
		if errors.Is(err, syscall.ECONNRESET) {
			c.rst.Store(true)
		}
		c.cut.Store(true)
	}
}

// CloseWrite lets ReverseProxy pass on the half-close of an upgraded connection.
func (c *conn) CloseWrite() error {
	if cw, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return errors.ErrUnsupported
}
