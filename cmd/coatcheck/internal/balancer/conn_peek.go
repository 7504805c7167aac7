//go:build linux || darwin || freebsd || netbsd || openbsd

package balancer

import (
	"errors"
	"syscall"
)

const peekSupported = true

// hungUp reports whether the other side has ended the idle connection, even if http.Transport, whose reading goroutine must be scheduled
// first, has not noticed yet. A request written now would be lost in a way that cannot be told from one that was delivered.
func (c *conn) hungUp() bool {
	sc, ok := c.Conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	gone := false
	// Control and not Read: the transport's goroutine is blocked in a read and holds the lock that Read would wait for.
	err = raw.Control(func(fd uintptr) {
		var buf [1]byte
		_, _, err := syscall.Recvfrom(int(fd), buf[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		// Nothing to read is how an idle connection should be. The end of the stream, an error, and bytes that nobody asked for are not.
		gone = !errors.Is(err, syscall.EAGAIN) && !errors.Is(err, syscall.EINTR)
	})
	return err != nil || gone
}
