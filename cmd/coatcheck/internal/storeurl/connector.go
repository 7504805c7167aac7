package storeurl

import (
	"context"
	"database/sql/driver"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5/stdlib"
)

const (
	// dialsAtOnce is how many connections are made at a time.
	dialsAtOnce = 2
	// spareAge is how long one is kept that came too late.
	spareAge = time.Second
)

// connector makes connections in bounded time, and explains why one did not come
// to be. Create it with newConnector.
//
// When a server is back, all of a pool's connections are wanted at once, on every web
// server, and each sign-in costs both sides some milliseconds of a processor. If each
// were given up with the request that it is for, a busy machine would work on many and
// finish none. So few are made at a time, and what comes too late is for the next.
type connector struct {
	url     *sqlURL
	connect connectFunc
	dials   chan struct{} // holds one for each that is being made

	mu     sync.Mutex
	spares []spare
	closed bool
}

// A spare is a connection for which nobody waited.
type spare struct {
	driver.Conn
	made time.Time
}

func newConnector(u *sqlURL, connect connectFunc) *connector {
	return &connector{url: u, connect: connect, dials: make(chan struct{}, dialsAtOnce)}
}

// Connect implements [driver.Connector].
func (c *connector) Connect(ctx context.Context) (driver.Conn, error) {
	select {
	case c.dials <- struct{}{}:
	case <-ctx.Done():
		return nil, c.url.unconnectable(ctx.Err())
	}
	if conn := c.takeSpare(); conn != nil {
		<-c.dials
		return conn, nil
	}
	type made struct {
		driver.Conn
		error
	}
	done := make(chan made)
	go func() {
		defer func() { <-c.dials }()
		dial, cancel := context.WithTimeout(context.WithoutCancel(ctx), dialLimit)
		defer cancel()
		conn, err := c.connect(dial)
		select {
		case done <- made{conn, err}:
		case <-ctx.Done():
			if err == nil {
				c.keepSpare(conn)
			}
		}
	}()
	select {
	case m := <-done:
		if m.error != nil {
			return nil, c.url.unconnectable(m.error)
		}
		return m.Conn, nil
	case <-ctx.Done():
		return nil, c.url.unconnectable(ctx.Err())
	}
}

// takeSpare returns a spare connection, or nil.
func (c *connector) takeSpare() driver.Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.spares) == 0 {
		return nil
	}
	last := c.spares[len(c.spares)-1]
	c.spares = c.spares[:len(c.spares)-1]
	return last.Conn
}

func (c *connector) keepSpare(conn driver.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || len(c.spares) == dialsAtOnce {
		go conn.Close()
		return
	}
	c.spares = append(c.spares, spare{conn, time.Now()})
	time.AfterFunc(spareAge, c.dropOld)
}

// dropOld closes the spare connections that nobody has needed.
func (c *connector) dropOld() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.spares = slices.DeleteFunc(c.spares, func(s spare) bool {
		old := time.Since(s.made) >= spareAge
		if old {
			go s.Close() // which may take the time of a round trip
		}
		return old
	})
}

// Close implements [io.Closer], for [database/sql.DB.Close].
func (c *connector) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	var errs []error
	for _, s := range c.spares {
		errs = append(errs, s.Close())
	}
	c.spares = nil
	return errors.Join(errs...)
}

// Driver implements [driver.Connector].
func (c *connector) Driver() driver.Driver {
	if c.url.kind == postgres {
		return stdlib.GetDefaultDriver()
	}
	return mysql.MySQLDriver{}
}
