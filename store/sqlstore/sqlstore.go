package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
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
}

// Store keeps sessions in a SQL database. It has every capability of package
// store that a table can have. It is safe for concurrent use.
type Store struct {
	db      *sql.DB
	dialect Dialect
	table   string
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
	}
	s := &Store{db: db, dialect: d, table: table, q: d.queries.expand(table)}
	s.reads = newPool(db)
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
// It waits for the write in progress. Later calls of the store fail.
func (s *Store) Close() error {
	return errors.Join(s.reads.close(), s.writes.close())
}

// Get implements [store.Store].
func (s *Store) Get(ctx context.Context, k store.Key) (store.Record, error) {
	var r store.Keyed
	err := s.reads.do(ctx, s.q.get, func(st *sql.Stmt) error {
		return scan(st.QueryRowContext(ctx, k[:], now()), &r)
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
	n, err := s.exec(ctx, s.q.create, func(now int64) []any {
		return []any{
			k[:], int64(r.Version), r.Handle[:], nullable(r.Owner),
			r.Created.UnixMilli(), r.Deadline.UnixMilli(), r.Expires.UnixMilli(),
			nullable(next(r)), nonNil(r.Label), nonNil(r.Data), now,
		}
	})
	if err == nil && n == 0 {
		err = store.ErrConflict
	}
	return s.writeError(ctx, "create", err)
}

// Replace implements [store.Store].
func (s *Store) Replace(ctx context.Context, k store.Key, old uint64, r store.Record) error {
	if err := s.validate(r); err != nil {
		return fmt.Errorf("sqlstore: replace: %w", err)
	}
	n, err := s.exec(ctx, s.q.replace, func(now int64) []any {
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
	return fmt.Errorf("sqlstore: replace: nothing was changed, but the reason is unknown: %w", err)
}

// Touch implements [store.Store].
func (s *Store) Touch(ctx context.Context, k store.Key, expires time.Time) error {
	if expires.IsZero() {
		return fmt.Errorf("sqlstore: touch: %w: no expiry", store.ErrInvalid)
	}
	n, err := s.exec(ctx, s.q.touch, func(now int64) []any {
		return []any{expires.UnixMilli(), k[:], now}
	})
	if err == nil && n == 0 {
		err = store.ErrNotFound
	}
	return s.writeError(ctx, "touch", err)
}

// Delete implements [store.Store].
func (s *Store) Delete(ctx context.Context, k store.Key) (existed bool, err error) {
	args := func(now int64) []any { return []any{k[:], now} }
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
// arguments are made when its turn has come, so that now is fresh.
func (s *Store) exec(ctx context.Context, query string, args func(now int64) []any) (int64, error) {
	var n int64
	err := s.writes.do(ctx, query, func(st *sql.Stmt) error {
		res, err := st.ExecContext(ctx, args(now())...)
		if err != nil {
			return sent{err}
		}
		n, err = res.RowsAffected()
		return err
	})
	return n, err
}

func now() int64 { return time.Now().UnixMilli() }
