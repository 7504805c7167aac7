//go:build unix

package fleet

import (
	"os/exec"
	"syscall"
)

// ownGroup puts the worker into a process group of its own: Ctrl-C in a terminal
// signals the whole foreground group, and would end the workers before the
// requests that they serve.
func ownGroup(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
}

// terminate asks the process to finish what it does and end.
func (p *process) terminate() { _ = p.cmd.Process.Signal(syscall.SIGTERM) }
