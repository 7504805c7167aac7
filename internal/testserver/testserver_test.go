//go:build unix

package testserver

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// ask sends Redis commands on one connection and returns the first line of the
// last one's answer. A node that hangs makes it fail after the timeout.
func ask(addr string, timeout time.Duration, commands ...string) (string, error) {
	c, err := net.DialTimeout("tcp", addr, timeout)
	if err != nil {
		return "", err
	}
	defer c.Close()
	return converse(c, timeout, commands...)
}

func converse(c net.Conn, timeout time.Duration, commands ...string) (line string, err error) {
	c.SetDeadline(time.Now().Add(timeout))
	r := bufio.NewReader(c)
	for _, command := range commands {
		if _, err := io.WriteString(c, command+"\r\n"); err != nil {
			return "", err
		}
		if line, err = r.ReadString('\n'); err != nil {
			return "", err
		}
	}
	return strings.TrimSpace(line), nil
}

// isPrimary reports whether the node says so of itself.
func isPrimary(addr string) bool {
	c, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return false
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	// The answer's first element, with its length and that of the whole before it.
	got := make([]byte, len("*3\r\n$6\r\nmaster"))
	io.WriteString(c, "ROLE\r\n")
	io.ReadFull(c, got)
	return strings.HasSuffix(string(got), "master")
}

func expect(t *testing.T, addr, want string, commands ...string) {
	t.Helper()
	got, err := ask(addr, patience, commands...)
	if err != nil || got != want {
		t.Errorf("%s answers %v with %q, %v; want %q", addr, commands, got, err, want)
	}
}

func TestRedis(t *testing.T) {
	var nodes []Node
	t.Run("server", func(t *testing.T) {
		s := Start(t, "redis", &Options{Config: []string{"databases 1", "appendonly yes", "appendfsync always"}})
		nodes = s.Nodes
		n := s.Node(t, "node-1")
		if want := "redis://" + n.Addr; s.Kind != "redis" || s.URL != want || n.Role != "primary" || s.TLS != nil || s.Version == "" {
			t.Errorf("got %+v", s)
		}
		if s.NodeAt(t, n.Addr) != n {
			t.Errorf("another node is at %s", n.Addr)
		}
		expect(t, n.Addr, "+OK", "SET k v")
		expect(t, n.Addr, "-ERR DB index is out of range", "SELECT 1")

		before := s.PID(t, n.Name)
		s.Kill(t, n.Name)
		if _, err := ask(n.Addr, patience, "PING"); err == nil {
			t.Error("a killed node answers")
		}
		s.Restart(t, n.Name)
		if s.PID(t, n.Name) == before {
			t.Error("the process ID did not change in a restart")
		}
		expect(t, n.Addr, "$1", "GET k") // what --config wants kept is there

		s.Freeze(t, n.Name)
		if got, err := ask(n.Addr, 100*time.Millisecond, "PING"); err == nil {
			t.Errorf("a frozen node answers %q", got)
		}
		s.Thaw(t, n.Name)
		expect(t, n.Addr, "+PONG", "PING")

		s.Restart(t, n.Name) // of a node that runs
		expect(t, n.Addr, "+PONG", "PING")
		s.Freeze(t, n.Name) // what is frozen ends with the rest
	})
	gone(t, nodes)
}

func TestPassword(t *testing.T) {
	s := Start(t, "redis", &Options{Password: "open-sesame"})
	addr := s.Nodes[0].Addr
	if want := "redis://:open-sesame@" + addr; s.URL != want {
		t.Errorf("the URL is %q, want %q", s.URL, want)
	}
	expect(t, addr, "-NOAUTH Authentication required.", "PING")
	expect(t, addr, "+PONG", "AUTH open-sesame", "PING")
}

func TestTLS(t *testing.T) {
	s := Start(t, "redis-tls", nil)
	connect := func(ca, cert, key string) (string, error) {
		pem, err := os.ReadFile(ca)
		if err != nil {
			t.Fatal(err)
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(pem)
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		c, err := tls.Dial("tcp", s.Nodes[0].Addr, &tls.Config{
			RootCAs:              roots,
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil },
		})
		if err != nil {
			return "", err
		}
		defer c.Close()
		return converse(c, patience, "PING")
	}
	if got, err := connect(s.TLS.CA, s.TLS.Cert, s.TLS.Key); got != "+PONG" {
		t.Errorf("the good certificates: %q, %v", got, err)
	}
	var unknown x509.UnknownAuthorityError
	if _, err := connect(s.TLS.OtherCA, s.TLS.Cert, s.TLS.Key); !errors.As(err, &unknown) {
		t.Errorf("another authority: %v", err)
	}
	if got, err := connect(s.TLS.CA, s.TLS.OtherCert, s.TLS.OtherKey); err == nil {
		t.Errorf("a stranger's certificate is let in: %q", got)
	}
	if got, err := connect(s.TLS.CA, s.TLS.ExpiredCert, s.TLS.ExpiredKey); err == nil {
		t.Errorf("an expired certificate is let in: %q", got)
	}
	if got, err := ask(s.Nodes[0].Addr, patience, "PING"); got == "+PONG" {
		t.Errorf("it answers without TLS: %q, %v", got, err)
	}
}

func TestShared(t *testing.T) {
	s := Shared(t, "redis")
	if Shared(t, "redis") != s {
		t.Error("each call starts a server")
	}
	expect(t, s.Nodes[0].Addr, "+PONG", "PING")
}

func TestMissing(t *testing.T) {
	// In a folder with no command but bash's, nothing can be found or installed.
	bin := t.TempDir()
	for _, name := range []string{"bash", "env", "dirname", "grep", "ls", "mkdir", "id", "sed"} {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Skip(err)
		}
		if err := os.Symlink(path, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin)
	for _, c := range []struct {
		kind, require   string
		skipped, failed bool
	}{
		{"redis", "", true, false},
		{"redis", "1", false, true},
	} {
		t.Setenv("COATCHECK_REQUIRE_SERVERS", c.require)
		tb := &ended{TB: t}
		done := make(chan struct{})
		go func() {
			defer close(done)
			Start(tb, c.kind, nil)
		}()
		<-done
		if tb.skipped != c.skipped || tb.failed != c.failed || !strings.Contains(tb.said, "apt-get install -y") {
			t.Errorf("with COATCHECK_REQUIRE_SERVERS=%q a test without a server has skipped %t, failed %t and says %q", c.require, tb.skipped, tb.failed, tb.said)
		}
	}
}

// ended is a test that notes how it is ended.
type ended struct {
	testing.TB
	skipped, failed bool
	said            string
}

func (e *ended) Skipf(format string, args ...any) {
	e.skipped, e.said = true, fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func (e *ended) Fatalf(format string, args ...any) {
	e.failed, e.said = true, fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// gone waits until none of the nodes listens.
func gone(t *testing.T, nodes []Node) {
	t.Helper()
	for _, n := range nodes {
		await(t, n.Name+" to end", func() bool { return !listens(n.Addr) })
	}
}

// TestScriptKilled proves that no server outlives its script, be it killed -9.
func TestScriptKilled(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux ends a process with its parent")
	}
	for _, kind := range []string{"redis", "mariadb", "pgbouncer"} {
		t.Run(kind, func(t *testing.T) {
			if testing.Short() && kind != "redis" {
				t.Skip("takes seconds: run it without -short")
			}
			s, err := start(t.Logf, []string{kind, filepath.Join(t.TempDir(), kind)})
			need(t, kind, err)
			if err := s.script.cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			s.script.cmd.Wait()
			gone(t, s.Nodes)
		})
	}
}

// TestParentKilled proves that no server outlives the test process, be it killed -9.
func TestParentKilled(t *testing.T) {
	const child = "COATCHECK_TESTSERVER_CHILD"
	if os.Getenv(child) != "" {
		s := Shared(t, "redis")
		fmt.Println("addr:", s.Nodes[0].Addr)
		select {} // until killed
	}
	need(t, "redis", startOnce()) // skip here and not there
	temp := t.TempDir()
	cmd := exec.Command(os.Args[0], "-test.run=^TestParentKilled$")
	cmd.Env = append(os.Environ(), child+"=1", "TMPDIR="+temp)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var addr string
	for r := bufio.NewScanner(out); addr == "" && r.Scan(); {
		_, addr, _ = strings.Cut(r.Text(), "addr: ")
	}
	if !listens(addr) {
		t.Errorf("nothing listens at %q while the process lives", addr)
	}
	cmd.Process.Kill()
	cmd.Wait()
	gone(t, []Node{{Name: "node-1", Addr: addr}})
	await(t, "the folder to be removed", func() bool {
		left, _ := os.ReadDir(temp)
		return len(left) == 0
	})
}

func startOnce() error {
	dir, err := os.MkdirTemp("", "coatcheck-test-")
	if err != nil {
		return err
	}
	s, err := start(func(string, ...any) {}, []string{"--rm", "redis", dir})
	if err != nil {
		return err
	}
	return s.script.end()
}

// TestSoakManyNodes kills a node of each kind that has several and waits for another
// to take over: what the kinds are for. The tests of failover wait for it, too.
func TestSoakManyNodes(t *testing.T) {
	soak(t)
	for _, c := range []struct {
		kind, url           string
		primaries, replicas int
		sentinels           int
	}{
		{"redis-sentinel", "redis+sentinel://", 1, 2, 3},
		{"redis-sentinel-tls", "rediss+sentinel://", 1, 2, 3},
		{"redis-cluster", "redis+cluster://", 3, 3, 0},
		{"redis-cluster-tls", "rediss+cluster://", 3, 3, 0},
	} {
		t.Run(c.kind, func(t *testing.T) {
			s := Start(t, c.kind, nil)
			count := map[string]int{}
			for _, n := range s.Nodes {
				count[n.Role]++
			}
			if count["primary"] != c.primaries || count["replica"] != c.replicas || count["sentinel"] != c.sentinels {
				t.Errorf("got %v, want %d primaries, %d replicas and %d Sentinels", count, c.primaries, c.replicas, c.sentinels)
			}
			if !strings.HasPrefix(s.URL, c.url) {
				t.Errorf("the URL is %q, want %s…", s.URL, c.url)
			}
			if s.TLS != nil {
				return // isPrimary does not speak it
			}
			s.Kill(t, "node-1")
			await(t, "another primary", func() bool {
				primaries := 0
				for _, n := range s.Nodes[1:] {
					if n.Role == "sentinel" {
						continue
					}
					if isPrimary(n.Addr) {
						primaries++
					}
				}
				return primaries == c.primaries
			})
			s.Restart(t, "node-1")
		})
	}
}

// soak skips what the tests that use the servers would notice.
func soak(t *testing.T) {
	t.Helper()
	if os.Getenv("COATCHECK_SOAK") != "1" {
		t.Skip("takes minutes: run it with COATCHECK_SOAK=1")
	}
}
