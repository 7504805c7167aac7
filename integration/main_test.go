package integration

import (
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
