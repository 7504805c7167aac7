package console_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/console"
)

// screen returns the lines that a terminal shows after it was sent s.
func screen(s string) []string {
	var lines []string
	for line := range strings.SplitSeq(s, "\n") {
		if i := strings.LastIndex(line, "\r\x1b[K"); i >= 0 {
			line = line[i+len("\r\x1b[K"):]
		}
		lines = append(lines, line)
	}
	return lines
}

// flush waits until all is written: without bound, for nothing of the test stops
// it.
func flush(t *testing.T, c *console.Console) {
	t.Helper()
	if !c.Flush(time.Hour) {
		t.Fatal("not all was written")
	}
}

func TestLinesStayAboveTheStatus(t *testing.T) {
	var b bytes.Buffer
	c := console.New(&b, true)
	c.SetStatus("3 ready", 80)
	flush(t, c)
	fmt.Fprintln(c, "worker-1 died")
	flush(t, c)
	c.SetStatus("2 ready", 80)
	fmt.Fprintln(c, "worker-4 started")
	flush(t, c)
	if got, want := strings.Join(screen(b.String()), "|"), "worker-1 died|worker-4 started|2 ready"; got != want {
		t.Errorf("the terminal shows %q, want %q", got, want)
	}
	c.SetStatus("", 80)
	flush(t, c)
	if got, want := strings.Join(screen(b.String()), "|"), "worker-1 died|worker-4 started|"; got != want {
		t.Errorf("without status the terminal shows %q, want %q", got, want)
	}
}

func TestStatusIsCutToTheWidth(t *testing.T) {
	var b bytes.Buffer
	c := console.New(&b, true)
	c.SetStatus("é234567890", 8)
	flush(t, c)
	if got, want := screen(b.String())[0], "é23456…"; got != want {
		t.Errorf("8 columns show %q, want %q: a line that wraps cannot be cleared", got, want)
	}
}

func TestNoStatusWithoutATerminal(t *testing.T) {
	var b bytes.Buffer
	c := console.New(&b, false)
	c.SetStatus("3 ready", 80)
	fmt.Fprintln(c, "a line")
	flush(t, c)
	if got := b.String(); got != "a line\n" {
		t.Errorf("a file gets %q, want the line alone", got)
	}
}

// A gate is a pipe that is not read until it is opened.
type gate struct {
	opened chan struct{}
	bytes.Buffer
}

func (g *gate) Write(b []byte) (int, error) {
	<-g.opened
	return g.Buffer.Write(b)
}

func TestAReaderThatIsGoneStopsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{opened: make(chan struct{})}
		c := console.New(g, true)
		c.SetStatus("3 ready", 80)
		synctest.Wait() // the write of the status hangs
		line := strings.Repeat("x", 1<<10-1) + "\n"
		for range 2 << 10 { // 2 MiB
			if n, err := fmt.Fprint(c, line); n != len(line) || err != nil {
				t.Fatalf("Write = %d, %v", n, err)
			}
		}
		c.SetStatus("2 ready", 80)
		if c.Flush(time.Second) {
			t.Error("Flush says that all was written")
		}
		close(g.opened)
		flush(t, c)
		lines := screen(g.String())
		if got, want := len(lines), 1<<10+2; got != want {
			t.Errorf("%d lines were written, want %d: 1 MiB, one that tells of the rest, and the status", got, want)
		}
		if got, want := strings.Join(lines[len(lines)-2:], "|"), "… 1024 lines dropped: they were not read in time|2 ready"; got != want {
			t.Errorf("it ends %q, want %q", got, want)
		}
		fmt.Fprintln(c, "on")
		flush(t, c)
		if got := screen(g.String()); got[len(got)-2] != "on" {
			t.Errorf("what comes later is not written: %q", got[len(got)-2])
		}
	})
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

func TestWriteErrorsAreIgnored(t *testing.T) {
	c := console.New(broken{}, false)
	if n, err := c.Write([]byte("a line\n")); n != 7 || err != nil {
		t.Errorf("Write = %d, %v: what cannot be logged must not be a fault of what it is about", n, err)
	}
	flush(t, c)
}

func ExampleConsole() {
	c := console.New(os.Stdout, false) // true if os.Stdout is a terminal
	c.SetStatus("3 workers ready", 80)
	fmt.Fprintln(c, "worker-1 died")
	c.Flush(time.Second) // before the process ends
	// Output: worker-1 died
}
