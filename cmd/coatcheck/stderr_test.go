//go:build unix

package main

import (
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/uptest"
)

// fullPipe returns the writing end of a pipe that nobody reads and that has no
// room: whoever writes to it and waits, waits for ever.
func fullPipe(t *testing.T) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	if err := w.SetWriteDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	for chunk := make([]byte, 1<<20); err == nil; {
		_, err = w.Write(chunk)
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	return w
}

func TestStderrThatNobodyReadsStopsNothing(t *testing.T) {
	cmd := exec.Command(uptest.Binary(t))
	cmd.Stderr = fullPipe(t)
	u := uptest.LaunchCommand(t, cmd, "--workers", "2")
	u.AwaitReady()
	u.Kill("worker-1")
	workers := pids(u.AwaitWorkers(2))
	for range 4 {
		servedBy(t, u)
	}
	slow := startSlowPost(t, u)
	busy(t, u)
	u.Signal(syscall.SIGTERM)
	if got := slow.finish(); got != http.StatusOK {
		t.Errorf("the request in flight was answered %d", got)
	}
	if code := u.Wait(); code != exitOK {
		t.Errorf("status %d after a drain, want 0", code)
	}
	mustBeGone(t, workers)
}

func TestSecondSignalEndsItWhateverHangs(t *testing.T) {
	cmd := exec.Command(uptest.Binary(t))
	cmd.Stderr = fullPipe(t)
	cmd.Stdout = cmd.Stderr // the ready line hangs
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()
	u := uptest.LaunchCommand(t, cmd, "--workers", "1", "--listen", address)
	uptest.Await(t, "the shop answers", func() bool {
		resp, err := http.Get("http://" + address + "/healthz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	// Two that differ, for a second one of a kind may come before the first is seen.
	u.Signal(os.Interrupt)
	u.Signal(syscall.SIGTERM)
	if code := u.Wait(); code != exitFailed {
		t.Errorf("status %d, want %d", code, exitFailed)
	}
}

// brokenPipe returns the writing end of a pipe without a reader.
func brokenPipe(t *testing.T) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	t.Cleanup(func() { w.Close() })
	return w
}

// As in `coatcheck up 2>&1 | tee log`, whose tee ends with the same Ctrl-C.
func TestReaderOfStderrThatIsGoneStopsNothing(t *testing.T) {
	cmd := exec.Command(uptest.Binary(t))
	cmd.Stderr = brokenPipe(t)
	u := uptest.LaunchCommand(t, cmd, "--workers", "1")
	u.AwaitReady()
	workers := pids(u.Fleet())
	slow := startSlowPost(t, u)
	busy(t, u)
	u.Signal(os.Interrupt)
	if got := slow.finish(); got != http.StatusOK {
		t.Errorf("the request in flight was answered %d", got)
	}
	if code := u.Wait(); code != exitOK {
		t.Errorf("status %d after a drain, want 0", code)
	}
	mustBeGone(t, workers)
}

func TestReadyLineThatNobodyGetsIsAFailure(t *testing.T) {
	cmd := exec.Command(uptest.Binary(t))
	cmd.Stdout = brokenPipe(t)
	u := uptest.LaunchCommand(t, cmd, "--workers", "1")
	if code := u.Wait(); code != exitFailed {
		t.Errorf("status %d, want %d", code, exitFailed)
	}
	if !strings.Contains(u.Stderr(), "standard output takes no result") {
		t.Errorf("it does not say why it ended: %s", u.Stderr())
	}
}
