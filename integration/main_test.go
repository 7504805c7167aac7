package integration

import (
	"math/rand/v2"
	"os"
	"testing"

	"github.com/coatcheck/coatcheck/integration/internal/reexec"
)

func TestMain(m *testing.M) {
	reexec.Main(m, map[string]reexec.Role{
		"sqlite-increment": sqliteIncrement,
		"sqlite-migrate":   sqliteMigrate,
		"sqlite-hold":      sqliteHold,
	})
}

// scripts returns the seeds of the random scripts: some, and for a soak all that
// [storetest.RunScripts] has.
func scripts() []uint64 {
	switch {
	case os.Getenv("COATCHECK_SOAK") == "1":
		return nil
	case testing.Short():
		return []uint64{1}
	}
	return []uint64{1, 2, rand.Uint64()}
}

// soak skips what takes minutes.
func soak(t *testing.T) {
	t.Helper()
	if os.Getenv("COATCHECK_SOAK") != "1" {
		t.Skip("takes minutes: run it with COATCHECK_SOAK=1")
	}
}

// notShort skips what takes seconds and finds no races, such as what starts servers
// of its own.
func notShort(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("takes seconds: run it without -short")
	}
}
