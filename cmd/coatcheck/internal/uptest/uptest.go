//go:build unix

package uptest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/admin"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/fleet"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/load"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/up"
)

const command = "github.com/coatcheck/coatcheck/cmd/coatcheck"

// Patience bounds every wait for a real process. It is long, for the machine may
// be busy; a test never measures it.
const Patience = 60 * time.Second

// binDir is where the binary is built to, once per test binary.
var binDir = sync.OnceValues(func() (string, error) {
	return os.MkdirTemp("", "coatcheck-test-")
})

var build = sync.OnceValues(func() (string, error) {
	dir, err := binDir()
	if err != nil {
		return "", err
	}
	bin := filepath.Join(dir, "coatcheck")
	args := []string{"build", "-o", bin}
	if race {
		args = append(args, "-race")
	}
	out, err := exec.Command("go", append(args, command)...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build the command: %w\n%s", err, out)
	}
	return bin, nil
})

var built atomic.Bool

// Main runs the tests, removes the binary that they built, and returns the exit
// status.
func Main(m *testing.M) int {
	status := m.Run()
	if built.Load() {
		if dir, err := binDir(); err == nil {
			_ = os.RemoveAll(dir)
		}
	}
	return status
}

// Binary returns the path of the command, built with the race detector if the
// test is.
func Binary(t testing.TB) string {
	t.Helper()
	built.Store(true)
	bin, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// Up is a running `coatcheck up`.
type Up struct {
	up.Ready
	PID int

	t      testing.TB
	cmd    *exec.Cmd
	stdout *bufio.Reader
	stderr *output
	exited chan struct{}
}

// Start starts `coatcheck up --json` on free ports over a SQLite file of the
// test's own, unless args say otherwise, and returns when it is ready. When the
// test ends it is interrupted, and the test fails if it does not end well or
// leaves a process behind.
func Start(t testing.TB, args ...string) *Up {
	t.Helper()
	u := Launch(t, args...)
	u.AwaitReady()
	return u
}

// Launch is [Start] without waiting. [Up.AwaitReady] waits.
func Launch(t testing.TB, args ...string) *Up {
	t.Helper()
	return LaunchBinary(t, Binary(t), args...)
}

// LaunchBinary is [Launch] of a copy of the binary.
func LaunchBinary(t testing.TB, bin string, args ...string) *Up {
	t.Helper()
	return LaunchCommand(t, exec.Command(bin), args...)
}

// LaunchCommand is [Launch] of a command whose arguments are the rest, and whose
// Stdout or Stderr the caller may have set; [Up.AwaitReady] needs that Stdout is not.
func LaunchCommand(t testing.TB, cmd *exec.Cmd, args ...string) *Up {
	t.Helper()
	given := func(flag string) bool {
		return slices.ContainsFunc(args, func(a string) bool { return a == flag || strings.HasPrefix(a, flag+"=") })
	}
	all := []string{"up", "--json"}
	for _, d := range [][2]string{
		{"--listen", "127.0.0.1:0"},
		{"--admin", "127.0.0.1:0"},
		{"--store", "sqlite:" + filepath.Join(t.TempDir(), "sessions.db")},
	} {
		if !given(d[0]) {
			all = append(all, d[0], d[1])
		}
	}
	u := &Up{t: t, cmd: cmd, stderr: new(output), exited: make(chan struct{})}
	u.cmd.Args = append(u.cmd.Args, append(all, args...)...)
	if u.cmd.Stderr == nil {
		u.cmd.Stderr = u.stderr
	}
	// In a group of its own, so that a test can signal the whole group as a
	// terminal does.
	u.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// A pipe of our own: Wait would close one that exec made under the reader.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if u.cmd.Stdout == nil {
		u.cmd.Stdout = w
	}
	if err := u.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	u.PID = u.cmd.Process.Pid
	u.stdout = bufio.NewReader(r)
	go func() {
		_ = u.cmd.Wait() // the state tells
		close(u.exited)
	}()
	t.Cleanup(func() {
		u.end()
		r.Close()
	})
	return u
}

// AwaitReady waits for the ready line.
func (u *Up) AwaitReady() {
	u.t.Helper()
	stop := time.AfterFunc(Patience, func() { _ = u.cmd.Process.Kill() })
	defer stop.Stop()
	line, err := u.stdout.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &u.Ready)
	}
	if err != nil {
		u.t.Fatalf("coatcheck up did not become ready: %v; it printed %q and said:\n%s", err, line, u.Stderr())
	}
}

// end ends the process if the test has not, and checks that it ended well.
func (u *Up) end() {
	select {
	case <-u.exited:
	default:
		pids := u.children()
		u.Signal(os.Interrupt)
		if code := u.Wait(); code != 0 {
			u.t.Errorf("coatcheck up ended with status %d", code)
		}
		for _, pid := range pids {
			if Alive(pid) {
				u.t.Errorf("coatcheck up left process %d behind", pid)
			}
		}
	}
	if strings.Contains(u.Stderr(), "DATA RACE") {
		u.t.Error("a process of the fleet had a data race")
	}
	if u.t.Failed() {
		u.t.Logf("coatcheck up said:\n%s", u.Stderr())
	}
}

// children returns the processes of the workers, or none if nobody can tell.
func (u *Up) children() []int {
	if u.Admin == "" {
		return nil
	}
	var s admin.Status
	if err := u.call(context.Background(), http.MethodGet, "/api/fleet", "", &s); err != nil {
		return nil
	}
	var pids []int
	for _, w := range s.Workers {
		pids = append(pids, w.PID)
	}
	return pids
}

// Signal sends a signal to the parent.
func (u *Up) Signal(sig os.Signal) {
	u.t.Helper()
	if err := u.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		u.t.Fatal(err)
	}
}

// SignalGroup sends a signal to the process group of the parent, as a terminal
// does at Ctrl-C.
func (u *Up) SignalGroup(sig syscall.Signal) {
	u.t.Helper()
	if err := syscall.Kill(-u.PID, sig); err != nil {
		u.t.Fatal(err)
	}
}

// Wait waits for the end of the parent and returns its exit status, -1 after a
// signal.
func (u *Up) Wait() int {
	u.t.Helper()
	select {
	case <-u.exited:
	case <-time.After(Patience):
		_ = u.cmd.Process.Kill()
		<-u.exited
		u.t.Errorf("coatcheck up did not end; it said:\n%s", u.Stderr())
	}
	return u.cmd.ProcessState.ExitCode()
}

// RestOfStdout returns what came on standard output after the ready line. The
// parent must have ended.
func (u *Up) RestOfStdout() string {
	b, _ := io.ReadAll(u.stdout)
	return string(b)
}

// Stderr returns what the parent wrote to standard error so far.
func (u *Up) Stderr() string { return u.stderr.String() }

// Fleet returns GET /api/fleet.
func (u *Up) Fleet() admin.Status {
	u.t.Helper()
	var s admin.Status
	u.do(http.MethodGet, "/api/fleet", "", &s)
	return s
}

// Events returns GET /api/events.
func (u *Up) Events() []fleet.Event {
	u.t.Helper()
	var e struct{ Events []fleet.Event }
	u.do(http.MethodGet, "/api/events", "", &e)
	return e.Events
}

// Scale sets the number of workers.
func (u *Up) Scale(n int) {
	u.t.Helper()
	if err := u.TryScale(n); err != nil {
		u.t.Fatal(err)
	}
}

// TryScale is [Up.Scale], and returns why it is refused.
func (u *Up) TryScale(n int) error {
	return u.call(u.t.Context(), http.MethodPost, "/api/fleet/scale", fmt.Sprintf(`{"workers":%d}`, n), nil)
}

// Autoscale lets the load decide on the number of workers again.
func (u *Up) Autoscale() {
	u.t.Helper()
	u.do(http.MethodPost, "/api/fleet/autoscale", "", nil)
}

// SetLoad lets n shoppers in, or with 0 out.
func (u *Up) SetLoad(n int) {
	u.t.Helper()
	u.do(http.MethodPost, "/api/load", fmt.Sprintf(`{"shoppers":%d}`, n), nil)
}

// Load returns GET /api/load.
func (u *Up) Load() load.Status {
	u.t.Helper()
	var s load.Status
	u.do(http.MethodGet, "/api/load", "", &s)
	return s
}

// Kill kills a worker by SIGKILL.
func (u *Up) Kill(name string) {
	u.t.Helper()
	u.do(http.MethodPost, "/api/fleet/workers/"+name+"/kill", "", nil)
}

// Drain drains a worker.
func (u *Up) Drain(name string) {
	u.t.Helper()
	u.do(http.MethodPost, "/api/fleet/workers/"+name+"/drain", "", nil)
}

func (u *Up) do(method, path, body string, answer any) {
	u.t.Helper()
	if err := u.call(u.t.Context(), method, path, body, answer); err != nil {
		u.t.Fatal(err)
	}
}

// call is a request to the admin API.
func (u *Up) call(ctx context.Context, method, path, body string, answer any) error {
	req, err := http.NewRequestWithContext(ctx, method, u.Admin+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+u.AdminToken)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, b)
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(b, answer)
}

// AwaitFleet waits until the fleet is as ok wants it, and returns it.
func (u *Up) AwaitFleet(what string, ok func(admin.Status) bool) admin.Status {
	u.t.Helper()
	var s admin.Status
	Await(u.t, what, func() bool {
		s = u.Fleet()
		return ok(s)
	})
	return s
}

// AwaitWorkers waits until the fleet has n workers, all ready, and returns it.
func (u *Up) AwaitWorkers(n int) admin.Status {
	u.t.Helper()
	return u.AwaitFleet(fmt.Sprintf("%d workers, all ready", n), func(s admin.Status) bool {
		return len(s.Workers) == n && !slices.ContainsFunc(s.Workers, func(w admin.Worker) bool { return w.State != fleet.Ready })
	})
}

// Await polls a condition on real processes until it holds.
func Await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(Patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Alive reports whether a process runs. A zombie does not: the workers of a
// parent that was killed are reaped by whoever adopts them, or never.
func Alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return !errors.Is(err, os.ErrNotExist) || runtime.GOOS != "linux"
	}
	// pid (name) state …, and the name may have parentheses in it; proc_pid_stat(5).
	after := stat[bytes.LastIndexByte(stat, ')')+1:]
	return !bytes.HasPrefix(after, []byte(" Z"))
}

// output is a buffer that a process writes to and a test reads.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}
