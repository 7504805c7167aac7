//go:build !linux

package balancer

import "net"

func stopQueue(net.Listener) {}
