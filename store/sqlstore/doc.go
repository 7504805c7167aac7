// Package sqlstore keeps sessions in a SQL database, over [database/sql]. It
// imports no driver: the application opens the [sql.DB] and names its
// [Dialect]. The runnable example is in the module's integration folder, which
// may import one.
//
// # SQLite
//
// Any number of processes on one machine share one file. Each process writes
// through one connection, which [Store] keeps and callers take in turn, waiting
// no longer than their context allows; reads run on the pool and never wait
// for a writer (WAL mode, which [Store.Migrate] turns on). Each method of the
// contract is one statement; telling why one matched nothing takes a read.
//
// [SQLiteDSN] gives the data source name: a busy timeout, so that processes
// wait for each other (without one they fail at once), and synchronous=NORMAL.
// That setting means: a process that is killed loses nothing it was told is
// written, and no crash damages the file; a machine that loses power may lose
// the writes of the last moments (those since the last checkpoint), all of
// them from some point on. Set synchronous=FULL to exclude that, at one fsync
// a write.
//
// Settings of the [sql.DB] are the application's. With SetMaxOpenConns(1), as
// databases in memory need, reads take turns with the writes; set it before
// [New]. With a small limit other than that, count the write connection in. Do
// not put the file on a network file system: WAL needs shared memory.
//
// # Schema
//
// [Store.Migrate] creates and updates the tables, [Store.Verify] tells whether
// they fit, [Store.Schema] is the SQL to read or to run by hand. Nothing else
// changes the schema.
//
// Owner, key and handle are BLOBs, compared byte for byte. Times are Unix
// milliseconds. The version is 64 bits, stored as the signed integer of the
// same bits. The index by owner holds no anonymous sessions.
package sqlstore
