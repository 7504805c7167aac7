package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/coatcheck/coatcheck/store"
)

// SQLite is the dialect of SQLite 3.37 and later, with any driver.
var SQLite = Dialect{
	name: "SQLite",
	turns: &connection{
		// By default every process tries a checkpoint after each commit once
		// the log is long, and busy writers never let one finish: measured
		// with three of them, the log grew by 100 MB a second.
		//
		// The file of the log keeps the size that it needs all the time, which
		// costs nothing and is there when the disk is full, and gives back what it
		// had grown beyond that, at the first write into a new log.
		setUp:     fmt.Sprintf(`PRAGMA wal_autocheckpoint = 0; PRAGMA journal_size_limit = %d`, sqliteLongLog*4096),
		restore:   `PRAGMA wal_autocheckpoint = 1000; PRAGMA journal_size_limit = -1`,
		tend:      sqliteCheckpoint,
		tendEvery: 500,
		makeRoom:  sqliteMakeRoom,
	},
	maxData: 16 << 20, // far below SQLite's own limit of 1 GB, far above any session
	queries: queries{
		get: `SELECT ` + sqliteRead + ` FROM "{table}" WHERE key = ? AND ` + sqliteEnds + ` > ?`,

		getMany: `SELECT ` + sqliteRead + ` FROM "{table}" WHERE ` + sqliteEnds + ` > ? AND key IN ({keys})`,

		create: `INSERT INTO "{table}" (` + columns + `) VALUES (` + questions(10) + `)
ON CONFLICT (key) DO UPDATE SET version = excluded.version, handle = excluded.handle, owner = excluded.owner,
	created = excluded.created, deadline = excluded.deadline, expires = excluded.expires,
	next = excluded.next, label = excluded.label, data = excluded.data
WHERE ` + sqliteEnds + ` <= ?`,

		replace: `UPDATE "{table}" SET version = ?, deadline = min(deadline, ?), expires = min(deadline, ?),
	next = ?, label = ?, data = ?
WHERE key = ? AND version = ? AND ` + sqliteEnds + ` > ?`,

		touch: `UPDATE "{table}" SET expires = min(deadline, max(expires, ?))
WHERE key = ? AND ` + sqliteEnds + ` > ? AND next IS NULL`,

		deleteLive: `DELETE FROM "{table}" WHERE key = ? AND ` + sqliteEnds + ` > ?`,
		deleteDead: `DELETE FROM "{table}" WHERE key = ? AND ` + sqliteEnds + ` <= ?`,

		listOwner: `SELECT ` + sqliteRead + ` FROM "{table}" WHERE owner = ? AND ` + sqliteEnds + ` > ? AND next IS NULL`,

		deleteOwner: `DELETE FROM "{table}" WHERE owner = ? AND (handle IN ({keep})) IS NOT TRUE
RETURNING next IS NULL AND ` + sqliteEnds + ` > {now}`,

		// A key of another length leads nowhere, and there would be no going on
		// after it.
		list: `SELECT ` + sqliteRead + ` FROM "{table}"
WHERE key > ? AND length(key) = 32 AND ` + sqliteEnds + ` > ? ORDER BY key LIMIT ?`,

		sweep: `DELETE FROM "{table}" WHERE rowid IN (
	SELECT rowid FROM "{table}" WHERE ` + sqliteEnds + ` <= ? ORDER BY ` + sqliteEnds + ` LIMIT ?)`,
	},
	schema: schema{
		steps: [][]string{
			{
				`CREATE TABLE "{table}" (
	key      BLOB    NOT NULL PRIMARY KEY, -- SHA-256 of the session ID
	version  INTEGER NOT NULL, -- the 64 bits of an unsigned integer
	handle   BLOB    NOT NULL, -- 16 bytes, the public name
	owner    BLOB,             -- NULL: anonymous
	created  INTEGER NOT NULL, -- this and the next two: Unix milliseconds
	deadline INTEGER NOT NULL,
	expires  INTEGER NOT NULL,
	next     BLOB,             -- not NULL: a marker, no session
	label    BLOB    NOT NULL,
	data     BLOB    NOT NULL
) STRICT`,
				`CREATE INDEX "{table}_owner" ON "{table}" (owner) WHERE owner IS NOT NULL`,
				`CREATE INDEX "{table}_expires" ON "{table}" (expires)`,
			},
			{
				`DROP INDEX "{table}_expires"`,
				`CREATE INDEX "{table}_ends" ON "{table}" (` + sqliteEnds + `)`,
			},
		},
		prepare: sqliteWAL,
		begin:   sqliteBegin,
		exists:  `SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = '{table}'`,
		history: `CREATE TABLE IF NOT EXISTS "{table}_schema" (
	version INTEGER NOT NULL PRIMARY KEY,
	applied INTEGER NOT NULL -- Unix milliseconds
) STRICT`,
		record:  `INSERT INTO "{table}_schema" (version, applied) VALUES ({version}, {time})`,
		version: `SELECT coalesce(max(version), 0) FROM "{table}_schema"`,
		verify:  sqliteVerify,
	},
	diagnose: sqliteDiagnose,
	inspect:  sqliteInspect,
}

// columns is the order in which records are written and read.
const columns = `key, version, handle, owner, created, deadline, expires, next, label, data`

const (
	// sqliteRead is columns, for reading. Drivers copy the name of every column
	// of every result, and its declared type: an expression has none, and a name
	// of one letter costs nothing.
	sqliteRead = `+key k, +version v, +handle h, +owner o, +created c, +deadline d, +expires e, +next n, +label l, +data b`

	// sqliteEnds is when a record ends: nothing lives beyond its deadline, even
	// if somebody else has written a later expiry. A row that lacks a time is
	// long dead.
	sqliteEnds = `coalesce(min(expires, deadline), 0)`
)

// SQLiteDSN returns the data source name of the database file at path for
// drivers that take SQLite's own file: names with _pragma parameters, as
// github.com/ncruces/go-sqlite3 and modernc.org/sqlite do. With another driver
// set the same by its own means: busy_timeout=10000, synchronous=NORMAL.
func SQLiteDSN(path string) string {
	// A file: name is a URI: these three would end the path or begin an escape.
	path = strings.NewReplacer("%", "%25", "?", "%3f", "#", "%23").Replace(path)
	q := url.Values{"_txlock": {"immediate"}, "_pragma": {"busy_timeout(10000)", "synchronous(normal)"}}
	return "file:" + path + "?" + q.Encode()
}

// sqliteWAL turns on WAL mode, which the file keeps. SQLite does not call its
// busy handler for the exclusive lock that the change needs.
func sqliteWAL(ctx context.Context, conn *sql.Conn) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		var mode string
		err := conn.QueryRowContext(ctx, `PRAGMA journal_mode = WAL`).Scan(&mode)
		switch code, ok := sqliteCode(err); {
		case err == nil && (mode == "wal" || mode == "memory"):
			return nil
		case err == nil:
			return fmt.Errorf("the database stays in journal mode %q: its file system or the driver lacks shared memory, put the file on a local disk", mode)
		case !ok || code&sqlitePrimary != sqliteBusy && code&sqlitePrimary != sqliteLocked:
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("turn on WAL mode: %w: other connections are using the file", ctx.Err())
		case <-tick.C:
		}
	}
}

// sqliteLongLog is the length from which on a new log is worth keeping writers
// out for, in pages, which have 4 KiB by default.
const sqliteLongLog = 4000

// sqliteCheckpoint moves the log into the database. That waits for nobody, and
// so may leave something behind each time; once the log is long, it keeps
// writers out, until the readers of the moment are done, to begin a new one.
// Whatever fails is done the next time.
func sqliteCheckpoint(ctx context.Context, c *sql.Conn) {
	checkpoint := func(mode string) (pages int) {
		var busy, moved int
		if err := c.QueryRowContext(ctx, `PRAGMA wal_checkpoint(`+mode+`)`).Scan(&busy, &pages, &moved); err != nil {
			return 0
		}
		return pages
	}
	if checkpoint("PASSIVE") < sqliteLongLog {
		return
	}
	// A reader that hangs must not stop the writers for as long as it does.
	ctx, cancel := context.WithTimeout(ctx, 250*time.Millisecond)
	defer cancel()
	checkpoint("RESTART")
}

// sqliteMakeRoom moves the log into the database and cuts it to nothing, where
// that is what fills the disk.
func sqliteMakeRoom(ctx context.Context, c *sql.Conn) bool {
	ctx, cancel := context.WithTimeout(ctx, 250*time.Millisecond) // as in sqliteCheckpoint
	defer cancel()
	var busy, pages, moved int
	err := c.QueryRowContext(ctx, `PRAGMA wal_checkpoint(TRUNCATE)`).Scan(&busy, &pages, &moved)
	return err == nil && busy == 0
}

// sqliteBegin takes the write lock at once, whatever the driver's default: a
// transaction that began as a reader cannot wait for it.
func sqliteBegin(ctx context.Context, conn *sql.Conn, _ names) (end func(error) error, err error) {
	if _, err := conn.ExecContext(ctx, `BEGIN IMMEDIATE`); err != nil {
		return nil, err
	}
	return func(err error) error {
		// Even if ctx has ended: an open transaction would stop every writer.
		ctx := context.WithoutCancel(ctx)
		if err == nil {
			_, err = conn.ExecContext(ctx, `COMMIT`)
		}
		if err != nil {
			_, _ = conn.ExecContext(ctx, `ROLLBACK`)
		}
		return err
	}, nil
}

func sqliteVerify(ctx context.Context, c *sql.Conn, n names) error {
	table := n.table
	var mode string
	if err := c.QueryRowContext(ctx, `PRAGMA journal_mode`).Scan(&mode); err != nil {
		return err
	}
	if mode != "wal" && mode != "memory" {
		return fmt.Errorf("the database is in journal mode %q, so readers and writers block each other: run Migrate, or PRAGMA journal_mode = WAL", mode)
	}
	var strict bool
	if err := c.QueryRowContext(ctx, `SELECT strict FROM pragma_table_list WHERE schema = 'main' AND name = ?`, table).Scan(&strict); err != nil {
		return err
	}
	if !strict {
		return fmt.Errorf("table %q is not STRICT, so it takes what is no session: it was changed by hand or by a program that copied it; restore it, or choose another Options.Table and run Migrate", table)
	}
	if err := sqliteNames(ctx, c, "column", table, strings.Split(columns, ", "),
		`SELECT name FROM pragma_table_info(?)`); err != nil {
		return err
	}
	return sqliteNames(ctx, c, "index", table, []string{table + "_owner", table + "_ends"},
		`SELECT name FROM pragma_index_list(?) WHERE origin = 'c'`)
}

// sqliteNames reports the first of want that query does not name.
func sqliteNames(ctx context.Context, c *sql.Conn, kind, table string, want []string, query string) error {
	rows, err := c.QueryContext(ctx, query, table)
	if err != nil {
		return err
	}
	defer rows.Close()
	have := map[string]bool{}
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return err
		}
		have[name] = true
	}
	if err := rows.Err(); err != nil {
		return err
	}
	for _, name := range want {
		if !have[name] {
			return fmt.Errorf("table %q has no %s %q: it was changed by hand or is another program's; restore it, or choose another Options.Table and run Migrate", table, kind, name)
		}
	}
	return nil
}

// Result codes, https://www.sqlite.org/rescode.html.
const (
	sqliteError     = 1
	sqliteBusy      = 5
	sqliteLocked    = 6
	sqliteReadOnly  = 8
	sqliteInterrupt = 9
	sqliteIOErr     = 10
	sqliteCorrupt   = 11
	sqliteFull      = 13
	sqliteCantOpen  = 14
	sqliteProtocol  = 15
	sqliteSchema    = 17
	sqliteTooBig    = 18
	sqliteNotADB    = 26

	sqlitePrimary    = 0xff // an extended code keeps the primary one in its low byte
	sqliteIOErrWrite = sqliteIOErr | 3<<8
)

var sqliteAdvice = map[int]string{
	sqliteError:    "run Verify to see whether the schema fits",
	sqliteBusy:     "another process held the write lock for too long; look for a long transaction on the file, or for a busy_timeout that is too short",
	sqliteLocked:   "another connection of this process holds a lock on the table",
	sqliteReadOnly: "the file, its folder or the file system is not writable by this process",
	sqliteCorrupt:  "the file is damaged; restore it from a copy or start with a new one",
	sqliteFull:     "there is no space left for the database, and nothing was changed; free some",
	sqliteCantOpen: "the file cannot be opened; its folder must exist and be writable",
	sqliteNotADB:   "the file is no SQLite database",
	sqliteProtocol: "the file is too contended to read",
	sqliteSchema:   "the schema is being changed",
}

// sqliteDiagnose relies on a failed statement being rolled back. Two codes do
// not tell: of a commit whose fsync failed (an I/O error), and of a statement
// that was interrupted, by a driver, between its work and its end.
//
// An I/O error while writing is another matter: what of the transaction is in
// the log then is without its end, and is never read. On a full disk it is what
// ncruces says for SQLITE_FULL (as of v0.37), with no word of the reason.
func sqliteDiagnose(err error) diagnosis {
	code, ok := sqliteCode(err)
	if !ok {
		return diagnosis{unapplied: errors.Is(err, sql.ErrConnDone)}
	}
	if code == sqliteIOErrWrite {
		return diagnosis{
			answered: true, unapplied: true, full: true, refused: true,
			advice: "the file could not be written, and nothing was changed; look for space on the disk, then for faults of it",
		}
	}
	readOnly := code == sqliteReadOnly // of a file that is to be recovered it has others
	code &= sqlitePrimary
	return diagnosis{
		answered:  true,
		unapplied: code != sqliteIOErr && code != sqliteInterrupt,
		refused:   code == sqliteFull || readOnly,
		full:      code == sqliteFull,
		tooLarge:  code == sqliteTooBig,
		advice:    sqliteAdvice[code],
	}
}

func sqliteInspect(x *inspection) []store.Finding {
	var mode, version string
	journal := unknown("journal", "PRAGMA journal_mode")
	if x.scan(`PRAGMA journal_mode`, &mode) == nil {
		journal = store.Finding{Check: "journal", Severity: store.SeverityOK, Evidence: "the journal mode is " + mode}
		if mode != "wal" && mode != "memory" {
			journal.Severity, journal.Fix = store.SeverityWarning, "run Migrate: readers and writers block each other"
		}
	}
	var level int
	durability := unknown("durability", "PRAGMA synchronous")
	if x.scan(`PRAGMA synchronous`, &level) == nil {
		durability = store.Finding{Check: "durability", Severity: store.SeverityOK}
		switch level {
		case 0:
			durability.Severity, durability.Evidence = store.SeverityCritical, "synchronous is OFF: a power cut can damage the file"
			durability.Fix = "open the file with SQLiteDSN, or set synchronous=NORMAL or FULL"
		case 1:
			durability.Evidence = "synchronous is NORMAL: a power cut loses the writes of the last moments, and damages nothing"
		default:
			durability.Evidence = "synchronous is FULL: a power cut loses nothing"
		}
	}
	f := unknown("version", "sqlite_version")
	if x.scan(`SELECT sqlite_version()`, &version) == nil {
		f = store.Finding{Check: "version", Severity: store.SeverityOK, Evidence: "SQLite " + version}
	}
	sweep := x.sweeping(`SELECT ` + sqliteEnds + ` FROM "{table}" ORDER BY ` + sqliteEnds + ` LIMIT 1`)
	return []store.Finding{journal, durability, sweep, f}
}
