package storeurl

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"sync"
)

// pool is a connector whose pool is never allowed many more connections than there are.
// Create it with openPool.
//
// A request for which [sql.DB] makes a connection waits for that one, and gets none that
// is free before. On a busy machine a sign-in takes a hundred times as long as a query: so
// most requests are to wait for a connection that is there, and few for one that is made.
type pool struct {
	*connector
	db   *sql.DB
	size int

	mu     sync.Mutex
	making int
	limit  int
}

// openPool returns a pool of at most size connections.
func openPool(c *connector, size int) *sql.DB {
	p := &pool{connector: c, size: size}
	p.db = sql.OpenDB(p)
	p.allow(min(size, dialsAtOnce))
	return p.db
}

// Connect implements [driver.Connector].
func (p *pool) Connect(ctx context.Context) (driver.Conn, error) {
	p.mu.Lock()
	p.making++
	// Some may have broken since. Not more: the pool has counted others already that are
	// about to be made.
	p.allow(min(p.limit, p.suitable()))
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.making--
		p.allow(p.suitable())
	}()
	return p.connector.Connect(ctx)
}

// suitable returns a few more than there are, and at least what keeps the pool from closing
// one.
func (p *pool) suitable() int {
	open := p.db.Stats().OpenConnections // with those being made
	return min(p.size, max(open, open-p.making+dialsAtOnce))
}

func (p *pool) allow(n int) {
	p.limit = n
	p.db.SetMaxOpenConns(n)
	p.db.SetMaxIdleConns(n)
}
