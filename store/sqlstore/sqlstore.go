package sqlstore

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"time"

	"github.com/coatcheck/coatcheck/store"
)

// Options are the settings of a [Store].
type Options struct {
	// Table is the name of the table. If zero, "coatcheck_sessions". Letters,
	// digits and _, at most 40 of them, the first no digit. Several stores may
	// share a database under different names.
	Table string

	// Schema is where the table is: a schema of PostgreSQL, a database of MySQL;
	// SQLite has none. If zero, the connection's own (its search_path, or the
	// database that it names). It is written as Table is.
	Schema string

	// Unprepared sends each statement as a text of its own, for poolers that hand
	// a connection to others between statements and do not know prepared ones,
	// such as PgBouncer before 1.21 in its transaction mode; the driver may have to
	// be told, too. If zero, statements are prepared once for each connection.
	Unprepared bool
}

// Store keeps sessions in a SQL database. It has every capability of package
// store that a table can have. It is safe for concurrent use.
type Store struct {
	db      *sql.DB
	dialect Dialect
	names   names
	q       queries
	reads   statements
	writes  statements
}

var (
	_ store.Store      = (*Store)(nil)
	_ store.OwnerIndex = (*Store)(nil)
	_ store.Lister     = (*Store)(nil)
	_ store.Sweeper    = (*Store)(nil)
	_ store.GetMany    = (*Store)(nil)
	_ store.Pinger     = (*Store)(nil)
	_ store.Inspector  = (*Store)(nil)
)

var tableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,39}$`)

// New returns a store in db. It neither connects nor looks at the schema: call
// [Store.Migrate] or [Store.Verify] before use. The application closes the
// store first and then db.
func New(db *sql.DB, d Dialect, opts *Options) (*Store, error) {
	if opts == nil {
		opts = &Options{}
	}
	table := opts.Table
	if table == "" {
		table = "coatcheck_sessions"
	}
	switch {
	case db == nil:
		return nil, errors.New("sqlstore: no database: open it with sql.Open")
	case d.name == "":
		return nil, errors.New("sqlstore: no dialect: use one of this package, such as sqlstore.SQLite")
	case !tableName.MatchString(table):
		return nil, fmt.Errorf("sqlstore: table name %q: use at most 40 letters, digits and _, the first no digit", table)
	case opts.Schema != "" && d.quote == "":
		return nil, fmt.Errorf("sqlstore: schema %q: %s has none, leave Options.Schema empty", opts.Schema, d.name)
	case opts.Schema != "" && !tableName.MatchString(opts.Schema):
		return nil, fmt.Errorf("sqlstore: schema %q: use at most 40 letters, digits and _, the first no digit", opts.Schema)
	}
	n := names{schema: opts.Schema, table: table}
	s := &Store{db: db, dialect: d, names: n, q: d.expand(n)}
	s.reads = newPool(db, opts.Unprepared)
	s.writes = s.reads
	if d.turns != nil {
		s.writes = newTurns(db, d)
		if db.Stats().MaxOpenConnections == 1 {
			s.reads = s.writes // the only connection there is
		}
	}
	return s, nil
}

// Close gives back what the store holds, which does not include the database.
// It waits for the write in progress, and for as long as the driver takes to give
// statements back: of a server that hangs, pgx takes 5 s for each connection. Later
// calls of the store fail.
func (s *Store) Close() error {
	return errors.Join(s.reads.close(), s.writes.close())
}

// Get implements [store.Store].
func (s *Store) Get(ctx context.Context, k store.Key) (store.Record, error) {
	var r store.Keyed
	err := s.again(ctx, func() error {
		return s.reads.do(ctx, s.q.get, func(st statement) error {
			return scan(st.QueryRowContext(ctx, k[:], now()), &r)
		})
	})
	if errors.Is(err, sql.ErrNoRows) {
		err = store.ErrNotFound
	}
	return r.Record, s.readError(ctx, "get", err)
}

// Create implements [store.Store].
func (s *Store) Create(ctx context.Context, k store.Key, r store.Record) error {
	if err := s.validate(r); err != nil {
		return fmt.Errorf("sqlstore: create: %w", err)
	}
	row := []any{
		k[:], int64(r.Version), r.Handle[:], nullable(r.Owner),
		r.Created.UnixMilli(), r.Deadline.UnixMilli(), r.Expires.UnixMilli(),
		nullable(next(r)), nonNil(r.Label), nonNil(r.Data),
	}
	create := s.upsert
	if s.q.recreate != "" {
		create = s.insert
	}
	n, err := create(ctx, row)
	if err == nil && n == 0 {
		err = store.ErrConflict
	}
	return s.writeError(ctx, "create", err)
}

// upsert creates a record, in place of an expired one if there is one.
func (s *Store) upsert(ctx context.Context, row []any) (int64, error) {
	return s.exec(ctx, s.q.create, func(now *stamp) []any { return append(row, now) })
}

// insert does so where one statement cannot.
func (s *Store) insert(ctx context.Context, row []any) (n int64, err error) {
	k := store.Key(row[0].([]byte))
	err = found(ctx, func() error {
		n, err = s.exec(ctx, s.q.create, func(now *stamp) []any {
			now.value = row[0] // it has no other use for now
			return append([]any{now}, row[1:]...)
		})
		switch {
		case err == nil && n == 0:
			return errMissed
		case err == nil || !s.dialect.diagnose(err).duplicate:
			return err
		}
		n, err = s.exec(ctx, s.q.recreate, func(now *stamp) []any { return append(row[1:len(row):len(row)], row[0], now) })
		if err != nil || n > 0 {
			return err
		}
		switch _, err := s.Get(ctx, k); {
		case err == nil, errors.Is(err, store.ErrCorrupt):
			return nil // it lives
		case errors.Is(err, store.ErrNotFound): // it has been removed in between, or was missed
			return errMissed
		default:
			return err
		}
	})
	return n, err
}

// Replace implements [store.Store].
func (s *Store) Replace(ctx context.Context, k store.Key, old uint64, r store.Record) error {
	if err := s.validate(r); err != nil {
		return fmt.Errorf("sqlstore: replace: %w", err)
	}
	err := found(ctx, func() error {
		n, err := s.exec(ctx, s.q.replace, func(now *stamp) []any {
			return []any{
				int64(r.Version), r.Deadline.UnixMilli(), r.Expires.UnixMilli(),
				nullable(next(r)), nonNil(r.Label), nonNil(r.Data), k[:], int64(old), now,
			}
		})
		if err != nil || n > 0 {
			return err
		}
		return s.why(ctx, k, old)
	})
	return s.writeError(ctx, "replace", err)
}

// why tells the reason of a Replace that matched nothing.
func (s *Store) why(ctx context.Context, k store.Key, old uint64) error {
	r, err := s.Get(ctx, k)
	switch {
	case err == nil && r.Version == old && s.dialect.misses:
		return errMissed
	case err == nil, errors.Is(err, store.ErrCorrupt):
		return store.ErrConflict
	case errors.Is(err, store.ErrNotFound):
		return store.ErrNotFound
	}
	return fmt.Errorf("the reason could not be read: %w", err)
}

// errMissed is of a statement that has matched no row, and should have.
var errMissed = errors.New("the database has ended the statement each time, and nothing was changed: look for max_statement_time and for who kills queries")

// missed returns answer to a statement that has matched no row, unless the record that is
// there is one that it should have matched.
func (s *Store) missed(ctx context.Context, k store.Key, should func(store.Record) bool, answer error) error {
	if !s.dialect.misses {
		return answer
	}
	switch r, err := s.Get(ctx, k); {
	case err == nil && should(r):
		return errMissed
	case err == nil, errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrCorrupt):
		return answer
	default:
		return err
	}
}

// Touch implements [store.Store].
func (s *Store) Touch(ctx context.Context, k store.Key, expires time.Time) error {
	if expires.IsZero() {
		return fmt.Errorf("sqlstore: touch: %w: no expiry", store.ErrInvalid)
	}
	err := found(ctx, func() error {
		n, err := s.exec(ctx, s.q.touch, func(now *stamp) []any {
			return []any{expires.UnixMilli(), k[:], now}
		})
		if err != nil || n > 0 {
			return err
		}
		return s.missed(ctx, k, func(r store.Record) bool { return !r.IsMarker() }, store.ErrNotFound)
	})
	return s.writeError(ctx, "touch", err)
}

// Delete implements [store.Store].
func (s *Store) Delete(ctx context.Context, k store.Key) (existed bool, err error) {
	args := func(now *stamp) []any { return []any{k[:], now} }
	err = found(ctx, func() error {
		n, err := s.exec(ctx, s.q.deleteLive, args)
		if err != nil || n > 0 {
			existed = n > 0
			return err
		}
		// What has expired here may be alive to a process whose clock is slow.
		if _, err = s.exec(ctx, s.q.deleteDead, args); err != nil {
			return err
		}
		return s.missed(ctx, k, func(store.Record) bool { return true }, nil)
	})
	return existed, s.writeError(ctx, "delete", err)
}

func (s *Store) validate(r store.Record) error {
	if err := r.Validate(time.Now()); err != nil {
		return err
	}
	if len(r.Data) > s.dialect.maxData {
		return fmt.Errorf("%w: %d bytes of data, at most %d", store.ErrTooLarge, len(r.Data), s.dialect.maxData)
	}
	return nil
}

// exec runs a writing statement and returns how many rows it matched. The
// arguments are made when its turn has come, and now even later.
func (s *Store) exec(ctx context.Context, query string, args func(now *stamp) []any) (int64, error) {
	var n int64
	err := s.again(ctx, func() error {
		return s.writes.do(ctx, query, func(st statement) error {
			var now stamp
			res, err := st.ExecContext(ctx, args(&now)...)
			_, once := st.(text)
			repeated := now.sent > 1 && !once
			if err != nil && repeated && s.dialect.diagnose(err).duplicate {
				err = errRepeated // of what it may have inserted itself
			}
			if err != nil {
				return now.mark(err)
			}
			if n, err = res.RowsAffected(); err == nil && n == 0 && repeated {
				err = errRepeated
			}
			if err != nil {
				return sent{err}
			}
			return nil
		})
	})
	return n, err
}

// errRepeated is of a statement that package database/sql has sent again, as the driver
// said that the connection was bad: not all of them say so only of what was not sent. What
// matched nothing may have missed what the first attempt did.
var errRepeated = errors.New("the driver has sent the statement more than once, and what the first attempt did is not known")

// stamp is an argument that becomes the time, in Unix milliseconds, when the
// statement has a connection and is about to be sent: before that, nothing of
// it can have been carried out.
type stamp struct {
	sent  int          // how often
	value driver.Value // if not nil, what it becomes instead
}

// Value implements [driver.Valuer].
func (n *stamp) Value() (driver.Value, error) {
	n.sent++
	if n.value != nil {
		return n.value, nil
	}
	return now(), nil
}

func (n *stamp) mark(err error) error {
	if n.sent > 0 {
		return sent{err}
	}
	return err
}

// attempts is how often a statement is tried that others keep from being
// carried out. Where the isolation is serializable, that is whenever another
// one changes the row at the same time, and 8 were too few for a busy session.
const attempts = 100

// again repeats f as long as the database undoes it for the sake of another transaction.
func (s *Store) again(ctx context.Context, f func() error) error {
	return repeat(ctx, f, func(err error) bool { return s.dialect.diagnose(err).again })
}

// found repeats f, which repeats its statements itself, as long as one has missed what is
// there.
func found(ctx context.Context, f func() error) error {
	return repeat(ctx, f, func(err error) bool { return err == errMissed })
}

// repeat repeats f, after a random pause of at most 1, 2, 4, 8 and then 16 ms.
func repeat(ctx context.Context, f func() error, wanted func(error) bool) error {
	pause := time.Millisecond
	for left := attempts - 1; ; left-- {
		err := f()
		if err == nil || left == 0 || !wanted(err) {
			return err
		}
		t := time.NewTimer(rand.N(pause))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return err
		}
		pause = min(2*pause, 16*time.Millisecond)
	}
}

func now() int64 { return time.Now().UnixMilli() }
