package integration

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/integration/internal/reexec"
	"github.com/coatcheck/coatcheck/store"
)

const (
	processes  = 3
	goroutines = 20 // in each process
)

// numberedKey is a key that every process derives alike.
func numberedKey(i int) store.Key {
	return sha256.Sum256(binary.BigEndian.AppendUint64([]byte("integration"), uint64(i)))
}

func numberedSession(i int) store.Record {
	now := time.Now()
	r := store.Record{Owner: fmt.Sprintf("owner %d", i), Created: now, Deadline: now.Add(24 * time.Hour), Expires: now.Add(time.Hour)}
	binary.BigEndian.PutUint64(r.Handle[:], uint64(i)+1)
	r.Data = counted(0)
	return r
}

// counted is the data of a record that has been incremented n times.
func counted(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func count(r store.Record) uint64 { return binary.BigEndian.Uint64(r.Data) }

// increment adds one to the record under k by compare-and-swap.
func increment(ctx context.Context, s store.Store, k store.Key) error {
	for {
		r, err := s.Get(ctx, k)
		if err != nil {
			return err
		}
		next := r
		next.Version++
		next.Data = counted(count(r) + 1)
		err = s.Replace(ctx, k, r.Version, next)
		if !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
}

// sqliteIncrement increments records of the file at path: args are path, the
// number of records, and how often each goroutine does it. It prints a line
// when it has begun.
func sqliteIncrement(args []string) error {
	path := args[0]
	records, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	times, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	db, s, err := sqliteOpen(path)
	if err != nil {
		return err
	}
	ctx := context.Background()
	if err := s.Verify(ctx); err != nil {
		return err
	}
	var wg sync.WaitGroup
	errs := make([]error, goroutines)
	begun := sync.OnceFunc(func() { fmt.Println("begun") })
	for g := range goroutines {
		wg.Go(func() {
			for i := range times {
				if errs[g] = increment(ctx, s, numberedKey((g+i)%records)); errs[g] != nil {
					return
				}
				begun()
			}
		})
	}
	wg.Wait()
	return errors.Join(append(errs, s.Close(), db.Close())...)
}

// incremented returns how often the records have been incremented, in all.
func incremented(t *testing.T, s store.Store, records int) uint64 {
	t.Helper()
	var n uint64
	for i := range records {
		r, err := s.Get(t.Context(), numberedKey(i))
		if err != nil {
			t.Fatalf("Get of record %d of %d: %v", i, records, err)
		}
		n += count(r)
	}
	return n
}

// TestSQLiteProcesses: no increment of several processes on one file is lost,
// and none fails because the file is busy.
func TestSQLiteProcesses(t *testing.T) {
	notShort(t)
	for _, c := range []struct {
		name    string
		records int
		times   int
	}{
		{"one record", 1, 20},
		{"many records", 50, 100},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "sessions.db")
			_, s := sqliteStore(t, path)
			for i := range c.records {
				if err := s.Create(t.Context(), numberedKey(i), numberedSession(i)); err != nil {
					t.Fatal(err)
				}
			}
			var ps []*reexec.Process
			for range processes {
				ps = append(ps, reexec.Start(t, "sqlite-increment", path, strconv.Itoa(c.records), strconv.Itoa(c.times)))
			}
			for _, p := range ps {
				p.Line()
			}
			for _, p := range ps {
				p.Wait()
			}
			want := uint64(processes * goroutines * c.times)
			if got := incremented(t, s, c.records); got != want {
				t.Errorf("%d processes of %d goroutines made %d increments; the store has %d", processes, goroutines, want, got)
			}
		})
	}
}

// TestSQLiteKilledProcess: a process that is killed in the middle of its
// writes stops nobody, loses nothing of the others, and leaves a sound file.
func TestSQLiteKilledProcess(t *testing.T) {
	notShort(t)
	const records, times, endless = 50, 100, 1 << 30
	path := filepath.Join(t.TempDir(), "sessions.db")
	db, s := sqliteStore(t, path)
	for i := range records {
		if err := s.Create(t.Context(), numberedKey(i), numberedSession(i)); err != nil {
			t.Fatal(err)
		}
	}
	for range 5 {
		before := incremented(t, s, records)
		victim := reexec.Start(t, "sqlite-increment", path, strconv.Itoa(records), strconv.Itoa(endless))
		other := reexec.Start(t, "sqlite-increment", path, strconv.Itoa(records), strconv.Itoa(times))
		victim.Line()
		other.Line()
		victim.Kill()
		other.Wait()
		if got, least := incremented(t, s, records)-before, uint64(goroutines*times); got < least {
			t.Errorf("the surviving process made %d increments; the store has %d", least, got)
		}
		var sound string
		if err := db.QueryRow(`PRAGMA integrity_check`).Scan(&sound); err != nil || sound != "ok" {
			t.Fatalf("integrity_check after a kill: %q, %v", sound, err)
		}
	}
	if err := s.Verify(t.Context()); err != nil {
		t.Error(err)
	}
}
