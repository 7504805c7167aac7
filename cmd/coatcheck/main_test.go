//go:build unix

package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/uptest"
	"github.com/rogpeppe/go-internal/testscript"
)

// withUptest removes the binary that package uptest builds.
type withUptest struct{ m *testing.M }

func (w withUptest) Run() int { return uptest.Main(w.m) }

// commands are what this test binary is besides, by the name that it is called by.
var commands = map[string]func(){"coatcheck": main}

func TestMain(m *testing.M) {
	testscript.Main(withUptest{m}, commands)
}

// The scripts in testdata/script show the command line as a user sees it.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("HOME", filepath.Join(env.WorkDir, "home"))
			env.Setenv("XDG_CACHE_HOME", filepath.Join(env.WorkDir, "cache"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status": scriptStatus,
			"mode":   scriptMode,
			"occupy": scriptOccupy,
			"await":  scriptAwait,
		},
	})
}

// scriptStatus is "status N program args…": the exit status must be N.
func scriptStatus(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N program [args…]")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if want, err := strconv.Atoi(args[0]); err != nil || got != want {
		ts.Fatalf("exit status %d, want %s", got, args[0])
	}
}

// scriptMode is "mode OCTAL file": the file must have these permissions.
func scriptMode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: mode OCTAL file")
	}
	info, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	if got := fmt.Sprintf("%o", info.Mode().Perm()); got != args[0] {
		ts.Fatalf("%s has mode %s, want %s", args[1], got, args[0])
	}
}

// scriptOccupy is "occupy VAR": it listens on a port and sets VAR to its address.
func scriptOccupy(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: occupy VAR")
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { ln.Close() })
	ts.Setenv(args[0], ln.Addr().String())
}

// scriptAwait is "await file regexp": it waits until the file that a process in
// the background writes matches.
func scriptAwait(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: await file regexp")
	}
	re, err := regexp.Compile(args[1])
	ts.Check(err)
	// A failure of ts ends the script; the wait itself knows only testing.TB.
	uptest.Await(scriptTB{ts: ts}, args[0]+" matches "+args[1], func() bool {
		b, err := os.ReadFile(ts.MkAbs(args[0]))
		return err == nil && re.Match(b)
	})
}

type scriptTB struct {
	testing.TB
	ts *testscript.TestScript
}

func (scriptTB) Helper()                          {}
func (s scriptTB) Fatalf(format string, a ...any) { s.ts.Fatalf(format, a...) }
