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
}

// openPool returns a pool of at most size connections.
func openPool(c *connector, size int) *sql.DB {
	p := &pool{connector: c, size: size}
	p.db = sql.OpenDB(p)
	p.made(0)
	return p.db
}

// Connect implements [driver.Connector].
func (p *pool) Connect(ctx context.Context) (driver.Conn, error) {
	p.made(+1)
	defer p.made(-1)
	return p.connector.Connect(ctx)
}

// made notes that so many more connections are being made, and sets the limit: a few more
// than there are, and none that would have the pool close one.
func (p *pool) made(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.making += n
	open := p.db.Stats().OpenConnections // with those being made
	limit := min(p.size, max(open, open-p.making+dialsAtOnce))
	p.db.SetMaxOpenConns(limit)
	p.db.SetMaxIdleConns(limit)
}
