package storeurl

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"sync/atomic"
	"time"

	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/sqlstore"
)

// A place is a path and the file that was opened there. A database that was
// deleted or moved while it is open goes on to take writes, which nobody who
// opens the path will ever see.
type place struct {
	path   string
	opened os.FileInfo

	replaced atomic.Bool // connections of the pool may be to the other file by now
}

// check returns what is wrong with the place. A file that is away may come back;
// one that another file has taken the place of does not.
func (p *place) check() error {
	if !p.replaced.Load() {
		now, err := os.Stat(p.path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("the session store's file %s was deleted or moved while it is in use; put it back, or stop all that uses it and start anew without its sessions", p.path)
		case err != nil: // which does not tell that it is another
			return nil
		case os.SameFile(p.opened, now):
			return nil
		}
		p.replaced.Store(true)
	}
	return fmt.Errorf("the session store's file %s was replaced by another while it is in use; restart all that uses it to use the other one", p.path)
}

// inPlace is a SQLite store that answers nothing, rather than losing what it is
// given, while its file is not in its place. It asks at each call: a look at the
// file takes two microseconds, a tenth of a read.
type inPlace struct {
	inner *sqlstore.Store
	place *place
}

var (
	_ store.Store      = (*inPlace)(nil)
	_ store.OwnerIndex = (*inPlace)(nil)
	_ store.Lister     = (*inPlace)(nil)
	_ store.Sweeper    = (*inPlace)(nil)
	_ store.GetMany    = (*inPlace)(nil)
	_ store.Pinger     = (*inPlace)(nil)
	_ store.Inspector  = (*inPlace)(nil)
)

// read does what changes nothing.
func read[T any](s *inPlace, do func() (T, error)) (T, error) {
	if err := s.place.check(); err != nil {
		var none T
		return none, err
	}
	return do()
}

// write does what changes something. If the file went meanwhile, nobody knows
// which side of that the change is on.
func write[T any](s *inPlace, do func() (T, error)) (T, error) {
	var none T
	if err := s.place.check(); err != nil {
		return none, fmt.Errorf("%w: %w", store.ErrUnapplied, err)
	}
	v, err := do()
	if err != nil {
		return v, err
	}
	if err := s.place.check(); err != nil {
		return none, fmt.Errorf("%w: %w", store.ErrAmbiguous, err)
	}
	return v, nil
}

type nothing struct{}

func (s *inPlace) Get(ctx context.Context, k store.Key) (store.Record, error) {
	return read(s, func() (store.Record, error) { return s.inner.Get(ctx, k) })
}

func (s *inPlace) Create(ctx context.Context, k store.Key, r store.Record) error {
	_, err := write(s, func() (nothing, error) { return nothing{}, s.inner.Create(ctx, k, r) })
	return err
}

func (s *inPlace) Replace(ctx context.Context, k store.Key, old uint64, r store.Record) error {
	_, err := write(s, func() (nothing, error) { return nothing{}, s.inner.Replace(ctx, k, old, r) })
	return err
}

func (s *inPlace) Touch(ctx context.Context, k store.Key, expires time.Time) error {
	_, err := write(s, func() (nothing, error) { return nothing{}, s.inner.Touch(ctx, k, expires) })
	return err
}

func (s *inPlace) Delete(ctx context.Context, k store.Key) (existed bool, err error) {
	return write(s, func() (bool, error) { return s.inner.Delete(ctx, k) })
}

func (s *inPlace) ListOwner(ctx context.Context, owner string) ([]store.Keyed, error) {
	return read(s, func() ([]store.Keyed, error) { return s.inner.ListOwner(ctx, owner) })
}

func (s *inPlace) DeleteOwner(ctx context.Context, owner string, keep ...store.Handle) (int, error) {
	return write(s, func() (int, error) { return s.inner.DeleteOwner(ctx, owner, keep...) })
}

func (s *inPlace) List(ctx context.Context) iter.Seq2[store.Keyed, error] {
	return func(yield func(store.Keyed, error) bool) {
		if err := s.place.check(); err != nil {
			yield(store.Keyed{}, err)
			return
		}
		s.inner.List(ctx)(yield)
	}
}

func (s *inPlace) Sweep(ctx context.Context, limit int) (int, error) {
	return write(s, func() (int, error) { return s.inner.Sweep(ctx, limit) })
}

func (s *inPlace) GetMany(ctx context.Context, ks []store.Key) (map[store.Key]store.Record, error) {
	return read(s, func() (map[store.Key]store.Record, error) { return s.inner.GetMany(ctx, ks) })
}

func (s *inPlace) Ping(ctx context.Context) error {
	_, err := read(s, func() (nothing, error) { return nothing{}, s.inner.Ping(ctx) })
	return err
}

func (s *inPlace) Inspect(ctx context.Context) ([]store.Finding, error) {
	return read(s, func() ([]store.Finding, error) { return s.inner.Inspect(ctx) })
}
