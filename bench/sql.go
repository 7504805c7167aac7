package main

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/sqlstore"
)

// What servers of SQL have in common.

// How many connections a pool has, unless the name of its row says otherwise.
const (
	// peerConns is one for each request: commits of scs that wait for the disk at the
	// same time wait only once, and with fewer it is slower on most days.
	peerConns = concurrency

	// sqlConns are those of Coatcheck and the bare rows, as in the command. With one
	// for each request they have two thirds of the rate on PostgreSQL, whose processes
	// then take turns on the processors.
	sqlConns = 16
)

// poolSizes are the sizes in the section pool.
var poolSizes = []int{8, 16, 32, 64}

// otherSizes are those that a row's own is compared with.
func otherSizes(own int) []int {
	return slices.DeleteFunc(slices.Clone(poolSizes), func(n int) bool { return n == own })
}

func pooled(name string, conns int) string { return fmt.Sprintf("%s, %d connections", name, conns) }

// Names of peers on every server of SQL.
const (
	bareSelect  = "bare: database/sql, the same columns by key"
	bareWaits   = "bare: the same with a deadline"
	plainUpdate = "bare: database/sql, UPDATE by key"
)

// sqlServer is a kind of server of SQL. The URL of one is that of a user who may
// do everything.
type sqlServer struct {
	driver  string
	dialect sqlstore.Dialect
	// dsn is the driver's name for a space of the server at url: a place for tables
	// that have the names of others. "" is the one that is there from the start.
	dsn func(url, space string) (string, error)
	// makeSpace makes the space %s unless it is there.
	makeSpace string
	// relax keeps commits from waiting for the disk, and restore undoes that.
	relax, restore []string
	// read selects the columns of a record by its key, and update sets its version,
	// expires and data.
	read, update string
}

// space makes a space and returns its DSN.
func (s *sqlServer) space(ctx context.Context, url, name string) (string, error) {
	dsn, err := s.dsn(url, "")
	if err != nil {
		return "", err
	}
	if err := s.exec(ctx, dsn, fmt.Sprintf(s.makeSpace, name)); err != nil {
		return "", err
	}
	return s.dsn(url, name)
}

func (s *sqlServer) exec(ctx context.Context, dsn string, statements ...string) error {
	db, err := sql.Open(s.driver, dsn)
	if err != nil {
		return err
	}
	defer db.Close()
	for _, text := range statements {
		if _, err := db.ExecContext(ctx, text); err != nil {
			return err
		}
	}
	return nil
}

// open opens a pool in a space, whose tables it makes.
func (s *sqlServer) open(ctx context.Context, url, space string, conns int, tables ...string) (*sql.DB, error) {
	dsn, err := s.space(ctx, url, space)
	if err != nil {
		return nil, err
	}
	if err := s.exec(ctx, dsn, tables...); err != nil {
		return nil, err
	}
	db, err := sql.Open(s.driver, dsn)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	return db, nil
}

// openStore opens Coatcheck's store in a space.
func (s *sqlServer) openStore(ctx context.Context, url, space string, conns int) (*sqlstore.Store, *sql.DB, func(), error) {
	db, err := s.open(ctx, url, space, conns)
	if err != nil {
		return nil, nil, nil, err
	}
	st, err := sqlstore.New(db, s.dialect, nil)
	if err != nil {
		return nil, nil, nil, errors.Join(err, db.Close())
	}
	closing := func() { _ = st.Close(); _ = db.Close() }
	if err := st.Migrate(ctx); err != nil {
		closing()
		return nil, nil, nil, err
	}
	return st, db, closing, nil
}

// stores opens Coatcheck's store over pools of that size.
func (s *sqlServer) stores(conns int) opener {
	return func(ctx context.Context, url, space string) (store.Store, func(), error) {
		st, _, closing, err := s.openStore(ctx, url, space, conns)
		return st, closing, err
	}
}

// peers are those of every server of SQL.
func (s *sqlServer) peers() []peer {
	all := append(s.stores(sqlConns).peers(),
		peer{bareSelect, s.openSelect(0)},
		peer{bareWaits, s.openSelect(time.Second)},
		peer{plainUpdate, s.openUpdate})
	for _, n := range otherSizes(sqlConns) {
		all = append(all, peer{pooled(coatcheck, n), s.stores(n).sessions(fmt.Sprintf("coatcheck_%d", n), plain)})
	}
	return all
}

// bareRow is what a row of Coatcheck's table holds.
type bareRow struct {
	key, handle, owner, next, label, data []byte
	version, created, deadline, expires   int64
}

func (r *bareRow) columns() []any {
	return []any{&r.key, &r.version, &r.handle, &r.owner, &r.created, &r.deadline, &r.expires, &r.next, &r.label, &r.data}
}

// openSelect selects the columns of a record by the key that the cookie is, with a
// prepared statement, and nothing else: what a read costs in database/sql. If timeout
// is zero, it waits for as long as it takes.
func (s *sqlServer) openSelect(timeout time.Duration) func(context.Context, string) (*app, error) {
	return func(ctx context.Context, url string) (*app, error) {
		st, db, closing, err := s.openStore(ctx, url, fmt.Sprintf("bare_select_%d", timeout.Milliseconds()), sqlConns)
		if err != nil {
			return nil, err
		}
		stmt, err := db.PrepareContext(ctx, s.read)
		if err != nil {
			closing()
			return nil, err
		}
		return &app{
			signIn: createBare(st),
			read: bareRead(func(ctx context.Context, key []byte) ([]byte, error) {
				if timeout > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, timeout)
					defer cancel()
				}
				var r bareRow
				err := stmt.QueryRowContext(ctx, key).Scan(r.columns()...)
				return r.data, err
			}),
			close: func() { _ = stmt.Close(); closing() },
		}, nil
	}
}

// openUpdate writes a record's data whatever its version is.
func (s *sqlServer) openUpdate(ctx context.Context, url string) (*app, error) {
	st, db, closing, err := s.openStore(ctx, url, "bare_update", sqlConns)
	if err != nil {
		return nil, err
	}
	stmt, err := db.PrepareContext(ctx, s.update)
	if err != nil {
		closing()
		return nil, err
	}
	return bareWrite(st, func(ctx context.Context, k store.Key) error {
		now := time.Now()
		// A version that changes, for MySQL, which counts only rows that do.
		res, err := stmt.ExecContext(ctx, now.UnixNano(), now.Add(idle).UnixMilli(), data, k[:])
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n != 1 {
			return fmt.Errorf("an update by key matched %d rows: %w", n, err)
		}
		return nil
	}, func() { _ = stmt.Close(); closing() }), nil
}

// sqlSections are those of every server of SQL. The first of scs, which are its
// peers with an idle timeout, is the base; readers are the peers that read, and
// pools those that do with pools of different sizes.
func sqlSections(scs, readers, pools []string) []section {
	base := scs[0]
	return []section{
		{name: "read", title: "Read: user and name", workers: concurrency, page: read, base: base, peers: readers},
		{name: "read-relaxed", title: "Read, no commit waits for the disk", workers: concurrency, page: read, base: base, peers: append(slices.Clone(scs), coatcheck, touching), relaxed: true},
		{name: "read-all", title: "Read: every value", workers: concurrency, page: all, base: base, peers: []string{base, coatcheck, near}},
		{name: "write", title: "Write: one more in the cart", workers: concurrency, page: write, base: base, peers: append(slices.Clone(scs), coatcheck, near)},
		{name: "write-relaxed", title: "Write, no commit waits for the disk", workers: concurrency, page: write, base: base, peers: []string{base, coatcheck}, relaxed: true},
		{name: "store", title: "Below the sessions: a record", workers: concurrency, page: write, base: plainUpdate, peers: []string{plainUpdate, casStore}},
		{name: "latency-1", title: "Read, requests at once: 1", workers: 1, page: read, base: bareSelect, peers: []string{bareSelect, bareWaits, coatcheck, base}},
		{name: "latency-8", title: "Read, requests at once: 8", workers: 8, page: read, base: bareSelect, peers: []string{bareSelect, bareWaits, coatcheck, base}},
		{name: "pool", title: "Read, by the size of the pool", workers: concurrency, page: read, base: coatcheck, peers: pools},
	}
}

// processCPU adds up what the server's processes have used, where Linux tells.
func processCPU(_ context.Context, srv *server) (func() (time.Duration, error), func(), error) {
	used := func() (sum time.Duration, err error) {
		for _, pid := range srv.pids {
			sum += processTime(pid)
		}
		return sum, nil
	}
	return used, func() {}, nil
}

// processTime is the processor time of a process and of its children, those that
// have ended included; 0 if the system does not tell.
func processTime(pid int) time.Duration {
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	var sum int64 // of hundredths of a second
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		// The name, in parentheses, may have anything in it.
		f := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		if len(f) < 15 || f[1] != strconv.Itoa(pid) && !bytes.HasPrefix(text, []byte(strconv.Itoa(pid)+" ")) {
			continue
		}
		for _, ticks := range f[11:15] { // user, system, and the same of children
			n, _ := strconv.ParseInt(ticks, 10, 64)
			sum += n
		}
	}
	return time.Duration(sum) * 10 * time.Millisecond
}

// relaxing is a family's relax.
func (s *sqlServer) relaxing(ctx context.Context, url string) (restore func() error, err error) {
	dsn, err := s.dsn(url, "")
	if err != nil {
		return nil, err
	}
	return func() error { return s.exec(ctx, dsn, s.restore...) }, s.exec(ctx, dsn, s.relax...)
}

// sqlPools are the rows by the size of the pool: Coatcheck's and those of scs.
func sqlPools(scs string) []string {
	var all []string
	for _, row := range []struct {
		name string
		own  int
	}{{coatcheck, sqlConns}, {scs, peerConns}} {
		all = append(all, row.name)
		for _, n := range otherSizes(row.own) {
			all = append(all, pooled(row.name, n))
		}
	}
	return all
}

// sqlPanels are the plots of every server of SQL.
func sqlPanels(server string, scs ...string) []panel {
	return []panel{
		{"Read, " + server + " asked each time", "read", append([]string{coatcheck, touching}, scs...)},
		{"Read, the same where no commit waits for the disk", "read-relaxed", append([]string{coatcheck, touching}, scs...)},
		{"Read, copies near the app", "read", []string{near, coatcheck, scs[0]}},
		{"Write", "write", append([]string{coatcheck}, scs...)},
	}
}
