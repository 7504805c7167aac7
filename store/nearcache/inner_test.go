package nearcache_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/memstore"
	"github.com/coatcheck/coatcheck/store/nearcache"
)

// inner is a store in memory of which a test can hold up single calls, and which
// tells whoever watches it of changes, if they are made through it.
type inner struct {
	*memstore.Store
	gets atomic.Int64

	// If set, they run in place of the call, and do it with what they are given.
	onGet   func(ctx context.Context, k store.Key, read func() (store.Record, error)) (store.Record, error)
	onWrite func(do func() error) error

	mu       sync.Mutex
	watchers map[chan []store.Key]chan error
	down     error // what Watch fails with at once, if not nil
	watches  atomic.Int64
	whole    chan time.Time // passed on to one who watches: all that was changed before has been told
}

func newInner() *inner {
	return &inner{Store: memstore.New(), watchers: make(map[chan []store.Key]chan error), whole: make(chan time.Time)}
}

func (i *inner) Get(ctx context.Context, k store.Key) (store.Record, error) {
	i.gets.Add(1)
	read := func() (store.Record, error) { return i.Store.Get(ctx, k) }
	if i.onGet != nil {
		return i.onGet(ctx, k, read)
	}
	return read()
}

func (i *inner) write(k store.Key, do func() error) error {
	defer i.tell(k)
	if i.onWrite != nil {
		return i.onWrite(do)
	}
	return do()
}

func (i *inner) Create(ctx context.Context, k store.Key, r store.Record) error {
	return i.write(k, func() error { return i.Store.Create(ctx, k, r) })
}

func (i *inner) Replace(ctx context.Context, k store.Key, old uint64, r store.Record) error {
	return i.write(k, func() error { return i.Store.Replace(ctx, k, old, r) })
}

func (i *inner) Touch(ctx context.Context, k store.Key, expires time.Time) error {
	return i.write(k, func() error { return i.Store.Touch(ctx, k, expires) })
}

func (i *inner) Delete(ctx context.Context, k store.Key) (existed bool, err error) {
	err = i.write(k, func() error {
		existed, err = i.Store.Delete(ctx, k)
		return err
	})
	return existed, err
}

func (i *inner) DeleteOwner(ctx context.Context, owner string, keep ...store.Handle) (n int, err error) {
	defer i.tell()
	do := func() error {
		n, err = i.Store.DeleteOwner(ctx, owner, keep...)
		return err
	}
	if i.onWrite != nil {
		return n, i.onWrite(do)
	}
	return n, do()
}

// tell tells all who watch that ks have changed.
func (i *inner) tell(ks ...store.Key) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for w := range i.watchers {
		w <- ks
	}
}

var errBroken = errors.New("connection reset")

// cut breaks the streams of all who watch. Until mend, no new one comes about.
func (i *inner) cut() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.down = errBroken
	for _, broken := range i.watchers {
		broken <- errBroken
	}
}

func (i *inner) mend() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.down = nil
}

func (i *inner) Watch(ctx context.Context, ready func(asOf time.Time), changed func([]store.Key)) error {
	changes, broken := make(chan []store.Key, 64), make(chan error, 1)
	i.mu.Lock()
	i.watches.Add(1)
	if i.down != nil {
		defer i.mu.Unlock()
		return i.down
	}
	i.watchers[changes] = broken
	i.mu.Unlock()
	defer func() {
		i.mu.Lock()
		defer i.mu.Unlock()
		delete(i.watchers, changes)
	}()
	ready(time.Now())
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-broken:
			return err
		case ks := <-changes:
			changed(ks)
		case asOf := <-i.whole:
			ready(asOf)
		}
	}
}

// run runs c until the test ends.
func run(t *testing.T, c *nearcache.Cache) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v; want the error of its context", err)
		}
	})
	synctest.Wait()
}

var key = store.Key{0: 7, 31: 1}

// version returns a record whose version counts n.
func version(n int) store.Record {
	r := session(0)
	r.Version = uint64(n)<<32 | 0xbad
	r.Data = []byte{byte(n)}
	return r
}

func create(t *testing.T, st store.Store, k store.Key, r store.Record) {
	t.Helper()
	if err := st.Create(t.Context(), k, r); err != nil {
		t.Fatalf("Create: %v", err)
	}
}

func replace(t *testing.T, st store.Store, k store.Key, n int) {
	t.Helper()
	if err := st.Replace(t.Context(), k, version(n-1).Version, version(n)); err != nil {
		t.Errorf("Replace by version %d: %v", n, err)
	}
}

// wants says what Get or GetFresh must return: a record of version n, or, if
// n is 0, ErrNotFound.
func wants(t *testing.T, get func(context.Context, store.Key) (store.Record, error), n int, rule string) {
	t.Helper()
	r, err := get(t.Context(), key)
	switch {
	case n == 0 && !errors.Is(err, store.ErrNotFound):
		t.Errorf("got version %d, error %v; want ErrNotFound: %s", r.Version>>32, err, rule)
	case n > 0 && err != nil:
		t.Errorf("got error %v; want version %d: %s", err, n, rule)
	case n > 0 && r.Version>>32 != uint64(n):
		t.Errorf("got version %d; want %d: %s", r.Version>>32, n, rule)
	}
}

// reads runs f and says how many reads of the store it may cause.
func reads(t *testing.T, in *inner, n int, rule string, f func()) {
	t.Helper()
	before := in.gets.Load()
	f()
	if got := int(in.gets.Load() - before); got != n {
		t.Errorf("the store was read %d times; want %d: %s", got, n, rule)
	}
}

// held makes the next read of in wait after it has read, until release is
// called, which returns when all that follows has happened.
func held(in *inner) (release func()) {
	gate := make(chan struct{})
	var once atomic.Bool
	in.onGet = func(_ context.Context, _ store.Key, read func() (store.Record, error)) (store.Record, error) {
		r, err := read()
		if once.CompareAndSwap(false, true) {
			<-gate
		}
		return r, err
	}
	return func() {
		close(gate)
		synctest.Wait()
	}
}

// background runs get, which waits in the store.
func background(t *testing.T, get func(context.Context, store.Key) (store.Record, error)) {
	t.Helper()
	go func() { _, _ = get(t.Context(), key) }()
	synctest.Wait()
}
