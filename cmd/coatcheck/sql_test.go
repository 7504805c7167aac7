//go:build unix

package main

import (
	"database/sql"
	"errors"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/admin"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/uptest"
	"github.com/coatcheck/coatcheck/internal/testserver"
)

// sqlKinds are the SQL servers that the command is tested on.
var sqlKinds = []string{"postgres", "mariadb"}

// onSQL returns the arguments for a fleet on the server of that kind that the
// tests share, in a table of its own. Ten workers with the usual pools, and those of
// workers just killed, could want more connections than the server has.
func onSQL(t *testing.T, kind string) []string {
	t.Helper()
	table := strings.NewReplacer("/", "_", "-", "_").Replace(strings.TrimPrefix(t.Name(), "Test"))
	table = strings.ToLower(table[max(0, len(table)-40):])
	return []string{"--store", testserver.Shared(t, kind).URL + "&pool=4&table=" + strings.TrimLeft(table, "_0123456789")}
}

// soak is how long a trial is: once through, or for long enough that what is rare
// happens, with COATCHECK_SOAK=1.
func soak() time.Duration {
	if os.Getenv("COATCHECK_SOAK") == "1" {
		return time.Minute
	}
	return 0
}

func TestUpOnSQL(t *testing.T) {
	for _, kind := range sqlKinds {
		t.Run(kind, func(t *testing.T) {
			args := onSQL(t, kind)
			u := uptest.Start(t, append(args, "--workers", "3", "--near-cache")...)
			v := newVisitor(t, u, nil)
			v.post("/login", url.Values{"user": {"alice"}, "password": {"demo"}})
			v.post("/cart", url.Values{"sku": {"apple"}, "qty": {"2"}})
			var order []string
			for range 9 {
				order = append(order, v.mustHave("alice", 2).ServedBy)
			}
			for i, name := range order {
				if name != order[i%3] {
					t.Fatalf("9 requests with one cart were not served in rotation: %v", order)
				}
			}
			s := testserver.Shared(t, kind)
			want := admin.Store{URL: kind + "://" + s.Nodes[0].Addr + "/coatcheck", Name: kind + "://" + s.Nodes[0].Addr + "/coatcheck", Kind: kind, Topology: kind, Shared: true, State: "ok", Breaker: "closed"}
			if got := storeOf(t, u); got != want || u.Store != want.URL {
				t.Errorf("the status says %+v, want %+v; the ready line %s", got, want, u.Store)
			}
			if got, _ := askReadyz(t, u); got != (readyz{"ready", "ok", "closed", "timed"}) {
				t.Errorf("GET /readyz says %+v", got)
			}
			parsed, err := url.Parse(s.URL)
			if err != nil {
				t.Fatal(err)
			}
			if password, _ := parsed.User.Password(); strings.Contains(u.Stderr(), password) {
				t.Error("the log shows the password")
			}
			if !strings.Contains(u.Stderr(), "set up the session store") || !strings.Contains(u.Stderr(), `msg="session store: privileges"`) {
				t.Errorf("nobody is told that the table was made, by a user who may do too much:\n%s", u.Stderr())
			}
		})
	}
}

func TestShoppersNeverNoticeKillsAndScalingOnSQL(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds: run it without -short")
	}
	for _, kind := range sqlKinds {
		t.Run(kind, func(t *testing.T) { testKillsAndScaling(t, soak(), onSQL(t, kind)...) })
	}
}

func TestSignOutEndsTheSessionOnEveryServerOnSQL(t *testing.T) {
	testSignOut(t, onSQL(t, "postgres")...)
}

// command runs the command and returns what it said and its exit status.
func command(t *testing.T, args ...string) (said string, status int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), uptest.Binary(t), args...)
	out, err := cmd.CombinedOutput()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// The tables are made by one command, whoever runs it at the same time, or by hand;
// servers that may not make them only verify.
func TestSchemaOnSQL(t *testing.T) {
	for _, kind := range sqlKinds {
		t.Run(kind, func(t *testing.T) {
			store := onSQL(t, kind)
			if said, status := command(t, append([]string{"schema", "verify"}, store...)...); status != exitFailed || !strings.Contains(said, "coatcheck schema apply") {
				t.Errorf("verify without a table has the status %d and says %s", status, said)
			}
			u := uptest.Launch(t, append(store, "--no-migrate")...)
			if code := u.Wait(); code != exitFailed || !strings.Contains(u.Stderr(), "there is no table") || !strings.Contains(u.Stderr(), "leave out --no-migrate") {
				t.Errorf("up --no-migrate without a table has the status %d and says %s", code, u.Stderr())
			}
			var wg sync.WaitGroup
			var made atomic.Int32
			for range 4 {
				wg.Go(func() {
					said, status := command(t, append([]string{"schema", "apply", "--json"}, store...)...)
					if status != exitOK {
						t.Errorf("apply has the status %d and says %s", status, said)
					}
					if strings.Contains(said, `"changed":true`) {
						made.Add(1)
					}
				})
			}
			wg.Wait()
			if made.Load() == 0 {
				t.Error("of four that made the tables, none says that it did")
			}
			if said, status := command(t, append([]string{"schema", "verify"}, store...)...); status != exitOK {
				t.Errorf("verify of what was applied has the status %d and says %s", status, said)
			}

			byHand := []string{"--store", strings.Replace(store[1], "table=", "table=by_hand_", 1)}
			printed, status := command(t, append([]string{"schema", "print"}, byHand...)...)
			if status != exitOK {
				t.Fatalf("print has the status %d and says %s", status, printed)
			}
			if want := "-- For " + kind + "\n"; !strings.HasPrefix(printed, want) {
				t.Errorf("print does not begin with %q: %s", want, printed)
			}
			db := openSQL(t, kind)
			if _, err := db.Exec(printed); err != nil {
				t.Fatalf("what print says is no SQL: %v", err)
			}
			if said, status := command(t, append([]string{"schema", "verify"}, byHand...)...); status != exitOK {
				t.Errorf("verify of what was made by hand has the status %d and says %s", status, said)
			}
			_, table, _ := strings.Cut(byHand[1], "table=")
			if _, err := db.Exec("ALTER TABLE " + table + " DROP COLUMN label"); err != nil {
				t.Fatal(err)
			}
			for _, args := range [][]string{{"schema", "verify"}, {"schema", "apply"}} {
				if said, status := command(t, append(args, byHand...)...); status != exitFailed || !strings.Contains(said, `has no column "label"`) {
					t.Errorf("%v of a damaged table has the status %d and says %s", args, status, said)
				}
			}
		})
	}
}

// openSQL returns a pool that takes several statements at once.
func openSQL(t *testing.T, kind string) *sql.DB {
	t.Helper()
	s := testserver.Shared(t, kind)
	driver, dsn := "pgx", s.URL+"&default_query_exec_mode=simple_protocol"
	if kind != "postgres" {
		u, err := url.Parse(s.URL)
		if err != nil {
			t.Fatal(err)
		}
		driver, dsn = "mysql", u.User.String()+"@tcp("+u.Host+")"+u.Path+"?multiStatements=true"
	}
	db, err := sql.Open(driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// The database is killed under shoppers and recovers: what it has acknowledged is
// there, and nobody is signed out.
func TestOutageOfSQLSignsNobodyOut(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds: run it without -short")
	}
	for _, kind := range sqlKinds {
		t.Run(kind, func(t *testing.T) { testOutage(t, soak(), testserver.Start(t, kind, nil)) })
	}
}
