package main

import (
	"context"

	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/nearcache"
)

// An opener opens Coatcheck's store in a space of the server at url: a place for
// tables, or whatever the server has, that have the names of others.
type opener func(ctx context.Context, url, space string) (st store.Store, closing func(), err error)

// peers are the rows that every store has, but for Redis, whose near cache is told of
// changes.
func (open opener) peers() []peer {
	return []peer{
		{noSession, openNone},
		{coatcheck, open.sessions("coatcheck_plain", plain)},
		{touching, open.sessions("coatcheck_touching", func(st store.Store) (store.Store, error) {
			return &aging{Store: st, every: 10}, nil
		})},
		// Nobody tells it of changes: its copies are dropped after a second.
		{near, open.sessions("coatcheck_near", func(st store.Store) (store.Store, error) {
			return nearcache.New(st, nil)
		})},
		{casStore, func(ctx context.Context, url string) (*app, error) {
			st, closing, err := open(ctx, url, "cas")
			if err != nil {
				return nil, err
			}
			return casApp(ctx, st, closing), nil
		}},
	}
}

func plain(st store.Store) (store.Store, error) { return st, nil }

// sessions is Coatcheck on the server. What wrap returns is the store that the
// sessions are in.
func (open opener) sessions(space string, wrap func(store.Store) (store.Store, error)) func(context.Context, string) (*app, error) {
	return func(ctx context.Context, url string) (*app, error) {
		st, closing, err := open(ctx, url, space)
		if err != nil {
			return nil, err
		}
		wrapped, err := wrap(st)
		if err != nil {
			closing()
			return nil, err
		}
		a, err := coatcheckApp(wrapped, closing)
		if err == nil {
			_, a.cached = wrapped.(*nearcache.Cache)
		}
		return a, err
	}
}
