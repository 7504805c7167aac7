package storeurl

import (
	"context"
	"database/sql/driver"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coatcheck/coatcheck/internal/testserver"
)

// The pool makes connections for nobody in particular, and they take the places of
// others until they are there.
func TestConnectionThatNeverComesIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := connector{url: &sqlURL{kind: postgres}, connect: func(ctx context.Context) (driver.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}}
		begin := time.Now()
		if _, err := c.Connect(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Connect = %v", err)
		}
		if took := time.Since(begin); took != dialLimit {
			t.Errorf("a connection was given up after %v, want %v", took, dialLimit)
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
