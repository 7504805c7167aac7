package integration

import (
	"net/url"
	"testing"

	"github.com/coatcheck/coatcheck/store/sqlstore"
)

// postgresUser makes a role that may do nothing, and returns the URL that it
// signs in with.
func postgresUser(t *testing.T, srv sqlServer, name string) string {
	t.Helper()
	password := sqlPassword()
	admin := srv.admin(t)
	mustExec(t, admin, `CREATE ROLE `+name+` LOGIN PASSWORD '`+password+`'`)
	t.Cleanup(func() {
		mustExec(t, admin, `DROP OWNED BY `+name)
		mustExec(t, admin, `DROP ROLE `+name)
	})
	return srv.url(t, func(u *url.URL) { u.User = url.UserPassword(name, password) })
}

// TestPostgreSQL: every rule, with the defaults, and with the fewest rights in another
// schema and the strictest isolation.
// TestPostgreSQLPgBouncer is without prepared statements.
func TestPostgreSQL(t *testing.T) {
	t.Parallel()
	srv := sqlShared(t, "postgres")
	mustExec(t, srv.open(t, srv.URL, nil), `CREATE SCHEMA elsewhere`)
	sqlRun(t, map[string]sqlSetup{
		"default": {srv: srv},
		"least rights": {
			srv: srv, user: "app", url: postgresUser(t, srv, "app"),
			params: map[string]string{"default_transaction_isolation": "serializable"},
			opts:   sqlstore.Options{Schema: "elsewhere"},
		},
	})
}

// TestSoakPostgreSQLSettings: every rule, for each way of the driver to send
// statements.
func TestSoakPostgreSQLSettings(t *testing.T) {
	soak(t)
	srv := sqlShared(t, "postgres")
	sqlRun(t, map[string]sqlSetup{
		"described":  {srv: srv, params: map[string]string{"default_query_exec_mode": "cache_describe"}},
		"unprepared": {srv: srv, params: map[string]string{"default_query_exec_mode": "exec"}, opts: sqlstore.Options{Unprepared: true}},
		"simple":     {srv: srv, params: map[string]string{"default_query_exec_mode": "simple_protocol"}, opts: sqlstore.Options{Unprepared: true}},
	})
}
