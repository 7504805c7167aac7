// Package memstore keeps sessions in the memory of one process. It is the
// reference implementation of the contract in package store: where that
// contract's words leave a doubt, read this package.
//
// It suits tests, development and programs that run as a single process whose
// users may be signed out by a restart. It is no cache and has no size limit:
// memory grows with the live sessions, and with the expired ones until
// [Store.Sweep] removes them.
package memstore

import (
	"container/heap"
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coatcheck/coatcheck/store"
)

// Store is a [store.Store] in memory, with every optional capability that means
// something there. All of its methods are safe for concurrent use. Create one
// with [New].
type Store struct {
	// One lock rather than shards: a revoke-all and a create then exclude each
	// other, which makes the owner index exact, and the lock is held for a map
	// access at a time. Nothing is allocated or copied but the entry under it.
	mu      sync.RWMutex
	records map[store.Key]*entry
	owners  map[string]map[store.Key]*entry // owned records, markers too; never an empty inner map
	expiry  queue

	watchers map[*watcher]struct{}
}

// entry is a record in the map, in its owner's set and in the expiry queue.
// The bytes that its Data and Label point to are never written to, so they may
// be copied after the lock is released.
type entry struct {
	store.Record
	key   store.Key
	index int // in the expiry queue
}

var (
	_ store.Store      = (*Store)(nil)
	_ store.OwnerIndex = (*Store)(nil)
	_ store.Lister     = (*Store)(nil)
	_ store.Sweeper    = (*Store)(nil)
	_ store.GetMany    = (*Store)(nil)
	_ store.Pinger     = (*Store)(nil)
	_ store.Watcher    = (*Store)(nil)
)

// New returns an empty store.
func New() *Store {
	return &Store{
		records:  make(map[store.Key]*entry),
		owners:   make(map[string]map[store.Key]*entry),
		watchers: make(map[*watcher]struct{}),
	}
}

// Get implements [store.Store].
func (s *Store) Get(ctx context.Context, k store.Key) (store.Record, error) {
	if err := ctx.Err(); err != nil {
		return store.Record{}, wrap("get", err)
	}
	s.mu.RLock()
	e := s.live(k, time.Now())
	if e == nil {
		s.mu.RUnlock()
		return store.Record{}, wrap("get", store.ErrNotFound)
	}
	r := e.Record
	s.mu.RUnlock()
	return clone(r), nil
}

// Create implements [store.Store].
func (s *Store) Create(ctx context.Context, k store.Key, r store.Record) error {
	if err := ctx.Err(); err != nil {
		return wrap("create", err)
	}
	if err := r.Validate(time.Now()); err != nil {
		return wrap("create", err)
	}
	r = clone(r.Truncate())
	r.Owner = strings.Clone(r.Owner) // else a short owner may pin a long request body

	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.records[k]
	if old != nil && old.Live(time.Now()) {
		return wrap("create", store.ErrConflict)
	}
	if old != nil {
		s.remove(old) // its owner may be another
	}
	s.insert(&entry{Record: r, key: k})
	return nil
}

// Replace implements [store.Store].
func (s *Store) Replace(ctx context.Context, k store.Key, old uint64, r store.Record) error {
	if err := ctx.Err(); err != nil {
		return wrap("replace", err)
	}
	if err := r.Validate(time.Now()); err != nil {
		return wrap("replace", err)
	}
	r = clone(r.Truncate())

	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.live(k, time.Now())
	switch {
	case e == nil:
		return wrap("replace", store.ErrNotFound)
	case e.Version != old:
		return wrap("replace", store.ErrConflict)
	}
	r.Handle, r.Owner, r.Created = e.Handle, e.Owner, e.Created
	r.Deadline = earlier(r.Deadline, e.Deadline)
	r.Expires = earlier(r.Expires, r.Deadline)
	e.Record = r
	heap.Fix(&s.expiry, e.index)
	s.tell(k)
	return nil
}

// Touch implements [store.Store].
func (s *Store) Touch(ctx context.Context, k store.Key, expires time.Time) error {
	if err := ctx.Err(); err != nil {
		return wrap("touch", err)
	}
	if expires.IsZero() {
		return wrap("touch", fmt.Errorf("%w: no expiry", store.ErrInvalid))
	}
	expires = store.Record{Expires: expires}.Truncate().Expires

	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.live(k, time.Now())
	if e == nil || e.IsMarker() {
		return wrap("touch", store.ErrNotFound)
	}
	if expires = earlier(expires, e.Deadline); expires.After(e.Expires) {
		e.Expires = expires
		heap.Fix(&s.expiry, e.index)
		s.tell(k)
	}
	return nil
}

// Delete implements [store.Store].
func (s *Store) Delete(ctx context.Context, k store.Key) (existed bool, err error) {
	if err := ctx.Err(); err != nil {
		return false, wrap("delete", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.records[k]
	if e == nil {
		return false, nil
	}
	s.remove(e)
	return e.Live(time.Now()), nil
}

// ListOwner implements [store.OwnerIndex].
func (s *Store) ListOwner(ctx context.Context, owner string) ([]store.Keyed, error) {
	if err := ctx.Err(); err != nil {
		return nil, wrap("list owner", err)
	}
	if owner == "" {
		return nil, wrap("list owner", errNoOwner)
	}
	now := time.Now()
	var list []store.Keyed
	s.mu.RLock()
	for k, e := range s.owners[owner] {
		if e.Live(now) && !e.IsMarker() {
			list = append(list, store.Keyed{Key: k, Record: e.Record})
		}
	}
	s.mu.RUnlock()
	for i := range list {
		list[i].Record = clone(list[i].Record)
	}
	return list, nil
}

// DeleteOwner implements [store.OwnerIndex].
func (s *Store) DeleteOwner(ctx context.Context, owner string, keep ...store.Handle) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, wrap("delete owner", err)
	}
	if owner == "" {
		return 0, wrap("delete owner", errNoOwner)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	ended := 0
	for _, e := range s.owners[owner] {
		if slices.Contains(keep, e.Handle) {
			continue
		}
		s.remove(e)
		if e.Live(now) && !e.IsMarker() {
			ended++
		}
	}
	return ended, nil
}

// List implements [store.Lister]. It holds no lock while it yields.
func (s *Store) List(ctx context.Context) iter.Seq2[store.Keyed, error] {
	return func(yield func(store.Keyed, error) bool) {
		if err := ctx.Err(); err != nil {
			yield(store.Keyed{}, wrap("list", err))
			return
		}
		s.mu.RLock()
		keys := make([]store.Key, 0, len(s.records))
		for k := range s.records {
			keys = append(keys, k)
		}
		s.mu.RUnlock()
		for _, k := range keys {
			if err := ctx.Err(); err != nil {
				yield(store.Keyed{}, wrap("list", err))
				return
			}
			s.mu.RLock()
			e := s.live(k, time.Now())
			if e == nil {
				s.mu.RUnlock()
				continue
			}
			r := e.Record
			s.mu.RUnlock()
			if !yield(store.Keyed{Key: k, Record: clone(r)}, nil) {
				return
			}
		}
	}
}

// Sweep implements [store.Sweeper]. It takes time for what it removes, not for
// what the store holds.
func (s *Store) Sweep(ctx context.Context, limit int) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, wrap("sweep", err)
	}
	if limit <= 0 {
		return 0, wrap("sweep", fmt.Errorf("%w: limit is not positive", store.ErrInvalid))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for n := range limit {
		if len(s.expiry) == 0 || s.expiry[0].Live(now) {
			return n, nil
		}
		s.remove(s.expiry[0])
	}
	return limit, nil
}

// GetMany implements [store.GetMany].
func (s *Store) GetMany(ctx context.Context, ks []store.Key) (map[store.Key]store.Record, error) {
	if err := ctx.Err(); err != nil {
		return nil, wrap("get many", err)
	}
	found := make(map[store.Key]store.Record, len(ks))
	now := time.Now()
	s.mu.RLock()
	for _, k := range ks {
		if e := s.live(k, now); e != nil {
			found[k] = e.Record
		}
	}
	s.mu.RUnlock()
	for k, r := range found {
		found[k] = clone(r)
	}
	return found, nil
}

// Ping implements [store.Pinger].
func (s *Store) Ping(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return wrap("ping", err)
	}
	return nil
}

// Len returns how many records are in memory, expired ones that were not yet
// swept included.
func (s *Store) Len() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.records)
}

// live returns the entry under k if it is live at now, else nil.
func (s *Store) live(k store.Key, now time.Time) *entry {
	if e := s.records[k]; e != nil && e.Live(now) {
		return e
	}
	return nil
}

// insert and remove are the only writers of the map and the owner index, so
// neither ever names a record that the other does not.
func (s *Store) insert(e *entry) {
	s.records[e.key] = e
	heap.Push(&s.expiry, e)
	s.tell(e.key)
	if e.Owner == "" {
		return
	}
	if s.owners[e.Owner] == nil {
		s.owners[e.Owner] = make(map[store.Key]*entry)
	}
	s.owners[e.Owner][e.key] = e
}

func (s *Store) remove(e *entry) {
	delete(s.records, e.key)
	heap.Remove(&s.expiry, e.index)
	s.tell(e.key)
	owned := s.owners[e.Owner]
	delete(owned, e.key)
	if len(owned) == 0 {
		delete(s.owners, e.Owner)
	}
}

var errNoOwner = fmt.Errorf("%w: owner is empty; anonymous sessions have no index", store.ErrInvalid)

func wrap(op string, err error) error { return fmt.Errorf("memstore: %s: %w", op, err) }

// clone returns r with bytes of its own: Label and Data in one allocation, each
// cut so that appending to one never reaches the other, and nil if empty.
func clone(r store.Record) store.Record {
	buf := make([]byte, len(r.Label)+len(r.Data))
	n := copy(buf, r.Label)
	copy(buf[n:], r.Data)
	r.Label, r.Data = buf[:n:n], buf[n:]
	if len(r.Label) == 0 {
		r.Label = nil
	}
	if len(r.Data) == 0 {
		r.Data = nil
	}
	return r
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
