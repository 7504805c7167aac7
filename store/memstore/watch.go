package memstore

import (
	"context"
	"time"

	"github.com/coatcheck/coatcheck/store"
)

// maxUntold is how many keys wait for a watcher that is busy. Past it, it is
// told that anything may have changed.
const maxUntold = 10_000

// watcher is a call of Watch. Its fields are guarded by the store's lock, but
// for wake, which holds a token while there is something to tell.
type watcher struct {
	wake chan struct{}
	keys []store.Key
	all  bool // too many keys
}

// Watch implements [store.Watcher]. It tells of every change until ctx ends.
func (s *Store) Watch(ctx context.Context, ready func(asOf time.Time), changed func([]store.Key)) error {
	if err := ctx.Err(); err != nil {
		return wrap("watch", err)
	}
	w := &watcher{wake: make(chan struct{}, 1)}
	s.mu.Lock()
	s.watchers[w] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.watchers, w)
	}()
	ready(time.Now())
	for {
		select {
		case <-ctx.Done():
			return wrap("watch", ctx.Err())
		case <-w.wake:
		}
		s.mu.Lock()
		keys, all := w.keys, w.all
		w.keys, w.all = nil, false
		s.mu.Unlock()
		switch {
		case all:
			keys = nil
		case len(keys) == 0: // told already, with what came before the last wake
			continue
		}
		changed(keys)
	}
}

// tell notes for the watchers that the record under k has changed. The caller
// holds the lock.
func (s *Store) tell(k store.Key) {
	for w := range s.watchers {
		if w.keys = append(w.keys, k); len(w.keys) > maxUntold {
			w.keys, w.all = nil, true
		}
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}
