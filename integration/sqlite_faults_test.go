package integration

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/integration/internal/reexec"
	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/sqlstore"
)

// sqliteHold takes the write lock of the file at the path that is its
// argument, prints that it has, and keeps it until it is killed.
func sqliteHold(args []string) error {
	db, _, err := sqliteOpen(args[0])
	if err != nil {
		return err
	}
	conn, err := db.Conn(context.Background())
	if err != nil {
		return err
	}
	if _, err := conn.ExecContext(context.Background(), `BEGIN IMMEDIATE`); err != nil {
		return err
	}
	fmt.Println("held")
	select {}
}

// writes are all methods that write, by name, applied to the record under k.
func writes(s *sqlstore.Store, k store.Key, old store.Record) map[string]func(context.Context) error {
	next := old
	next.Version++
	return map[string]func(context.Context) error{
		"Create":      func(ctx context.Context) error { return s.Create(ctx, numberedKey(1000), numberedSession(1000)) },
		"Replace":     func(ctx context.Context) error { return s.Replace(ctx, k, old.Version, next) },
		"Touch":       func(ctx context.Context) error { return s.Touch(ctx, k, time.Now().Add(2*time.Hour)) },
		"Delete":      func(ctx context.Context) error { _, err := s.Delete(ctx, k); return err },
		"DeleteOwner": func(ctx context.Context) error { _, err := s.DeleteOwner(ctx, old.Owner); return err },
		"Sweep":       func(ctx context.Context) error { _, err := s.Sweep(ctx, 10); return err },
	}
}

// refused reports an error of a write that certainly did not happen and does not say
// so.
func refused(t *testing.T, what string, err error) {
	t.Helper()
	failed(t, what, err)
	if !errors.Is(err, store.ErrUnapplied) {
		t.Errorf("%s: error %v; want store.ErrUnapplied, for nothing has happened", what, err)
	}
}

// forGood reports an error of a refused write that does not say that waiting is in vain.
func forGood(t *testing.T, what string, err error) {
	t.Helper()
	refused(t, what, err)
	if !errors.Is(err, store.ErrRejected) {
		t.Errorf("%s: error %v; want store.ErrRejected, for it would be the same later", what, err)
	}
}

// failed reports an error that is an answer of the contract, or leaves open what
// happened.
func failed(t *testing.T, what string, err error) {
	t.Helper()
	if err == nil {
		t.Errorf("%s succeeded; want an error", what)
	}
	for _, wrong := range []error{store.ErrNotFound, store.ErrConflict, store.ErrInvalid, store.ErrTooLarge, store.ErrCorrupt, store.ErrAmbiguous} {
		if errors.Is(err, wrong) {
			t.Errorf("%s: error %v is %v; want a plain error, for nothing has happened", what, err, wrong)
		}
	}
}

// TestSQLiteBusyWriter: while another process keeps the write lock, writes end
// with their deadline, in an error that says so; reads go on; and afterwards
// everything works again.
func TestSQLiteBusyWriter(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sessions.db")
	_, s := sqliteStore(t, path)
	k, r := numberedKey(1), numberedSession(1)
	if err := s.Create(t.Context(), k, r); err != nil {
		t.Fatal(err)
	}
	holder := reexec.Start(t, "sqlite-hold", path)
	holder.Line()
	for name, write := range writes(s, k, r) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		err := write(ctx) // far beyond its deadline it would run into the test's own
		cancel()
		refused(t, name, err)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: error %v; want context.DeadlineExceeded", name, err)
		}
		if _, err := s.Get(t.Context(), k); err != nil {
			t.Errorf("Get while a writer holds the lock: %v", err)
		}
	}
	holder.Kill()
	for name, write := range writes(s, k, r) {
		if err := write(t.Context()); err != nil && !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s after the holder's end: %v", name, err)
		}
	}
}

// TestSQLiteBusyTimeout: without a deadline the busy timeout bounds the wait.
func TestSQLiteBusyTimeout(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sessions.db")
	_, s := sqliteStore(t, path)
	k, r := numberedKey(1), numberedSession(1)
	if err := s.Create(t.Context(), k, r); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite3", strings.Replace(sqlstore.SQLiteDSN(path), "10000", "20", 1))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	impatient, err := sqlstore.New(db, sqlstore.SQLite, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer impatient.Close()
	reexec.Start(t, "sqlite-hold", path).Line()
	for name, write := range writes(impatient, k, r) {
		err := write(t.Context())
		refused(t, name, err)
		mentions(t, name, err, "another process held the write lock")
	}
}

// TestSQLiteSlotRespectsContext: a caller that waits for its turn behind
// another caller of the same process leaves when its context ends.
func TestSQLiteSlotRespectsContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sessions.db")
	_, s := sqliteStore(t, path)
	k, r := numberedKey(1), numberedSession(1)
	if err := s.Create(t.Context(), k, r); err != nil {
		t.Fatal(err)
	}
	holder := reexec.Start(t, "sqlite-hold", path)
	holder.Line()
	first := make(chan error)
	go func() { first <- s.Touch(t.Context(), k, time.Now().Add(2*time.Hour)) }()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	err := s.Touch(ctx, k, time.Now().Add(2*time.Hour))
	refused(t, "Touch", err)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Touch: error %v; want context.DeadlineExceeded", err)
	}
	holder.Kill()
	if err := <-first; err != nil {
		t.Errorf("the write that had the turn: %v", err)
	}
}

// TestSQLiteFull: a database that cannot grow says so, keeps what it has, and
// works again as soon as there is space.
func TestSQLiteFull(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sessions.db")
	db, s := sqliteStore(t, path)
	k, r := numberedKey(1), numberedSession(1)
	if err := s.Create(t.Context(), k, r); err != nil {
		t.Fatal(err)
	}
	// A limit in pages is to SQLite what a full disk is: SQLITE_FULL. It is
	// the connection's, so that connection must be the only one.
	var pages int
	if err := db.QueryRow(`PRAGMA page_count`).Scan(&pages); err != nil {
		t.Fatal(err)
	}
	full, err := sql.Open("sqlite3", fmt.Sprintf("%s&_pragma=max_page_count(%d)", sqlstore.SQLiteDSN(path), pages))
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	fs, err := sqlstore.New(full, sqlstore.SQLite, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer fs.Close()
	next := r
	next.Version++
	next.Data = make([]byte, 64<<10)
	for name, err := range map[string]error{
		"Create":  fs.Create(t.Context(), numberedKey(2), next),
		"Replace": fs.Replace(t.Context(), k, r.Version, next),
	} {
		forGood(t, name, err)
		mentions(t, name, err, "no space left")
	}
	if got, err := fs.Get(t.Context(), k); err != nil || got.Version != r.Version {
		t.Errorf("after writes that found no space: record %v, %v; want the old one", got, err)
	}
	if _, err := fs.Delete(t.Context(), k); err != nil {
		t.Errorf("Delete without space: %v; it needs none", err)
	}
	if err := s.Create(t.Context(), numberedKey(2), next); err != nil {
		t.Errorf("Create with space: %v", err)
	}
}

// TestSQLiteReadOnly: reads work, writes say what is wrong.
func TestSQLiteReadOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sessions.db")
	_, s := sqliteStore(t, path)
	k, r := numberedKey(1), numberedSession(1)
	if err := s.Create(t.Context(), k, r); err != nil {
		t.Fatal(err)
	}
	// Permissions do not stop root, who may run the tests: mode=ro does.
	db, err := sql.Open("sqlite3", sqlstore.SQLiteDSN(path)+"&mode=ro")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	ro, err := sqlstore.New(db, sqlstore.SQLite, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ro.Close()
	if _, err := ro.Get(t.Context(), k); err != nil {
		t.Errorf("Get: %v", err)
	}
	if err := ro.Verify(t.Context()); err != nil {
		t.Errorf("Verify: %v", err)
	}
	for name, write := range writes(ro, k, r) {
		err := write(t.Context())
		refused(t, name, err)
		mentions(t, name, err, "not writable")
	}
}

// TestSQLiteUnusableFile: what cannot be a database is told, not retried.
func TestSQLiteUnusableFile(t *testing.T) {
	dir := t.TempDir()
	_, missing, err := sqliteOpen(filepath.Join(dir, "no such folder", "sessions.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer missing.Close()
	mentions(t, "Migrate", missing.Migrate(t.Context()), "its folder must exist")
	mentions(t, "Verify", missing.Verify(t.Context()), "its folder must exist")
	mentions(t, "Ping", missing.Ping(t.Context()), "its folder must exist")
}

// TestSQLiteCancelledMidWrite: whatever moment a context ends in, the error
// tells the truth: no error, and the write is there; an error that is not
// ErrAmbiguous, and it is not.
func TestSQLiteCancelledMidWrite(t *testing.T) {
	_, s := sqliteStore(t, filepath.Join(t.TempDir(), "sessions.db"))
	k, r := numberedKey(1), numberedSession(1)
	if err := s.Create(t.Context(), k, r); err != nil {
		t.Fatal(err)
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	outcomes := map[string]int{}
	for range 3000 {
		next := r
		next.Version++
		next.Data = make([]byte, 32<<10) // to take a while
		ctx, cancel := context.WithCancel(t.Context())
		timer := time.AfterFunc(time.Duration(rng.IntN(300))*time.Microsecond, cancel)
		err := s.Replace(ctx, k, r.Version, next)
		timer.Stop()
		got, getErr := s.Get(t.Context(), k)
		if getErr != nil {
			t.Fatal(getErr)
		}
		applied := got.Version == next.Version
		switch {
		case err == nil:
			outcomes["done"]++
			if !applied {
				t.Fatal("Replace returned no error, and the record is the old one")
			}
		case !errors.Is(err, context.Canceled):
			t.Fatalf("Replace: %v; want context.Canceled", err)
		case errors.Is(err, store.ErrAmbiguous):
			outcomes["ambiguous"]++
		default:
			outcomes["refused"]++
			if applied {
				t.Fatalf("Replace: error %v, which denies it, and the record is the new one", err)
			}
		}
		cancel()
		r = got
	}
	t.Logf("%v", outcomes)
}
