package integration

import (
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/coatcheck/coatcheck/internal/testserver"
	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/sqlstore"
)

func sqlInspect(t *testing.T, s *sqlstore.Store) map[string]store.Finding {
	t.Helper()
	list, err := s.Inspect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]store.Finding{}
	for _, f := range list {
		found[f.Check] = f
	}
	return found
}

// tlsParams are the driver's parameters for a server of TLS.
func (srv sqlServer) tlsParams(t *testing.T) map[string]string {
	t.Helper()
	if srv.driver == "pgx" {
		return map[string]string{"sslmode": "verify-full", "sslrootcert": srv.TLS.CA, "sslcert": srv.TLS.Cert, "sslkey": srv.TLS.Key}
	}
	pem, err := os.ReadFile(srv.TLS.CA)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	cert, err := tls.LoadX509KeyPair(srv.TLS.Cert, srv.TLS.Key)
	if err != nil {
		t.Fatal(err)
	}
	if err := mysql.RegisterTLSConfig(srv.Kind, &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{cert}}); err != nil {
		t.Fatal(err)
	}
	return map[string]string{"tls": srv.Kind}
}

// TestSQLInspectFindsWhatIsWrong: of a server that is set up for tests, as its
// owner.
func TestSQLInspectFindsWhatIsWrong(t *testing.T) {
	notShort(t)
	t.Parallel()
	for kind, c := range map[string]struct {
		config []string
		params map[string]string
		want   string
	}{
		"postgres": {
			[]string{"fsync = off"},
			map[string]string{"default_transaction_read_only": "on"},
			"tls warning, privileges warning, read-only critical, durability critical, sweep ok, clock ok, version ok",
		},
		"mariadb": {
			[]string{"innodb_flush_log_at_trx_commit = 2", "read_only = 1", "sql_mode = ''"},
			nil,
			"tls warning, privileges warning, read-only critical, durability warning, sql-mode warning, sweep unknown, clock ok, version ok",
		},
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			srv := sqlFrom(testserver.Start(t, kind, &testserver.Options{Config: c.config}))
			s := sqlNew(t, srv.open(t, srv.URL, c.params), srv.dialect, sqlstore.Options{})
			if kind == "postgres" {
				mentions(t, "Migrate", sqlNew(t, srv.open(t, srv.URL, nil), srv.dialect, sqlstore.Options{}).Migrate(t.Context()), "")
			}
			redisFindings(t, sqlInspect(t, s), c.want)
		})
	}
}

// TestSQLInspectAWellConfiguredServer: over TLS and with the fewest rights nothing
// is worse than ok, and no finding shows the password.
func TestSQLInspectAWellConfiguredServer(t *testing.T) {
	notShort(t)
	t.Parallel()
	for kind, c := range map[string]struct {
		config []string
		want   string
	}{
		"postgres-tls": {[]string{"fsync = on"}, "tls ok, privileges ok, read-only ok, durability ok, sweep ok, clock ok, version ok"},
		"mariadb-tls":  {[]string{"innodb_flush_log_at_trx_commit = 1", "innodb_doublewrite = 1"}, "tls ok, privileges ok, read-only ok, durability ok, sql-mode ok, sweep ok, clock ok, version ok"},
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			srv := sqlFrom(testserver.Start(t, kind, &testserver.Options{Config: c.config}))
			params := srv.tlsParams(t)
			admin := srv.open(t, srv.AdminURL, params)
			maker := sqlNew(t, admin, srv.dialect, sqlstore.Options{})
			if err := maker.Migrate(t.Context()); err != nil {
				t.Fatal(err)
			}
			password, account := sqlPassword(), "app"
			if srv.driver == "pgx" {
				mustExec(t, admin, `CREATE ROLE app LOGIN PASSWORD '`+password+`'`)
			} else {
				account = `'app'@'%'`
				mustExec(t, admin, `CREATE USER `+account+` IDENTIFIED BY '`+password+`' REQUIRE X509`)
			}
			for _, grant := range maker.Grants(account) {
				mustExec(t, admin, grant)
			}
			app := srv.open(t, srv.url(t, func(u *url.URL) { u.User = url.UserPassword("app", password) }), params)
			found := sqlInspect(t, sqlNew(t, app, srv.dialect, sqlstore.Options{}))
			redisFindings(t, found, c.want)
			for _, f := range found {
				if strings.Contains(f.Evidence+f.Fix, password) {
					t.Errorf("%s shows the password", f.Check)
				}
			}
		})
	}
}

// TestPostgreSQLStandby: a standby answers reads, which may be old; Verify,
// Inspect and every write refuse it.
func TestPostgreSQLStandby(t *testing.T) {
	notShort(t)
	t.Parallel()
	srv := sqlShared(t, "postgres-replica")
	_, table, _ := srv.store(t)
	for _, n := range srv.Nodes {
		if n.Role != "replica" {
			continue
		}
		standby := srv.open(t, srv.url(t, func(u *url.URL) { u.Host = n.Addr }), nil)
		await := `SELECT count(*) FROM pg_class WHERE relname = '` + table + `_schema'`
		for there := 0; there == 0; {
			if err := standby.QueryRow(await).Scan(&there); err != nil {
				t.Fatal(err)
			}
		}
		s := sqlNew(t, standby, srv.dialect, sqlstore.Options{Table: table})
		r := numberedSession(1)
		sqlRefused(t, "Create", s.Create(t.Context(), numberedKey(1), r), "the primary")
		sqlRefused(t, "Touch", s.Touch(t.Context(), numberedKey(1), r.Expires), "the primary")
		_, err := s.DeleteOwner(t.Context(), r.Owner)
		sqlRefused(t, "DeleteOwner", err, "the primary")
		mentions(t, "Verify", s.Verify(t.Context()), "the primary")
		if f := sqlInspect(t, s)["read-only"]; f.Severity != store.SeverityCritical {
			t.Errorf("read-only is %v (%s); want critical", f.Severity, f.Evidence)
		}
		return
	}
	t.Fatal("there is no standby")
}

// TestPostgreSQLPgBouncer: every rule through a pooler that gives each transaction
// another connection, and knows no prepared statements.
func TestPostgreSQLPgBouncer(t *testing.T) {
	notShort(t)
	t.Parallel()
	srv := sqlShared(t, "pgbouncer")
	sqlRun(t, map[string]sqlSetup{
		"pooled": {srv: srv, params: map[string]string{"default_query_exec_mode": "exec"}, opts: sqlstore.Options{Unprepared: true}},
	})
}

// TestSQLInspectFindsWhatNobodySweeps: what has expired long ago and is still there.
func TestSQLInspectFindsWhatNobodySweeps(t *testing.T) {
	check := func(t *testing.T, db *sql.DB, s *sqlstore.Store, set string) {
		t.Helper()
		if err := s.Create(t.Context(), numberedKey(1), numberedSession(1)); err != nil {
			t.Fatal(err)
		}
		if f := sqlInspect(t, s)["sweep"]; f.Severity != store.SeverityOK {
			t.Errorf("with a session that lives: %+v; want ok", f)
		}
		mustExec(t, db, strings.ReplaceAll(set, "?", strconv.FormatInt(time.Now().Add(-time.Hour).UnixMilli(), 10)))
		if f := sqlInspect(t, s)["sweep"]; f.Severity != store.SeverityWarning || !strings.Contains(f.Evidence, "up to 1h0m0s") {
			t.Errorf("with one that ended an hour ago: %+v; want a warning", f)
		}
		if n, err := s.Sweep(t.Context(), 10); n != 1 || err != nil {
			t.Errorf("Sweep: %d, %v; want 1", n, err)
		}
		if f := sqlInspect(t, s)["sweep"]; f.Severity != store.SeverityOK {
			t.Errorf("after sweeping: %+v; want ok", f)
		}
	}
	t.Run("sqlite", func(t *testing.T) {
		db, s := sqliteStore(t, filepath.Join(t.TempDir(), "s.db"))
		check(t, db, s, `UPDATE coatcheck_sessions SET expires = ?`)
	})
	t.Run("servers", func(t *testing.T) {
		sqlEach(t, func(t *testing.T, srv sqlServer) {
			db, table := srv.open(t, srv.URL, nil), sqlTable()
			s := sqlNew(t, db, srv.dialect, sqlstore.Options{Table: table})
			if err := s.Migrate(t.Context()); err != nil {
				t.Fatal(err)
			}
			check(t, db, s, `UPDATE `+table+` SET expires = ?, sweep_after = ?`)
		})
	})
}
