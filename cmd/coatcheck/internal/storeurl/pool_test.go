package storeurl

import (
	"context"
	"database/sql/driver"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// quickConn is a connection of no server, whose statements take a moment.
type quickConn struct{ driver.Conn }

const moment = time.Millisecond

func (quickConn) ExecContext(context.Context, string, []driver.NamedValue) (driver.Result, error) {
	time.Sleep(moment)
	return driver.ResultNoRows, nil
}
func (quickConn) Close() error { return nil }

// Of many requests at once few wait for new connections, which take long, and the others
// for those that are there. None of these is closed for it, and in time there are as many
// as are allowed.
func TestFewRequestsWaitForNewConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size, slow = 16, 300 * moment
		var dials atomic.Int32
		db := openPool(newConnector(&sqlURL{kind: postgres}, func(context.Context) (driver.Conn, error) {
			dials.Add(1)
			time.Sleep(slow)
			return quickConn{}, nil
		}), size)
		defer db.Close()
		warm(t.Context(), db, warmConns)
		if n := db.Stats().OpenConnections; n != warmConns {
			t.Fatalf("%d connections, want %d", n, warmConns)
		}
		crowd := func() (soon int32) {
			var wg sync.WaitGroup
			var done atomic.Int32
			for range size {
				wg.Go(func() {
					if _, err := db.ExecContext(t.Context(), ""); err != nil {
						t.Error(err)
					}
					done.Add(1)
				})
			}
			time.Sleep(slow / 2)
			soon = done.Load()
			wg.Wait()
			return soon
		}
		for n := warmConns; n < size; n += dialsAtOnce {
			if soon := crowd(); soon != size-dialsAtOnce {
				t.Errorf("of %d requests with %d connections %d were done soon, want all but %d", size, n, soon, dialsAtOnce)
			}
			if got := db.Stats().OpenConnections; got != n+dialsAtOnce {
				t.Errorf("after that there are %d connections, want %d", got, n+dialsAtOnce)
			}
		}
		if soon := crowd(); soon != size {
			t.Errorf("of %d requests with as many connections %d were done soon", size, soon)
		}
		if n := dials.Load(); n != size {
			t.Errorf("%d connections were made, want %d", n, size)
		}
	})
}

// When all connections break at once, a few are made at a time, and serve all.
func TestFewConnectionsComeBackAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size, slow = 16, 300 * moment
		var making, most atomic.Int32
		var broken atomic.Bool
		db := openPool(newConnector(&sqlURL{kind: postgres}, func(context.Context) (driver.Conn, error) {
			n := making.Add(1)
			defer making.Add(-1)
			most.Store(max(most.Load(), n))
			time.Sleep(slow)
			return &breakableConn{broken: &broken}, nil
		}), size)
		defer time.Sleep(2 * slow) // for those that are being made still
		defer db.Close()
		warm(t.Context(), db, size)
		broken.Store(true)
		var wg sync.WaitGroup
		var done atomic.Int32
		for range 4 * size {
			wg.Go(func() {
				if _, err := db.ExecContext(t.Context(), ""); err != nil {
					t.Error(err)
				}
				done.Add(1)
			})
		}
		synctest.Wait()
		broken.Store(false)
		time.Sleep(2 * slow)
		if n := done.Load(); n < 3*size {
			t.Errorf("%d of %d requests were done when two connections were there", n, 4*size)
		}
		wg.Wait()
		if n := most.Load(); n != dialsAtOnce {
			t.Errorf("%d connections were made at a time, want %d", n, dialsAtOnce)
		}
	})
}

// breakableConn is one that is of no use once it was used while all are broken.
type breakableConn struct {
	quickConn
	broken *atomic.Bool
	bad    bool
}

func (c *breakableConn) ExecContext(ctx context.Context, q string, args []driver.NamedValue) (driver.Result, error) {
	if c.bad || c.broken.Load() {
		c.bad = true
		return nil, driver.ErrBadConn
	}
	return c.quickConn.ExecContext(ctx, q, args)
}
