//go:build !(linux || darwin || freebsd || netbsd || openbsd)

package balancer

// hungUp cannot tell on this system; http.Transport's reading goroutine notices a moment later.
func (c *conn) hungUp() bool { return false }
