// Package console writes log lines and one live status line to a terminal
// without letting them run into each other, and without ever making the program
// wait for whoever reads them.
package console

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/term"
)

// Console is an io.Writer of whole lines above a status line. It is safe for
// concurrent use.
//
// What it is given is written behind the caller's back: a terminal that is
// stopped by Ctrl-S, or a pipe that nobody reads, must not stop a server that has
// something to log. Lines that find too many before them are dropped and counted.
// Errors of the underlying writer are ignored, for there is nowhere to say them.
type Console struct {
	w    io.Writer
	live bool

	mu      sync.Mutex
	pending []byte        // lines to be written
	dropped int           // lines that came after pending was full
	status  string        // as wanted
	shown   string        // the status on the screen
	idle    chan struct{} // closed when the writing goroutine ends; nil while there is none
}

// maxPending bounds the memory of lines that nobody reads, in bytes.
const maxPending = 1 << 20

// New returns a Console over w. Unless live, which needs a terminal, the status
// is not shown.
func New(w io.Writer, live bool) *Console { return &Console{w: w, live: live} }

// Live reports whether the status is shown.
func (c *Console) Live() bool { return c.live }

// Width returns how many columns the terminal of standard error has; 80 if that is none.
func Width() int {
	w, _, err := term.GetSize(int(os.Stderr.Fd()))
	if err != nil {
		return 80
	}
	return w
}

const clearLine = "\r\x1b[K"

// Write writes lines, and then the status again. It does not wait and has no
// error.
func (c *Console) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dropped > 0 || len(c.pending)+len(b) > maxPending {
		c.dropped += max(1, bytes.Count(b, []byte("\n")))
	} else {
		c.pending = append(c.pending, b...)
	}
	c.wakeLocked()
	return len(b), nil
}

// SetStatus shows s, which has no line end, as the last line; "" removes it. It
// is cut to width columns, for a line that wraps cannot be cleared. It does not
// wait.
func (c *Console) SetStatus(s string, width int) {
	if !c.live {
		return
	}
	if r := []rune(s); width > 1 && len(r) >= width {
		s = string(r[:width-2]) + "…"
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status = s
	c.wakeLocked()
}

// Flush waits until all is written, but no longer than d, and reports whether it
// is.
func (c *Console) Flush(d time.Duration) bool {
	c.mu.Lock()
	idle := c.idle
	c.mu.Unlock()
	if idle == nil {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-idle:
		return true
	case <-timer.C:
		return false
	}
}

// wakeLocked has a goroutine write what there is to write.
func (c *Console) wakeLocked() {
	if c.idle == nil {
		c.idle = make(chan struct{})
		go c.write()
	}
}

func (c *Console) write() {
	for {
		c.mu.Lock()
		out := c.nextLocked()
		if out == nil {
			close(c.idle)
			c.idle = nil
		}
		c.mu.Unlock()
		if out == nil {
			return
		}
		_, _ = c.w.Write(out)
	}
}

// nextLocked returns what is to be written next, in one piece so that a terminal
// does not flicker; nil if all is done.
func (c *Console) nextLocked() []byte {
	if len(c.pending) == 0 && c.dropped == 0 && c.status == c.shown {
		return nil
	}
	var out []byte
	if c.shown != c.status || c.shown != "" {
		out = append(out, clearLine...)
	}
	out = append(out, c.pending...)
	if c.dropped > 0 {
		out = fmt.Appendf(out, "… %d lines dropped: they were not read in time\n", c.dropped)
	}
	out = append(out, c.status...)
	c.pending, c.dropped, c.shown = nil, 0, c.status
	return out
}
