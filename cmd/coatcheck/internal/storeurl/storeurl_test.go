package storeurl_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/storeurl"
	"github.com/coatcheck/coatcheck/store"
)

func TestParse(t *testing.T) {
	t.Chdir(t.TempDir())
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		in, want string
		shared   bool
		name     string
	}{
		{"sqlite:a.db", "sqlite:" + filepath.Join(wd, "a.db"), true, "sqlite a.db"},
		{"sqlite:./b/../a.db", "sqlite:" + filepath.Join(wd, "a.db"), true, "sqlite a.db"},
		{"sqlite:/var/lib/a b?c#d%.db", "sqlite:/var/lib/a b?c#d%.db", true, "sqlite a b?c#d%.db"},
		{"sqlite:///var/lib/a.db", "sqlite:/var/lib/a.db", true, "sqlite a.db"},
		{"memory:", "memory:", false, "memory:"},
	} {
		u, err := storeurl.Parse(tt.in)
		if err != nil {
			t.Errorf("Parse(%q): %v", tt.in, err)
			continue
		}
		if u.String() != tt.want || u.Shared() != tt.shared {
			t.Errorf("Parse(%q) = %v, shared %v; want %s, %v", tt.in, u, u.Shared(), tt.want, tt.shared)
		}
		if u.Name() != tt.name {
			t.Errorf("%v is called %q; want %q", u, u.Name(), tt.name)
		}
		// A worker in the same folder or another gets the same store.
		if again, err := storeurl.Parse(u.Raw()); err != nil || again != u {
			t.Errorf("Parse(%q) = %v, %v; want %v", u.Raw(), again, err, u)
		}
	}
}

func TestParseSaysWhatIsSupportedAndRepeatsNoPassword(t *testing.T) {
	for _, in := range []string{
		"hunter2", "hunter2:x@host/db", "sqlserver://u:hunter2@host", "file:hunter2",
		"SQLITE:hunter2", " sqlite:hunter2", "://hunter2", "memory:hunter2", "sqlite://hunter2/x", "sqlite:", "sqlite::memory:?hunter2", "sqlite:a\x00hunter2",
		"sqlite:a.db\nhunter2", "sqlite:hunter2\x1b[2J",
	} {
		_, err := storeurl.Parse(in)
		if err == nil {
			t.Errorf("Parse(%q) has no error", in)
			continue
		}
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("Parse(%q) repeats what may be a password: %v", in, err)
		}
		if !strings.Contains(err.Error(), "sqlite:") && !strings.Contains(err.Error(), "memory:") {
			t.Errorf("Parse(%q) does not say what to do: %v", in, err)
		}
	}
}

func TestDefaultIsInTheCacheFolder(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", cache)
	t.Setenv("HOME", cache)
	dir, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	u, err := storeurl.Parse("")
	if err != nil {
		t.Fatal(err)
	}
	if want := "sqlite:" + filepath.Join(dir, "coatcheck", "sessions.db"); u.String() != want {
		t.Errorf("the default is %v, want %s", u, want)
	}
}

func record(now time.Time) store.Record {
	return store.Record{
		Version: 1, Created: now, Deadline: now.Add(time.Hour), Expires: now.Add(time.Hour), Data: []byte("data"),
	}
}

func open(t *testing.T, u storeurl.URL, create bool) *storeurl.Opened {
	t.Helper()
	o, err := u.Open(t.Context(), storeurl.Options{Create: create})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestSQLiteIsSetUpOnceAndKeepsSessions(t *testing.T) {
	path := filepath.Join(t.TempDir(), "100% s?#.db")
	u, err := storeurl.Parse("sqlite:" + path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.Open(t.Context(), storeurl.Options{Create: false}); err == nil || !strings.Contains(err.Error(), "does not exist") {
		t.Errorf("Open without create on nothing: %v", err)
	}
	o := open(t, u, true)
	if _, err := o.Prepare(t.Context(), true); err == nil {
		t.Error("an empty file passes for set up")
	}
	for i, want := range []bool{true, false} {
		if migrated, err := o.Prepare(t.Context(), false); err != nil || migrated != want {
			t.Errorf("Prepare %d = %v, %v; want %v", i+1, migrated, err, want)
		}
	}
	k, now := store.Key{1}, time.Now()
	if err := o.Store.Create(t.Context(), k, record(now)); err != nil {
		t.Fatal(err)
	}
	if runtime.GOOS != "windows" {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("the file has mode %v: others can read who is signed in", info.Mode())
		}
	}
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}

	o = open(t, u, false)
	defer o.Close()
	if migrated, err := o.Prepare(t.Context(), true); err != nil || migrated {
		t.Errorf("Prepare of what is set up = %v, %v", migrated, err)
	}
	if r, err := o.Store.Get(t.Context(), k); err != nil || string(r.Data) != "data" {
		t.Errorf("Get after reopening = %v, %v", r, err)
	}
	// What the store can do is not lost on the way.
	if _, ok := store.As[store.Sweeper](o.Store); !ok {
		t.Error("the store does not sweep")
	}
}

func TestSQLiteFileThatGoesAwayIsNotBegunAnew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.db")
	u, err := storeurl.Parse("sqlite:" + path)
	if err != nil {
		t.Fatal(err)
	}
	o := open(t, u, true) // connects at the first use
	defer o.Close()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := o.Prepare(t.Context(), false); err == nil {
		t.Error("a missing file was set up by a connection of the pool")
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file is back: %v", err)
	}
}

func TestMemory(t *testing.T) {
	u, err := storeurl.Parse("memory:")
	if err != nil {
		t.Fatal(err)
	}
	o := open(t, u, false)
	if migrated, err := o.Prepare(t.Context(), true); migrated || err != nil {
		t.Errorf("Prepare = %v, %v", migrated, err)
	}
	if _, err := o.Store.Get(t.Context(), store.Key{1}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Get = %v, want ErrNotFound", err)
	}
	if err := o.Close(); err != nil {
		t.Error(err)
	}
}

func TestZeroURLOpensNothing(t *testing.T) {
	if _, err := (storeurl.URL{}).Open(t.Context(), storeurl.Options{}); err == nil {
		t.Error("the zero URL opened something")
	}
}

func Example() {
	u, err := storeurl.Parse("memory:")
	if err != nil {
		fmt.Println(err)
		return
	}
	o, err := u.Open(context.Background(), storeurl.Options{Create: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer o.Close()
	_, err = o.Prepare(context.Background(), false)
	fmt.Println(u, "shared:", u.Shared(), err)
	// Output: memory: shared: false <nil>
}
