package sqlstore

import (
	"context"
	"database/sql"
	"strings"
)

// Dialect is the SQL of one kind of database. Use a value of this package,
// such as [SQLite]; [New] refuses the zero Dialect.
type Dialect struct {
	name string
	// turns, if not nil, has the writes of a process take turns on one
	// connection, for a database that admits one writer at a time. Queueing
	// inside the process is fairer and faster than polling for its lock.
	turns *connection
	// maxData is the longest Data, in bytes, that the store takes.
	maxData  int
	queries  queries
	schema   schema
	diagnose func(error) diagnosis
}

// queries is the SQL of a Store. {table} stands for the table's name, to be
// used within the dialect's quotes. The order of the parameters is the same in
// every dialect.
type queries struct {
	get         string // key, now
	getMany     string // now, {keys}
	create      string // key, version, handle, owner, created, deadline, expires, next, label, data, now
	replace     string // version, deadline, expires, next, label, data, key, old version, now
	touch       string // expires, key, now
	deleteLive  string // key, now: deletes the record unless it has expired
	deleteDead  string // key, now: deletes the record if it has expired
	listOwner   string // owner, now
	deleteOwner string // owner, handles in place of {keep}, now; returns for each row whether it was a live session
	list        string // after this key, now, limit
	sweep       string // now, limit
}

// schema is how the tables come to be and how they are recognised.
type schema struct {
	// steps[i] takes the schema from version i to i+1.
	steps [][]string
	// prepare does what cannot be done in a transaction, before begin.
	prepare func(context.Context, *sql.Conn) error
	// begin keeps other migrators out; end commits if err is nil, else undoes
	// what can be undone.
	begin func(context.Context, *sql.Conn) (end func(err error) error, err error)
	// exists counts the tables of a name: name.
	exists string
	// history is the table of applied steps; record adds one: version, time.
	history, record, version string
	// verify explains how the table of this name, at the latest version,
	// differs from what the store needs.
	verify func(ctx context.Context, c *sql.Conn, table string) error
}

// connection is the care of the one that turns are taken on.
type connection struct {
	// setUp prepares it for writing, and restore for other uses.
	setUp, restore string
	// tend looks after the database, after the first statement and then after
	// each tendEvery.
	tend      func(context.Context, *sql.Conn)
	tendEvery int
	// makeRoom gives back space that the database can do without, and reports
	// whether a write that found none may now find some.
	makeRoom func(context.Context, *sql.Conn) bool
}

// diagnosis is what a dialect knows about an error of its driver.
type diagnosis struct {
	answered  bool   // the error is the database's own: the connection works
	unapplied bool   // the statement has certainly changed nothing
	full      bool   // there was no space to write; it changed nothing
	tooLarge  bool   // a value is over the database's limit
	advice    string // what it means and what to do about it; may be empty
}

func expand(query, table string) string { return strings.ReplaceAll(query, "{table}", table) }

// params is a list of n parameters.
func params(n int) string { return strings.TrimSuffix(strings.Repeat("?, ", n), ", ") }
