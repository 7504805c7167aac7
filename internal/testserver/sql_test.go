//go:build unix

package testserver

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net/url"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// dialect is how a family of SQL servers is asked in these tests: by the client
// that comes with it.
type dialect struct {
	// client returns the client, for SQL on its standard input, whose answers it
	// prints a value a line.
	client func(url string) []string

	// busy takes half a second of a processor.
	busy string
}

var postgres = dialect{
	client: func(url string) []string { return []string{"psql", "-XAtq", "-v", "ON_ERROR_STOP=1", url} },
	busy:   "SELECT count(*) FROM generate_series(1, 3000000)",
}

var mysql = dialect{
	client: func(u string) []string {
		p, err := url.Parse(u)
		if err != nil {
			panic(err)
		}
		password, _ := p.User.Password()
		args := []string{
			"mariadb", "--no-defaults", "--batch", "--skip-column-names", "--unbuffered",
			"--host=" + p.Hostname(), "--port=" + p.Port(), "--user=" + p.User.Username(), "--password=" + password,
			"--database=" + strings.TrimPrefix(p.Path, "/"),
		}
		q := p.Query()
		if q.Get("tls") != "true" {
			return append(args, "--skip-ssl")
		}
		args = append(args, "--ssl", "--ssl-verify-server-cert", "--ssl-ca="+q.Get("ca"))
		if q.Has("cert") {
			args = append(args, "--ssl-cert="+q.Get("cert"), "--ssl-key="+q.Get("key"))
		}
		return args
	},
	busy: "SELECT BENCHMARK(2000000, MD5('a'))",
}

// ask returns the answer to the SQL, or an error with what the client says.
func (d dialect) ask(t *testing.T, url, sql string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	args := d.client(url)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdin = strings.NewReader(sql + ";\n")
	out, err := cmd.CombinedOutput()
	return string(bytes.TrimSpace(out)), err
}

func (d dialect) expect(t *testing.T, url, want, sql string) {
	t.Helper()
	if got, err := d.ask(t, url, sql); err != nil || got != want {
		t.Errorf("%s is answered %q, %v; want %q", sql, got, err, want)
	}
}

// session is a connection that stays.
type session struct {
	in  io.Writer
	out chan string // lines
}

func (d dialect) open(t *testing.T, url string) *session {
	t.Helper()
	args := d.client(url)
	cmd := exec.Command(args[0], args[1:]...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &session{in, make(chan string, 100)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for r := bufio.NewScanner(out); r.Scan(); {
			s.out <- r.Text()
		}
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-ended
		cmd.Wait()
	})
	return s
}

// send asks for an answer that next returns.
func (s *session) send(t *testing.T, sql string) {
	t.Helper()
	if _, err := io.WriteString(s.in, sql+";\n"); err != nil {
		t.Fatal(err)
	}
}

func (s *session) next(t *testing.T, want string) {
	t.Helper()
	if got := s.line(t); got != want {
		t.Errorf("the connection has the answer %q, want %q", got, want)
	}
}

func (s *session) line(t *testing.T) string {
	t.Helper()
	select {
	case got := <-s.out:
		return got
	case <-time.After(patience):
		t.Fatalf("no answer after %v", patience)
		return ""
	}
}

// lives takes a server of one node through what a test may do to it.
func (d dialect) lives(t *testing.T, kind, url, admin string) {
	if testing.Short() {
		t.Skip("takes seconds: run it without -short")
	}
	var nodes []Node
	var left []int
	t.Run("server", func(t *testing.T) {
		s := Start(t, kind, &Options{Password: "open-sesame"})
		nodes = s.Nodes
		n := s.Node(t, "node-1")
		if want := strings.ReplaceAll(url, "ADDR", n.Addr); s.URL != want || n.Role != "primary" || s.Version == "" {
			t.Errorf("got %+v, want the URL %s", s, want)
		}
		if want := strings.ReplaceAll(admin, "ADDR", n.Addr); s.AdminURL != want {
			t.Errorf("the administrator's URL is %s, want %s", s.AdminURL, want)
		}
		if _, err := d.ask(t, strings.ReplaceAll(s.URL, "open-sesame", "sesame"), "SELECT 1"); err == nil {
			t.Error("a wrong password is let in")
		}
		d.expect(t, s.URL, "", "CREATE TABLE kept (n int); INSERT INTO kept VALUES (42)")
		if got, err := d.ask(t, s.URL, "CREATE ROLE r"); err == nil {
			t.Errorf("the owner of a database makes roles: %s", got)
		}
		d.expect(t, s.AdminURL, "", "CREATE ROLE r")

		conn := d.open(t, s.URL)
		conn.send(t, "SELECT 1")
		conn.next(t, "1")
		s.Freeze(t, n.Name)
		conn.send(t, "SELECT 2")
		select {
		case got := <-conn.out:
			t.Errorf("a frozen node answers %q", got)
		case <-time.After(100 * time.Millisecond):
		}
		s.Thaw(t, n.Name)
		conn.next(t, "2")

		before := s.PID(t, n.Name)
		s.Kill(t, n.Name) // and all its connections
		if got, err := d.ask(t, s.URL, "SELECT 1"); err == nil {
			t.Errorf("a killed node answers %q", got)
		}
		s.Restart(t, n.Name)
		if s.PID(t, n.Name) == before {
			t.Error("the process ID did not change in a restart")
		}
		d.expect(t, s.URL, "42", "SELECT n FROM kept")

		// Whatever is killed without its children, as by a test's own hands: the
		// child of this connection has no time to notice.
		conn = d.open(t, s.URL)
		conn.send(t, "SELECT 3")
		conn.next(t, "3")
		conn.send(t, d.busy)
		if err := kill(s.PID(t, n.Name)); err != nil {
			t.Fatal(err)
		}
		s.Restart(t, n.Name)
		d.expect(t, s.URL, "42", "SELECT n FROM kept")

		s.Freeze(t, n.Name) // what is frozen ends with the rest
		left = append(children(s.PID(t, n.Name)), s.PID(t, n.Name))
	})
	gone(t, nodes)
	for _, pid := range left {
		if _, state, ok := stat(pid); ok && state != 'Z' {
			t.Errorf("the process %d outlives the server", pid)
		}
	}
}

func TestPostgres(t *testing.T) {
	postgres.lives(t, "postgres",
		"postgres://coatcheck:open-sesame@ADDR/coatcheck?sslmode=disable",
		"postgres://postgres:open-sesame@ADDR/coatcheck?sslmode=disable")
}

func TestMariaDB(t *testing.T) {
	mysql.lives(t, "mariadb",
		"mariadb://coatcheck:open-sesame@ADDR/coatcheck?tls=false",
		"mariadb://root:open-sesame@ADDR/coatcheck?tls=false")
}

func TestMySQL(t *testing.T) {
	mysql.lives(t, "mysql",
		"mysql://coatcheck:open-sesame@ADDR/coatcheck?tls=false",
		"mysql://root:open-sesame@ADDR/coatcheck?tls=false")
}

// TestSQLTLS: who has no certificate is not let in. Of PostgreSQL and MariaDB the tests of
// the command's URLs find the same, so only a soak starts them once more.
func TestSQLTLS(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds: run it without -short")
	}
	for _, c := range []struct {
		kind string
		dialect
		plain string // a query that turns TLS off
	}{
		{"postgres-tls", postgres, "sslmode=disable"},
		{"mariadb-tls", mysql, "tls=false"},
		{"mysql-tls", mysql, "tls=false"},
	} {
		t.Run(c.kind, func(t *testing.T) {
			if c.kind != "mysql-tls" {
				soak(t)
			}
			s := Start(t, c.kind, nil)
			c.expect(t, s.URL, "1", "SELECT 1")
			c.expect(t, s.AdminURL, "1", "SELECT 1")
			base, query, _ := strings.Cut(s.URL, "?")
			none, _, _ := strings.Cut(query, s.TLS.CA)
			for name, query := range map[string]string{
				"another authority":      strings.ReplaceAll(query, s.TLS.CA, s.TLS.OtherCA),
				"a stranger's client":    strings.NewReplacer(s.TLS.Cert, s.TLS.OtherCert, s.TLS.Key, s.TLS.OtherKey).Replace(query),
				"an expired certificate": strings.NewReplacer(s.TLS.Cert, s.TLS.ExpiredCert, s.TLS.Key, s.TLS.ExpiredKey).Replace(query),
				"no certificate":         none + s.TLS.CA,
				"no TLS":                 c.plain,
			} {
				if got, err := c.ask(t, base+"?"+query, "SELECT 1"); err == nil {
					t.Errorf("%s is let in: %q", name, got)
				}
			}
			c.expect(t, s.URL, "1", "SELECT 1")
		})
	}
}

func TestReplica(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds: run it without -short")
	}
	s := Start(t, "postgres-replica", nil)
	if s.Nodes[0].Role != "primary" || s.Nodes[1].Role != "replica" {
		t.Errorf("got %+v", s.Nodes)
	}
	replica := strings.ReplaceAll(s.URL, s.Nodes[0].Addr, s.Nodes[1].Addr)
	postgres.expect(t, s.URL, "", "CREATE TABLE t (n int); INSERT INTO t VALUES (1)")
	follows := func(n string) {
		t.Helper()
		await(t, "the replica to have what was written", func() bool {
			got, err := postgres.ask(t, replica, "SELECT max(n) FROM t")
			return err == nil && got == n
		})
	}
	follows("1")
	if got, err := postgres.ask(t, replica, "INSERT INTO t VALUES (2)"); err == nil || !strings.Contains(got, "read-only transaction") {
		t.Errorf("a write to a replica is answered %q, %v", got, err)
	}
	s.Kill(t, "node-2")
	postgres.expect(t, s.URL, "", "INSERT INTO t VALUES (3)")
	s.Restart(t, "node-2")
	follows("3")
}

func TestPgBouncer(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds: run it without -short")
	}
	s := Start(t, "pgbouncer", &Options{Config: []string{"default_pool_size = 1"}})
	// With one connection to share, sessions that have no transaction have the same.
	var backends []string
	for range 2 {
		conn := postgres.open(t, s.URL)
		conn.send(t, "SELECT pg_backend_pid()")
		backends = append(backends, conn.line(t))
	}
	if backends[0] != backends[1] {
		t.Errorf("the processes of two sessions are %v, and should be one", backends)
	}
	postgres.expect(t, s.AdminURL, "", "CREATE ROLE app LOGIN PASSWORD 'sesame'")
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("app", "sesame")
	postgres.expect(t, u.String(), "app", "SELECT current_user")
	s.Kill(t, "pgbouncer-1")
	s.Restart(t, "pgbouncer-1")
	postgres.expect(t, s.URL, "coatcheck", "SELECT current_user")
}
