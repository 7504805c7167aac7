package storeurl_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/storeurl"
	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/storetest"
)

// openFile returns a store that is set up, and its file.
func openFile(t *testing.T) (*storeurl.Opened, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s.db")
	u, err := storeurl.Parse("sqlite:" + path)
	if err != nil {
		t.Fatal(err)
	}
	o := open(t, u, true)
	t.Cleanup(func() {
		if err := o.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, err := o.Prepare(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	return o, path
}

// calls are all calls of a store.
func calls(s store.Store) map[string]func(context.Context) error {
	now := time.Now()
	owners, _ := store.As[store.OwnerIndex](s)
	lister, _ := store.As[store.Lister](s)
	sweeper, _ := store.As[store.Sweeper](s)
	many, _ := store.As[store.GetMany](s)
	pinger, _ := store.As[store.Pinger](s)
	k := store.Key{9}
	all := map[string]func(context.Context) error{
		"Get":     func(ctx context.Context) error { _, err := s.Get(ctx, k); return err },
		"Create":  func(ctx context.Context) error { return s.Create(ctx, k, record(now)) },
		"Replace": func(ctx context.Context) error { return s.Replace(ctx, k, 1, record(now)) },
		"Touch":   func(ctx context.Context) error { return s.Touch(ctx, k, now.Add(time.Hour)) },
		"Delete":  func(ctx context.Context) error { _, err := s.Delete(ctx, k); return err },
		"ListOwner": func(ctx context.Context) error {
			_, err := owners.ListOwner(ctx, "alice")
			return err
		},
		"DeleteOwner": func(ctx context.Context) error {
			_, err := owners.DeleteOwner(ctx, "alice")
			return err
		},
		"List": func(ctx context.Context) error {
			for _, err := range lister.List(ctx) {
				return err
			}
			return nil
		},
		"Sweep":   func(ctx context.Context) error { _, err := sweeper.Sweep(ctx, 1); return err },
		"GetMany": func(ctx context.Context) error { _, err := many.GetMany(ctx, []store.Key{k}); return err },
		"Ping":    func(ctx context.Context) error { return pinger.Ping(ctx) },
	}
	if sweeper == nil { // of Redis, which needs none
		delete(all, "Sweep")
	}
	return all
}

func mustFail(t *testing.T, o *storeurl.Opened, why string) {
	t.Helper()
	for name, call := range calls(o.Store) {
		err := call(t.Context())
		if err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s = %v, want that the file %s", name, err, why)
		}
		if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrAmbiguous) {
			t.Errorf("%s = %v: nothing is absent, and nothing was done", name, err)
		}
	}
	if err := o.Check(); err == nil {
		t.Error("Check has no error")
	}
}

func TestFileThatIsAwayTakesNothing(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows does not let go of a file that is open")
	}
	o, path := openFile(t)
	k := store.Key{1}
	if err := o.Store.Create(t.Context(), k, record(time.Now())); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	mustFail(t, o, "was deleted or moved")
	if err := os.Rename(path+".away", path); err != nil {
		t.Fatal(err)
	}
	if _, err := o.Store.Get(t.Context(), k); err != nil {
		t.Errorf("Get = %v after the file came back", err)
	}
	if err := o.Check(); err != nil {
		t.Errorf("Check = %v after the file came back", err)
	}
}

func TestFileThatWasReplacedTakesNothingForGood(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows does not let go of a file that is open")
	}
	o, path := openFile(t)
	other, otherPath := openFile(t)
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(otherPath, path); err != nil {
		t.Fatal(err)
	}
	mustFail(t, o, "was replaced")
	// Connections may be to either file by now.
	if err := os.Rename(path+".away", path); err != nil {
		t.Fatal(err)
	}
	mustFail(t, o, "was replaced")
}

func TestOpenRefusesWhatIsNoFile(t *testing.T) {
	for _, path := range []string{os.DevNull, t.TempDir()} {
		u, err := storeurl.Parse("sqlite:" + path)
		if err != nil {
			t.Fatal(err)
		}
		if o, err := u.Open(t.Context(), storeurl.Options{Create: true}); err == nil {
			o.Close()
			t.Errorf("%s passes for a database", path)
		} else if !strings.Contains(err.Error(), "no regular file") {
			t.Errorf("Open of %s = %v", path, err)
		}
	}
}

func TestHomeThatIsMissingIsNotMade(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the cache folder of this system is elsewhere")
	}
	for _, tt := range []struct {
		home, cache string // below the folder that exists
		works       bool
	}{
		{"", "", true},
		{"nobody", "", false},
		{"", "cache", true},
		{"", "a/b", false},
	} {
		dir := t.TempDir()
		t.Setenv("HOME", filepath.Join(dir, tt.home))
		t.Setenv("XDG_CACHE_HOME", "")
		if tt.cache != "" {
			t.Setenv("XDG_CACHE_HOME", filepath.Join(dir, tt.cache))
		}
		u, err := storeurl.Default()
		if err != nil {
			t.Fatal(err)
		}
		o, err := u.Open(t.Context(), storeurl.Options{Create: true})
		if (err == nil) != tt.works {
			t.Errorf("HOME %q, XDG_CACHE_HOME %q: Open = %v", tt.home, tt.cache, err)
		}
		if err == nil {
			o.Close()
			continue
		}
		if left, _ := os.ReadDir(dir); len(left) != 0 {
			t.Errorf("HOME %q, XDG_CACHE_HOME %q: made %v", tt.home, tt.cache, left)
		}
		if !strings.Contains(err.Error(), "--store sqlite:PATH") {
			t.Errorf("it does not say what to do: %v", err)
		}
	}
}

func TestWatchTellsOnce(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows does not let go of a file that is open")
	}
	o, path := openFile(t)
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { o.Watch(ctx, slog.New(slog.NewTextHandler(&b, nil))) })
		time.Sleep(3 * time.Second)
		for range 2 {
			if err := os.Rename(path, path+".away"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(5 * time.Second)
			if err := os.Rename(path+".away", path); err != nil {
				t.Fatal(err)
			}
			time.Sleep(5 * time.Second)
		}
		cancel()
		wg.Wait()
		if lost, back := strings.Count(b.String(), "was deleted or moved"), strings.Count(b.String(), "is back"); lost != 2 || back != 2 {
			t.Errorf("two absences and returns were told %d and %d times:\n%s", lost, back, b.String())
		}
	})
}

// A store that looks at its file is a store still.
func TestConformance(t *testing.T) {
	n := 0
	storetest.Run(t, storetest.Config{New: func(t *testing.T) store.Store {
		n++
		u, err := storeurl.Parse("sqlite:" + filepath.Join(t.TempDir(), fmt.Sprintf("%d.db", n)))
		if err != nil {
			t.Fatal(err)
		}
		o := open(t, u, true)
		t.Cleanup(func() { o.Close() })
		if _, err := o.Prepare(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		return o.Store
	}})
}
