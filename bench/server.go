package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

// child is a process that ends with its standard input.
type child struct {
	cmd   *exec.Cmd
	stdin io.Closer
	lines *bufio.Scanner
	once  sync.Once
}

func start(cmd *exec.Cmd) (*child, error) {
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &child{cmd: cmd, stdin: stdin, lines: bufio.NewScanner(stdout)}, nil
}

func (c *child) stop() {
	c.once.Do(func() {
		_ = c.stdin.Close()
		_, _ = io.Copy(io.Discard, lineReader{c.lines}) // or it may wait for a reader
		_ = c.cmd.Wait()
	})
}

// lineReader reads a scanner to its end.
type lineReader struct{ *bufio.Scanner }

func (r lineReader) Read([]byte) (int, error) {
	if r.Scan() {
		return 0, nil
	}
	return 0, io.EOF
}

// server is a real server, started by scripts/server.
type server struct {
	*child
	url     string // of the user who may do most
	version string
	pids    []int // of its nodes
	dir     string
}

// errMissing says that what is to be measured is not on this machine.
var errMissing = errors.New("not available")

// startServer starts a server of that kind, with lines of configuration of its own.
// ctx bounds its life, too.
func startServer(ctx context.Context, kind string, config []string) (*server, error) {
	root, err := repository()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "coatcheck-bench-")
	if err != nil {
		return nil, err
	}
	var args []string
	for _, l := range config {
		args = append(args, "--config", l)
	}
	c, err := start(exec.CommandContext(ctx, filepath.Join(root, "scripts", "server"), append(args, kind, dir)...))
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	s := &server{child: c, dir: dir}
	for c.lines.Scan() {
		name, value, _ := strings.Cut(c.lines.Text(), "=")
		switch name {
		case "NODE": // its name, address, process ID and role
			if f := strings.Fields(value); len(f) > 2 {
				if pid, err := strconv.Atoi(f[2]); err == nil {
					s.pids = append(s.pids, pid)
				}
			}
		case "URL", "ADMIN_URL": // the latter comes last
			s.url = value
		case "VERSION":
			s.version = value
		case "READY":
			return s, nil
		}
	}
	s.stop()
	err = fmt.Errorf("scripts/server %s DIR ended before it was ready", kind)
	if c.cmd.ProcessState.ExitCode() == 3 {
		err = fmt.Errorf("%s: %w; scripts/server %s DIR says how to get it", kind, errMissing, kind)
	}
	return nil, err
}

func (s *server) stop() {
	s.child.stop()
	_ = os.RemoveAll(s.dir)
}

// repository returns the root of the checkout that the working directory is in.
func repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "scripts", "server")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("run this in a checkout of coatcheck: scripts/server is not here nor above")
		}
		dir = filepath.Dir(dir)
	}
}
