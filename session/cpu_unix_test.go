//go:build unix

package session_test

import (
	"syscall"
	"testing"
	"time"
)

// cpuTime returns the processor time that this process has used, on all its
// threads, garbage collection included.
func cpuTime(tb testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
