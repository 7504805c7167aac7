package prove

import (
	"os"
	"path/filepath"
)

// lock marks a folder as in use: an open file keeps it from being removed.
func lock(dir string) (unlock func(), err error) {
	f, err := os.Create(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, err
	}
	return func() {
		_ = f.Close()
		_ = os.RemoveAll(dir)
	}, nil
}

// removeUnlocked removes a folder whose process is gone: of another, the open file cannot
// be removed, and it comes first.
func removeUnlocked(dir string) {
	if os.Remove(filepath.Join(dir, "lock")) == nil {
		_ = os.RemoveAll(dir)
	}
}
