package nearcache

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/coatcheck/coatcheck/store"
)

// Pauses between attempts to follow the stream of changes.
const (
	minPause = 100 * time.Millisecond
	maxPause = 2 * time.Second
)

// Run follows the inner store's stream of changes until ctx ends, whose error it
// then returns. What changes elsewhere is dropped as it is told, and everything
// is dropped when the stream breaks; then Run tries again, after a tenth of a
// second at first and two seconds at last. If the inner store has no
// [store.Watcher], or one that says that it never works, Run says so in the log
// and waits for ctx. Only one Run at a time is of use: another returns an error
// at once.
func (c *Cache) Run(ctx context.Context) error {
	if !c.running.CompareAndSwap(false, true) {
		return errors.New("nearcache: Run is running already; call it once for each cache")
	}
	defer c.running.Store(false)

	w, ok := store.As[store.Watcher](c.inner)
	if !ok {
		return c.runWithout(ctx)
	}
	pause := minPause
	told := false // that the stream is broken
	for {
		began := time.Now()
		wasReady, err := c.follow(ctx, w, &told)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, errors.ErrUnsupported):
			return c.runWithout(ctx)
		case !told:
			told = true
			c.opts.Logger.WarnContext(ctx, "nearcache: the stream of changes broke; until it is back, changes by others are seen within MaxStale",
				"max_stale", c.opts.MaxStale, "error", err)
		}
		if wasReady && time.Since(began) > maxPause {
			pause = minPause
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause/2 + rand.N(pause)): // a fleet does not reconnect in step
		}
		pause = min(2*pause, maxPause)
	}
}

// follow is one Watch. It returns when changes may be missed.
func (c *Cache) follow(ctx context.Context, w store.Watcher, told *bool) (wasReady bool, err error) {
	defer func() { // a panic, too, ends the stream
		if wasReady {
			c.pushing.Store(false)
			c.flush() // what is loaded from now on is younger than the last proof
		}
	}()
	err = w.Watch(ctx, func(asOf time.Time) {
		if wasReady { // all that is kept now was current then
			c.whole.Store(int64(c.age(asOf)))
			return
		}
		wasReady = true
		c.flush() // of what was loaded before, changes may have been missed
		c.pushing.Store(true)
		if *told {
			*told = false
			c.opts.Logger.InfoContext(ctx, "nearcache: the stream of changes is back")
		}
	}, c.changed)
	return wasReady, err
}

// changed drops what is kept of ks, or everything if there are none.
func (c *Cache) changed(ks []store.Key) {
	if len(ks) == 0 {
		c.flush()
		return
	}
	c.invalidations.Add(uint64(len(ks)))
	for _, k := range ks {
		c.forget(k, 0)
	}
}

// watcher is the inner store's, for who reads through the cache: what they are
// told of has been dropped by then.
type watcher struct {
	inner store.Watcher
	c     *Cache
}

// Watch implements [store.Watcher].
func (w watcher) Watch(ctx context.Context, ready func(asOf time.Time), changed func([]store.Key)) error {
	return w.inner.Watch(ctx, ready, func(ks []store.Key) {
		w.c.changed(ks)
		changed(ks)
	})
}

func (c *Cache) runWithout(ctx context.Context) error {
	c.opts.Logger.InfoContext(ctx, "nearcache: the store does not push changes; those by others are seen within MaxStale",
		"max_stale", c.opts.MaxStale)
	<-ctx.Done()
	return ctx.Err()
}
