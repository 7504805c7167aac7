package fleet

import (
	"os/exec"
	"syscall"
)

// ownGroup keeps Ctrl-C in a console, which goes to the whole group, from ending
// the workers before the requests that they serve.
func ownGroup(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.CreationFlags |= syscall.CREATE_NEW_PROCESS_GROUP
}

// terminate ends the process: Windows has no polite signal, and a worker that
// was drained has nothing in flight.
func (p *process) terminate() { p.kill() }
