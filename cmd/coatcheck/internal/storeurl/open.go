package storeurl

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/memstore"
	"github.com/coatcheck/coatcheck/store/nearcache"
	"github.com/coatcheck/coatcheck/store/sqlstore"
	_ "github.com/ncruces/go-sqlite3/driver" // SQLite without cgo, as "sqlite3"
)

// readers bounds the connections that a process reads by: each has a page cache
// of its own (about 2 MB), and more than the processor has cores gain nothing.
const readers = 4

// Opened is a store that is open, and what belongs to its set-up.
type Opened struct {
	Store   store.Store
	kind    string
	network *network         // nil if the store is on this machine
	cache   *nearcache.Cache // nil if no copies are kept
	check   func() error
	close   func() error
	// The schema, if the store has one.
	verify, migrate func(context.Context) error
	try             func(context.Context) error // does what servers do with sessions; may be nil
}

// Options say how to open a store. The zero value is a good choice.
type Options struct {
	// Create makes a SQLite file that is missing, readable by its owner only. If
	// false, that is an error.
	Create bool
	// Patient is for a server that must serve whatever becomes of its store: one
	// on the network that cannot be reached is connected to when it can be, and
	// until then its calls fail. If false, that is an error.
	Patient bool
	// NearCache keeps copies of sessions in memory for a second.
	NearCache bool
	// Logger is told when the store fails and when it is back. If nil,
	// slog.Default().
	Logger *slog.Logger
}

// CheckNearCache returns an error that says what to do if copies of what is in
// the store would be of no use.
func (u URL) CheckNearCache() error {
	if u.kind == memory {
		return errors.New("memory: is in the server's own memory already, and copies of it gain nothing; leave the flag out")
	}
	return nil
}

// Open opens the store. Close it when done. ctx bounds the wait for a server. The
// schema is not looked at: see [Opened.Prepare].
func (u URL) Open(ctx context.Context, opts Options) (o *Opened, err error) {
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	switch {
	case u.kind == memory:
		o = &Opened{Store: memstore.New()}
	case u.kind == sqlite:
		o, err = u.openSQLite(opts.Create)
	case u.network():
		o, err = u.openNetwork(ctx, opts)
	default:
		err = errors.New("no store URL")
	}
	if err != nil {
		return nil, err
	}
	o.kind = u.Kind()
	if opts.NearCache {
		if o.cache, err = nearcache.New(o.Store, &nearcache.Options{Logger: opts.Logger}); err != nil {
			return nil, errors.Join(err, o.Close())
		}
		o.Store = o.cache
	}
	return o, nil
}

func (u URL) openSQLite(create bool) (*Opened, error) {
	opened, err := u.file(create)
	if err != nil {
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
	p := &place{path: u.path, opened: opened}
	return &Opened{
		Store:   &inPlace{inner: st, place: p},
		check:   p.check,
		verify:  st.Verify,
		migrate: st.Migrate,
		close:   func() error { return errors.Join(st.Close(), db.Close()) },
	}, nil
}

// file makes sure that the database's file is there, and returns what it is. The
// permissions of the files that the driver puts beside it are the process's
// umask's affair.
func (u URL) file(create bool) (os.FileInfo, error) {
	dir := filepath.Dir(u.path)
	if create && u.private {
		if err := makeCache(dir); err != nil {
			return nil, fmt.Errorf("folder of the session store: %w; name another place with --store sqlite:PATH", err)
		}
	}
	// What is no file must not even be opened: a named pipe would wait for its
	// other end.
	if info, err := os.Stat(u.path); err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("session store: %s is no regular file; name a file, or use memory: for one worker that keeps nothing", u.path)
	}
	flags := os.O_RDWR
	if create {
		flags |= os.O_CREATE
	}
	f, err := os.OpenFile(u.path, flags, 0o600)
	if err == nil {
		info, err := f.Stat()
		return info, errors.Join(err, f.Close())
	}
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) && !u.private {
			return nil, fmt.Errorf("session store: the folder %s does not exist; create it with: mkdir -m 700 %[1]s", dir)
		}
		if !create {
			return nil, fmt.Errorf("session store: the file %s does not exist and is not created here; look where it went, or make one with `coatcheck schema apply`", u.path)
		}
	}
	return nil, fmt.Errorf("session store: %w", err)
}

// makeCache makes our folder in the user's cache folder, and that one if need be,
// as ~/.cache of a new user. What is above is not ours to make: a home that does
// not exist is a mistake in the environment.
func makeCache(dir string) error {
	for _, d := range []string{filepath.Dir(dir), dir} {
		if err := os.Mkdir(d, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// Prepare makes sure that the schema is there. If it is missing or old it is
// brought up to date, and Prepare returns true; with verifyOnly that is an error
// instead. Then it makes sure that a session can be kept, for what a server's user
// may not do comes to light only then.
func (o *Opened) Prepare(ctx context.Context, verifyOnly bool) (migrated bool, err error) {
	if o.network != nil {
		slow := time.AfterFunc(verifyTimeout/2, func() {
			o.network.logger.Warn("the session store is still being set up: something there holds a lock, or it does not answer", "store", o.network.url)
		})
		defer slow.Stop()
	}
	migrated, err = setUp(ctx, o.verify, o.migrate, verifyOnly)
	if err != nil || o.try == nil {
		return migrated, err
	}
	if err := o.try(ctx); err != nil {
		return migrated, fmt.Errorf("the session store is not ready: %w", inOurWords(err))
	}
	return migrated, nil
}

// SetUp brings the schema up to date, and reports whether it was not. The store
// must have one (see [URL.CheckSchema]).
func (o *Opened) SetUp(ctx context.Context) (migrated bool, err error) {
	return setUp(ctx, o.verify, o.migrate, false)
}

// Verify returns what is wrong with the schema. It changes nothing.
func (o *Opened) Verify(ctx context.Context) error {
	_, err := setUp(ctx, o.verify, o.migrate, true)
	return err
}

func setUp(ctx context.Context, verify, migrate func(context.Context) error, verifyOnly bool) (migrated bool, err error) {
	if verify == nil {
		return false, nil
	}
	problem := bounded(ctx, verify)
	if problem == nil {
		return false, nil
	}
	if verifyOnly {
		return false, fmt.Errorf("the session store is not ready: %w", inOurWords(problem))
	}
	if err := migrate(ctx); err != nil {
		return false, fmt.Errorf("set up the session store: %w", inOurWords(err))
	}
	if err := bounded(ctx, verify); err != nil { // what it found was no matter of the schema's version
		return false, fmt.Errorf("the session store is not ready: %w", inOurWords(err))
	}
	return true, nil
}

// verifyTimeout bounds a look at the schema: a server that froze after the sign-in would
// have it take for ever.
const verifyTimeout = 10 * time.Second

func bounded(ctx context.Context, verify func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, verifyTimeout)
	defer cancel()
	return verify(ctx)
}

// inOurWords adds what in the command are the functions that package sqlstore
// advises.
func inOurWords(err error) error {
	var words []string
	for _, w := range []struct{ theirs, ours string }{
		{"Migrate", "Migrate is `coatcheck schema apply`"},
		{"Grants", "Grants is `coatcheck schema print --role ROLE`"},
		{"Schema shows", "Schema is `coatcheck schema print`"},
		{"Options.Table", "Options.Table is table=NAME in the store URL"},
		{"Options.Schema", "Options.Schema is schema=NAME in the store URL"},
		{"Options.Collection", "Options.Collection is collection=NAME in the store URL"},
		{"Options.Unprepared", "Options.Unprepared is pooler=true in the store URL"},
		{"SetMaxOpenConns", "SetMaxOpenConns is pool=N in the store URL"},
		{"target_session_attrs", "with several hosts in the store URL, the one that takes writes is used"},
		{"the data source name", "the data source name is the store URL"},
	} {
		if strings.Contains(err.Error(), w.theirs) {
			words = append(words, w.ours)
		}
	}
	if len(words) == 0 {
		return err
	}
	return fmt.Errorf("%w (%s)", err, strings.Join(words, "; "))
}

// IsSchemaMissing reports whether the error of [Opened.Prepare] or [Opened.Verify] is of
// a schema that setting it up would mend. The stores have no type for that.
func IsSchemaMissing(err error) bool {
	text := err.Error()
	return (strings.Contains(text, ": run Migrate") || strings.Contains(text, "Migrate creates")) && !strings.Contains(text, "Grants")
}

// Check returns what is wrong if the store is no longer the one that was opened,
// for its file was deleted, moved or replaced. Its calls fail then.
func (o *Opened) Check() error {
	if o.check == nil {
		return nil
	}
	return o.check()
}

// checkInterval bounds the time until somebody who gets no requests hears of it.
const checkInterval = time.Second

// Watch logs, once each time, that [Opened.Check] found something or that all is
// well again, until ctx ends.
func (o *Opened) Watch(ctx context.Context, logger *slog.Logger) {
	if o.check == nil {
		return
	}
	tick := time.NewTicker(checkInterval)
	defer tick.Stop()
	lost := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := o.check()
		switch {
		case err != nil && !lost:
			logger.Error("no session can be read or saved", "error", err)
		case err == nil && lost:
			logger.Info("the session store is back in its place")
		}
		lost = err != nil
	}
}

// Run keeps the copies of a near cache fresh until ctx ends. Without one it only
// waits.
func (o *Opened) Run(ctx context.Context) {
	if o.cache == nil {
		<-ctx.Done()
		return
	}
	_ = o.cache.Run(ctx) // only ever the context's error
}

// State is what there is to say of an open store beyond whether it answers.
type State struct {
	// Topology is the kind of the store and, on the network, how its servers are
	// arranged, as "redis cluster".
	Topology string
	// Breaker is the state of the circuit around a store on the network: "closed",
	// "open" or "half-open", or "connecting" before it was first reached.
	Breaker string
	// NearCache is how the copies that a process keeps learn of changes: "pushed",
	// or "timed" by the second; or "off".
	NearCache string
}

// State returns the state of the store. It asks no server.
func (o *Opened) State() State {
	s := State{Topology: o.kind, NearCache: "off"}
	if o.network != nil {
		s.Breaker = o.network.state()
		s.Topology = strings.TrimSpace(s.Topology + " " + o.network.topology())
	}
	if o.cache != nil {
		s.NearCache = "timed"
		if o.cache.Stats().Pushing {
			s.NearCache = "pushed"
		}
	}
	return s
}

// Advise logs what a server should be set up better for sessions, once it is
// connected. It returns when it has, or when ctx ends.
func (o *Opened) Advise(ctx context.Context, logger *slog.Logger) {
	if o.network != nil {
		o.network.advise(ctx, logger)
	}
}

// Inspect returns what a server says of itself, once it is connected, or a file.
func (o *Opened) Inspect(ctx context.Context) ([]store.Finding, error) {
	if o.network == nil {
		inspector, ok := store.As[store.Inspector](o.Store)
		if !ok {
			return nil, errors.ErrUnsupported
		}
		return inspector.Inspect(ctx)
	}
	inspector, err := capability[store.Inspector](o.network)
	if err != nil {
		return nil, err
	}
	return inspector.Inspect(ctx)
}

// Close closes the store and its connections.
func (o *Opened) Close() error {
	if o.close == nil {
		return nil
	}
	return o.close()
}
