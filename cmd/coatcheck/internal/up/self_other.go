//go:build !linux

package up

import (
	"os"
	"os/exec"
)

// self returns a command that runs this binary, or what is in its place now.
func self(args ...string) (*exec.Cmd, error) {
	name, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return exec.Command(name, args...), nil
}
