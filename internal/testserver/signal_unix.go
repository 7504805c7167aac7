//go:build unix

package testserver

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"syscall"
)

func kill(pid int) error   { return syscall.Kill(pid, syscall.SIGKILL) }
func freeze(pid int) error { return syscall.Kill(pid, syscall.SIGSTOP) }
func thaw(pid int) error   { return syscall.Kill(pid, syscall.SIGCONT) }

// frozen reports whether the process is stopped, which a moment after SIGSTOP it
// may not be, or has ended. Where there is no /proc it says yes.
func frozen(pid int) bool {
	_, state, ok := stat(pid)
	return !ok || state == 'T' || state == 'Z'
}

// children returns the processes that the process has started and that have not
// ended. Where there is no /proc it returns none.
func children(pid int) []int {
	entries, _ := os.ReadDir("/proc")
	var found []int
	for _, e := range entries {
		child, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if parent, state, ok := stat(child); ok && parent == pid && state != 'Z' {
			found = append(found, child)
		}
	}
	return found
}

// stat returns a process's parent and its state, a letter of proc(5).
func stat(pid int) (parent int, state byte, ok bool) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, false
	}
	// They follow the command's name, which is in parentheses and may have any in it.
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	if len(fields) < 2 {
		return 0, 0, false
	}
	parent, err = strconv.Atoi(string(fields[1]))
	return parent, fields[0][0], err == nil
}
