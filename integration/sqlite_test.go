package integration

import (
	"context"
	"database/sql"
	"path/filepath"
	"sync"
	"testing"

	_ "github.com/ncruces/go-sqlite3/driver"

	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/sqlstore"
	"github.com/coatcheck/coatcheck/store/storetest"
)

// sqliteOpen opens the file at path, without a look at its schema.
func sqliteOpen(path string) (*sql.DB, *sqlstore.Store, error) {
	db, err := sql.Open("sqlite3", sqlstore.SQLiteDSN(path))
	if err != nil {
		return nil, nil, err
	}
	db.SetMaxIdleConns(4)
	s, err := sqlstore.New(db, sqlstore.SQLite, nil)
	return db, s, err
}

// sqliteStore returns a store on the file at path, made or migrated if needed.
func sqliteStore(t testing.TB, path string) (*sql.DB, *sqlstore.Store) {
	t.Helper()
	db, s, err := sqliteOpen(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if err := db.Close(); err != nil {
			t.Errorf("close the database: %v", err)
		}
	})
	if err := s.Migrate(context.Background()); err != nil {
		t.Fatal(err)
	}
	return db, s
}

// sqliteConfig makes stores on files of their own, each by way of open.
func sqliteConfig(open func(t testing.TB, path string) (*sql.DB, *sqlstore.Store)) storetest.Config {
	var paths sync.Map // by store
	return storetest.Config{
		New: func(t *testing.T) store.Store {
			path := filepath.Join(t.TempDir(), "sessions.db")
			_, s := open(t, path)
			paths.Store(s, path)
			return s
		},
		Second: func(t *testing.T, s store.Store) store.Store {
			path, _ := paths.Load(s)
			_, second := sqliteStore(t, path.(string))
			return second
		},
		MaxData: 16 << 20,
		Count: func(t *testing.T, s store.Store) int {
			path, _ := paths.Load(s)
			db, _ := sqliteStore(t, path.(string))
			var n int
			if err := db.QueryRow(`SELECT count(*) FROM coatcheck_sessions`).Scan(&n); err != nil {
				t.Fatal(err)
			}
			return n
		},
	}
}

func TestSQLite(t *testing.T) {
	storetest.Run(t, sqliteConfig(sqliteStore))
}

// TestSQLiteScripts: random sequences of operations end as they do in memory.
func TestSQLiteScripts(t *testing.T) {
	notShort(t)
	storetest.RunScripts(t, sqliteConfig(sqliteStore), scripts()...)
}

// TestSQLiteOneConnection: with a pool of one connection, as databases in
// memory need, reads and writes share it and cannot wait for each other.
func TestSQLiteOneConnection(t *testing.T) {
	notShort(t)
	storetest.Run(t, sqliteConfig(func(t testing.TB, path string) (*sql.DB, *sqlstore.Store) {
		db, err := sql.Open("sqlite3", sqlstore.SQLiteDSN(path))
		if err != nil {
			t.Fatal(err)
		}
		db.SetMaxOpenConns(1)
		s, err := sqlstore.New(db, sqlstore.SQLite, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Migrate(context.Background()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = s.Close()
			_ = db.Close()
		})
		return db, s
	}))
}
