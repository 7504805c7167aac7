package console_test

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"

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

func TestLinesStayAboveTheStatus(t *testing.T) {
	var b bytes.Buffer
	c := console.New(&b, true)
	c.SetStatus("3 ready", 80)
	fmt.Fprintln(c, "worker-1 died")
	c.SetStatus("2 ready", 80)
	fmt.Fprintln(c, "worker-4 started")
	if got, want := strings.Join(screen(b.String()), "|"), "worker-1 died|worker-4 started|2 ready"; got != want {
		t.Errorf("the terminal shows %q, want %q", got, want)
	}
	c.SetStatus("", 80)
	if got, want := strings.Join(screen(b.String()), "|"), "worker-1 died|worker-4 started|"; got != want {
		t.Errorf("without status the terminal shows %q, want %q", got, want)
	}
}

func TestStatusIsCutToTheWidth(t *testing.T) {
	var b bytes.Buffer
	console.New(&b, true).SetStatus("é234567890", 8)
	if got, want := screen(b.String())[0], "é23456…"; got != want {
		t.Errorf("8 columns show %q, want %q: a line that wraps cannot be cleared", got, want)
	}
}

func TestNoStatusWithoutATerminal(t *testing.T) {
	var b bytes.Buffer
	c := console.New(&b, false)
	c.SetStatus("3 ready", 80)
	fmt.Fprintln(c, "a line")
	if got := b.String(); got != "a line\n" {
		t.Errorf("a file gets %q, want the line alone", got)
	}
}

func ExampleConsole() {
	c := console.New(os.Stdout, false) // true if os.Stdout is a terminal
	c.SetStatus("3 workers ready", 80)
	fmt.Fprintln(c, "worker-1 died")
	// Output: worker-1 died
}
