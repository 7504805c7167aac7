//go:build unix

package testserver

import (
	"bytes"
	"fmt"
	"os"
	"syscall"
)

func kill(pid int) error   { return syscall.Kill(pid, syscall.SIGKILL) }
func freeze(pid int) error { return syscall.Kill(pid, syscall.SIGSTOP) }
func thaw(pid int) error   { return syscall.Kill(pid, syscall.SIGCONT) }

// frozen reports whether the process is stopped, which a moment after SIGSTOP it
// may not be. Where there is no /proc it says yes.
func frozen(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	// The state follows the command's name, which is in parentheses.
	_, state, _ := bytes.Cut(stat, []byte(") "))
	return bytes.HasPrefix(state, []byte("T"))
}
