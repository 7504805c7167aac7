package storeurl

import (
	"context"
	"database/sql/driver"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coatcheck/coatcheck/internal/testserver"
)

// The pool makes connections for nobody in particular, and they take the places of
// others until they are there.
func TestConnectionThatNeverComesIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newConnector(&sqlURL{kind: postgres}, func(ctx context.Context) (driver.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
		begin := time.Now()
		if _, err := c.Connect(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Connect = %v", err)
		}
		if took := time.Since(begin); took != dialLimit {
			t.Errorf("a connection was given up after %v, want %v", took, dialLimit)
		}
	})
}

// conn is a connection of no server.
type conn struct {
	driver.Conn
	closed atomic.Bool
}

func (c *conn) Close() error { c.closed.Store(true); return nil }

// A connection that came too late for one request is there for the next: or a machine on
// which all of them come late would never have one. Few are made at a time. None is left
// when the pool is closed, or is given to anybody long after it was made.
func TestConnectionThatComesLateIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const slow, patience = 300 * time.Millisecond, 200 * time.Millisecond
		var mu sync.Mutex
		var conns []*conn
		making, most := 0, 0
		c := newConnector(&sqlURL{kind: postgres}, func(context.Context) (driver.Conn, error) {
			mu.Lock()
			defer mu.Unlock()
			making++
			most = max(most, making)
			mu.Unlock()
			time.Sleep(slow)
			mu.Lock()
			making--
			conns = append(conns, new(conn))
			return conns[len(conns)-1], nil
		})
		want := func(requests, served int) {
			t.Helper()
			var wg sync.WaitGroup
			got := make([]driver.Conn, requests)
			for i := range got {
				wg.Go(func() {
					ctx, cancel := context.WithTimeout(t.Context(), patience)
					defer cancel()
					got[i], _ = c.Connect(ctx)
				})
			}
			wg.Wait()
			n := 0
			for _, g := range got {
				if g != nil {
					n++
				}
			}
			if n != served {
				t.Errorf("%d of %d requests got a connection; want %d", n, requests, served)
			}
		}
		want(16, 0)
		time.Sleep(slow)
		want(16, dialsAtOnce)
		mu.Lock()
		if most != dialsAtOnce {
			t.Errorf("%d connections were made at once, want %d", most, dialsAtOnce)
		}
		mu.Unlock()
		time.Sleep(2 * spareAge)
		mu.Lock()
		before := len(conns)
		mu.Unlock()
		want(1, 0)
		time.Sleep(slow)
		mu.Lock()
		if len(conns) != before+1 {
			t.Errorf("%d connections were made for a request after a while; want one, for the spare ones are old", len(conns)-before)
		}
		mu.Unlock()
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		want(1, 0) // and comes when all is closed
		time.Sleep(slow)
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		for i, conn := range conns {
			if given := i < dialsAtOnce; conn.closed.Load() == given {
				t.Errorf("connection %d: closed %t, given to a request %t", i, conn.closed.Load(), given)
			}
		}
	})
}

// What serves sessions leaves no statement behind on the server that nobody waits
// for; what makes tables may take its time.
func TestStatementsAreLimited(t *testing.T) {
	for kind, tt := range map[string]struct{ query, limited, unlimited string }{
		"postgres": {"SELECT current_setting('statement_timeout')", "5s", "0"},
		"mariadb":  {"SELECT CONCAT(CAST(@@max_statement_time AS INTEGER), ' ', @@innodb_lock_wait_timeout)", "5 5", "0 50"},
	} {
		t.Run(kind, func(t *testing.T) {
			c, err := parseSQL(testserver.Shared(t, kind).URL)
			if err != nil {
				t.Fatal(err)
			}
			db, st, err := c.unconnected()
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			defer st.Close()
			serving := c.open(1, c.limits())
			defer serving.Close()
			var limited, unlimited string
			err = errors.Join(serving.QueryRow(tt.query).Scan(&limited), db.QueryRow(tt.query).Scan(&unlimited))
			if err != nil || limited != tt.limited || unlimited != tt.unlimited {
				t.Errorf("the limits are %q, and %q for tables, %v; want %q and %q", limited, unlimited, err, tt.limited, tt.unlimited)
			}
		})
	}
}
