package integration

import (
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
