package fleet

import (
	"bytes"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/handover"
)

// process is one worker process, from its start until it was waited for.
type process struct {
	cmd    *exec.Cmd
	report chan handover.Report // at most one
	exited chan struct{}        // closed when the process was reaped
	output *lines
	waited error
}

// start starts the command and hands its configuration over.
func start(cmd *exec.Cmd, config any, output *lines) (*process, error) {
	line, err := handover.Marshal(config)
	if err != nil {
		return nil, err
	}
	p := &process{
		cmd:    cmd,
		report: make(chan handover.Report, 1),
		exited: make(chan struct{}),
		output: output,
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	reported := false
	cmd.Stdout = &lines{emit: func(line string) {
		if r, err := handover.Parse(line); err == nil && !reported {
			reported = true
			p.report <- r
			return
		}
		output.line(line) // an app that prints must not disturb
	}}
	cmd.Stderr = output
	// A child of the worker that outlives it would hold the pipes open.
	cmd.WaitDelay = time.Second
	ownGroup(cmd)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		// A worker that dies at once does not read; Wait tells why it died. The
		// pipe stays open: its end tells the worker that the parent is gone.
		_, _ = stdin.Write(line)
	}()
	go func() {
		p.waited = cmd.Wait()
		output.flush()
		close(p.exited)
	}()
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// kill ends the process at once. Once it was waited for, nothing happens: an
// os.Process never signals another process that got its number.
func (p *process) kill() { _ = p.cmd.Process.Kill() }

// end says how the process ended. It must have exited.
func (p *process) end() string {
	if p.cmd.ProcessState != nil {
		return p.cmd.ProcessState.String()
	}
	return fmt.Sprint(p.waited)
}

// exitedByItself reports whether no signal ended the process: a Go program that
// panics exits with status 2. It must have exited.
func (p *process) exitedByItself() bool {
	return p.cmd.ProcessState == nil || p.cmd.ProcessState.Exited()
}

// lastWords returns the last line that the process wrote to its standard error,
// to be appended to another message.
func (p *process) lastWords() string {
	if s := p.output.last(); s != "" {
		return ": " + s
	}
	return ""
}

// lines is an io.Writer that passes on whole lines.
type lines struct {
	emit func(line string)

	mu      sync.Mutex
	partial []byte
	latest  string
}

// maxLine bounds the memory that a line without end takes.
const maxLine = 64 << 10

var _ io.Writer = (*lines)(nil)

func (l *lines) Write(b []byte) (int, error) {
	n := len(b)
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(b) > 0 {
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			l.partial = append(l.partial, b...)
			if len(l.partial) > maxLine {
				l.flushLocked()
			}
			break
		}
		l.partial = append(l.partial, b[:i]...)
		l.flushLocked()
		b = b[i+1:]
	}
	return n, nil
}

// line passes on one line that came another way.
func (l *lines) line(s string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.emit(s)
}

func (l *lines) flushLocked() {
	s := strings.TrimSuffix(string(l.partial), "\r")
	l.partial = l.partial[:0]
	if s != "" {
		l.latest = s
	}
	l.emit(s)
}

// flush passes on what came after the last end of line.
func (l *lines) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.partial) > 0 {
		l.flushLocked()
	}
}

func (l *lines) last() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.latest
}
