package balancer

import (
	"net"
	"syscall"
	"time"
)

// stopQueue has the kernel take no more connections for ln, but for one at a time, and leaves it time to be rid of those that it has: to who
// asks for one now, nothing is answered yet, and a refusal when ln is closed.
func stopQueue(ln net.Listener) {
	c, ok := ln.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	var refused error
	if err := raw.Control(func(fd uintptr) { refused = syscall.Listen(int(fd), 0) }); err == nil && refused == nil {
		time.Sleep(queueGrace)
	}
}
