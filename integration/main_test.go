package integration

import (
	"math/rand/v2"
	"os"
	"testing"

	"github.com/coatcheck/coatcheck/integration/internal/reexec"
	"github.com/coatcheck/coatcheck/internal/testserver"
	"github.com/coatcheck/coatcheck/store/redisstore"
	"github.com/coatcheck/coatcheck/store/storetest"
)

func TestMain(m *testing.M) {
	reexec.Main(m, map[string]reexec.Role{
		"sqlite-increment": sqliteIncrement,
		"sqlite-migrate":   sqliteMigrate,
		"sqlite-hold":      sqliteHold,
	})
}

// scripts returns the seeds of the random scripts that are run each time; TestSoakScripts
// runs all that [storetest.RunScripts] has.
func scripts() []uint64 {
	if testing.Short() {
		return []uint64{1}
	}
	return []uint64{1, 2, rand.Uint64()}
}

// TestSoakScripts: random sequences of operations end as they do in memory.
func TestSoakScripts(t *testing.T) {
	soak(t)
	configs := map[string]func(*testing.T) storetest.Config{
		"sqlite": func(*testing.T) storetest.Config { return sqliteConfig(sqliteStore) },
		"dynamo": func(t *testing.T) storetest.Config { return dynamoConfig(t, testserver.Shared(t, "dynamo")) },
		"mongo":  func(t *testing.T) storetest.Config { return mongoConfig(t, testserver.Shared(t, "mongo")) },
		"redis": func(t *testing.T) storetest.Config {
			srv := testserver.Shared(t, "redis")
			return redisConfig(t, srv, srv.URL, redisstore.Options{})
		},
	}
	for _, kind := range []string{"postgres", "mariadb", "mysql"} {
		configs[kind] = func(t *testing.T) storetest.Config { return sqlSetup{srv: sqlShared(t, kind)}.config(t) }
	}
	for name, config := range configs {
		t.Run(name, func(t *testing.T) { storetest.RunScripts(t, config(t)) })
	}
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
