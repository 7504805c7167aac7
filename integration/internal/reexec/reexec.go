// Package reexec runs parts of a test in operating system processes of their
// own: the test binary starts itself again. What a backend promises to several
// processes can be tested only by several processes.
package reexec

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"testing"
)

const variable = "COATCHECK_TEST_ROLE"

// Role is what a process does. It prints its results on standard output, a
// line each. An error ends the process with that message and status 1.
type Role func(args []string) error

// Main runs the tests, or the role that this process was started for. TestMain
// calls it and nothing else.
func Main(m *testing.M, roles map[string]Role) {
	name := os.Getenv(variable)
	if name == "" {
		os.Exit(m.Run())
	}
	role, ok := roles[name]
	if !ok {
		fmt.Fprintf(os.Stderr, "there is no role %q\n", name)
		os.Exit(2)
	}
	go endWithParent()
	if err := role(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// endWithParent ends this process when the parent has ended, however that
// came about: the pipe on standard input then ends.
func endWithParent() {
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(3)
}

// Process is a running role.
type Process struct {
	t     *testing.T
	cmd   *exec.Cmd
	stdin io.Closer
	lines *bufio.Scanner
	wait  func() error
}

// Start runs a role in a new process, which ends with the test.
func Start(t *testing.T, role string, args ...string) *Process {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), variable+"="+role)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &Process{t: t, cmd: cmd, stdin: stdin, lines: bufio.NewScanner(stdout), wait: sync.OnceValue(cmd.Wait)}
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Process.Kill()
		_ = p.wait()
	})
	return p
}

// Line waits for the next line that the process prints.
func (p *Process) Line() string {
	p.t.Helper()
	if !p.lines.Scan() {
		p.t.Fatalf("a process ended before it printed what was expected: %v", p.wait())
	}
	return p.lines.Text()
}

// Wait waits for the process to end, which it must without an error. It fails
// the test if there are lines that nobody has read.
func (p *Process) Wait() {
	p.t.Helper()
	for p.lines.Scan() {
		p.t.Errorf("a process printed %q, which was not expected", p.lines.Text())
	}
	if err := p.wait(); err != nil {
		p.t.Errorf("a process failed: %v", err)
	}
}

// Kill ends the process at once, as kill -9 does, and waits for its end.
func (p *Process) Kill() {
	p.t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		p.t.Fatal(err)
	}
	_ = p.wait()
}
