package redisstore

import (
	"context"
	"errors"
	"iter"
	"slices"

	"github.com/coatcheck/coatcheck/store"
)

// scanCount is how many keys the server looks at before it answers others.
const scanCount = 500

// List implements [store.Lister], by SCAN on every primary. If primaries change
// meanwhile it ends with an error, for records may have moved past it. A damaged
// record is left out.
func (s *Store) List(ctx context.Context) iter.Seq2[store.Keyed, error] {
	return func(yield func(store.Keyed, error) bool) {
		err := s.list(ctx, func(k store.Keyed) bool { return yield(k, nil) })
		if err != nil && !errors.Is(err, errEnough) {
			yield(store.Keyed{}, readError(ctx, "list", err))
		}
	}
}

// errEnough ends a list that nobody wants the rest of.
var errEnough = errors.New("enough")

func (s *Store) list(ctx context.Context, yield func(store.Keyed) bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	nodes, layout, err := s.primaries(ctx)
	if err != nil {
		return err
	}
	for _, n := range nodes {
		for cursor := uint64(0); ; {
			page, err := n.client.Do(ctx, n.client.B().Scan().Cursor(cursor).Match(s.records+"*").Count(scanCount).Build()).AsScanEntry()
			if err != nil {
				return err
			}
			if err := s.listPage(ctx, page.Elements, yield); err != nil {
				return err
			}
			if cursor = page.Cursor; cursor == 0 {
				break
			}
		}
	}
	after, layoutAfter, err := s.primaries(ctx)
	if err != nil {
		return err
	}
	if layout != layoutAfter || !slices.EqualFunc(nodes, after, func(a, b node) bool { return a.addr == b.addr }) {
		return errors.New("primaries or their slots have changed meanwhile, and records may have been missed: list again")
	}
	return nil
}

func (s *Store) listPage(ctx context.Context, names []string, yield func(store.Keyed) bool) error {
	keys := make([]store.Key, 0, len(names))
	for _, name := range names {
		if k, ok := s.parseKey(name); ok {
			keys = append(keys, k)
		}
	}
	return s.each(ctx, keys, func(k store.Key, r store.Record, err error) error {
		switch {
		case errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrCorrupt):
			return nil
		case err != nil:
			return err
		case !yield(store.Keyed{Key: k, Record: r}):
			return errEnough
		}
		return nil
	})
}
