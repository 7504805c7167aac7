package integration

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/store"
)

// smallDisk returns a folder on a file system of that many bytes.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("none", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("no small file system to fill: mount: %v; run the tests as root, with CAP_SYS_ADMIN", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return dir
}

// fill leaves about that many bytes free on the disk of dir.
func fill(t *testing.T, dir string, free int64) {
	t.Helper()
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		t.Fatal(err)
	}
	ballast := int64(fs.Bavail)*fs.Bsize - free
	if ballast < 0 {
		t.Fatalf("%d bytes are free; want at least %d", ballast+free, free)
	}
	if err := os.WriteFile(filepath.Join(dir, "ballast"), make([]byte, ballast), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestSQLiteFullDisk: on a disk too small for the log, the log is emptied
// rather than a write refused; and what does not fit all the same is refused as
// what has certainly not happened, with a reason, and stops no other write.
func TestSQLiteFullDisk(t *testing.T) {
	dir := smallDisk(t, "4m")
	path := filepath.Join(dir, "sessions.db")
	db, s := sqliteStore(t, path)
	const records = 100
	versions := make([]uint64, records)
	for i := range records {
		r := numberedSession(i)
		r.Data = make([]byte, 4<<10)
		if err := s.Create(t.Context(), numberedKey(i), r); err != nil {
			t.Fatal(err)
		}
		versions[i] = r.Version
	}
	// As when sessions come and go: the file has pages that are free. Without
	// any it would have to grow for the log to be emptied into it.
	for i := records; i < records+10; i++ {
		r := numberedSession(i)
		r.Data = make([]byte, 4<<10)
		if err := s.Create(t.Context(), numberedKey(i), r); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Delete(t.Context(), numberedKey(i)); err != nil {
			t.Fatal(err)
		}
	}
	mustExec(t, db, `PRAGMA wal_checkpoint(TRUNCATE)`)
	fill(t, dir, 256<<10)

	for n := range 3 * records { // the log would need more than 2 MB
		i := n % records
		r := numberedSession(i)
		r.Version = versions[i] + 1
		r.Data = bytes.Repeat([]byte{byte(n)}, 4<<10)
		if err := s.Replace(t.Context(), numberedKey(i), versions[i], r); err != nil {
			t.Fatalf("write %d: %v", n, err)
		}
		versions[i]++
	}

	big := numberedSession(0)
	big.Version, big.Data = versions[0]+1, make([]byte, 1<<20)
	for name, err := range map[string]error{
		"Create":  s.Create(t.Context(), numberedKey(records), big),
		"Replace": s.Replace(t.Context(), numberedKey(0), versions[0], big),
	} {
		forGood(t, name, err)
		mentions(t, name, err, "nothing was changed")
		mentions(t, name, err, "space")
	}
	if got, err := s.Get(t.Context(), numberedKey(0)); err != nil || got.Version != versions[0] {
		t.Errorf("after a write that found no space: record %v, %v; want the old one", got, err)
	}
	if _, err := s.Get(t.Context(), numberedKey(records)); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("after a write that found no space: error %v; want store.ErrNotFound", err)
	}

	if err := s.Touch(t.Context(), numberedKey(1), time.Now().Add(2*time.Hour)); err != nil {
		t.Errorf("Touch on a full disk: %v", err)
	}
	for i := range records / 2 {
		if existed, err := s.Delete(t.Context(), numberedKey(i)); !existed || err != nil {
			t.Fatalf("Delete on a full disk: %v, %v", existed, err)
		}
	}
	for i := records / 2; i < records; i++ {
		if n, err := s.DeleteOwner(t.Context(), numberedSession(i).Owner); n != 1 || err != nil {
			t.Fatalf("DeleteOwner on a full disk: %d, %v", n, err)
		}
	}
}
