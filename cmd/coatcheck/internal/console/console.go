// Package console writes log lines and one live status line to a terminal
// without letting them run into each other.
package console

import (
	"io"
	"sync"
)

// Console is an io.Writer of whole lines above a status line. It is safe for
// concurrent use.
type Console struct {
	w    io.Writer
	live bool

	mu     sync.Mutex
	status string // as shown now
}

// New returns a Console over w. Unless live, which needs a terminal, the status
// is not shown.
func New(w io.Writer, live bool) *Console { return &Console{w: w, live: live} }

// Live reports whether the status is shown.
func (c *Console) Live() bool { return c.live }

const clearLine = "\r\x1b[K"

// Write writes lines, and then the status again.
func (c *Console) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.status == "" {
		return c.w.Write(b)
	}
	// One write, so that the terminal does not flicker.
	out := append([]byte(clearLine), b...)
	out = append(out, c.status...)
	if _, err := c.w.Write(out); err != nil {
		return 0, err
	}
	return len(b), nil
}

// SetStatus shows s, which has no line end, as the last line; "" removes it. It
// is cut to width columns, for a line that wraps cannot be cleared.
func (c *Console) SetStatus(s string, width int) {
	if !c.live {
		return
	}
	if r := []rune(s); width > 1 && len(r) >= width {
		s = string(r[:width-2]) + "…"
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if s == c.status {
		return
	}
	c.status = s
	_, _ = io.WriteString(c.w, clearLine+s)
}
