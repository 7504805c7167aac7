package up

import (
	"os"
	"os/exec"
)

// self returns a command that runs this very binary, even if another one has
// been put in its place since: parent and workers must be of one version.
func self(args ...string) (*exec.Cmd, error) {
	name, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Args[0] = name // what ps shows
	return cmd, nil
}
