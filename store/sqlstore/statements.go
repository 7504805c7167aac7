package sqlstore

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"sync"
	"time"
)

var errClosed = errors.New("the store is closed")

// statement is a prepared one, or a text.
type statement interface {
	ExecContext(ctx context.Context, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, args ...any) *sql.Row
}

// text is a statement that is sent as it is each time. Writes are sent once: on a
// connection of its own, package database/sql does not send them again on another.
type text struct {
	db    *sql.DB
	query string
}

func (t text) ExecContext(ctx context.Context, args ...any) (sql.Result, error) {
	c, err := t.db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.ExecContext(ctx, t.query, args...)
}

func (t text) QueryContext(ctx context.Context, args ...any) (*sql.Rows, error) {
	return t.db.QueryContext(ctx, t.query, args...)
}

func (t text) QueryRowContext(ctx context.Context, args ...any) *sql.Row {
	return t.db.QueryRowContext(ctx, t.query, args...)
}

// statements runs statements, each prepared at its first use.
type statements interface {
	do(ctx context.Context, query string, f func(statement) error) error
	// conn lends a connection, alone. Where f finds no space, it may be called
	// once more.
	conn(ctx context.Context, f func(*sql.Conn) error) error
	// leave gives up connections to a server that takes no writes any more.
	leave()
	close() error
}

// pool runs statements on whichever connection is free.
type pool struct {
	db         *sql.DB
	unprepared bool
	mu         sync.RWMutex
	cached     map[string]*sql.Stmt // nil: closed
	left       time.Time            // when connections were last given up
}

func newPool(db *sql.DB, unprepared bool) *pool {
	return &pool{db: db, unprepared: unprepared, cached: map[string]*sql.Stmt{}}
}

func (p *pool) do(ctx context.Context, query string, f func(statement) error) error {
	if p.unprepared {
		p.mu.RLock()
		closed := p.cached == nil
		p.mu.RUnlock()
		if closed {
			return errClosed
		}
		return f(text{p.db, query})
	}
	st, err := p.prepared(ctx, query)
	if err != nil {
		return err
	}
	return f(st)
}

func (p *pool) prepared(ctx context.Context, query string) (*sql.Stmt, error) {
	p.mu.RLock()
	st, open := p.cached[query], p.cached != nil
	p.mu.RUnlock()
	if st != nil || !open {
		if st == nil {
			return nil, errClosed
		}
		return st, nil
	}
	// Not under the lock: it may wait for a connection, and the caller who has
	// one may be waiting for the lock.
	st, err := p.db.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch first := p.cached[query]; {
	case p.cached == nil:
		return nil, errors.Join(errClosed, st.Close())
	case first != nil:
		_ = st.Close()
		return first, nil
	}
	p.cached[query] = st
	return st, nil
}

func (p *pool) conn(ctx context.Context, f func(*sql.Conn) error) error {
	c, err := p.db.Conn(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	return f(c)
}

// leave closes the connections that are idle: their server takes no writes any more, as
// after a failover, and new ones may be to another. It does so at most once a second, for
// new ones may also be to the same, and behind the caller's back.
func (p *pool) leave() {
	p.mu.Lock()
	early := time.Since(p.left) < time.Second || p.cached == nil
	if !early {
		p.left = time.Now()
	}
	p.mu.Unlock()
	if early {
		return
	}
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
		defer cancel()
		for range p.db.Stats().Idle {
			c, err := p.db.Conn(ctx)
			if err != nil {
				return
			}
			_ = c.Raw(func(any) error { return driver.ErrBadConn }) // which closes it
			_ = c.Close()
		}
	}()
}

// leaveTimeout bounds the wait for connections that turn out to be in use.
const leaveTimeout = 2 * time.Second

func (p *pool) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for _, st := range p.cached {
		errs = append(errs, st.Close())
	}
	p.cached = nil
	return errors.Join(errs...)
}

// turns runs statements one after the other on one connection of its own.
type turns struct {
	db       *sql.DB
	care     connection
	diagnose func(error) diagnosis
	slot     chan struct{} // holds one token while somebody has the turn

	// What follows belongs to whoever has the turn.
	c      *sql.Conn // nil until first needed
	cached map[string]*sql.Stmt
	count  int // statements on c
	closed bool
}

func newTurns(db *sql.DB, d Dialect) *turns {
	return &turns{db: db, care: *d.turns, diagnose: d.diagnose, slot: make(chan struct{}, 1)}
}

func (t *turns) do(ctx context.Context, query string, f func(statement) error) error {
	return t.conn(ctx, func(c *sql.Conn) error {
		st, ok := t.cached[query]
		if !ok {
			var err error
			if st, err = c.PrepareContext(ctx, query); err != nil {
				return err
			}
			t.cached[query] = st
		}
		err := f(st)
		if t.count%t.care.tendEvery == 0 {
			t.care.tend(ctx, c)
		}
		t.count++
		return err
	})
}

func (t *turns) conn(ctx context.Context, f func(*sql.Conn) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case t.slot <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("%w while waiting for the write connection", ctx.Err())
	}
	defer func() { <-t.slot }()
	if t.closed {
		return errClosed
	}
	if t.c == nil {
		c, err := t.db.Conn(ctx)
		if err != nil {
			return err
		}
		if _, err := c.ExecContext(ctx, t.care.setUp); err != nil {
			return errors.Join(err, c.Close())
		}
		t.c, t.cached, t.count = c, map[string]*sql.Stmt{}, 0
	}
	err := f(t.c)
	if err != nil && t.diagnose(err).full && t.care.makeRoom(ctx, t.c) {
		err = f(t.c)
	}
	if err != nil && t.broken(err) {
		_ = t.release()
	}
	return err
}

// broken reports whether the connection may be unusable after err: whenever
// that is not the database's own answer. The pool checks it on its return.
func (t *turns) broken(err error) bool {
	return !errors.Is(err, sql.ErrNoRows) && !t.diagnose(err).answered
}

func (t *turns) release() error {
	if t.c == nil {
		return nil
	}
	var errs []error
	for _, st := range t.cached {
		errs = append(errs, st.Close())
	}
	_, err := t.c.ExecContext(context.Background(), t.care.restore)
	errs = append(errs, err, t.c.Close())
	t.c, t.cached = nil, nil
	return errors.Join(errs...)
}

// leave does nothing: a file that is read only has no other server.
func (*turns) leave() {}

func (t *turns) close() error {
	t.slot <- struct{}{}
	defer func() { <-t.slot }()
	t.closed = true
	return t.release()
}
