package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"strings"

	"github.com/coatcheck/coatcheck/store"
)

// manyKeys is how many keys GetMany asks for at a time: one prepared statement
// serves every number of keys, the rest of its parameters repeat the first.
const manyKeys = 64

// listPage is how many records List holds in memory: it reads page by page and
// keeps no cursor open, so that it delays neither writes nor checkpoints.
const listPage = 100

func (q queries) expand(table string) queries {
	for _, s := range []*string{
		&q.get, &q.getMany, &q.create, &q.replace, &q.touch, &q.deleteLive, &q.deleteDead,
		&q.listOwner, &q.deleteOwner, &q.list, &q.sweep,
	} {
		*s = expand(*s, table)
	}
	q.getMany = strings.Replace(q.getMany, "{keys}", params(manyKeys), 1)
	return q
}

// GetMany implements [store.GetMany]. It leaves out damaged records, which
// [Store.Get] reports.
func (s *Store) GetMany(ctx context.Context, ks []store.Key) (map[store.Key]store.Record, error) {
	found := make(map[store.Key]store.Record, len(ks))
	for len(ks) > 0 {
		chunk := ks[:min(len(ks), manyKeys)]
		ks = ks[len(chunk):]
		args := []any{now()}
		for i := range manyKeys {
			if i >= len(chunk) {
				i = 0
			}
			args = append(args, chunk[i][:])
		}
		err := s.query(ctx, func(r store.Keyed, damaged bool) {
			if !damaged {
				found[r.Key] = r.Record
			}
		}, s.q.getMany, args...)
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
	query := strings.Replace(s.q.deleteOwner, "{keep}", params(len(keep)), 1)
	ended := 0
	err := s.writes.conn(ctx, func(c *sql.Conn) error {
		ended = 0 // this may be a second attempt
		// Not kept prepared: the text depends on the number of handles.
		rows, err := c.QueryContext(ctx, query, append(args, now())...)
		if err != nil {
			return sent{err}
		}
		defer rows.Close()
		for rows.Next() {
			var live bool
			if err := rows.Scan(&live); err != nil {
				return sent{err}
			}
			if live {
				ended++
			}
		}
		// SQLite commits when the last row has been read or the rows are closed.
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			return sent{err}
		}
		return nil
	})
	if err != nil {
		return 0, s.writeError(ctx, "delete owner", err)
	}
	return ended, nil
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
			after = last[:]
		}
	}
}

// Sweep implements [store.Sweeper]. Other writers wait while it runs, for
// about a millisecond per hundred records.
func (s *Store) Sweep(ctx context.Context, limit int) (int, error) {
	if limit <= 0 {
		return 0, fmt.Errorf("sqlstore: sweep: %w: limit is not positive", store.ErrInvalid)
	}
	n, err := s.exec(ctx, s.q.sweep, func(now int64) []any { return []any{now, limit} })
	return int(n), s.writeError(ctx, "sweep", err)
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
	return s.reads.do(ctx, query, func(st *sql.Stmt) error {
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
