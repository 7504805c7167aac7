package integration

import (
	"crypto/rand"
	"database/sql"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/go-sql-driver/mysql"
	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/coatcheck/coatcheck/internal/testserver"
	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/sqlstore"
	"github.com/coatcheck/coatcheck/store/storetest"
)

// sqlServer is a server of SQL as the tests of both dialects use it.
type sqlServer struct {
	*testserver.Server
	dialect sqlstore.Dialect
	driver  string
}

func sqlFrom(srv *testserver.Server) sqlServer {
	scheme, _, _ := strings.Cut(srv.URL, ":")
	if scheme == "postgres" {
		return sqlServer{srv, sqlstore.PostgreSQL, "pgx"}
	}
	return sqlServer{srv, sqlstore.MySQL, "mysql"}
}

// sqlShared is the server of that kind that the tests share, each with tables of
// its own.
func sqlShared(t testing.TB, kind string) sqlServer {
	t.Helper()
	return sqlFrom(testserver.Shared(t, kind))
}

// dsn is the driver's name of the database at an URL, with parameters of the
// driver.
func (srv sqlServer) dsn(t testing.TB, rawURL string, params map[string]string) string {
	t.Helper()
	u, err := url.Parse(rawURL)
	if err != nil {
		t.Fatal(err)
	}
	if srv.driver == "pgx" {
		q := u.Query()
		for k, v := range params {
			q.Set(k, v)
		}
		u.RawQuery = q.Encode()
		return u.String()
	}
	c := mysql.NewConfig()
	c.User = u.User.Username()
	c.Passwd, _ = u.User.Password()
	c.Net, c.Addr, c.DBName = "tcp", u.Host, strings.TrimPrefix(u.Path, "/")
	dsn := c.FormatDSN()
	for k, v := range params {
		sep := "?"
		if strings.Contains(dsn, "?") {
			sep = "&"
		}
		dsn += sep + k + "=" + url.QueryEscape(v)
	}
	return dsn
}

// open opens a pool of 16 connections.
func (srv sqlServer) open(t testing.TB, rawURL string, params map[string]string) *sql.DB {
	t.Helper()
	db, err := sql.Open(srv.driver, srv.dsn(t, rawURL, params))
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(16)
	db.SetMaxIdleConns(16)
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("close the database: %v", err)
		}
	})
	return db
}

// admin is a pool of the superuser.
func (srv sqlServer) admin(t testing.TB) *sql.DB {
	t.Helper()
	return srv.open(t, srv.AdminURL, nil)
}

// url returns the server's URL, changed.
func (srv sqlServer) url(t testing.TB, change func(*url.URL)) string {
	t.Helper()
	u, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	change(u)
	return u.String()
}

var sqlTables atomic.Int64

// sqlTable is the name of a table that no other test has.
func sqlTable() string { return fmt.Sprintf("t%d", sqlTables.Add(1)) }

// sqlNew returns a store in a table of that name, which may not be there.
func sqlNew(t testing.TB, db *sql.DB, d sqlstore.Dialect, opts sqlstore.Options) *sqlstore.Store {
	t.Helper()
	s, err := sqlstore.New(db, d, &opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

// sqlStore returns a store in a new table, and the table's name.
func (srv sqlServer) store(t testing.TB) (*sqlstore.Store, string, *sql.DB) {
	t.Helper()
	db := srv.open(t, srv.URL, nil)
	table := sqlTable()
	s := sqlNew(t, db, srv.dialect, sqlstore.Options{Table: table})
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s, table, db
}

// sqlSetup is a way to use a server.
type sqlSetup struct {
	srv    sqlServer
	params map[string]string // of the driver
	opts   sqlstore.Options
	// user, if not "", is who is granted what Grants returns, and url how he signs
	// in. Else it is the owner of the database.
	user, url string
}

// config makes stores in tables of their own, over one pool, and second ones over
// another.
func (c sqlSetup) config(t *testing.T) storetest.Config {
	owner := c.srv.open(t, c.srv.URL, c.params)
	if c.url == "" {
		c.url = c.srv.URL
	}
	first, second := c.srv.open(t, c.url, c.params), c.srv.open(t, c.url, c.params)
	var tables sync.Map // by store
	made := func(t *testing.T, db *sql.DB, table string) store.Store {
		opts := c.opts
		opts.Table = table
		s := sqlNew(t, db, c.srv.dialect, opts)
		tables.Store(s, table)
		return s
	}
	maxData := 16 << 20
	if c.srv.driver == "mysql" {
		maxData = 4 << 20
	}
	return storetest.Config{
		MaxData: maxData,
		New: func(t *testing.T) store.Store {
			table := sqlTable()
			maker := sqlNew(t, owner, c.srv.dialect, sqlstore.Options{Table: table, Schema: c.opts.Schema, Unprepared: c.opts.Unprepared})
			if err := maker.Migrate(t.Context()); err != nil {
				t.Fatal(err)
			}
			if c.user != "" {
				for _, grant := range maker.Grants(c.user) {
					mustExec(t, owner, grant)
				}
			}
			return made(t, first, table)
		},
		Second: func(t *testing.T, s store.Store) store.Store {
			table, _ := tables.Load(s)
			return made(t, second, table.(string))
		},
		Count: func(t *testing.T, s store.Store) int {
			table, _ := tables.Load(s)
			name := table.(string)
			if c.opts.Schema != "" {
				name = c.opts.Schema + "." + name
			}
			var n int
			if err := owner.QueryRow(`SELECT COUNT(*) FROM ` + name).Scan(&n); err != nil {
				t.Fatal(err)
			}
			return n
		},
	}
}

// sqlRun runs every rule on each setup, and random scripts on the default one.
func sqlRun(t *testing.T, setups map[string]sqlSetup) {
	for name, setup := range setups {
		t.Run(name, func(t *testing.T) {
			if testing.Short() && name != "default" {
				t.Skip("takes seconds; -short takes the default settings")
			}
			t.Parallel()
			storetest.Run(t, setup.config(t))
			if name != "default" {
				return
			}
			t.Run("scripts", func(t *testing.T) { storetest.RunScripts(t, setup.config(t), scripts()...) })
		})
	}
}

// sqlPassword is one for a user that a test makes.
func sqlPassword() string { return rand.Text() }
