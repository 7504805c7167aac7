package integration

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coatcheck/coatcheck/integration/internal/reexec"
	"github.com/coatcheck/coatcheck/store/sqlstore"
)

// sqliteMigrate migrates the file at the path that is its argument, from
// several goroutines with a pool each, and prints when it is done.
func sqliteMigrate(args []string) error {
	ctx := context.Background()
	errs := make(chan error)
	const pools = 4
	for range pools {
		go func() {
			errs <- func() error {
				db, s, err := sqliteOpen(args[0])
				if err != nil {
					return err
				}
				defer db.Close()
				defer s.Close()
				if err := s.Migrate(ctx); err != nil {
					return err
				}
				return s.Verify(ctx)
			}()
		}()
	}
	for range pools {
		if err := <-errs; err != nil {
			return err
		}
	}
	fmt.Println("migrated")
	return nil
}

func TestSQLiteMigrateFromManyProcesses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sessions.db")
	var ps []*reexec.Process
	for range 6 {
		ps = append(ps, reexec.Start(t, "sqlite-migrate", path))
	}
	for _, p := range ps {
		p.Line()
		p.Wait()
	}
	db, s := sqliteStore(t, path)
	var steps int
	if err := db.QueryRow(`SELECT count(*) FROM coatcheck_sessions_schema`).Scan(&steps); err != nil {
		t.Fatal(err)
	}
	if want := strings.Count(s.Schema(), "-- Version"); steps != want {
		t.Errorf("the history has %d steps; want %d, each applied once", steps, want)
	}
}

// TestSQLiteMigrateKeepsSessions: what is there already stays.
func TestSQLiteMigrateKeepsSessions(t *testing.T) {
	_, s := sqliteStore(t, filepath.Join(t.TempDir(), "sessions.db"))
	if err := s.Create(t.Context(), numberedKey(1), numberedSession(1)); err != nil {
		t.Fatal(err)
	}
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), numberedKey(1)); err != nil {
		t.Errorf("after a second Migrate: %v", err)
	}
}

// TestSQLiteSchemaByHand: the SQL that Schema returns is enough for Verify, in
// a database whose journal mode is set by hand as well.
func TestSQLiteSchemaByHand(t *testing.T) {
	db, s := sqliteUnmigrated(t)
	if _, err := db.Exec(`PRAGMA journal_mode = WAL`); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(s.Schema()); err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(t.Context()); err != nil {
		t.Error(err)
	}
	if err := s.Migrate(t.Context()); err != nil {
		t.Errorf("Migrate of a schema made by hand: %v", err)
	}
}

func sqliteUnmigrated(t *testing.T) (*sql.DB, *sqlstore.Store) {
	t.Helper()
	db, s, err := sqliteOpen(filepath.Join(t.TempDir(), "sessions.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = s.Close()
		_ = db.Close()
	})
	return db, s
}

// TestSQLiteVerify: each way in which a database does not fit is told apart,
// with what to do about it.
func TestSQLiteVerify(t *testing.T) {
	const migrated = "migrated"
	for _, c := range []struct {
		name   string
		before []string // what was done to the database; migrated stands for Migrate
		verify string   // part of the error
		// migrate is part of the error of a Migrate that comes then; if "",
		// it succeeds, and Verify after it.
		migrate string
	}{
		{"nothing there", nil, "run Migrate", ""},
		{
			"another program's table",
			[]string{`CREATE TABLE coatcheck_sessions (id TEXT)`},
			"not made by Migrate", "not made by Migrate",
		},
		{
			"no table",
			[]string{migrated, `DROP TABLE coatcheck_sessions`, `DELETE FROM coatcheck_sessions_schema`},
			"run Migrate", "",
		},
		{
			"older: version 1",
			[]string{
				migrated, `DROP INDEX coatcheck_sessions_ends`,
				`CREATE INDEX coatcheck_sessions_expires ON coatcheck_sessions (expires)`,
				`DELETE FROM coatcheck_sessions_schema WHERE version = 2`,
			},
			"has schema version 1", "",
		},
		{
			"a table that takes anything",
			[]string{migrated, `CREATE TABLE other AS SELECT * FROM coatcheck_sessions`, `DROP TABLE coatcheck_sessions`, `ALTER TABLE other RENAME TO coatcheck_sessions`},
			"not STRICT", "not STRICT",
		},
		{
			"newer",
			[]string{migrated, `INSERT INTO coatcheck_sessions_schema VALUES (99, 0)`},
			"update the program", "update the program",
		},
		{
			"a column is missing",
			[]string{migrated, `ALTER TABLE coatcheck_sessions RENAME COLUMN label TO title`},
			`no column "label"`, `no column "label"`,
		},
		{
			"an index is missing",
			[]string{migrated, `DROP INDEX coatcheck_sessions_owner`},
			`no index "coatcheck_sessions_owner"`, `no index "coatcheck_sessions_owner"`,
		},
		{
			"rollback journal",
			[]string{migrated, `PRAGMA journal_mode = DELETE`},
			"journal mode", "",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			db, s := sqliteUnmigrated(t)
			db.SetMaxIdleConns(0) // a change of the journal mode needs the file for itself
			for _, query := range c.before {
				if query == migrated {
					if err := s.Migrate(t.Context()); err != nil {
						t.Fatal(err)
					}
					if err := s.Close(); err != nil {
						t.Fatal(err)
					}
					var err error
					if s, err = sqlstore.New(db, sqlstore.SQLite, nil); err != nil {
						t.Fatal(err)
					}
					continue
				}
				if _, err := db.Exec(query); err != nil {
					t.Fatal(err)
				}
			}
			mentions(t, "Verify", s.Verify(t.Context()), c.verify)
			err := s.Migrate(t.Context())
			if err == nil {
				err = s.Verify(t.Context())
			}
			mentions(t, "Migrate, then Verify", err, c.migrate)
			_ = s.Close()
		})
	}
}

// mentions reports an error that does not hold part, or one where part is "".
func mentions(t *testing.T, what string, err error, part string) {
	t.Helper()
	switch {
	case part == "" && err != nil:
		t.Errorf("%s: %v; want success", what, err)
	case part != "" && (err == nil || !strings.Contains(err.Error(), part)):
		t.Errorf("%s: error %v; want one that says %q", what, err, part)
	}
}
