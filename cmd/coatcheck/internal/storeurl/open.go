package storeurl

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/memstore"
	"github.com/coatcheck/coatcheck/store/sqlstore"
	_ "github.com/ncruces/go-sqlite3/driver" // SQLite without cgo, as "sqlite3"
)

// readers bounds the connections that a process reads by: each has a page cache
// of its own (about 2 MB), and more than the processor has cores gain nothing.
const readers = 4

// Opened is a store that is open, and what belongs to its set-up.
type Opened struct {
	Store   store.Store
	verify  func(context.Context) error
	migrate func(context.Context) error
	close   func() error
}

// Open opens the store. Close it when done.
//
// A SQLite file that is missing is created, readable by its owner only, if
// create is true; else it is an error. The schema is not looked at: see
// [Opened.Prepare].
func (u URL) Open(create bool) (*Opened, error) {
	switch u.kind {
	case memory:
		return &Opened{Store: memstore.New()}, nil
	case sqlite:
		return u.openSQLite(create)
	}
	return nil, errors.New("no store URL")
}

func (u URL) openSQLite(create bool) (*Opened, error) {
	if err := u.file(create); err != nil {
		return nil, err
	}
	// mode=rw: if the file goes away, a later connection of the pool must fail and
	// not begin an empty one, for which SQLite would drop the log of the old one.
	db, err := sql.Open("sqlite3", sqlstore.SQLiteDSN(u.path)+"&mode=rw")
	if err != nil {
		return nil, fmt.Errorf("open %v: %w", u, err)
	}
	db.SetMaxOpenConns(readers + 1) // the store keeps one to write by
	db.SetMaxIdleConns(readers + 1)
	st, err := sqlstore.New(db, sqlstore.SQLite, nil)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &Opened{
		Store:   st,
		verify:  st.Verify,
		migrate: st.Migrate,
		close:   func() error { return errors.Join(st.Close(), db.Close()) },
	}, nil
}

// file makes sure that the database's file is there. The permissions of the files
// that the driver puts beside it are the process's umask's affair.
func (u URL) file(create bool) error {
	dir := filepath.Dir(u.path)
	if create && u.private {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("folder of the session store: %w", err)
		}
	}
	flags := os.O_RDWR
	if create {
		flags |= os.O_CREATE
	}
	f, err := os.OpenFile(u.path, flags, 0o600)
	if err == nil {
		return f.Close()
	}
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) && !u.private {
			return fmt.Errorf("session store: the folder %s does not exist; create it with: mkdir -m 700 %[1]s", dir)
		}
		if !create {
			return fmt.Errorf("session store: the file %s does not exist and is not created here; look where it went, or start without --no-migrate", u.path)
		}
	}
	return fmt.Errorf("session store: %w", err)
}

// Prepare makes sure that the schema is there. If it is missing or old it is
// brought up to date, and Prepare returns true; with verifyOnly that is an error
// instead.
func (o *Opened) Prepare(ctx context.Context, verifyOnly bool) (migrated bool, err error) {
	if o.verify == nil {
		return false, nil
	}
	problem := o.verify(ctx)
	if problem == nil {
		return false, nil
	}
	if verifyOnly {
		return false, fmt.Errorf("the session store is not ready: %w", problem)
	}
	if err := o.migrate(ctx); err != nil {
		return false, fmt.Errorf("set up the session store: %w", err)
	}
	return true, nil
}

// Close closes the store and its connections.
func (o *Opened) Close() error {
	if o.close == nil {
		return nil
	}
	return o.close()
}
