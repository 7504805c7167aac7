//go:build unix

package prove

import (
	"os"
	"path/filepath"
	"syscall"
)

const lockFile = "lock"

// lock marks a folder as in use for as long as the process lives.
func lock(dir string) (unlock func(), err error) {
	f, err := os.Create(filepath.Join(dir, lockFile))
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, err
	}
	return func() { _ = f.Close() }, nil
}

// removeUnlocked removes a folder whose process is gone. One without a lock may be about
// to be locked.
func removeUnlocked(dir string) {
	f, err := os.Open(filepath.Join(dir, lockFile))
	if err != nil {
		return
	}
	defer f.Close()
	if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
		_ = os.RemoveAll(dir)
	}
}
