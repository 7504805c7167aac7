package integration

import (
	"context"
	"database/sql"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/coatcheck/coatcheck/store/sqlstore"
)

// TestSQLMigrateAtOnce: any number of servers may start with an empty database.
func TestSQLMigrateAtOnce(t *testing.T) {
	sqlEach(t, func(t *testing.T, srv sqlServer) {
		table := sqlTable()
		const servers = 12
		errs := make(chan error, servers)
		for i := range servers {
			db := srv.open(t, srv.URL, nil)
			s := sqlNew(t, db, srv.dialect, sqlstore.Options{Table: table})
			go func() {
				err := s.Migrate(t.Context())
				if err == nil {
					err = s.Verify(t.Context())
				}
				if err == nil {
					err = s.Create(t.Context(), numberedKey(i), numberedSession(i))
				}
				errs <- err
			}()
		}
		for range servers {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		db := srv.open(t, srv.URL, nil)
		var steps, sessions int
		if err := db.QueryRow(`SELECT (SELECT COUNT(*) FROM `+table+`_schema), (SELECT COUNT(*) FROM `+table+`)`).Scan(&steps, &sessions); err != nil {
			t.Fatal(err)
		}
		want := strings.Count(sqlNew(t, db, srv.dialect, sqlstore.Options{Table: table}).Schema(), "-- Version")
		if steps != want || sessions != servers {
			t.Errorf("the history has %d steps and the table %d sessions; want %d, each applied once, and %d", steps, sessions, want, servers)
		}
	})
}

// sqlBare is a store whose table is not there.
func sqlBare(t *testing.T, srv sqlServer) (*sql.DB, *sqlstore.Store, string) {
	t.Helper()
	table := sqlTable()
	db := srv.open(t, srv.URL, nil)
	return db, sqlNew(t, db, srv.dialect, sqlstore.Options{Table: table}), table
}

// TestSQLSchemaByHand: what Schema returns is enough for Verify and for Migrate.
func TestSQLSchemaByHand(t *testing.T) {
	sqlEach(t, func(t *testing.T, srv sqlServer) {
		db, s, _ := sqlBare(t, srv)
		for statement := range strings.SplitSeq(s.Schema(), ";\n") {
			if strings.TrimSpace(statement) != "" {
				mustExec(t, db, statement)
			}
		}
		mentions(t, "Verify", s.Verify(t.Context()), "")
		mentions(t, "Migrate", s.Migrate(t.Context()), "")
	})
}

// TestSQLMigrateInterrupted: a Migrate that ended between the table and its
// history goes on, where the two are not one transaction.
func TestSQLMigrateInterrupted(t *testing.T) {
	sqlEach(t, func(t *testing.T, srv sqlServer) {
		db, s, table := sqlBare(t, srv)
		mentions(t, "Migrate", s.Migrate(t.Context()), "")
		if err := s.Create(t.Context(), numberedKey(1), numberedSession(1)); err != nil {
			t.Fatal(err)
		}
		for _, lose := range []string{`DELETE FROM ` + table + `_schema`, `DROP TABLE ` + table + `_schema`} {
			mustExec(t, db, lose)
			mentions(t, "Verify without a history", s.Verify(t.Context()), "not made by Migrate")
			if srv.driver == "pgx" {
				mentions(t, "Migrate without a history", s.Migrate(t.Context()), "not made by Migrate")
				continue
			}
			mentions(t, "Migrate after one that was interrupted", s.Migrate(t.Context()), "")
			mentions(t, "Verify after that", s.Verify(t.Context()), "")
		}
		if _, err := s.Get(t.Context(), numberedKey(1)); err != nil {
			t.Errorf("what was there before: %v", err)
		}
	})
}

// TestSQLMigrateWithFewRights: who may do nothing but use the table may start with
// a Migrate, as long as there is nothing to do.
func TestSQLMigrateWithFewRights(t *testing.T) {
	sqlEach(t, func(t *testing.T, srv sqlServer) {
		maker, table, db := srv.store(t)
		name := "few_" + table
		account, userURL := name, ""
		if srv.driver == "pgx" {
			userURL = postgresUser(t, srv, name)
		} else {
			account, userURL = mysqlUser(t, srv, name)
			db = srv.admin(t) // who may grant
		}
		for _, grant := range maker.Grants(account) {
			mustExec(t, db, grant)
		}
		user := srv.open(t, userURL, nil)
		s := sqlNew(t, user, srv.dialect, sqlstore.Options{Table: table})
		mentions(t, "Migrate", s.Migrate(t.Context()), "")
		mentions(t, "Verify", s.Verify(t.Context()), "")
		mentions(t, "Migrate of another table", sqlNew(t, user, srv.dialect, sqlstore.Options{Table: sqlTable()}).Migrate(t.Context()), "as ")
		for _, more := range []string{`DROP TABLE ` + table, `ALTER TABLE ` + table + ` ADD COLUMN more INTEGER`, `DELETE FROM ` + table + `_schema`} {
			if _, err := user.Exec(more); err == nil {
				t.Errorf("the user may %s", more)
			}
		}
	})
}

// TestPostgresRightsInASchema: what Grants returns is enough where the schema is
// named, and none of everybody's.
func TestPostgresRightsInASchema(t *testing.T) {
	srv := sqlShared(t, "postgres")
	opts := sqlstore.Options{Table: sqlTable(), Schema: "s_" + sqlTable()}
	admin := srv.admin(t)
	mustExec(t, admin, `CREATE SCHEMA `+opts.Schema+` AUTHORIZATION coatcheck`)
	db := srv.open(t, srv.URL, nil)
	maker := sqlNew(t, db, srv.dialect, opts)
	mentions(t, "Migrate", maker.Migrate(t.Context()), "")
	name := "few_" + opts.Table
	user := sqlNew(t, srv.open(t, postgresUser(t, srv, name), nil), srv.dialect, opts)
	mentions(t, "Verify without rights", user.Verify(t.Context()), "what Grants returns")
	for _, grant := range maker.Grants(name) {
		mustExec(t, db, grant)
	}
	mentions(t, "Verify", user.Verify(t.Context()), "")
	if err := user.Create(t.Context(), numberedKey(1), numberedSession(1)); err != nil {
		t.Error(err)
	}
}

// TestSQLVerify: each way in which a database does not fit is told apart, with
// what to do about it.
func TestSQLVerify(t *testing.T) {
	notShort(t)
	const migrated = "migrated"
	sqlEach(t, func(t *testing.T, srv sqlServer) {
		for _, c := range []struct {
			name, only string   // only: the driver that it is for
			before     []string // what was done to the database; migrated stands for Migrate
			verify     string   // part of the error
			migrate    string   // part of the error of Migrate, or of a Verify after it
		}{
			{"nothing there", "", nil, `": run Migrate`, ""},
			{"another program's table", "", []string{`CREATE TABLE {t} (id INTEGER)`}, "not made by Migrate", "not made by Migrate"},
			{"a table that is gone", "", []string{migrated, `DROP TABLE {t}`}, "run Migrate", "its history is in"},
			{"newer", "", []string{migrated, `INSERT INTO {t}_schema VALUES (99, 0)`}, "update the program", "update the program"},
			{"a column is missing", "", []string{migrated, `ALTER TABLE {t} RENAME COLUMN label TO title`}, `no column "label"`, `no column "label"`},
			{"one more column", "", []string{migrated, `ALTER TABLE {t} ADD COLUMN more INTEGER`}, "", ""},
			{"a type is another", "pgx", []string{migrated, `ALTER TABLE {t} ALTER COLUMN owner TYPE text USING ''`}, `column "owner"`, `column "owner"`},
			{"a NULL is allowed", "pgx", []string{migrated, `ALTER TABLE {t} ALTER COLUMN data DROP NOT NULL`}, `column "data"`, `column "data"`},
			{"no index by owner", "pgx", []string{migrated, `DROP INDEX {t}_owner`}, "no index that is btree (owner)", "no index"},
			{"no index to sweep by", "pgx", []string{migrated, `DROP INDEX {t}_sweep`}, "(sweep_after)", "no index"},
			{"no primary key", "pgx", []string{migrated, `ALTER TABLE {t} DROP CONSTRAINT {t}_pkey`}, "unique btree (key)", "no index"},
			{"an index of another name", "pgx", []string{migrated, `DROP INDEX {t}_owner`, `CREATE INDEX mine_{t} ON {t} (owner)`}, "", ""},
			{"an index with settings", "pgx", []string{migrated, `ALTER INDEX {t}_sweep SET (fillfactor = 70, deduplicate_items = off)`}, "", ""},
			{"a second index of the kind", "pgx", []string{migrated, `CREATE INDEX {t}_again ON {t} (sweep_after)`}, "", ""},
			{"a collation", "mysql", []string{migrated, "ALTER TABLE {t} MODIFY owner VARCHAR(255) CHARACTER SET utf8mb4"}, `column "owner"`, `column "owner"`},
			{"data that are cut", "mysql", []string{migrated, "ALTER TABLE {t} MODIFY data BLOB NOT NULL"}, `column "data"`, `column "data"`},
			{"an engine without transactions", "mysql", []string{migrated, "ALTER TABLE {t} ENGINE=MyISAM"}, "MyISAM", "MyISAM"},
			{"no index by owner", "mysql", []string{migrated, "DROP INDEX owner ON {t}"}, "no index that is of owner", "no index"},
			{"an index of a part", "mysql", []string{migrated, "DROP INDEX owner ON {t}", "CREATE INDEX owner ON {t} (owner(9))"}, "no index that is of owner", "no index"},
			{"no index to sweep by", "mysql", []string{migrated, "DROP INDEX sweep ON {t}"}, "no index that is of sweep_after", "no index"},
		} {
			if c.only != "" && c.only != srv.driver {
				continue
			}
			t.Run(c.name, func(t *testing.T) {
				db, s, table := sqlBare(t, srv)
				for _, query := range c.before {
					if query == migrated {
						mentions(t, "Migrate", s.Migrate(t.Context()), "")
						continue
					}
					mustExec(t, db, strings.ReplaceAll(query, "{t}", table))
				}
				mentions(t, "Verify", s.Verify(t.Context()), c.verify)
				err := s.Migrate(t.Context())
				if err == nil {
					err = s.Verify(t.Context())
				}
				mentions(t, "Migrate, then Verify", err, c.migrate)
			})
		}
	})
}

// TestPostgresInvalidIndex: an index that failed to be built is none, what Verify
// advises mends it, and beside a good one, as REINDEX CONCURRENTLY leaves it when it
// fails, it is no hindrance.
func TestPostgresInvalidIndex(t *testing.T) {
	srv := sqlShared(t, "postgres")
	s, table, db := srv.store(t)
	spoil := func(index string) {
		t.Helper()
		mustExec(t, srv.admin(t), `UPDATE pg_index SET indisvalid = false WHERE indexrelid = '`+index+`'::regclass`)
	}
	spoil(table + "_sweep")
	err := s.Verify(t.Context())
	mentions(t, "Verify with an invalid index", err, "(sweep_after) is not valid")
	if err == nil {
		t.Fatal()
	}
	_, advice, _ := strings.Cut(err.Error(), ": run ")
	mustExec(t, db, advice)
	mentions(t, "Verify after "+advice, s.Verify(t.Context()), "")

	for _, index := range []string{table + "_ccnew", table + "_a"} {
		mustExec(t, db, `CREATE INDEX `+index+` ON `+table+` (sweep_after)`)
		spoil(index)
		mentions(t, "Verify with an invalid index beside a good one", s.Verify(t.Context()), "")
	}
}

// TestPostgresLockOfANamedSchema: stores that name the schema and stores that find
// it in the search_path wait for each other.
func TestPostgresLockOfANamedSchema(t *testing.T) {
	srv := sqlShared(t, "postgres")
	found, table, db := srv.store(t)
	named := sqlNew(t, db, srv.dialect, sqlstore.Options{Table: table, Schema: "public"})
	mustExec(t, db, `CREATE SCHEMA "lock of `+table+`"`)
	elsewhere := sqlNew(t, srv.open(t, srv.URL, map[string]string{"search_path": `"lock of ` + table + `",public`}), srv.dialect, sqlstore.Options{Table: table})
	busy, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() {
		if err := busy.Rollback(); err != nil {
			t.Error(err)
		}
		wg.Wait()
	})
	if _, err := busy.Exec(`LOCK TABLE ` + table + `_schema`); err != nil { // whoever migrates reads it
		t.Fatal(err)
	}
	for _, s := range []*sqlstore.Store{found, named, elsewhere} {
		wg.Go(func() { mentions(t, "Migrate", s.Migrate(context.Background()), "") })
	}
	admin := srv.admin(t)
	locks := func() (held, wanted int) {
		err := admin.QueryRow(`SELECT count(*) FILTER (WHERE granted), count(*) FILTER (WHERE NOT granted) FROM pg_locks
WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = 'coatcheck')
AND classid::bigint = hashtext('coatcheck public.`+table+`')::bigint & 4294967295 AND objid = 0`).Scan(&held, &wanted)
		if err != nil {
			t.Fatal(err)
		}
		return held, wanted
	}
	eventually(t, "one that migrates and two who wait", func() bool {
		held, wanted := locks()
		return held == 1 && wanted == 2
	})
}

// TestMySQLIndexOfAnExpression: an index that somebody has added is no hindrance.
func TestMySQLIndexOfAnExpression(t *testing.T) {
	notShort(t)
	srv := sqlShared(t, "mysql")
	s, table, db := srv.store(t)
	mustExec(t, db, "CREATE INDEX mine ON "+table+" ((LENGTH(data)))")
	mentions(t, "Verify", s.Verify(t.Context()), "")

	named := sqlNew(t, db, srv.dialect, sqlstore.Options{Table: sqlTable(), Schema: "coatcheck"})
	mentions(t, "Verify without a table", named.Verify(t.Context()), `" in schema "coatcheck": run Migrate`)
}

// TestMySQLWithoutADatabase: who has chosen none is told.
func TestMySQLWithoutADatabase(t *testing.T) {
	notShort(t)
	for _, kind := range []string{"mariadb", "mysql"} {
		srv := sqlShared(t, kind)
		db := srv.open(t, srv.url(t, func(u *url.URL) { u.Path = "/" }), nil)
		s := sqlNew(t, db, srv.dialect, sqlstore.Options{Table: sqlTable()})
		mentions(t, kind+": Migrate", s.Migrate(t.Context()), "Options.Schema")
	}
}
