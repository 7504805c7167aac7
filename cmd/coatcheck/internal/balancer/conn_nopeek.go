//go:build !(linux || darwin || freebsd || netbsd || openbsd)

package balancer

const peekSupported = false

// hungUp cannot tell on this system; http.Transport's reading goroutine notices a moment later.
func (c *conn) hungUp() bool { return false }
