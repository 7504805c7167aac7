package main

import (
	"context"
	"net/url"
	"strconv"

	"github.com/alexedwards/scs/pgxstore"
	"github.com/alexedwards/scs/postgresstore"
	"github.com/jackc/pgx/v5/pgxpool"
	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/coatcheck/coatcheck/store/sqlstore"
)

// Names of peers on PostgreSQL.
const (
	scsPgx       = "scs, pgxstore"
	scsPgxNoIdle = scsPgx + ", no idle timeout"
	scsPostgres  = "scs, postgresstore over pgx"
	barePgx      = "bare: pgx, the same columns by key"
)

var postgres = sqlServer{
	driver:  "pgx",
	dialect: sqlstore.PostgreSQL,
	dsn: func(rawURL, space string) (string, error) {
		u, err := url.Parse(rawURL)
		if err == nil && space != "" {
			q := u.Query()
			q.Set("search_path", space)
			u.RawQuery = q.Encode()
		}
		return u.String(), err
	},
	makeSpace: `CREATE SCHEMA IF NOT EXISTS "%s"`,
	relax:     []string{"ALTER SYSTEM SET synchronous_commit = off", "SELECT pg_reload_conf()"},
	restore:   []string{"ALTER SYSTEM RESET synchronous_commit", "SELECT pg_reload_conf()"},
	read:      `SELECT key, version, handle, owner, created, deadline, expires, next, label, data FROM coatcheck_sessions WHERE key = $1`,
	update:    `UPDATE coatcheck_sessions SET version = $1, expires = $2, data = $3 WHERE key = $4`,
}

var postgresFamily = family{
	kinds: []string{"postgres"},
	// Commits wait for the disk, as they do unless one turns that off. All rows are
	// connected at once.
	config:   []string{"fsync = on", "max_connections = 1000"},
	peers:    postgresPeers(),
	sections: postgresSections(),
	panels:   sqlPanels("PostgreSQL", scsPgx, scsPostgres),
	modules: []string{
		"github.com/alexedwards/scs/v2",
		"github.com/alexedwards/scs/pgxstore",
		"github.com/alexedwards/scs/postgresstore",
		"github.com/jackc/pgx/v5",
	},
	notes: "postgres.md",
	judge: func(j *judge) {
		j.rate("read, to scs on pgxstore", "read", coatcheck, scsPgx, 5.5)
		j.rate("the same where no commit waits for the disk", "read-relaxed", coatcheck, scsPgx, 5.5)
		j.rate("read, to database/sql selecting the same columns", "read", coatcheck, bareSelect, 0.8)
	},
	cpu:   processCPU,
	relax: postgres.relaxing,
}

func postgresPeers() []peer {
	all := append(postgres.peers(),
		peer{scsPgx, openPgxStore("scs_pgx", peerConns, true)},
		peer{scsPgxNoIdle, openPgxStore("scs_pgx_no_idle", peerConns, false)},
		peer{scsPostgres, openPostgresStore},
		peer{barePgx, openPgx})
	for _, n := range otherSizes(peerConns) {
		all = append(all, peer{pooled(scsPgx, n), openPgxStore("scs_pgx_"+strconv.Itoa(n), n, true)})
	}
	return all
}

func postgresSections() []section {
	scs := []string{scsPgx, scsPostgres}
	return sqlSections(scs, []string{
		scsPgx, coatcheck, bareSelect, bareWaits, barePgx, near, touching, scsPostgres, scsPgxNoIdle, noSession,
	}, sqlPools(scsPgx))
}

// postgresTable is the table of the README of each of the stores of scs.
var postgresTable = []string{
	`CREATE TABLE IF NOT EXISTS sessions (token TEXT PRIMARY KEY, data BYTEA NOT NULL, expiry TIMESTAMPTZ NOT NULL)`,
	`CREATE INDEX IF NOT EXISTS sessions_expiry_idx ON sessions (expiry)`,
}

// openPool opens a pool of pgx's own.
func openPool(ctx context.Context, rawURL, space string, conns int, tables ...string) (*pgxpool.Pool, error) {
	dsn, err := postgres.space(ctx, rawURL, space)
	if err != nil {
		return nil, err
	}
	if err := postgres.exec(ctx, dsn, tables...); err != nil {
		return nil, err
	}
	config, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	config.MaxConns = int32(conns)
	return pgxpool.NewWithConfig(ctx, config)
}

// Nothing expires while it is measured: scs' cleaning is off, and nobody sweeps.

func openPgxStore(space string, conns int, withIdle bool) func(context.Context, string) (*app, error) {
	return func(ctx context.Context, rawURL string) (*app, error) {
		pool, err := openPool(ctx, rawURL, space, conns, postgresTable...)
		if err != nil {
			return nil, err
		}
		return scsPages(pgxstore.NewWithCleanupInterval(pool, 0), withIdle).app(pool.Close), nil
	}
}

func openPostgresStore(ctx context.Context, rawURL string) (*app, error) {
	db, err := postgres.open(ctx, rawURL, "scs_postgres", peerConns, postgresTable...)
	if err != nil {
		return nil, err
	}
	return scsPages(postgresstore.NewWithCleanupInterval(db, 0), true).app(func() { _ = db.Close() }), nil
}

// openPgx is openSelect without database/sql.
func openPgx(ctx context.Context, rawURL string) (*app, error) {
	const space = "bare_pgx"
	st, _, closing, err := postgres.openStore(ctx, rawURL, space, 1)
	if err != nil {
		return nil, err
	}
	pool, err := openPool(ctx, rawURL, space, sqlConns)
	if err != nil {
		closing()
		return nil, err
	}
	return &app{
		signIn: createBare(st),
		read: bareRead(func(ctx context.Context, key []byte) ([]byte, error) {
			var r bareRow
			err := pool.QueryRow(ctx, postgres.read, key).Scan(r.columns()...)
			return r.data, err
		}),
		close: func() { pool.Close(); closing() },
	}, nil
}
