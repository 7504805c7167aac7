// Package sqlstore keeps sessions in a SQL database, over [database/sql]. It
// imports no driver: the application opens the [sql.DB] and names its
// [Dialect]. Whole apps are example_sqlite_test.go, example_postgres_test.go and
// example_mysql_test.go in the module integration, which may import drivers.
//
// # PostgreSQL
//
// [PostgreSQL] is for version 13 and later, tested with
// github.com/jackc/pgx/v5/stdlib. Each method of the contract is one statement
// and one round trip, prepared once for each connection; where it matches
// nothing, a second one tells why (Replace), or removes what has expired (Delete).
//
// Sessions need the primary: with several servers, name them all with
// target_session_attrs=read-write. A standby refuses every write, and so does
// [Store.Verify], and Inspect tells of it, but it does answer reads, with what may be old.
//
// read committed, the default, is all that sessions need. Under a stricter
// isolation, a statement that fails to serialize, as one in a deadlock, is
// repeated up to a hundred times, within its context.
//
// Through PgBouncer in its transaction mode, everything works if the driver
// prepares nothing on the server: set Options.Unprepared, and with pgx
// default_query_exec_mode=exec. Since version 1.21 PgBouncer can know prepared
// statements (max_prepared_statements), and neither is needed.
//
// A touch, by far the most frequent write, changes no indexed column. The index
// to sweep by is on sweep_after, which is never after the end of its row: the
// sweeper removes what has ended and moves the others' sweep_after on, once
// an idle timeout for each session in use. So PostgreSQL keeps touches within
// their page (HOT), where it cleans up by itself. Measured with 200,000 touches
// of 100,000 rows of 640 bytes, PostgreSQL 15, four connections:
//
//	index over      fillfactor  HOT      WAL per touch  touches per second
//	the expiry      100         0 %      739 bytes      3,300
//	the expiry      80          0 %      698 bytes      4,300
//	sweep_after     100         92.6 %   523 bytes      5,800
//	sweep_after     80          99.6 %   481 bytes      5,800
//	sweep_after     70          100 %    448 bytes      7,000
//
// The table has a fillfactor of 80, and is vacuumed when a twentieth of its rows
// is dead. A transaction of another program that stays open in the same database
// stops all of that: set idle_in_transaction_session_timeout.
//
// # MySQL and MariaDB
//
// [MySQL] is for MySQL 8.0 and later and for MariaDB 10.6 and later, tested with
// github.com/go-sql-driver/mysql. What is said of PostgreSQL's statements, of
// touches and of the primary holds here, too. But a replica that is not read_only
// takes writes, and nothing here notices, since to ask takes rights that sessions do
// not need: set read_only (super_read_only) on replicas. In a Galera cluster or a group
// with several primaries, name one node for all web servers, since another may answer
// with what is old. Three things take one more statement: Create in place of an expired
// record, DeleteOwner (live sessions, then what else is the owner's), and each batch of
// a sweep, which takes two more if some of it lives on. A write that matches nothing is
// followed by a read: MariaDB answers so, and with success, to some statements that it
// ends early, for max_statement_time or KILL QUERY.
//
// Leave rejectReadOnly of go-sql-driver off: it hides why a write was refused. The store
// itself closes idle connections when a server takes no writes any more.
//
// The settings of the data source name are the application's: clientFoundRows,
// interpolateParams (with Options.Unprepared) and sql_mode change nothing of what
// the store does. It tests the sizes of values itself, as a server that is not
// strict cuts what is too long. Data may have 4 MiB at most, and a record that is over the
// server's max_allowed_packet is refused by it.
//
// Nothing but InnoDB will do. Schema changes are no transactions there: each step
// can be repeated, and a Migrate that was interrupted is taken up by the next.
//
// # Rights
//
// [Store.Migrate] needs the right to create tables, and is best run by a
// deployment, as their owner. A running store needs what [Store.Grants] returns
// for its user, which in PostgreSQL, without Options, is
//
//	GRANT SELECT, INSERT, UPDATE, DELETE ON "coatcheck_sessions" TO app
//	GRANT SELECT ON "coatcheck_sessions_schema" TO app
//
// with USAGE of the schema before them if Options.Schema names one, and in MySQL
//
//	GRANT SELECT, INSERT, UPDATE, DELETE ON `coatcheck_sessions` TO 'app'@'%'
//	GRANT SELECT ON `coatcheck_sessions_schema` TO 'app'@'%'
//
// With these it may also call Migrate, as long as there is nothing to do.
//
// # Errors
//
// An error of the server is shown by its code and what to do about it. Its
// message is shown only where it names no more than users, tables and settings:
// others may hold keys and owners. A write that the server refused has changed
// nothing, and is [store.ErrUnapplied]; if that stays so until somebody sees to the
// server, [store.ErrRejected]. One whose connection or context ended after it was sent may have been
// carried out, and is [store.ErrAmbiguous]; one that never got a connection is
// not.
//
// # SQLite
//
// Any number of processes on one machine share one file. Each process writes
// through one connection, which the [Store] keeps and callers take in turn,
// waiting no longer than their context allows; reads run on the pool and do not
// wait for writers (WAL mode, which [Store.Migrate] turns on). Each method of
// the contract is one statement; where it matches nothing, a second one tells
// why (Replace), or removes what has expired by this process's clock (Delete).
//
// Open the file with [SQLiteDSN], which sets a busy timeout, for processes to
// wait for each other, and synchronous=NORMAL. That means: a process that is
// killed loses nothing that it was told is written, and no crash damages the
// file; a machine that loses power may lose the writes of the last moments, all
// from some point on. Such a loss can bring back a session that was logged out
// in those moments. Set synchronous=FULL to exclude that, at one fsync a write.
//
// The settings of the [sql.DB] are the application's: a pool of four to eight
// connections is plenty, with SetMaxIdleConns as high as SetMaxOpenConns, or
// the pool opens and closes files all the time. One of them is the write
// connection. With SetMaxOpenConns(1), which databases in memory need, reads
// take turns with writes; set it before [New]. Keep the file on a local disk,
// as WAL needs memory shared by its users.
//
// SQLite's own checkpoints give up while others write, so the log of a file
// that is always being written grows without end (100 MB a second, measured
// with three processes). The Store does them itself: every 500 writes, and by
// keeping writers out for a moment where the log has become long.
//
// A write that finds no space on the disk has not happened, and says so. Before
// it gives up, the Store empties the log into the database and tries once more,
// so that deletes and small writes go on where it is the log that fills the
// disk. If the database itself would have to grow for that, nothing goes on
// until there is space.
//
// A write whose context ends while it runs may have been carried out: it is
// [store.ErrAmbiguous] and matches the context's error. One that only waited,
// for its turn or for another process, has not been, and is the context's error
// alone.
//
// # Near caches
//
// The store has no [store.Watcher]: waiting for NOTIFY takes more of a driver
// than [database/sql] passes on, and MySQL has nothing like it. So a near cache
// learns of what other servers change by the age of its copies alone.
//
// # Schema
//
// [Store.Migrate] creates and updates the tables, [Store.Verify] tells whether
// they fit, and [Store.Schema] is the SQL to read or to run by hand. Nothing
// else changes the schema. Any number of servers may call Migrate at once: they
// wait for each other, by an advisory lock on servers.
//
// Owner, key and handle are BLOBs (BYTEA, VARBINARY), compared byte for byte. Times are Unix
// milliseconds. The version is 64 bits, stored as the signed integer of the
// same bits. The index by owner holds no anonymous sessions.
//
// Other programs may damage what is there. A row that is not a record, by the
// type or the length of a value, is [store.ErrCorrupt] to Get, a conflict to
// Create, and left out where many records are read; Delete removes it,
// DeleteOwner and Sweep do as they would if it were whole. A row of SQLite whose
// times are NULL does not exist for any method but Sweep, which removes it.
//
// In SQLite the index by end makes a touch take about 30 µs instead of 20, at most
// once in a tenth of the idle timeout for each session; without it every sweep
// would read the whole table. Its table has a rowid: WITHOUT ROWID is a third
// faster to create and delete in with 300 bytes of data, but keeps large rows
// in its inner pages, and from 2 KB on everything takes 1.4 to 3 times as long.
package sqlstore
