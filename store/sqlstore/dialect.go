package sqlstore

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"
	"strings"

	"github.com/coatcheck/coatcheck/store"
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
	maxData int
	// misses says that a statement may have matched no row although there is one: MariaDB
	// answers so to some that it interrupts, for KILL QUERY or max_statement_time, and
	// with no error. So what matched nothing is looked for, and tried again if it is there.
	misses bool
	// quote is around the name of a schema; "" if there are none to choose from.
	quote string
	// placeholder is the n-th parameter, counted from 1; nil for a question mark.
	placeholder func(n int) string
	queries     queries
	schema      schema
	grants      []string // to {role}
	grantSchema string   // to {role}, where the schema is named
	diagnose    func(error) diagnosis
	inspect     func(x *inspection) []store.Finding
}

// queries is the SQL of a Store. {table} stands for the table's name, to be
// used within the dialect's quotes, and {schema} before them for that of its
// schema with a dot, or for nothing. The order of the parameters is the same in
// every dialect.
type queries struct {
	get     string // key, now
	getMany string // now, {keys}
	create  string // key, version, handle, owner, created, deadline, expires, next, label, data, now
	// recreate takes the place of an expired record, in a dialect whose create
	// has no now and fails on any: version, handle, owner, created, deadline,
	// expires, next, label, data, key, now.
	recreate   string
	replace    string // version, deadline, expires, next, label, data, key, old version, now
	touch      string // expires, key, now
	deleteLive string // key, now: deletes the record unless it has expired
	deleteDead string // key, now: deletes the record if it has expired
	listOwner  string // owner, now
	// deleteOwner is owner, handles in place of {keep}, now in place of {now}; it
	// returns for each row whether it was a live session. In a dialect that has
	// deleteOwnerRest (owner, handles) it deletes live sessions alone, and
	// returns nothing.
	deleteOwner, deleteOwnerRest string
	list                         string // after this key, now, limit
	// sweep is now, limit. In a dialect that has sweepDue, see there.
	sweep string
	// sweepDue is now, limit, for a table that has sweep_after: a time that is
	// never after the end of its row, and may be long before it. It reads the
	// keys of rows whose sweep_after has come; then sweep (now, {keys}) deletes
	// those that have ended, and sweepLater (now, {keys}) moves the others' on.
	sweepDue, sweepLater string
	// sweepBoth does all that in one statement (now, limit) and returns the number
	// of rows that were due, and of those deleted.
	sweepBoth string
}

// schema is how the tables come to be and how they are recognised.
type schema struct {
	// steps[i] takes the schema from version i to i+1.
	steps [][]string
	// repeatable says that the steps are in no transaction: each statement can be
	// run again, and a table without history may be of a Migrate that was
	// interrupted.
	repeatable bool
	// prepare does what cannot be done in a transaction, before begin.
	prepare func(context.Context, *sql.Conn) error
	// begin keeps other migrators of the table out; end commits if err is nil,
	// else undoes what can be undone.
	begin func(ctx context.Context, c *sql.Conn, n names) (end func(err error) error, err error)
	// exists counts the tables of the name {table}.
	exists string
	// history is the table of applied steps; record adds one, of {version} at
	// {time}; version is the latest.
	history, record, version string
	// verify explains how the table, at the latest version, differs from what the
	// store needs.
	verify func(ctx context.Context, c *sql.Conn, n names) error
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
	again     bool   // it has changed nothing, and may succeed at once if repeated
	refused   bool   // it has changed nothing, and will not succeed until somebody sees to it
	readOnly  bool   // the server takes no writes: it may have become a replica
	duplicate bool   // the key is there already
	full      bool   // there was no space to write; it changed nothing
	tooLarge  bool   // a value is over the database's limit
	advice    string // what it means and what to do about it; may be empty
	// instead is the error to show, if the driver's may hold values.
	instead error
}

// names are those of a store's table, each of letters, digits and _ alone.
type names struct {
	schema string // "" for the connection's own
	table  string
}

// where tells of a schema that was named.
func (n names) where() string {
	if n.schema == "" {
		return ""
	}
	return fmt.Sprintf(" in schema %q", n.schema)
}

// in fills the names into SQL.
func (d Dialect) in(n names, query string) string {
	schema := ""
	if n.schema != "" {
		schema = d.quote + n.schema + d.quote + "."
	}
	return strings.NewReplacer("{table}", n.table, "{schema}", schema, "{schemaname}", n.schema).Replace(query)
}

// params is a list of n parameters, of which the first is number from.
func (d Dialect) params(from, n int) string {
	list := make([]string, n)
	for i := range list {
		list[i] = d.param(from + i)
	}
	return strings.Join(list, ", ")
}

func (d Dialect) param(n int) string {
	if d.placeholder == nil {
		return "?"
	}
	return d.placeholder(n)
}

// dollar is PostgreSQL's placeholder.
func dollar(n int) string { return "$" + strconv.Itoa(n) }

// questions is a list of n parameters that are question marks.
func questions(n int) string { return Dialect{}.params(1, n) }
