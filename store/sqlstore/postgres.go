package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/coatcheck/coatcheck/store"
)

// PostgreSQL is the dialect of PostgreSQL 13 and later, with any driver.
var PostgreSQL = Dialect{
	name:        "PostgreSQL",
	maxData:     16 << 20, // far below the limit of 1 GB, far above any session
	quote:       `"`,
	placeholder: dollar,
	queries: queries{
		get: `SELECT ` + columns + ` FROM {schema}"{table}" WHERE key = $1 AND ` + postgresEnds + ` > $2`,

		getMany: `SELECT ` + columns + ` FROM {schema}"{table}" WHERE ` + postgresEnds + ` > $1 AND key IN ({keys})`,

		create: `INSERT INTO {schema}"{table}" AS t (` + columns + `, sweep_after)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $7)
ON CONFLICT (key) DO UPDATE SET version = excluded.version, handle = excluded.handle, owner = excluded.owner,
	created = excluded.created, deadline = excluded.deadline, expires = excluded.expires,
	next = excluded.next, label = excluded.label, data = excluded.data, sweep_after = excluded.sweep_after
WHERE least(t.expires, t.deadline) <= $11`,

		replace: `UPDATE {schema}"{table}" SET version = $1, deadline = least(deadline, $2), expires = least(deadline, $3),
	next = $4, label = $5, data = $6, sweep_after = least(sweep_after, deadline, $3)
WHERE key = $7 AND version = $8 AND ` + postgresEnds + ` > $9`,

		// One that changes nothing still counts its row.
		touch: `UPDATE {schema}"{table}" SET expires = least(deadline, greatest(expires, $1))
WHERE key = $2 AND ` + postgresEnds + ` > $3 AND next IS NULL`,

		deleteLive: `DELETE FROM {schema}"{table}" WHERE key = $1 AND ` + postgresEnds + ` > $2`,
		deleteDead: `DELETE FROM {schema}"{table}" WHERE key = $1 AND ` + postgresEnds + ` <= $2`,

		listOwner: `SELECT ` + columns + ` FROM {schema}"{table}" WHERE owner = $1 AND ` + postgresEnds + ` > $2 AND next IS NULL`,

		// It sees what was there when it began, and misses a row that is created
		// while it waits for another one's lock: who must not miss any comes again.
		deleteOwner: `DELETE FROM {schema}"{table}" WHERE owner = $1 AND (handle IN ({keep})) IS NOT TRUE
RETURNING next IS NULL AND ` + postgresEnds + ` > {now}`,

		// Without a condition on the length of the key, which the table has: the
		// planner would expect few rows, and sort the whole table for each page.
		list: `SELECT ` + columns + ` FROM {schema}"{table}" WHERE key > $1 AND ` + postgresEnds + ` > $2 ORDER BY key LIMIT $3`,

		// The lock is the statement's, as its transaction is, so that it works
		// through a pooler; who does not get it leaves the sweep to who has. A row
		// that is locked is being used, and is due the next time as well.
		sweepBoth: `WITH due AS MATERIALIZED (
	SELECT key, ` + postgresEnds + ` AS ends FROM {schema}"{table}"
	WHERE sweep_after <= $1 AND (SELECT pg_try_advisory_xact_lock(` + postgresLock + `, 1))
	ORDER BY sweep_after LIMIT $2 FOR UPDATE SKIP LOCKED
), later AS (
	UPDATE {schema}"{table}" SET sweep_after = ` + postgresEnds + `
	WHERE key = ANY (ARRAY(SELECT key FROM due WHERE ends > $1))
), dead AS (
	DELETE FROM {schema}"{table}"
	WHERE key = ANY (ARRAY(SELECT key FROM due WHERE ends <= $1 LIMIT $3)) AND ` + postgresEnds + ` <= $1 RETURNING 1
)
SELECT (SELECT count(*) FROM due), (SELECT count(*) FROM dead)`,
	},
	schema: schema{
		steps: [][]string{{
			`CREATE TABLE {schema}"{table}" (
	key         bytea  NOT NULL PRIMARY KEY CHECK (octet_length(key) = 32), -- SHA-256 of the session ID
	version     bigint NOT NULL, -- the 64 bits of an unsigned integer
	handle      bytea  NOT NULL, -- 16 bytes, the public name
	owner       bytea,           -- NULL: anonymous
	created     bigint NOT NULL, -- this and the next three: Unix milliseconds
	deadline    bigint NOT NULL,
	expires     bigint NOT NULL,
	sweep_after bigint NOT NULL, -- never after the row's end; the sweeper moves it on
	next        bytea,           -- not NULL: a marker, no session
	label       bytea  NOT NULL,
	data        bytea  NOT NULL
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05)`,
			// Encrypted data cannot be compressed.
			`ALTER TABLE {schema}"{table}" ALTER COLUMN data SET STORAGE EXTERNAL`,
			`CREATE INDEX "{table}_owner" ON {schema}"{table}" (owner) WHERE owner IS NOT NULL`,
			`CREATE INDEX "{table}_sweep" ON {schema}"{table}" (sweep_after)`,
		}},
		begin:  postgresBegin,
		exists: `SELECT count(*) FROM pg_class WHERE oid = to_regclass('{schema}"{table}"') AND relkind IN ('r', 'p')`,
		history: `CREATE TABLE IF NOT EXISTS {schema}"{table}_schema" (
	version integer NOT NULL PRIMARY KEY,
	applied bigint  NOT NULL -- Unix milliseconds
)`,
		record:  `INSERT INTO {schema}"{table}_schema" (version, applied) VALUES ({version}, {time})`,
		version: `SELECT coalesce(max(version), 0) FROM {schema}"{table}_schema"`,
		verify:  postgresVerify,
	},
	grants: []string{
		`GRANT SELECT, INSERT, UPDATE, DELETE ON {schema}"{table}" TO {role}`,
		`GRANT SELECT ON {schema}"{table}_schema" TO {role}`,
	},
	grantSchema: `GRANT USAGE ON SCHEMA "{schemaname}" TO {role}`,
	diagnose:    postgresDiagnose,
	inspect:     postgresInspect,
}

const (
	// postgresEnds is when a record ends: nothing lives beyond its deadline, even
	// if somebody else has written a later expiry.
	postgresEnds = `least(expires, deadline)`

	// postgresLock is the advisory lock of a table, the first half of it, the same
	// whether its schema is named or found, once there is a table. The second is 0 for Migrate and 1 for
	// sweeping.
	postgresLock = `hashtext('coatcheck ' || coalesce(` +
		`(SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = to_regclass('{schema}"{table}"')), ` +
		`nullif('{schemaname}', ''), current_schema(), '') || '.{table}')`
)

func postgresBegin(ctx context.Context, conn *sql.Conn, n names) (end func(error) error, err error) {
	if _, err := conn.ExecContext(ctx, `BEGIN ISOLATION LEVEL READ COMMITTED`); err != nil {
		return nil, err
	}
	end = func(err error) error {
		ctx := context.WithoutCancel(ctx)
		if err == nil {
			_, err = conn.ExecContext(ctx, `COMMIT`)
		}
		if err != nil {
			_, _ = conn.ExecContext(ctx, `ROLLBACK`)
		}
		return err
	}
	if _, err := conn.ExecContext(ctx, postgresIn(n, `SELECT pg_advisory_xact_lock(`+postgresLock+`, 0)`)); err != nil {
		return nil, end(err)
	}
	return end, nil
}

func postgresIn(n names, query string) string { return Dialect{quote: `"`}.in(n, query) }

// postgresColumns is how the columns are declared.
var postgresColumns = map[string]string{
	"key": "bytea NOT NULL", "version": "bigint NOT NULL", "handle": "bytea NOT NULL", "owner": "bytea",
	"created": "bigint NOT NULL", "deadline": "bigint NOT NULL", "expires": "bigint NOT NULL", "sweep_after": "bigint NOT NULL",
	"next": "bytea", "label": "bytea NOT NULL", "data": "bytea NOT NULL",
}

func postgresVerify(ctx context.Context, c *sql.Conn, n names) error {
	var standby, readOnly bool
	if err := c.QueryRowContext(ctx, `SELECT pg_is_in_recovery(), current_setting('transaction_read_only')::bool`).Scan(&standby, &readOnly); err != nil {
		return err
	}
	if standby || readOnly {
		return errors.New(postgresAdvice["25006"])
	}
	table := postgresIn(n, `to_regclass('{schema}"{table}"')`)
	have, err := pairs(ctx, c, `SELECT attname, format_type(atttypid, atttypmod) || CASE WHEN attnotnull THEN ' NOT NULL' ELSE '' END
FROM pg_attribute WHERE attrelid = `+table+` AND attnum > 0 AND NOT attisdropped`)
	if err != nil {
		return err
	}
	if err := sameColumns(n.table, postgresColumns, have); err != nil {
		return err
	}
	// Their names and settings are the database's owner's to choose, and one that is
	// not valid does no harm beside one that is.
	indexes, err := pairs(ctx, c, `SELECT def, CASE WHEN bool_or(indisvalid) THEN '' ELSE min(name) END FROM (
	SELECT CASE WHEN indisunique THEN 'unique ' ELSE '' END
		|| regexp_replace(regexp_replace(pg_get_indexdef(indexrelid), '^.* USING ', ''), ' WITH \([^)]*\)', '') AS def,
		indisvalid, indexrelid::regclass::text AS name
	FROM pg_index WHERE indrelid = `+table+`
) AS indexes GROUP BY def`)
	if err != nil {
		return err
	}
	for _, want := range [][]string{
		{"unique btree (key)"},
		{"btree (owner) WHERE (owner IS NOT NULL)", "btree (owner)"},
		{"btree (sweep_after)"},
	} {
		found, invalid := false, ""
		for _, def := range want {
			name, ok := indexes[def]
			found = found || ok && name == ""
			invalid = max(invalid, name)
		}
		if found {
			continue
		}
		if invalid != "" { // REINDEX TABLE CONCURRENTLY would leave it out
			return fmt.Errorf("the index of table %q that is %s is not valid: run REINDEX INDEX CONCURRENTLY %s", n.table, want[0], invalid)
		}
		return fmt.Errorf("table %q has no index that is %s: it was changed by hand; create it, as Schema shows", n.table, want[0])
	}
	for _, right := range []string{"SELECT", "INSERT", "UPDATE", "DELETE"} {
		var role string
		var ok bool
		if err := c.QueryRowContext(ctx, `SELECT current_user, has_table_privilege(`+table+`, '`+right+`')`).Scan(&role, &ok); err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("the role %q lacks the right of %s on table %q: run what Grants returns", role, right, n.table)
		}
	}
	return nil
}

// Error codes, https://www.postgresql.org/docs/current/errcodes-appendix.html.
var postgresAdvice = map[string]string{
	"25006": "this server is a standby or read only, and sessions need the primary: connect to it (target_session_attrs=read-write); after a failover, idle connections to the old one are closed by themselves",
	"28000": "the server refuses this role: look at pg_hba.conf and at TLS",
	"28P01": "the server refuses this role or password",
	"3D000": "there is no such database",
	"3F000": "there is no such schema: create it, or choose another Options.Schema",
	"40001": "other transactions got in the way each time, and nothing was changed; sessions need no more than read committed (default_transaction_isolation)",
	"40P01": "it was in a deadlock each time, and nothing was changed",
	"42501": "the role lacks a right: run what Grants returns, or Migrate as the owner of the schema",
	"42P01": "the table is not there: run Migrate, or look at search_path or Options.Schema",
	"42601": "is this a PostgreSQL server, and the dialect right?",
	"42703": "the table is not as Migrate made it: run Verify",
	"42883": "is this a PostgreSQL server, and the dialect right?",
	"42P05": "a pooler mixes up prepared statements: set Options.Unprepared",
	"26000": "a pooler loses prepared statements: set Options.Unprepared, and have the driver prepare none",
	"53100": "the server's disk is full, and nothing was changed; free some space",
	"53200": "the server is out of memory, and nothing was changed",
	"53300": "the server has no connection left: lower SetMaxOpenConns of the app's servers together below max_connections, or use a pooler",
	"54000": "a value is over the server's limit",
	"55P03": "another transaction held a lock for longer than lock_timeout, and nothing was changed",
	"57014": "the statement was cancelled, by statement_timeout or by an administrator, and nothing was changed",
	"57P01": "the server is shutting down, or an administrator ended the connection",
	"57P02": "the server crashed and is recovering",
	"57P03": "the server is starting up or shutting down: try again in a moment",
	"58030": "the server cannot read or write its disk",
	"XX001": "the server's files are damaged",
	"XX002": "an index of the server is damaged: run REINDEX TABLE",
}

// postgresOpen are the codes after which the statement may have been carried
// out: the connection ended, perhaps between the commit and its answer.
var postgresOpen = map[string]bool{"40003": true, "57P01": true, "57P02": true, "57P05": true}

// postgresRefused are the codes of what is the same until somebody changes the server:
// a full disk, or a right, a table or a column that is missing. A server that is read
// only may soon be the primary, or its connections closed.
var postgresRefused = map[string]bool{
	"3F000": true, "42501": true, "42601": true, "42703": true, "42883": true, "42P01": true, "53100": true,
}

// sqlState finds the code in an error of pgx, lib/pq or another driver that has
// the method.
func sqlState(err error) (state string, ok bool) {
	var e interface{ SQLState() string }
	if !errors.As(err, &e) {
		return "", false
	}
	state = e.SQLState()
	return state, len(state) == 5
}

// undone reports whether the server has undone the statement of which err is. After a
// FATAL or PANIC it may be in the log already, as when there is no space for more of that.
func undone(err error, state string) bool {
	if severity := stringField(err, "SeverityUnlocalized"); severity != "" { // of pgx
		return severity == "ERROR"
	}
	switch stringField(err, "Severity") { // in the server's language
	case "", "ERROR":
		return true
	case "FATAL", "PANIC":
		return false
	}
	class := state[:2]
	return class != "53" && class != "58" && class != "XX"
}

// stringField finds a field of that name in a driver's error; "" if there is none.
func stringField(err error, field string) string {
	switch e := err.(type) {
	case nil:
		return ""
	case interface{ Unwrap() []error }:
		for _, err := range e.Unwrap() {
			if t := stringField(err, field); t != "" {
				return t
			}
		}
		return ""
	}
	if v := reflect.Indirect(reflect.ValueOf(err)); v.Kind() == reflect.Struct {
		if f := v.FieldByName(field); f.IsValid() && f.Kind() == reflect.String {
			return f.String()
		}
	}
	return stringField(errors.Unwrap(err), field)
}

// postgresDiagnose relies on a statement that the server refuses being undone:
// it is its own transaction.
func postgresDiagnose(err error) diagnosis {
	state, ok := sqlState(err)
	if !ok {
		return diagnosis{unapplied: errors.Is(err, sql.ErrConnDone)}
	}
	open := postgresOpen[state] || strings.HasPrefix(state, "08") || !undone(err, state)
	return diagnosis{
		answered:  !open,
		unapplied: !open,
		readOnly:  state == "25006",
		again:     (state == "40001" || state == "40P01") && !open,
		refused:   postgresRefused[state] && !open,
		tooLarge:  state == "54000",
		advice:    postgresAdvice[state],
		instead:   instead(err, "PostgreSQL error "+state, postgresPlain[state[:2]]),
	}
}

// postgresPlain are the classes of codes whose messages name roles, tables and
// settings, and hold no value of a statement.
var postgresPlain = map[string]bool{
	"08": true, "25": true, "26": true, "28": true, "3D": true, "3F": true, "40": true,
	"42": true, "53": true, "55": true, "57": true, "58": true,
}

// PostgreSQL's settings that a session store cares about, in Inspect.
func postgresInspect(x *inspection) []store.Finding {
	return []store.Finding{
		x.postgresTLS(), x.postgresPrivileges(), x.postgresPrimary(), x.postgresDurability(),
		x.sweeping(`SELECT min(sweep_after) FROM {schema}"{table}"`),
		x.clock(`SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint`),
		x.postgresVersion(),
	}
}

func (x *inspection) postgresTLS() store.Finding {
	var on bool
	var version sql.NullString
	var addr sql.NullString
	if err := x.scan(`SELECT ssl, version, host(inet_server_addr()) FROM pg_stat_ssl WHERE pid = pg_backend_pid()`, &on, &version, &addr); err != nil {
		return unknown("tls", "pg_stat_ssl")
	}
	return tls(on, version.String, !addr.Valid || loopback(addr.String), "set sslmode=verify-full with sslrootcert in the data source name, and ssl=on in postgresql.conf")
}

func (x *inspection) postgresPrivileges() store.Finding {
	var role string
	var super, owner, create bool
	err := x.scan(x.in(`SELECT current_user, (SELECT rolsuper OR rolcreaterole OR rolcreatedb OR rolbypassrls FROM pg_roles WHERE rolname = current_user),
	pg_has_role((SELECT relowner FROM pg_class WHERE oid = to_regclass('{schema}"{table}"')), 'USAGE'),
	has_table_privilege(to_regclass('{schema}"{table}"'), 'TRUNCATE')`), &role, &super, &owner, &create)
	if err != nil {
		return unknown("privileges", "pg_roles")
	}
	f := store.Finding{Check: "privileges", Severity: store.SeverityOK, Evidence: fmt.Sprintf("the role %q may do little more than sessions need", role)}
	what := ""
	switch {
	case super:
		what = "is a superuser, or may create roles or databases"
	case owner:
		what = "owns the table"
	case create:
		what = "may empty the table"
	}
	if what != "" {
		f.Severity = store.SeverityWarning
		f.Evidence = fmt.Sprintf("the role %q %s: whoever takes over one web server can do the same", role, what)
		f.Fix = "run Migrate with this role, and the app with another one that has the rights that Grants returns, and no others"
	}
	return f
}

func (x *inspection) postgresPrimary() store.Finding {
	var standby, readOnly bool
	if err := x.scan(`SELECT pg_is_in_recovery(), current_setting('transaction_read_only')::bool`, &standby, &readOnly); err != nil {
		return unknown("read-only", "pg_is_in_recovery")
	}
	switch {
	case standby:
		return store.Finding{
			Check: "read-only", Severity: store.SeverityCritical, Evidence: "this server is a standby: it takes no writes, and what it reads may be old",
			Fix: "connect to the primary: name all servers in the data source name, with target_session_attrs=read-write",
		}
	case readOnly:
		return store.Finding{
			Check: "read-only", Severity: store.SeverityCritical, Evidence: "transactions are read only by default",
			Fix: "ALTER ROLE … SET default_transaction_read_only = off, or the same for the database or the server",
		}
	}
	return store.Finding{Check: "read-only", Severity: store.SeverityOK, Evidence: "this server is a primary and takes writes"}
}

func (x *inspection) postgresDurability() store.Finding {
	var fsync, pages, commit, persistence string
	err := x.scan(x.in(`SELECT current_setting('fsync'), current_setting('full_page_writes'), current_setting('synchronous_commit'),
	coalesce((SELECT relpersistence::text FROM pg_class WHERE oid = to_regclass('{schema}"{table}"')), '')`), &fsync, &pages, &commit, &persistence)
	if err != nil {
		return unknown("durability", "current_setting")
	}
	f := store.Finding{
		Check: "durability", Severity: store.SeverityOK,
		Evidence: fmt.Sprintf("fsync is %s, full_page_writes %s, synchronous_commit %s", fsync, pages, commit),
	}
	switch {
	case persistence == "u":
		f.Severity = store.SeverityWarning
		f.Evidence += "; the table is UNLOGGED: a crash empties it, and standbys have none of it"
		f.Fix = "ALTER TABLE … SET LOGGED"
	case fsync == "off" || pages == "off":
		f.Severity = store.SeverityCritical
		f.Evidence += ": a crash of the machine can damage the whole database"
		f.Fix = "set fsync = on and full_page_writes = on in postgresql.conf"
	case commit == "off":
		f.Severity = store.SeverityWarning
		f.Evidence += ": a crash loses the writes of the last moments, and can bring back a session that was logged out in them"
		f.Fix = "ALTER ROLE … SET synchronous_commit = on"
	}
	return f
}

func (x *inspection) postgresVersion() store.Finding {
	var text string
	var n int
	if err := x.scan(`SELECT current_setting('server_version'), current_setting('server_version_num')::int`, &text, &n); err != nil {
		return unknown("version", "server_version")
	}
	f := store.Finding{Check: "version", Severity: store.SeverityOK, Evidence: "PostgreSQL " + text}
	if n < 130000 {
		f.Severity, f.Fix = store.SeverityWarning, "use PostgreSQL 13 at least: older ones are not tested and get no corrections any more"
	}
	return f
}
