package integration

import (
	"errors"
	"net/url"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/internal/testserver"
	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/sqlstore"
)

// mysqlUser makes a user who may do nothing, and returns the account and the URL
// that it signs in with.
func mysqlUser(t *testing.T, srv sqlServer, name string) (account, rawURL string) {
	t.Helper()
	password := sqlPassword()
	account = `'` + name + `'@'%'`
	admin := srv.admin(t)
	owner, _ := url.Parse(srv.URL) // who gives it what it needs
	mustExec(t, admin, `GRANT ALL ON coatcheck.* TO '`+owner.User.Username()+`'@'%' WITH GRANT OPTION`)
	mustExec(t, admin, `CREATE USER `+account+` IDENTIFIED BY '`+password+`'`)
	t.Cleanup(func() { mustExec(t, admin, `DROP USER `+account) })
	return account, srv.url(t, func(u *url.URL) { u.User = url.UserPassword(name, password) })
}

// mysqlElsewhere makes a second database.
func mysqlElsewhere(t *testing.T, srv sqlServer) {
	t.Helper()
	admin := srv.admin(t)
	owner, _ := url.Parse(srv.URL)
	mustExec(t, admin, `CREATE DATABASE IF NOT EXISTS elsewhere`)
	mustExec(t, admin, `GRANT ALL ON elsewhere.* TO '`+owner.User.Username()+`'@'%' WITH GRANT OPTION`)
}

// TestMariaDB: every rule, with the defaults, and with the fewest rights in another
// database, nothing prepared, whichever rows the server counts and whatever it does about
// values that do not fit.
func TestMariaDB(t *testing.T) {
	t.Parallel()
	srv := sqlShared(t, "mariadb")
	user, userURL := mysqlUser(t, srv, "app")
	mysqlElsewhere(t, srv)
	u, err := url.Parse(userURL)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" // no database: every statement names the one that it is about
	sqlRun(t, map[string]sqlSetup{
		"default": {srv: srv},
		"least rights": {
			srv: srv, user: user, url: u.String(),
			params: map[string]string{"clientFoundRows": "true", "sql_mode": "''", "interpolateParams": "true"},
			opts:   sqlstore.Options{Schema: "elsewhere", Unprepared: true},
		},
	})
}

// TestMySQL: what is the driver's is tested with MariaDB, and the fewest rights
// in TestSoakMySQLSettings.
func TestMySQL(t *testing.T) {
	t.Parallel()
	notShort(t)
	srv := sqlShared(t, "mysql")
	sqlRun(t, map[string]sqlSetup{"default": {srv: srv}})
}

// TestSoakMySQLSettings: every rule, in each isolation, without prepared statements,
// and in another database.
func TestSoakMySQLSettings(t *testing.T) {
	soak(t)
	for kind, isolation := range map[string]string{"mariadb": "tx_isolation", "mysql": "transaction_isolation"} {
		t.Run(kind, func(t *testing.T) {
			srv := sqlShared(t, kind)
			mysqlElsewhere(t, srv)
			user, userURL := mysqlUser(t, srv, "app")
			sqlRun(t, map[string]sqlSetup{
				"least rights":   {srv: srv, user: user, url: userURL},
				"found rows":     {srv: srv, params: map[string]string{"clientFoundRows": "true"}},
				"not strict":     {srv: srv, params: map[string]string{"sql_mode": "''"}},
				"read committed": {srv: srv, params: map[string]string{isolation: "'READ-COMMITTED'"}},
				"serializable":   {srv: srv, params: map[string]string{isolation: "'SERIALIZABLE'"}},
				"unprepared":     {srv: srv, params: map[string]string{"interpolateParams": "true"}, opts: sqlstore.Options{Unprepared: true}},
				"schema":         {srv: srv, opts: sqlstore.Options{Schema: "elsewhere"}},
			})
		})
	}
}

// TestMariaDBPacketTooLarge: a record over the server's own limit is refused as
// such, and leaves what is there alone. The server answers and closes the connection
// while the record is still being sent: where the driver sees that first, the
// outcome is open.
func TestMariaDBPacketTooLarge(t *testing.T) {
	notShort(t)
	t.Parallel()
	srv := sqlFrom(testserver.Start(t, "mariadb", &testserver.Options{Config: []string{"max_allowed_packet = 1M"}}))
	s, _, _ := srv.store(t)
	k, r := numberedKey(1), numberedSession(1).Truncate()
	if err := s.Create(t.Context(), k, r); err != nil {
		t.Fatal(err)
	}
	large := r
	large.Version++
	large.Data = make([]byte, 2<<20)
	for name, write := range map[string]func() error{
		"Create":  func() error { return s.Create(t.Context(), numberedKey(2), large) },
		"Replace": func() error { return s.Replace(t.Context(), k, r.Version, large) },
	} {
		if err := write(); !errors.Is(err, store.ErrTooLarge) && !errors.Is(err, store.ErrAmbiguous) {
			t.Errorf("%s of a record over the server's limit: %v; want store.ErrTooLarge, or store.ErrAmbiguous", name, err)
		}
	}
	if got, err := s.Get(t.Context(), k); err != nil || got.Version != r.Version {
		t.Errorf("after that: version %d, %v; want %d", got.Version, err, r.Version)
	}
}

// TestMariaDBInterruptedStatements: MariaDB answers to some statements that it ends early
// with success and no row. None of them is a conflict, an absence, or a deletion of
// nothing.
func TestMariaDBInterruptedStatements(t *testing.T) {
	notShort(t)
	t.Parallel()
	srv := sqlShared(t, "mariadb")
	table := sqlTable()
	calm := sqlNew(t, srv.open(t, srv.URL, nil), srv.dialect, sqlstore.Options{Table: table})
	if err := calm.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	ended, answers := 0, 0
	for _, limit := range []string{"0.0001", "0.0002", "0.0004", "0.0008"} { // seconds
		s := sqlNew(t, srv.open(t, srv.URL, map[string]string{"max_statement_time": limit}), srv.dialect, sqlstore.Options{Table: table})
		for i, began := 0, time.Now(); time.Since(began) < 2*time.Second; i++ {
			k, r := numberedKey(i), numberedSession(i)
			if err := calm.Create(t.Context(), k, r); err != nil {
				t.Fatal(err)
			}
			next := r
			next.Version++
			for name, call := range map[string]func() error{
				"Touch":   func() error { return s.Touch(t.Context(), k, r.Expires.Add(time.Minute)) },
				"Replace": func() error { return s.Replace(t.Context(), k, r.Version, next) },
			} {
				switch err := call(); {
				case err == nil:
					answers++
				case errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrConflict):
					t.Fatalf("%s of a session that is there, after %d statements that were ended: %v", name, ended, err)
				default:
					ended++
				}
			}
			existed, err := s.Delete(t.Context(), k)
			if err == nil && !existed {
				t.Fatalf("Delete says that there was no session, after %d statements that were ended", ended)
			}
			if err == nil {
				answers++
				continue
			}
			ended++
			if _, err := calm.Delete(t.Context(), k); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Logf("%d answers, and %d statements that were ended", answers, ended)
	if answers == 0 || ended == 0 {
		t.Error("want both: this shows nothing")
	}
}

// TestMariaDBThatIsNotReadOnlyAnyMore: connections that were made while the server took
// no writes, or to one that takes none, are given up by who writes.
func TestMariaDBThatIsNotReadOnlyAnyMore(t *testing.T) {
	notShort(t)
	t.Parallel()
	srv := sqlFrom(testserver.Start(t, "mariadb", nil))
	admin := srv.open(t, srv.AdminURL, nil)
	db := srv.open(t, srv.URL, nil)
	db.SetMaxIdleConns(4)
	s := sqlNew(t, db, srv.dialect, sqlstore.Options{Table: sqlTable()})
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	k, r := numberedKey(1), numberedSession(1)
	if err := s.Create(t.Context(), k, r); err != nil {
		t.Fatal(err)
	}
	mustExec(t, admin, `SET GLOBAL tx_read_only = 1`) // of connections to come
	db.SetMaxIdleConns(0)
	db.SetMaxIdleConns(4)
	sqlRefused(t, "Touch", s.Touch(t.Context(), k, r.Expires.Add(time.Minute)), "the primary")
	mustExec(t, admin, `SET GLOBAL tx_read_only = 0`)
	redisEventually(t, "a write that succeeds", func() bool { return s.Touch(t.Context(), k, r.Expires.Add(2*time.Minute)) == nil })
}
