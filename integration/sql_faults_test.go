package integration

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/internal/testserver"
	coat "github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/sqlstore"
)

// sqlEach runs f on each kind of server, at the same time.
func sqlEach(t *testing.T, f func(t *testing.T, srv sqlServer)) {
	t.Parallel()
	for _, kind := range []string{"postgres", "mariadb", "mysql"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			f(t, sqlShared(t, kind))
		})
	}
}

// quoted is an identifier in the words of the server.
func (srv sqlServer) quoted(name string) string {
	if srv.driver == "mysql" {
		return "`" + name + "`"
	}
	return `"` + name + `"`
}

// hold locks the row under k until release, as another transaction does.
func (srv sqlServer) hold(t *testing.T, db *sql.DB, table string, k store.Key) (release func()) {
	t.Helper()
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	query := "SELECT version FROM " + srv.quoted(table) + " WHERE " + srv.quoted("key") + " = ? FOR UPDATE"
	if srv.driver == "pgx" {
		query = strings.Replace(query, "?", "$1", 1)
	}
	var version int64
	if err := tx.QueryRow(query, k[:]).Scan(&version); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if err := tx.Rollback(); err != nil {
			t.Fatal(err)
		}
	}
}

// waiting returns the server's number of the connection whose statement on the
// table waits for a lock, once there is one.
func (srv sqlServer) waiting(t *testing.T, admin *sql.DB, table string) (id int64) {
	t.Helper()
	query := `SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%"` + table + `"%'`
	switch srv.Kind {
	case "mariadb":
		query = "SELECT trx_mysql_thread_id FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT' AND trx_query LIKE '%`" + table + "`%'"
	case "mysql":
		query = "SELECT t.processlist_id FROM performance_schema.data_locks l JOIN performance_schema.threads t USING (thread_id) " +
			"WHERE l.lock_status = 'WAITING' AND l.object_name = '" + table + "'"
	}
	for end := time.Now().Add(time.Minute); ; {
		// MariaDB shows what it showed before to who asks again within 100 ms.
		time.Sleep(150 * time.Millisecond)
		err := admin.QueryRow(query).Scan(&id)
		switch {
		case err == nil:
			return id
		case !errors.Is(err, sql.ErrNoRows):
			t.Fatal(err)
		case time.Now().After(end):
			t.Fatal("no statement waits for a lock")
		}
	}
}

// sqlRefused checks an error that says what to do, and that nothing was changed.
func sqlRefused(t *testing.T, what string, err error, advice string) {
	t.Helper()
	mentions(t, what, err, advice)
	for _, is := range []error{store.ErrAmbiguous, store.ErrNotFound, store.ErrConflict} {
		if errors.Is(err, is) {
			t.Errorf("%s: %v matches %q; want an error that is none of the contract's", what, err, is)
		}
	}
}

// TestSQLSameAgain: a write of what is there already is a success, whichever rows
// the server counts.
func TestSQLSameAgain(t *testing.T) {
	sqlEach(t, func(t *testing.T, srv sqlServer) {
		for _, found := range []string{"false", "true"} {
			params := map[string]string{"clientFoundRows": found}
			if srv.driver == "pgx" {
				params = nil
			}
			s := sqlNew(t, srv.open(t, srv.URL, params), srv.dialect, sqlstore.Options{Table: sqlTable()})
			if err := s.Migrate(t.Context()); err != nil {
				t.Fatal(err)
			}
			k, r := numberedKey(1), numberedSession(1).Truncate()
			for name, write := range map[string]func() error{
				"Replace":          func() error { return s.Replace(t.Context(), k, r.Version, r) },
				"Touch":            func() error { return s.Touch(t.Context(), k, r.Expires) },
				"an earlier Touch": func() error { return s.Touch(t.Context(), k, r.Expires.Add(-time.Minute)) },
			} {
				_, _ = s.Delete(t.Context(), k)
				if err := s.Create(t.Context(), k, r); err != nil {
					t.Fatal(err)
				}
				for range 3 {
					if err := write(); err != nil {
						t.Errorf("clientFoundRows=%s: %s of what is there: %v; want success", found, name, err)
					}
				}
				if err := s.Create(t.Context(), k, r); !errors.Is(err, store.ErrConflict) {
					t.Errorf("clientFoundRows=%s: Create of what is there: %v; want store.ErrConflict", found, err)
				}
			}
		}
	})
}

// TestSQLRevokeBehindALock: a session that is created while the revocation waits
// for another one's row is ended, too. A single DELETE of PostgreSQL misses it.
func TestSQLRevokeBehindALock(t *testing.T) {
	sqlEach(t, func(t *testing.T, srv sqlServer) {
		s, table, _ := srv.store(t)
		admin := srv.admin(t)
		m, err := coat.New(s, nil)
		if err != nil {
			t.Fatal(err)
		}
		first, second := numberedSession(1), numberedSession(2)
		first.Owner, second.Owner = "alice", "alice"
		if err := s.Create(t.Context(), numberedKey(1), first); err != nil {
			t.Fatal(err)
		}
		release := srv.hold(t, admin, table, numberedKey(1))
		revoked, created := make(chan error, 1), make(chan error, 1)
		go func() {
			_, err := m.RevokeAll(t.Context(), "alice")
			revoked <- err
		}()
		srv.waiting(t, admin, table)
		go func() { created <- s.Create(t.Context(), numberedKey(2), second) }()
		if srv.driver == "pgx" { // elsewhere it may wait for the DELETE, which it then follows
			if err := <-created; err != nil {
				t.Fatal(err)
			}
		}
		release()
		if err := <-revoked; err != nil {
			t.Fatal(err)
		}
		if srv.driver != "pgx" {
			if err := <-created; err != nil {
				t.Fatal(err)
			}
			return
		}
		if _, err := s.Get(t.Context(), numberedKey(2)); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("the session that was created meanwhile: %v; want store.ErrNotFound", err)
		}
	})
}

// TestSQLRefusals: what the server refuses has changed nothing, and its error
// says what to do.
func TestSQLRefusals(t *testing.T) {
	notShort(t)
	sqlEach(t, func(t *testing.T, srv sqlServer) {
		ctx := t.Context()
		owner, table, _ := srv.store(t)
		k, r := numberedKey(1), numberedSession(1).Truncate()
		if err := owner.Create(ctx, k, r); err != nil {
			t.Fatal(err)
		}
		next := r
		next.Version++
		at := func(t *testing.T, rawURL string, params map[string]string, table string) *sqlstore.Store {
			return sqlNew(t, srv.open(t, rawURL, params), srv.dialect, sqlstore.Options{Table: table})
		}
		all := func(t *testing.T, s *sqlstore.Store, advice string) {
			t.Helper()
			_, err := s.Get(ctx, k)
			sqlRefused(t, "Get", err, advice)
			sqlRefused(t, "Create", s.Create(ctx, numberedKey(2), r), advice)
			sqlRefused(t, "Replace", s.Replace(ctx, k, r.Version, next), advice)
			sqlRefused(t, "Touch", s.Touch(ctx, k, r.Deadline), advice)
			_, err = s.Delete(ctx, k)
			sqlRefused(t, "Delete", err, advice)
			_, err = s.DeleteOwner(ctx, r.Owner)
			sqlRefused(t, "DeleteOwner", err, advice)
			_, err = s.Sweep(ctx, 10)
			sqlRefused(t, "Sweep", err, advice)
			sqlRefused(t, "Ping", s.Ping(ctx), advice)
		}
		name := "refused_" + table
		account, userURL := name, ""
		if srv.driver == "pgx" {
			userURL = postgresUser(t, srv, name)
		} else {
			account, userURL = mysqlUser(t, srv, name)
		}
		admin := srv.admin(t)

		t.Run("no table", func(t *testing.T) {
			s := at(t, srv.URL, nil, sqlTable())
			all(t, s, "run Migrate")
			mentions(t, "Verify", s.Verify(ctx), "run Migrate")
		})
		t.Run("no rights", func(t *testing.T) {
			if srv.driver == "mysql" { // to see the database at all
				mustExec(t, admin, "GRANT CREATE TEMPORARY TABLES ON coatcheck.* TO "+account)
			}
			all(t, at(t, userURL, nil, table), "Grants")
		})
		t.Run("a wrong password", func(t *testing.T) {
			u, _ := url.Parse(srv.URL)
			u.User = url.UserPassword(u.User.Username(), "wrong")
			all(t, at(t, u.String(), nil, table), "refuses this ")
		})
		t.Run("nobody listens", func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			l.Close()
			all(t, at(t, srv.url(t, func(u *url.URL) { u.Host = l.Addr().String() }), nil, table), "refused")
		})
		t.Run("too many connections", func(t *testing.T) {
			limit := "ALTER ROLE " + account + " CONNECTION LIMIT 1"
			if srv.driver == "mysql" {
				limit = "ALTER USER " + account + " WITH MAX_USER_CONNECTIONS 1"
			}
			mustExec(t, admin, limit)
			c, err := srv.open(t, userURL, nil).Conn(ctx)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			all(t, at(t, userURL, nil, table), "SetMaxOpenConns")
		})
		t.Run("read only", func(t *testing.T) {
			params := map[string]string{"default_transaction_read_only": "on"}
			switch srv.Kind {
			case "mariadb":
				params = map[string]string{"tx_read_only": "1"}
			case "mysql":
				params = map[string]string{"transaction_read_only": "1"}
			}
			s := at(t, srv.URL, params, table)
			sqlRefused(t, "Create", s.Create(ctx, numberedKey(2), r), "the primary")
			sqlRefused(t, "Replace", s.Replace(ctx, k, r.Version, next), "the primary")
			sqlRefused(t, "Verify", s.Verify(ctx), "the primary")
		})
		t.Run("no table", func(t *testing.T) {
			err := at(t, srv.URL, nil, table+"_none").Create(ctx, numberedKey(2), r)
			sqlRefused(t, "Create", err, "the table is not there")
			forGood(t, "Create", err)
		})
		t.Run("a lock for too long", func(t *testing.T) {
			limits := map[string]map[string]string{
				"statement_timeout": {"statement_timeout": "100"}, "lock_timeout": {"lock_timeout": "100"},
			}
			if srv.driver == "mysql" {
				limits = map[string]map[string]string{"innodb_lock_wait_timeout": {"innodb_lock_wait_timeout": "1"}}
			}
			release := srv.hold(t, admin, table, k)
			defer release()
			for advice, params := range limits {
				sqlRefused(t, "Replace", at(t, srv.URL, params, table).Replace(ctx, k, r.Version, next), advice)
			}
		})
		if got, err := owner.Get(ctx, k); err != nil || got.Version != r.Version {
			t.Errorf("after writes that were refused: version %d, %v; want %d", got.Version, err, r.Version)
		}
		if _, err := owner.Get(ctx, numberedKey(2)); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("after a Create that was refused: %v; want store.ErrNotFound", err)
		}
	})
}

// TestSQLAnswerLost: a write whose connection ends while it runs is ambiguous,
// and so is one whose context does, which its error says.
func TestSQLAnswerLost(t *testing.T) {
	sqlEach(t, func(t *testing.T, srv sqlServer) {
		s, table, _ := srv.store(t)
		admin := srv.admin(t)
		k, r := numberedKey(1), numberedSession(1).Truncate()
		if err := s.Create(t.Context(), k, r); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		for name, end := range map[string]func(id int64){
			"the connection": func(id int64) {
				if srv.driver == "mysql" {
					if _, err := admin.Exec(fmt.Sprintf("KILL %d", id)); err != nil {
						t.Error(err)
					}
					return
				}
				mustExec(t, admin, "SELECT pg_terminate_backend($1)", id)
			},
			"the context": func(int64) { cancel() },
		} {
			release := srv.hold(t, admin, table, k)
			done := make(chan error, 1)
			next := r
			next.Version++
			go func() { done <- s.Replace(ctx, k, r.Version, next) }()
			end(srv.waiting(t, admin, table))
			err := <-done
			if !errors.Is(err, store.ErrAmbiguous) {
				t.Errorf("%s ended while Replace ran: %v; want store.ErrAmbiguous", name, err)
			}
			if name == "the context" && !errors.Is(err, context.Canceled) {
				t.Errorf("%s ended while Replace ran: %v; want context.Canceled as well", name, err)
			}
			release()
			// A statement that was given up may still be carried out.
			if err := s.Touch(t.Context(), k, r.Expires); err != nil {
				t.Errorf("after %s ended: %v", name, err)
			}
			if _, err := s.Delete(t.Context(), k); err != nil {
				t.Fatal(err)
			}
			if err := s.Create(t.Context(), k, r); err != nil {
				t.Fatal(err)
			}
			ctx, cancel = context.WithCancel(t.Context())
		}
		cancel()
	})
}

// TestSQLServerRestarts: prepared statements come back with the server.
func TestSQLServerRestarts(t *testing.T) {
	notShort(t)
	t.Parallel()
	for _, kind := range []string{"postgres", "mariadb"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			srv := sqlFrom(testserver.Start(t, kind, nil))
			s, _, _ := srv.store(t)
			k, r := numberedKey(1), numberedSession(1).Truncate()
			if err := s.Create(t.Context(), k, r); err != nil {
				t.Fatal(err)
			}
			srv.Kill(t, "node-1")
			err := s.Create(t.Context(), numberedKey(2), r)
			if err == nil || errors.Is(err, store.ErrConflict) {
				t.Errorf("Create while the server is down: %v; want an error", err)
			}
			if err := s.Create(t.Context(), numberedKey(2), r); err == nil || errors.Is(err, store.ErrAmbiguous) {
				t.Errorf("Create on a new connection while the server is down: %v; want an error, and nothing was sent", err)
			}
			srv.Restart(t, "node-1")
			deadline := time.Now().Add(time.Minute)
			for {
				if _, err = s.Get(t.Context(), k); err == nil || time.Now().After(deadline) {
					break
				}
			}
			if err != nil {
				t.Errorf("Get after the restart: %v", err)
			}
			if err := s.Replace(t.Context(), k, r.Version, r); err != nil {
				t.Errorf("Replace after the restart: %v", err)
			}
		})
	}
}
