// Package sqlstore keeps sessions in a SQL database, over [database/sql]. It
// imports no driver: the application opens the [sql.DB] and names its
// [Dialect]. The runnable example is example_sqlite_test.go in the module
// integration, which may import one.
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
// # Schema
//
// [Store.Migrate] creates and updates the tables, [Store.Verify] tells whether
// they fit, and [Store.Schema] is the SQL to read or to run by hand. Nothing
// else changes the schema.
//
// Owner, key and handle are BLOBs, compared byte for byte. Times are Unix
// milliseconds. The version is 64 bits, stored as the signed integer of the
// same bits. The index by owner holds no anonymous sessions.
//
// Other programs may damage what is there. A row that is not a record, by the
// type or the length of a value, is [store.ErrCorrupt] to Get, a conflict to
// Create, and left out where many records are read; Delete removes it,
// DeleteOwner and Sweep do as they would if it were whole. A row whose times
// are NULL does not exist for any method but Sweep, which removes it.
//
// The index by end makes a touch take about 30 µs instead of 20, at most
// once in a tenth of the idle timeout for each session; without it every sweep
// would read the whole table. The table has a rowid: WITHOUT ROWID is a third
// faster to create and delete in with 300 bytes of data, but keeps large rows
// in its inner pages, and from 2 KB on everything takes 1.4 to 3 times as long.
package sqlstore
