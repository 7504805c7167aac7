package storeurl_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/storeurl"
	"github.com/coatcheck/coatcheck/internal/testserver"
	"github.com/coatcheck/coatcheck/store"
	"github.com/go-sql-driver/mysql"
	_ "github.com/jackc/pgx/v5/stdlib"
)

// sqlKinds are the servers that every machine with tests has.
var sqlKinds = []string{"postgres", "mariadb"}

func TestSQLURLIsShownWithoutSecrets(t *testing.T) {
	for _, tt := range []struct{ in, want, kind string }{
		{"postgres://hunter2:hunter2@localhost/shop", "postgres://localhost/shop", "postgres"},
		{"postgresql://u:hunter2%40%2F@[::1]:5433/shop?sslmode=disable&table=hunter2", "postgresql://[::1]:5433/shop", "postgres"},
		{"postgres://u:hunter2@a.example,b.example:5433/shop?sslmode=verify-full", "postgres://a.example,b.example:5433/shop", "postgres"},
		{"postgres://u:hunter2@10.0.0.1/shop?sslmode=disable&insecure-plaintext=true&pool=4&pooler=true", "postgres://10.0.0.1/shop", "postgres"},
		{"postgres://u:hunter2@10.0.0.1/shop?sslmode=require&insecure-plaintext=true", "postgres://10.0.0.1/shop", "postgres"},
		{"postgres://u:hunter2@localhost/shop?sslmode=verify-ca", "postgres://localhost/shop", "postgres"},
		{"mysql://u:hunter2@db.example.com/shop?tls=true&servername=hunter2", "mysql://db.example.com/shop", "mysql"},
		{"mariadb://u:hunter2@127.0.0.1:3307/shop?schema=other", "mariadb://127.0.0.1:3307/shop", "mariadb"},
		{"mysql://u:hunter2@10.0.0.1/shop?tls=skip-verify&insecure-plaintext=true", "mysql://10.0.0.1/shop", "mysql"},
	} {
		u, err := storeurl.Parse(tt.in)
		if err != nil {
			t.Errorf("Parse(%q): %v", tt.in, err)
			continue
		}
		if u.String() != tt.want || u.Kind() != tt.kind || !u.Shared() || u.CheckSchema() != nil {
			t.Errorf("Parse(%q) = %v, kind %s, shared %t, %v; want %s, %s, true, a schema", tt.in, u, u.Kind(), u.Shared(), u.CheckSchema(), tt.want, tt.kind)
		}
		for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
			if s := fmt.Sprintf(format, struct{ Store storeurl.URL }{u}); strings.Contains(s, "hunter2") {
				t.Errorf("%s shows a secret: %s", format, s)
			}
		}
		if again, err := storeurl.Parse(u.Raw()); err != nil || again != u {
			t.Errorf("a worker that is given %v opens another store: %v", u, err)
		}
	}
}

func TestSQLURLThatMakesNoSenseIsRefusedWithoutSecrets(t *testing.T) {
	for in, want := range map[string]string{
		"postgres://u:hunter2@db.example.com/shop":                                         "write sslmode=verify-full",
		"postgres://u:hunter2@localhost,10.0.0.1/shop":                                     "10.0.0.1:5432 is not on this machine",
		"postgres://u:hunter2@10.0.0.1/shop?sslmode=disable":                               "sslmode=disable&insecure-plaintext=true",
		"postgres://u:hunter2@10.0.0.1/shop?sslmode=require":                               "add insecure-plaintext=true",
		"postgres://u:hunter2@10.0.0.1/shop?sslmode=verify-ca":                             "write sslmode=verify-full",
		"postgres://u:hunter2@10.0.0.1/shop?sslmode=prefer&insecure-plaintext=true":        "leaves it to whoever answers",
		"postgres://u:hunter2@localhost/shop?sslmode=allow":                                "leaves it to whoever answers",
		"postgres://u:hunter2@localhost/shop?sslmode=hunter2":                              "sslmode in the store URL is not known",
		"postgres://u:hunter2@localhost/shop?sslrootcert=ca.pem":                           "add sslmode=verify-full",
		"postgres://u:hunter2@localhost/shop?sslmode=verify-full&sslcert=a":                "go together",
		"postgres://u:hunter2@localhost/shop?sslmode=verify-full&sslrootcert=no/such/file": "no/such/file",
		"mysql://u:hunter2@db.example.com/shop":                                            "write tls=true",
		"mariadb://u:hunter2@10.0.0.1/shop?tls=false":                                      "tls=false&insecure-plaintext=true",
		"mysql://u:hunter2@10.0.0.1/shop?tls=skip-verify":                                  "add insecure-plaintext=true",
		"mysql://u:hunter2@localhost/shop?tls=skip-verify&ca=ca.pem":                       "write tls=true",
		"postgres://u:p@hunter2/wo?rd@localhost/shop":                                      "%3F",
		"postgres://u:p@hunter2/word#@localhost/shop":                                      "%23",
		"mysql://u:hunter2@localhost/shop?tls=preferred":                                   "leaves it to whoever answers",
		"mysql://u:hunter2@localhost/shop?tls=hunter2":                                     "can be true, false or skip-verify",
		"mysql://u:hunter2@localhost/shop?servername=hunter2":                              "add tls=true",
		"mysql://u:hunter2@localhost/shop?ca=ca.pem":                                       "add tls=true",
		"mysql://u:hunter2@localhost,localhost/shop":                                       "several hosts",
		"postgres:hunter2":                                  "postgres://USER",
		"postgres://hunter2/shop":                           "names a user",
		"postgres://:hunter2@localhost/shop":                "postgres://USER",
		"postgres://u:hunter2@localhost":                    "names a database",
		"postgres://u:hunter2/x@localhost/shop":             "%2F",
		"postgres://u:1@x/hunter2@localhost/shop":           "%2F",
		"postgres://u:hunter2%zz@localhost/shop":            "%XX",
		"postgres://u:1#hunter2@localhost/shop":             "%23",
		"postgres://u:hunter2@localhost:x/shop":             "host:port",
		"postgres://u:hunter2@,localhost/shop":              "no host",
		"postgres://u:hunter2@localhost/shop?pool=0":        "pool in the store URL",
		"postgres://u:hunter2@localhost/shop?pool=1001":     "1 to 1000",
		"postgres://u:hunter2@localhost/shop?pooler=yes":    "can only be true",
		"postgres://u:hunter2@localhost/shop?pool=":         "without a value",
		"postgres://u:hunter2@localhost/shop?pool=1&pool=2": "twice",
		"postgres://u:hunter2@localhost/shop?table=a-b":     "table name",
		"postgres://u:hunter2@localhost/shop?hunter2=1":     "known are sslmode",
		"mysql://u:hunter2@localhost/shop?sslmode=disable":  "known are tls",
	} {
		u, err := storeurl.Parse(in)
		if err == nil {
			t.Errorf("Parse(%q) = %v, want an error", in, u)
			continue
		}
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("Parse(%q) repeats a secret: %v", in, err)
		}
		if !strings.Contains(err.Error(), want) {
			t.Errorf("Parse(%q) = %v, want %q in it", in, err, want)
		}
	}
}

var tables atomic.Int64

// newTable returns the server's URL with a table that no other test has.
func newTable(s *testserver.Server) string {
	return fmt.Sprintf("%s&table=storeurl_%d", s.URL, tables.Add(1))
}

// prepared returns the store of a URL, set up.
func prepared(t *testing.T, rawURL string, opts storeurl.Options) *storeurl.Opened {
	t.Helper()
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	o, err := parse(t, rawURL).Open(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := o.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, err := o.Prepare(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	return o
}

// mustAnswer fails the test unless every call of the store reaches the server. The
// rules that the answers keep are tested with package sqlstore.
func mustAnswer(t *testing.T, st store.Store) {
	t.Helper()
	all := calls(st)
	if all["Sweep"] == nil {
		t.Error("the store does not sweep")
	}
	if _, ok := store.As[store.Watcher](st); ok {
		t.Error("the store says that it tells of changes")
	}
	for name, call := range all {
		if err := call(t.Context()); err != nil && !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEveryCallReachesTheDatabase(t *testing.T) {
	for _, kind := range sqlKinds {
		t.Run(kind, func(t *testing.T) {
			mustAnswer(t, prepared(t, newTable(testserver.Shared(t, kind)), storeurl.Options{}).Store)
		})
	}
}

// The URL says all: what the environment has for other programs does not count.
func TestEnvironmentDoesNotCount(t *testing.T) {
	u := newTable(testserver.Shared(t, "postgres"))
	for name, value := range map[string]string{
		"PGSERVICE": "nowhere", "PGHOST": "192.0.2.1", "PGPORT": "1", "PGUSER": "nobody", "PGPASSWORD": "wrong",
		"PGDATABASE": "nothing", "PGSSLMODE": "verify-full", "PGSSLROOTCERT": "/nowhere", "PGPASSFILE": "/nowhere",
		"PGTARGETSESSIONATTRS": "standby", "PGCONNECT_TIMEOUT": "x", "PGREQUIREAUTH": "none", "PGAPPNAME": "other", "PGOPTIONS": "-c search_path=nowhere",
	} {
		t.Setenv(name, value)
	}
	mustAnswer(t, prepared(t, u, storeurl.Options{}).Store)
}

// A server that is ready has connections: its first visitors must not wait for them.
func TestReadyServerHasConnections(t *testing.T) {
	for _, kind := range sqlKinds {
		t.Run(kind, func(t *testing.T) {
			for _, test := range []struct {
				query string
				opts  storeurl.Options
				want  int32
			}{
				{"", storeurl.Options{Patient: true}, 4},
				{"&pool=2", storeurl.Options{Patient: true}, 2},
				{"", storeurl.Options{}, 1}, // a command that looks at the store
			} {
				u := parse(t, newTable(testserver.Shared(t, kind))+test.query)
				server, err := u.Server()
				if err != nil {
					t.Fatal(err)
				}
				prepared(t, u.Raw(), storeurl.Options{}) // setting it up has a pool of its own
				on := newRelay(t, server)
				prepared(t, u.Via(on.port).Raw(), test.opts)
				if got := on.made.Load(); got != test.want {
					t.Errorf("%d connections with %q and %+v; want %d", got, test.query, test.opts, test.want)
				}
			}
		})
	}
}

// A server that freezes after the sign-in, as a machine does that is being moved, is one
// that is away.
func TestPatientServerNoticesADatabaseThatFreezes(t *testing.T) {
	for _, kind := range sqlKinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			u := parse(t, newTable(testserver.Shared(t, kind)))
			server, err := u.Server()
			if err != nil {
				t.Fatal(err)
			}
			on := newRelay(t, server)
			on.freezeAt("storeurl_") // the table
			log := new(lines)
			o, err := u.Via(on.port).Open(t.Context(), storeurl.Options{Create: true, Patient: true, Logger: slog.New(slog.NewTextHandler(log, nil))})
			if err != nil {
				t.Fatal(err)
			}
			defer o.Close()
			if _, err := o.Prepare(t.Context(), false); err != nil {
				t.Errorf("Prepare = %v: a worker that starts during an outage must serve", err)
			}
			if got := o.State().Breaker; got != "connecting" {
				t.Errorf("the circuit is %s", got)
			}
			if log.count("cannot be reached") != 1 {
				t.Error("nobody is told")
			}
			on.freezeAt("")
			await(t, "the store is connected", func() bool { return o.State().Breaker == "closed" })
			mustAnswer(t, o.Store)
		})
	}
}

// relay is a port that leads to a server.
type relay struct {
	port string
	made atomic.Int32 // connections

	mu     sync.Mutex
	freeze string
}

// freezeAt has each connection say nothing any more once the client's words contain text,
// unless it is "".
func (r *relay) freezeAt(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.freeze = text
}

func (r *relay) frozen(said []byte) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.freeze != "" && bytes.Contains(said, []byte(r.freeze))
}

func newRelay(t *testing.T, addr string) *relay {
	t.Helper()
	r := new(relay)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			client, err := ln.Accept()
			if err != nil {
				return
			}
			r.made.Add(1)
			go func() {
				defer client.Close()
				server, err := net.Dial("tcp", addr)
				if err != nil {
					return
				}
				defer server.Close()
				go func() { _, _ = io.Copy(client, server) }()
				buf := make([]byte, 64<<10)
				for frozen := false; ; {
					n, err := client.Read(buf)
					if err != nil {
						return
					}
					if frozen = frozen || r.frozen(buf[:n]); !frozen {
						_, _ = server.Write(buf[:n])
					}
				}
			}()
		}
	}()
	_, r.port, _ = net.SplitHostPort(ln.Addr().String())
	return r
}

func TestSQLIsSetUpByManyAtOnce(t *testing.T) {
	for _, kind := range sqlKinds {
		t.Run(kind, func(t *testing.T) {
			u := newTable(testserver.Shared(t, kind)) + "&pool=1"
			o, err := parse(t, u).Open(t.Context(), storeurl.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer o.Close()
			if _, err := o.Prepare(t.Context(), true); err == nil || !strings.Contains(err.Error(), "coatcheck schema apply") {
				t.Errorf("Prepare of a server without the table: %v; want what makes it", err)
			}
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() {
					o, err := parse(t, u).Open(t.Context(), storeurl.Options{})
					if err != nil {
						t.Error(err)
						return
					}
					defer o.Close()
					if _, err := o.Prepare(t.Context(), false); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if migrated, err := o.Prepare(t.Context(), true); err != nil || migrated {
				t.Errorf("Prepare of what is set up = %t, %v", migrated, err)
			}
			if got, want := o.State(), (storeurl.State{Topology: kind, Breaker: "closed", NearCache: "off"}); got != want {
				t.Errorf("State = %+v, want %+v", got, want)
			}
		})
	}
}

// A worker that starts during an outage serves, and sets up what it finds then.
func TestPatientServerWaitsForItsDatabase(t *testing.T) {
	for _, kind := range sqlKinds {
		t.Run(kind, func(t *testing.T) {
			s := testserver.Start(t, kind, nil)
			u := parse(t, s.URL)
			s.Kill(t, "node-1")
			if o, err := u.Open(t.Context(), storeurl.Options{}); err == nil {
				o.Close()
				t.Error("a store that is away was opened by somebody without patience")
			} else if !strings.Contains(err.Error(), u.String()) || !strings.Contains(err.Error(), "connection refused") {
				t.Errorf("Open = %v, and does not say which store, and why", err)
			}
			log := new(lines)
			o, err := u.Open(t.Context(), storeurl.Options{Create: true, Patient: true, NearCache: true, Logger: slog.New(slog.NewTextHandler(log, nil))})
			if err != nil {
				t.Fatal(err)
			}
			defer o.Close()
			if _, err := o.Prepare(t.Context(), false); err != nil {
				t.Errorf("Prepare = %v: a worker that starts during an outage must serve", err)
			}
			for name, call := range calls(o.Store) {
				if err := call(t.Context()); !errors.Is(err, store.ErrNotAsked) {
					t.Errorf("%s = %v without a connection: the store was not asked", name, err)
				}
			}
			if got, want := o.State(), (storeurl.State{Topology: kind, Breaker: "connecting", NearCache: "timed"}); got != want {
				t.Errorf("State = %+v, want %+v", got, want)
			}
			// Whoever may not set it up waits for who may.
			waiting, err := u.Open(t.Context(), storeurl.Options{Patient: true, Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			defer waiting.Close()
			s.Restart(t, "node-1")
			for _, o := range []*storeurl.Opened{o, waiting} {
				await(t, "a read after the store came back", func() bool {
					_, err := o.Store.Get(t.Context(), store.Key{1})
					return errors.Is(err, store.ErrNotFound)
				})
			}
			if log.count("is connected") != 1 || log.count("set up the session store") != 1 {
				t.Errorf("want that the connection and the set-up were told once:\n%s", log.b.String())
			}

			// From now on the pool mends itself.
			get := func() error { _, err := o.Store.Get(t.Context(), store.Key{2}); return err }
			s.Kill(t, "node-1")
			await(t, "the circuit opens", func() bool { _ = get(); return o.State().Breaker == "open" })
			if n := log.count("the circuit is open"); n != 1 {
				t.Errorf("the outage was told %d times:\n%s", n, log.b.String())
			}
			s.Restart(t, "node-1")
			await(t, "a read after the restart", func() bool { return errors.Is(get(), store.ErrNotFound) })
			if got := o.State().Breaker; got != "closed" {
				t.Errorf("the breaker of a store that answers is %s", got)
			}
		})
	}
}

// Who is told to end while it connects has not found an outage.
func TestEndWhileConnectingIsNoOutage(t *testing.T) {
	s := testserver.Shared(t, "postgres")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	log := new(lines)
	o, err := parse(t, s.URL).Open(ctx, storeurl.Options{Patient: true, Logger: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Close(); err != nil {
		t.Error(err)
	}
	if log.count("cannot be reached") != 0 {
		t.Errorf("an outage was told:\n%s", log.b.String())
	}
}

// as returns the URL with another user.
func as(t *testing.T, rawURL, user, password string) string {
	t.Helper()
	u, err := url.Parse(rawURL)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(user, password)
	return u.String()
}

// mustFailToStart fails the test unless who opens the store is told each of the
// reasons, and no password.
func mustFailToStart(t *testing.T, rawURL string, reasons ...string) {
	t.Helper()
	u := parse(t, rawURL)
	o, err := u.Open(t.Context(), storeurl.Options{Logger: slog.New(slog.DiscardHandler)})
	if err == nil {
		_, err = o.Prepare(t.Context(), false)
		o.Close()
	}
	if err == nil {
		t.Errorf("%v opens, want an error that says %q", u, reasons)
		return
	}
	for _, reason := range reasons {
		if !strings.Contains(err.Error(), reason) {
			t.Errorf("%v: %v; want that it says %q", u, err, reason)
		}
	}
	parsed, _ := url.Parse(rawURL)
	if password, _ := parsed.User.Password(); strings.Contains(err.Error(), password) || strings.Contains(err.Error(), "\n") {
		t.Errorf("%v: the error shows a password, or has several lines: %v", u, err)
	}
}

// exec runs SQL as the administrator.
func exec(t *testing.T, s *testserver.Server, statements ...string) {
	t.Helper()
	driver, dsn := "pgx", s.AdminURL
	if !strings.HasPrefix(dsn, "postgres") {
		u, err := url.Parse(dsn)
		if err != nil {
			t.Fatal(err)
		}
		c := mysql.NewConfig()
		c.Net, c.Addr, c.DBName = "tcp", u.Host, strings.Trim(u.Path, "/")
		c.User = u.User.Username()
		c.Passwd, _ = u.User.Password()
		driver, dsn = "mysql", c.FormatDSN()
	}
	db, err := sql.Open(driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, statement := range statements {
		if _, err := db.ExecContext(context.Background(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
}

func TestDatabaseThatCannotBeUsedIsFoundAtTheStart(t *testing.T) {
	const password = "hunter2-hunter2"
	for _, tt := range []struct {
		kind, account, create      string
		wrongPassword, noDatabase  []string
		noRights, mayNotMakeTables []string
	}{
		{
			kind: "postgres", account: "reader",
			wrongPassword:    []string{"password authentication failed", "look at the user and the password"},
			noDatabase:       []string{`database "nowhere" does not exist`, "create the database"},
			mayNotMakeTables: []string{"permission denied for schema", "coatcheck schema apply"},
			noRights:         []string{`lacks the right of INSERT`, "coatcheck schema print --role ROLE"},
			create:           "CREATE ROLE reader LOGIN PASSWORD '" + password + "'",
		},
		{
			kind: "mariadb", account: "'reader'@'%'",
			wrongPassword:    []string{"Access denied for user", "look at the user and the password"},
			noDatabase:       []string{"nowhere", "GRANT the user rights in this database"},
			mayNotMakeTables: []string{"CREATE command denied", "coatcheck schema apply"},
			noRights:         []string{"INSERT", "command denied", "coatcheck schema print --role ROLE"},
			create:           "CREATE USER 'reader'@'%' IDENTIFIED BY '" + password + "'",
		},
	} {
		t.Run(tt.kind, func(t *testing.T) {
			s := testserver.Shared(t, tt.kind)
			mustFailToStart(t, as(t, s.URL, "coatcheck", password), tt.wrongPassword...)
			mustFailToStart(t, strings.Replace(s.URL, "/coatcheck?", "/nowhere?", 1), tt.noDatabase...)

			u := newTable(s)
			prepared(t, u, storeurl.Options{})
			schema, err := parse(t, u).Schema(tt.account)
			if err != nil {
				t.Fatal(err)
			}
			exec(t, s, tt.create)
			t.Cleanup(func() {
				if tt.kind == "postgres" {
					exec(t, s, "DROP OWNED BY reader")
				}
				exec(t, s, "DROP USER "+tt.account)
			})
			for _, grant := range schema.Grants {
				exec(t, s, strings.ReplaceAll(grant, "SELECT, INSERT, UPDATE, DELETE", "SELECT, UPDATE, DELETE"))
			}
			reader := as(t, u, "reader", password)
			mustFailToStart(t, reader, tt.noRights...)
			for _, grant := range schema.Grants {
				exec(t, s, grant)
			}
			prepared(t, reader, storeurl.Options{}) // with no right that Grants does not give
			mustFailToStart(t, as(t, newTable(s), "reader", password), tt.mayNotMakeTables...)
		})
	}
}

// Each thing that can be wrong about TLS is told apart.
func TestSQLOverTLS(t *testing.T) {
	for kind, want := range map[string]struct{ stranger, noCertificate, expired, off, offTold string }{
		// Go's client has no certificate for a server that names another authority.
		"postgres-tls": {"valid client certificate", "valid client certificate", "ssl_cert_file = '../tls/expired-server.pem'|ssl_key_file = '../tls/expired-server-key.pem'", "sslmode=disable", "no encryption"},
		"mariadb-tls":  {"client's certificate", "client's certificate", "ssl_cert=../tls/expired-server.pem|ssl_key=../tls/expired-server-key.pem", "tls=false", "tls=true"},
	} {
		t.Run(kind, func(t *testing.T) {
			s := testserver.Shared(t, kind)
			o := prepared(t, s.URL, storeurl.Options{})
			findings, err := o.Inspect(t.Context())
			if err != nil || len(findings) == 0 || findings[0].Check != "tls" || findings[0].Severity != store.SeverityOK {
				t.Errorf("the connection is not encrypted: %v, %v", findings, err)
			}
			replaced := func(pairs ...string) string { return strings.NewReplacer(pairs...).Replace(s.URL) }
			mustFailToStart(t, replaced(s.TLS.CA, s.TLS.OtherCA), "authority that is not trusted here")
			mustFailToStart(t, replaced(s.TLS.Cert, s.TLS.OtherCert, s.TLS.Key, s.TLS.OtherKey), want.stranger)
			mustFailToStart(t, replaced(s.TLS.Cert, s.TLS.ExpiredCert, s.TLS.Key, s.TLS.ExpiredKey), "refuses the client's certificate")
			base, query, _ := strings.Cut(s.URL, "?")
			upToCA, _, _ := strings.Cut(query, s.TLS.CA)
			mustFailToStart(t, base+"?"+upToCA+s.TLS.CA, want.noCertificate)
			mustFailToStart(t, base+"?"+want.off, want.offTold)
			if kind == "postgres-tls" {
				require := strings.NewReplacer("sslmode=verify-full", "sslmode=require", s.TLS.CA, s.TLS.OtherCA).Replace(s.URL)
				mustFailToStart(t, require, "authority that is not trusted here")
			}

			expired := testserver.Start(t, kind, &testserver.Options{Config: strings.Split(want.expired, "|")})
			mustFailToStart(t, expired.URL, "server's certificate has expired")
		})
	}
}

func TestServerWithoutTLSIsTold(t *testing.T) {
	postgres, mariadb := testserver.Shared(t, "postgres"), testserver.Shared(t, "mariadb")
	mustFailToStart(t, strings.Replace(postgres.URL, "sslmode=disable", "sslmode=verify-full", 1), "does not speak TLS")
	mustFailToStart(t, strings.Replace(mariadb.URL, "tls=false", "tls=true", 1), "does not speak TLS")
}

func TestPoolerIsTold(t *testing.T) {
	s := testserver.Shared(t, "pgbouncer")
	mustFailToStart(t, newTable(s), "pooler=true")
	o := prepared(t, newTable(s)+"&pooler=true", storeurl.Options{})
	mustAnswer(t, o.Store)
}

// Of several hosts the one that takes writes is found, whichever comes first.
func TestPrimaryIsFound(t *testing.T) {
	s := testserver.Shared(t, "postgres-replica")
	replica := strings.Replace(s.URL, s.Nodes[0].Addr, s.Nodes[1].Addr, 1)
	mustFailToStart(t, replica, "standby")
	o := prepared(t, strings.Replace(newTable(s), s.Nodes[0].Addr, s.Nodes[1].Addr+","+s.Nodes[0].Addr, 1), storeurl.Options{})
	if err := o.Store.Create(t.Context(), store.Key{1}, record(time.Now())); err != nil {
		t.Error(err)
	}
}

// Of several hosts one that says nothing, or has vanished, leaves time for the next.
func TestHostThatSaysNothingIsPassedOver(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	s := testserver.Shared(t, "postgres")
	u := parse(t, newTable(s))
	addr, err := u.Server()
	if err != nil {
		t.Fatal(err)
	}
	mustAnswer(t, prepared(t, strings.Replace(u.Raw(), addr, ln.Addr().String()+","+addr, 1)+"&pool=1", storeurl.Options{}).Store)
}

// A server that takes connections and says nothing costs whoever opens the store
// no more than a few seconds.
func TestServerThatSaysNothingIsGivenUp(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for _, format := range []string{"postgres://u:hunter2@%s/shop", "mysql://u:hunter2@%s/shop"} {
		mustFailToStart(t, fmt.Sprintf(format, ln.Addr()), "cannot be used", "takes connections and says nothing")
	}
}

// A server of another kind is not taken for one that is broken.
func TestServerOfAnotherKind(t *testing.T) {
	at := func(kind string) string { return testserver.Shared(t, kind).Nodes[0].Addr }
	mustFailToStart(t, "postgres://u:hunter2@"+at("mariadb")+"/shop", "no PostgreSQL", "mariadb://")
	mustFailToStart(t, "mariadb://u:hunter2@"+at("postgres")+"/shop", "no MySQL or MariaDB", "postgres://")
}

// Who stops does not wait for a server that hangs, however many connections there are.
func TestCloseOfAHangingServerEnds(t *testing.T) {
	for _, kind := range sqlKinds {
		t.Run(kind, func(t *testing.T) {
			s := testserver.Start(t, kind, nil)
			o := prepared(t, s.URL, storeurl.Options{})
			var wg sync.WaitGroup
			for range 64 {
				wg.Go(func() {
					_, err := o.Store.Get(t.Context(), store.Key{1})
					if !errors.Is(err, store.ErrNotFound) && !errors.Is(err, context.DeadlineExceeded) { // which a busy machine exceeds
						t.Error(err)
					}
				})
			}
			wg.Wait()
			s.Freeze(t, "node-1")
			closed := make(chan error)
			go func() { closed <- o.Close() }()
			select {
			case err := <-closed:
				if err != nil {
					t.Errorf("Close = %v", err)
				}
			case <-time.After(30 * time.Second): // pgx needs more than a minute
				t.Error("Close still waits for a server that hangs")
			}
		})
	}
}

// What is wrong while servers serve is told in the words of the command, too.
func TestServingErrorsAreInOurWords(t *testing.T) {
	for _, kind := range sqlKinds {
		t.Run(kind, func(t *testing.T) {
			s := testserver.Shared(t, kind)
			u := newTable(s)
			o := prepared(t, u, storeurl.Options{})
			parsed, err := url.Parse(u)
			if err != nil {
				t.Fatal(err)
			}
			exec(t, s, "DROP TABLE "+parsed.Query().Get("table"))
			for name, call := range calls(o.Store) {
				if err := call(t.Context()); err == nil || !strings.Contains(err.Error(), "coatcheck schema apply") {
					t.Errorf("without the table, %s says %v; want that it says what to do", name, err)
				}
			}
		})
	}
}

// A file that is missing is not made by who only looks.
func TestMissingFileIsToldWithoutFlagsOfOthers(t *testing.T) {
	_, err := parse(t, "sqlite:"+filepath.Join(t.TempDir(), "none.db")).Open(t.Context(), storeurl.Options{})
	if err == nil || strings.Contains(err.Error(), "--no-migrate") || !strings.Contains(err.Error(), "coatcheck schema apply") {
		t.Errorf("Open of a missing file says %v", err)
	}
}
