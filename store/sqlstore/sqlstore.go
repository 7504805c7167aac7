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
	for range 2 {
		n, err = s.exec(ctx, s.q.create, func(now *stamp) []any {
			now.value = row[0] // it has no other use for now
			return append([]any{now}, row[1:]...)
		})
		if err == nil || !s.dialect.diagnose(err).duplicate {
			return n, err
		}
		n, err = s.exec(ctx, s.q.recreate, func(now *stamp) []any { return append(row[1:len(row):len(row)], row[0], now) })
		if err != nil || n > 0 {
			return n, err
		}
		// It lives, or has been removed in between: the second round tells.
	}
	return 0, nil
}

// Replace implements [store.Store].
func (s *Store) Replace(ctx context.Context, k store.Key, old uint64, r store.Record) error {
	if err := s.validate(r); err != nil {
		return fmt.Errorf("sqlstore: replace: %w", err)
	}
	n, err := s.exec(ctx, s.q.replace, func(now *stamp) []any {
		return []any{
			int64(r.Version), r.Deadline.UnixMilli(), r.Expires.UnixMilli(),
			nullable(next(r)), nonNil(r.Label), nonNil(r.Data), k[:], int64(old), now,
		}
	})
	if err == nil && n == 0 {
		return s.why(ctx, k)
	}
	return s.writeError(ctx, "replace", err)
}

// why tells the reason of a Replace that matched nothing.
func (s *Store) why(ctx context.Context, k store.Key) error {
	_, err := s.Get(ctx, k)
	switch {
	case err == nil, errors.Is(err, store.ErrCorrupt):
		return fmt.Errorf("sqlstore: replace: %w", store.ErrConflict)
	case errors.Is(err, store.ErrNotFound):
		return fmt.Errorf("sqlstore: replace: %w", store.ErrNotFound)
	}
	return fmt.Errorf("sqlstore: replace: %w, for a reason that could not be read: %w", store.ErrUnapplied, err)
}

// Touch implements [store.Store].
func (s *Store) Touch(ctx context.Context, k store.Key, expires time.Time) error {
	if expires.IsZero() {
		return fmt.Errorf("sqlstore: touch: %w: no expiry", store.ErrInvalid)
	}
	n, err := s.exec(ctx, s.q.touch, func(now *stamp) []any {
		return []any{expires.UnixMilli(), k[:], now}
	})
	if err == nil && n == 0 {
		err = store.ErrNotFound
	}
	return s.writeError(ctx, "touch", err)
}

// Delete implements [store.Store].
func (s *Store) Delete(ctx context.Context, k store.Key) (existed bool, err error) {
	args := func(now *stamp) []any { return []any{k[:], now} }
	n, err := s.exec(ctx, s.q.deleteLive, args)
	if err == nil && n == 0 {
		// What has expired here may be alive to a process whose clock is slow.
		_, err = s.exec(ctx, s.q.deleteDead, args)
	}
	return n > 0, s.writeError(ctx, "delete", err)
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
			if err != nil {
				return now.mark(err)
			}
			n, err = res.RowsAffected()
			return err
		})
	})
	return n, err
}

// stamp is an argument that becomes the time, in Unix milliseconds, when the
// statement has a connection and is about to be sent: before that, nothing of
// it can have been carried out.
type stamp struct {
	sent  bool
	value driver.Value // if not nil, what it becomes instead
}

// Value implements [driver.Valuer].
func (n *stamp) Value() (driver.Value, error) {
	n.sent = true
	if n.value != nil {
		return n.value, nil
	}
	return now(), nil
}

func (n *stamp) mark(err error) error {
	if n.sent {
		return sent{err}
	}
	return err
}

// attempts is how often a statement is tried that others keep from being
// carried out. Where the isolation is serializable, that is whenever another
// one changes the row at the same time, and 8 were too few for a busy session.
const attempts = 100

// again repeats f, after a random pause of at most 1, 2, 4, 8 and then 16 ms, as
// long as the database undoes it for the sake of another transaction.
func (s *Store) again(ctx context.Context, f func() error) error {
	pause := time.Millisecond
	for left := attempts - 1; ; left-- {
		err := f()
		if err == nil || left == 0 || !s.dialect.diagnose(err).again {
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
