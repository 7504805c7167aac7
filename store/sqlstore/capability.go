package sqlstore

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/coatcheck/coatcheck/store"
)

// manyKeys is how many keys GetMany asks for at a time: one prepared statement
// serves every number of keys, the rest of its parameters repeat the first.
const manyKeys = 64

// listPage is how many records List holds in memory: it reads page by page and
// keeps no cursor open, so that it delays neither writes nor checkpoints.
const listPage = 100

// expand fills in the names, and the parameters of lists whose length is fixed.
func (d Dialect) expand(n names) queries {
	q := d.queries
	for _, s := range []*string{
		&q.get, &q.getMany, &q.create, &q.recreate, &q.replace, &q.touch, &q.deleteLive, &q.deleteDead,
		&q.listOwner, &q.deleteOwner, &q.deleteOwnerRest, &q.list,
		&q.sweep, &q.sweepDue, &q.sweepLater, &q.sweepBoth,
	} {
		*s = strings.Replace(d.in(n, *s), "{keys}", d.params(2, manyKeys), 1)
	}
	return q
}

// manyArgs are the arguments of a statement that takes now and {keys}.
func manyArgs(now any, keys []store.Key) []any {
	args := make([]any, 1, 1+manyKeys)
	args[0] = now
	for i := range manyKeys {
		if i >= len(keys) {
			i = 0
		}
		args = append(args, keys[i][:])
	}
	return args
}

// GetMany implements [store.GetMany]. It leaves out damaged records, which
// [Store.Get] reports.
func (s *Store) GetMany(ctx context.Context, ks []store.Key) (map[store.Key]store.Record, error) {
	found := make(map[store.Key]store.Record, len(ks))
	for len(ks) > 0 {
		chunk := ks[:min(len(ks), manyKeys)]
		ks = ks[len(chunk):]
		err := s.query(ctx, func(r store.Keyed, damaged bool) {
			if !damaged {
				found[r.Key] = r.Record
			}
		}, s.q.getMany, manyArgs(now(), chunk)...)
		if err != nil {
			return nil, s.readError(ctx, "get many", err)
		}
	}
	return found, nil
}

// ListOwner implements [store.OwnerIndex]. It leaves out damaged records, for
// the owner to see and end the others; DeleteOwner deletes them too.
func (s *Store) ListOwner(ctx context.Context, owner string) ([]store.Keyed, error) {
	if owner == "" {
		return nil, fmt.Errorf("sqlstore: list owner: %w: no owner", store.ErrInvalid)
	}
	var rs []store.Keyed
	err := s.query(ctx, func(r store.Keyed, damaged bool) {
		if !damaged {
			rs = append(rs, r)
		}
	}, s.q.listOwner, []byte(owner), now())
	if err != nil {
		return nil, s.readError(ctx, "list owner", err)
	}
	return rs, nil
}

// DeleteOwner implements [store.OwnerIndex].
func (s *Store) DeleteOwner(ctx context.Context, owner string, keep ...store.Handle) (int, error) {
	if owner == "" {
		return 0, fmt.Errorf("sqlstore: delete owner: %w: no owner", store.ErrInvalid)
	}
	args := make([]any, 0, 2+len(keep))
	args = append(args, []byte(owner))
	for _, h := range keep {
		args = append(args, h[:])
	}
	list := "NULL" // in which nothing is
	if len(keep) > 0 {
		list = s.dialect.params(2, len(keep))
	}
	fill := strings.NewReplacer("{keep}", list, "{now}", s.dialect.param(2+len(keep)))
	ended := 0
	on := func(f func(*sql.Conn) error) error {
		return s.again(ctx, func() error { return s.writes.conn(ctx, f) })
	}
	var err error
	if s.q.deleteOwnerRest == "" {
		err = on(func(c *sql.Conn) error {
			// Not kept prepared: the text depends on the number of handles.
			n, err := deleteOwner(ctx, c, fill.Replace(s.q.deleteOwner), args)
			ended += n // this may be another attempt
			return err
		})
		return ended, s.writeError(ctx, "delete owner", err)
	}
	// The live sessions first, so that their number is known.
	err = found(ctx, func() error {
		err := on(func(c *sql.Conn) error {
			n, err := count(ctx, c, fill.Replace(s.q.deleteOwner), args)
			ended += n
			return err
		})
		if err != nil || !s.dialect.misses {
			return err
		}
		rest, err := s.ListOwner(ctx, owner)
		switch {
		case err != nil:
			return halfDone{err}
		case slices.ContainsFunc(rest, func(r store.Keyed) bool { return !slices.Contains(keep, r.Handle) }):
			return errMissed // or one has come meanwhile
		}
		return nil
	})
	if err == nil {
		if err = on(func(c *sql.Conn) error {
			_, err := c.ExecContext(ctx, fill.Replace(s.q.deleteOwnerRest), args...)
			return err
		}); err != nil {
			err = halfDone{err}
		}
	}
	if err != nil && ended > 0 {
		err = halfDone{err}
	}
	return ended, s.writeError(ctx, "delete owner", err)
}

func deleteOwner(ctx context.Context, c *sql.Conn, query string, args []any) (ended int, err error) {
	var now stamp
	rows, err := c.QueryContext(ctx, query, append(args, &now)...)
	if err != nil {
		return 0, now.mark(err)
	}
	defer rows.Close()
	for rows.Next() {
		var live bool
		if err := rows.Scan(&live); err != nil {
			return 0, sent{err}
		}
		if live {
			ended++
		}
	}
	// SQLite commits when the last row has been read or the rows are closed.
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return 0, sent{err}
	}
	return ended, nil
}

// count runs a statement that takes the time last, and returns how many rows it matched.
func count(ctx context.Context, c *sql.Conn, query string, args []any) (int, error) {
	var now stamp
	res, err := c.ExecContext(ctx, query, append(args[:len(args):len(args)], &now)...)
	if err != nil {
		return 0, now.mark(err)
	}
	n, err := res.RowsAffected()
	if err != nil {
		return 0, sent{err}
	}
	return int(n), nil
}

// List implements [store.Lister]. It leaves out damaged records, which
// [Store.Get] reports: one of them must not end every migration there.
func (s *Store) List(ctx context.Context) iter.Seq2[store.Keyed, error] {
	return func(yield func(store.Keyed, error) bool) {
		after := []byte{}
		for {
			var page []store.Keyed
			var last store.Key
			rows := 0
			err := s.query(ctx, func(r store.Keyed, damaged bool) {
				rows, last = rows+1, r.Key
				if !damaged {
					page = append(page, r)
				}
			}, s.q.list, after, now(), listPage)
			if err != nil {
				yield(store.Keyed{}, s.readError(ctx, "list", err))
				return
			}
			for _, r := range page {
				if !yield(r, nil) {
					return
				}
			}
			if rows < listPage {
				return
			}
			if bytes.Compare(last[:], after) <= 0 { // a key of another length, which leads nowhere
				yield(store.Keyed{}, s.readError(ctx, "list", damage("key")))
				return
			}
			after = last[:]
		}
	}
}

// Sweep implements [store.Sweeper]. In SQLite other writers wait while it runs,
// for about a millisecond per hundred records. On servers it passes over records
// that somebody holds at the moment; in PostgreSQL it returns 0 while another
// sweep of the table is running.
func (s *Store) Sweep(ctx context.Context, limit int) (int, error) {
	if limit <= 0 {
		return 0, fmt.Errorf("sqlstore: sweep: %w: limit is not positive", store.ErrInvalid)
	}
	sweep := s.sweepAtOnce
	switch {
	case s.q.sweepBoth != "":
		sweep = s.sweepBoth
	case s.q.sweepDue != "":
		sweep = s.sweepDue
	}
	n, err := sweep(ctx, limit)
	return n, s.writeError(ctx, "sweep", err)
}

func (s *Store) sweepAtOnce(ctx context.Context, limit int) (int, error) {
	n, err := s.exec(ctx, s.q.sweep, func(now *stamp) []any { return []any{now, limit} })
	return int(n), err
}

// sweepPart bounds how many rows a statement of a sweep locks, as they may be
// those of live sessions.
const sweepPart = 500

func (s *Store) sweepBoth(ctx context.Context, limit int) (removed int, err error) {
	part := min(limit, sweepPart)
	for {
		var due, dead int
		err := s.again(ctx, func() error {
			return s.writes.do(ctx, s.q.sweepBoth, func(st statement) error {
				var now stamp
				if err := st.QueryRowContext(ctx, &now, part, limit-removed).Scan(&due, &dead); err != nil {
					return now.mark(err)
				}
				return nil
			})
		})
		if err != nil {
			return removed, err
		}
		removed += dead
		if due < part || removed >= limit {
			return removed, nil
		}
	}
}

func (s *Store) sweepDue(ctx context.Context, limit int) (removed int, err error) {
	for {
		part := min(limit-removed, manyKeys)
		var due []store.Key
		err := s.again(ctx, func() error {
			return s.reads.do(ctx, s.q.sweepDue, func(st statement) (err error) {
				due, err = keys(st.QueryContext(ctx, now(), part))
				return err
			})
		})
		if err != nil || len(due) == 0 {
			return removed, err
		}
		args := func(now *stamp) []any { return manyArgs(now, due) }
		dead, err := s.exec(ctx, s.q.sweep, args)
		if err != nil {
			return removed, err
		}
		removed += int(dead)
		if int(dead) < len(due) {
			if _, err := s.exec(ctx, s.q.sweepLater, args); err != nil {
				return removed, err
			}
		}
		if len(due) < part || removed >= limit {
			return removed, nil
		}
	}
}

// keys reads rows of one column.
func keys(rows *sql.Rows, err error) ([]store.Key, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var ks []store.Key
	for rows.Next() {
		var k store.Key
		if err := rows.Scan((*keyColumn)(&k)); err != nil {
			return nil, err
		}
		ks = append(ks, k)
	}
	return ks, rows.Err()
}

// Ping implements [store.Pinger]. It reads from the table, so that a database
// without the schema does not pass for a store that answers.
func (s *Store) Ping(ctx context.Context) error {
	err := s.query(ctx, func(store.Keyed, bool) {}, s.q.get, make([]byte, len(store.Key{})), now())
	return s.readError(ctx, "ping", err)
}

// query calls f for each row that a reading statement finds. Of a damaged one it
// has the key at most.
func (s *Store) query(ctx context.Context, f func(r store.Keyed, damaged bool), query string, args ...any) error {
	return s.reads.do(ctx, query, func(st statement) error {
		rows, err := st.QueryContext(ctx, args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var r store.Keyed
			err := scan(rows, &r)
			damaged := errors.Is(err, store.ErrCorrupt)
			if err != nil && !damaged {
				return err
			}
			f(r, damaged)
		}
		return rows.Err()
	})
}
