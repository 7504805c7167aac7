package testserver

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"
)

// Options are what a test may want of a server beyond its kind.
type Options struct {
	// Config has lines of the server's configuration; they come after the
	// script's own and win. A node runs in a folder of its own, from which the
	// certificates are in ../tls. If nil, there are none.
	Config []string

	// Password is what clients of the server, though not of its Sentinels, must
	// know; it becomes part of the URL. If "", there is none, and in SQL a random
	// one.
	Password string
}

// Server is one or several processes that serve together. Its fields do not
// change, and its methods may be called from several goroutines.
type Server struct {
	Kind    string
	Version string
	URL     string // what coatcheck --store takes; of a browser, its address
	// AdminURL is the URL of a user who may do everything, such as making roles
	// with few rights, where that of URL may not: in SQL. Else it is "".
	AdminURL string
	Nodes    []Node
	TLS      *TLS // nil without

	script *script

	mu   sync.Mutex
	pids map[string]int
}

// Node is a process of a server.
type Node struct {
	Name string
	Addr string // host and port
	Role string // at the start: primary, replica, sentinel or pooler
}

// TLS has the files of internal/testcerts. Those without a longer name are the
// client's.
type TLS struct {
	CA, Cert, Key string

	// What a stranger signed.
	OtherCA, OtherCert, OtherKey string

	// What CA signed, and is out of date.
	ExpiredCert, ExpiredKey string
}

// patience bounds every wait for a process, and is never measured: the machine may
// be busy.
const patience = time.Minute

// optional are the kinds whose absence is never a failure: no stable release of
// Debian has them.
var optional = []string{"valkey", "mysql", "mysql-tls", "mongo", "mongo-tls"}

// Start starts a server for one test, which it ends with.
func Start(t testing.TB, kind string, opts *Options) *Server {
	t.Helper()
	if opts == nil {
		opts = &Options{}
	}
	var args []string
	for _, line := range opts.Config {
		args = append(args, "--config", line)
	}
	if opts.Password != "" {
		args = append(args, "--password", opts.Password)
	}
	s, err := start(t.Logf, append(args, kind, filepath.Join(t.TempDir(), kind)))
	need(t, kind, err)
	t.Cleanup(func() {
		if err := s.script.end(); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	})
	return s
}

// Shared returns the server of that kind that this process has for all its tests;
// the first call starts it. It ends with the process. Tests keep apart in it by the
// prefixes of their keys, and leave its nodes alone.
func Shared(t testing.TB, kind string) *Server {
	t.Helper()
	sharedMu.Lock()
	once := shared[kind]
	if once == nil {
		once = sync.OnceValues(func() (*Server, error) {
			dir, err := os.MkdirTemp("", "coatcheck-test-")
			if err != nil {
				return nil, err
			}
			return start(t.Logf, []string{"--rm", kind, dir})
		})
		shared[kind] = once
	}
	sharedMu.Unlock()
	s, err := once()
	need(t, kind, err)
	return s
}

var (
	sharedMu sync.Mutex
	shared   = map[string]func() (*Server, error){}
)

// need ends the test if there is no server.
func need(t testing.TB, kind string, err error) {
	t.Helper()
	if err == nil {
		return
	}
	var missing *unavailableError
	switch {
	case errors.As(err, &missing) && (os.Getenv("COATCHECK_REQUIRE_SERVERS") != "1" || slices.Contains(optional, kind)):
		t.Skipf("no %s here: %s", kind, missing.how)
	default:
		t.Fatalf("%s: %v", kind, err)
	}
}

// Node returns the node of that name.
func (s *Server) Node(t testing.TB, name string) Node {
	t.Helper()
	for _, n := range s.Nodes {
		if n.Name == name {
			return n
		}
	}
	t.Fatalf("%s has no node %q", s.Kind, name)
	return Node{}
}

// NodeAt returns the node that listens at addr, as a client names it.
func (s *Server) NodeAt(t testing.TB, addr string) Node {
	t.Helper()
	for _, n := range s.Nodes {
		if n.Addr == addr {
			return n
		}
	}
	t.Fatalf("no node of %s listens at %q", s.Kind, addr)
	return Node{}
}

// PID returns a node's process ID, which changes when it is restarted.
func (s *Server) PID(t testing.TB, name string) int {
	t.Helper()
	s.Node(t, name)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pids[name]
}

// Kill ends a node and its children at once, as a crash does, and returns when its
// port refuses connections.
func (s *Server) Kill(t testing.TB, name string) {
	t.Helper()
	// Stopped first, none of them can notice and react.
	s.Freeze(t, name)
	s.signal(t, name, kill)
	n := s.Node(t, name)
	await(t, name+" to refuse connections", func() bool { return !listens(n.Addr) })
}

// Restart starts a node again on its port and with its data, killing it first if
// need be, and returns when it answers. It may still be loading its data or finding
// its primary.
func (s *Server) Restart(t testing.TB, name string) {
	t.Helper()
	s.Node(t, name)
	s.mu.Lock()
	defer s.mu.Unlock()
	line, err := s.script.order("restart " + name)
	if err != nil {
		t.Fatalf("restart %s: %v", name, err)
	}
	_, pid, err := parseNode(line)
	if err != nil {
		t.Fatalf("restart %s: %v", name, err)
	}
	s.pids[name] = pid
}

// Freeze stops a node, whose connections stay open and go unanswered, as when its
// machine hangs. With it stop its children: in PostgreSQL each connection is one's,
// which would go on. The end of the test's server thaws it.
func (s *Server) Freeze(t testing.TB, name string) {
	t.Helper()
	pid := s.PID(t, name)
	s.send(t, name, pid, freeze)
	await(t, name+" to be frozen", func() bool { return frozen(pid) })
	// From here on it has no new ones.
	for _, child := range children(pid) {
		s.send(t, name, child, freeze)
		await(t, name+"'s child to be frozen", func() bool { return frozen(child) })
	}
}

// Thaw continues a frozen node.
func (s *Server) Thaw(t testing.TB, name string) {
	t.Helper()
	s.signal(t, name, thaw)
}

// signal sends a signal to a frozen node and its children, and to it last: until
// then they are its.
func (s *Server) signal(t testing.TB, name string, send func(pid int) error) {
	t.Helper()
	pid := s.PID(t, name)
	for _, p := range append(children(pid), pid) {
		s.send(t, name, p, send)
	}
}

func (s *Server) send(t testing.TB, name string, pid int, send func(pid int) error) {
	t.Helper()
	if err := send(pid); err != nil {
		t.Fatalf("%s, process %d: %v", name, pid, err)
	}
}

func listens(addr string) bool {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// await polls: no process can be waited for that is not one's own.
func await(t testing.TB, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %v for %s", patience, what)
		}
	}
}

// unavailableError says that this machine has no such server.
type unavailableError struct{ how string }

func (e *unavailableError) Error() string { return fmt.Sprintf("it cannot be had here: %s", e.how) }
