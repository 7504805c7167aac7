package testserver

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"
)

// script is scripts/server while it runs.
type script struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines chan string // of its standard output; closed at its end
	said  *log        // its standard error
}

// start runs the script until it is ready. What it says meanwhile goes to logf.
func start(logf func(string, ...any), args []string) (*Server, error) {
	path, err := find()
	if err != nil {
		return nil, &unavailableError{err.Error()}
	}
	sc := &script{cmd: exec.Command(path, args...), lines: make(chan string, 100), said: &log{logf: logf}}
	// The test process holds the only other end: with it the script ends, too.
	if sc.stdin, err = sc.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := sc.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	sc.cmd.Stderr = sc.said
	sc.cmd.WaitDelay = 5 * time.Second // what it started may hold its standard error
	if err := sc.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(sc.lines)
		for r := bufio.NewScanner(stdout); r.Scan(); {
			sc.lines <- r.Text()
		}
	}()
	s := &Server{script: sc, pids: map[string]int{}}
	if err := s.read(); err != nil {
		return nil, errors.Join(err, sc.end())
	}
	sc.said.settle()
	return s, nil
}

// read takes what the script says of the server.
func (s *Server) read() error {
	values := map[string]string{}
	// It may have to install the server.
	for timeout := time.After(4 * time.Minute); ; {
		var line string
		select {
		case <-timeout:
			return fmt.Errorf("not ready after four minutes: %s", s.script.said)
		case l, ok := <-s.script.lines:
			if !ok {
				return s.script.ended()
			}
			line = l
		}
		if line == "READY" {
			break
		}
		key, value, _ := strings.Cut(line, "=")
		if key != "NODE" {
			values[key] = value
			continue
		}
		n, pid, err := parseNode(line)
		if err != nil {
			return err
		}
		s.Nodes = append(s.Nodes, n)
		s.pids[n.Name] = pid
	}
	s.Kind, s.Version, s.URL, s.AdminURL = values["KIND"], values["VERSION"], values["URL"], values["ADMIN_URL"]
	if values["CA"] != "" {
		s.TLS = &TLS{
			CA: values["CA"], Cert: values["CERT"], Key: values["KEY"],
			OtherCA: values["OTHER_CA"], OtherCert: values["OTHER_CERT"], OtherKey: values["OTHER_KEY"],
			ExpiredCert: values["EXPIRED_CERT"], ExpiredKey: values["EXPIRED_KEY"],
		}
	}
	return nil
}

// parseNode reads a line "NODE=name addr pid role".
func parseNode(line string) (n Node, pid int, err error) {
	f := strings.Fields(strings.TrimPrefix(line, "NODE="))
	if !strings.HasPrefix(line, "NODE=") || len(f) != 4 {
		return n, 0, fmt.Errorf("the script says %q", line)
	}
	pid, err = strconv.Atoi(f[2])
	return Node{Name: f[0], Addr: f[1], Role: f[3]}, pid, err
}

// order gives the script a command and returns its answer.
func (sc *script) order(command string) (string, error) {
	if _, err := fmt.Fprintln(sc.stdin, command); err != nil {
		return "", err
	}
	select {
	case line, ok := <-sc.lines:
		if !ok {
			return "", sc.ended()
		}
		return line, nil
	case <-time.After(patience):
		return "", fmt.Errorf("no answer after %v", patience)
	}
}

// ended returns why the script, whose output has ended, ended by itself.
func (sc *script) ended() error {
	err := sc.cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 3 {
		return &unavailableError{sc.said.last()}
	}
	return fmt.Errorf("scripts/server ended (%v): %s", err, sc.said)
}

// end makes the script stop its servers and waits for that.
func (sc *script) end() error {
	sc.stdin.Close()
	// Should it hang, the kernel ends its servers with it.
	hung := time.AfterFunc(patience, func() { sc.cmd.Process.Kill() })
	defer hung.Stop()
	for range sc.lines {
		// What is read from a pipe is read to its end before Wait closes it.
	}
	if sc.cmd.ProcessState != nil {
		return nil // ended has waited
	}
	if err := sc.cmd.Wait(); err != nil {
		return fmt.Errorf("scripts/server: %w: %s", err, sc.said)
	}
	return nil
}

// find returns the script of the checkout that the test runs in: its working
// directory is somewhere below.
func find() (string, error) {
	if runtime.GOOS == "windows" {
		return "", errors.New("scripts/server needs bash, and the servers Unix")
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		path := filepath.Join(dir, "scripts", "server")
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("no folder above this one has scripts/server: run the tests in a checkout of the repository")
		}
		dir = parent
	}
}

// log keeps what the script says on standard error and, until it is settled, also
// passes it on.
type log struct {
	mu   sync.Mutex
	logf func(string, ...any)
	text strings.Builder
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.logf != nil {
		l.logf("%s", strings.TrimSpace(string(p)))
	}
	return l.text.Write(p)
}

// settle ends the passing on: the test that listens may end.
func (l *log) settle() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.logf = nil
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.TrimSpace(l.text.String())
}

// last returns the last line.
func (l *log) last() string {
	text := l.String()
	return text[strings.LastIndexByte(text, '\n')+1:]
}
