//go:build unix

package main

import (
	"net/url"
	"strings"
	"testing"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/admin"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/uptest"
	"github.com/coatcheck/coatcheck/internal/testserver"
)

// onDynamo returns the arguments for a fleet on the server of DynamoDB's protocol
// that the tests share, in a table of its own.
func onDynamo(t *testing.T) []string {
	t.Helper()
	table := strings.ReplaceAll(strings.TrimPrefix(t.Name(), "Test"), "/", ".")
	return []string{"--store", strings.Replace(testserver.Shared(t, "dynamo").URL, "//coatcheck", "//"+table, 1)}
}

func TestUpOnDynamo(t *testing.T) {
	args := onDynamo(t)
	u := uptest.Start(t, append(args, "--workers", "3", "--near-cache")...)
	v := newVisitor(t, u, nil)
	v.post("/login", url.Values{"user": {"alice"}, "password": {"demo"}})
	v.post("/cart", url.Values{"sku": {"apple"}, "qty": {"2"}})
	for range 3 {
		v.mustHave("alice", 2)
	}
	want := admin.Store{URL: "dynamodb://UpOnDynamo", Name: "dynamodb://UpOnDynamo", Kind: "dynamodb", Topology: "dynamodb", Shared: true, State: "ok", Breaker: "closed"}
	if got := storeOf(t, u); got != want || u.Store != want.URL {
		t.Errorf("the status says %+v, want %+v; the ready line %s", got, want, u.Store)
	}
	if got, _ := askReadyz(t, u); got != (readyz{"ready", "ok", "closed", "timed"}) {
		t.Errorf("GET /readyz says %+v", got)
	}
	if !strings.Contains(u.Stderr(), "set up the session store") {
		t.Errorf("nobody is told that the table was made:\n%s", u.Stderr())
	}
}

func TestShoppersNeverNoticeKillsAndScalingOnDynamo(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds: run it without -short")
	}
	testKillsAndScaling(t, soak(), onDynamo(t)...)
}

func TestSignOutEndsTheSessionOnEveryServerOnDynamo(t *testing.T) {
	testSignOut(t, onDynamo(t)...)
}

func TestOutageOfDynamoSignsNobodyOut(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds: run it without -short")
	}
	testOutage(t, soak(), testserver.Start(t, "dynamo", nil))
}

func TestSchemaOnDynamo(t *testing.T) { testSchemaWithoutSQL(t, onDynamo(t)) }

// testSchemaWithoutSQL: a table, or what the store has in its place, is made by a command
// of its own, and servers that may not make it only look at it.
func testSchemaWithoutSQL(t *testing.T, store []string) {
	t.Helper()
	for _, c := range []struct {
		args   []string
		status int
		says   string
	}{
		{[]string{"schema", "print"}, exitFailed, "has no SQL"},
		{[]string{"schema", "verify"}, exitFailed, "coatcheck schema apply"},
		{[]string{"schema", "apply"}, exitOK, "was set up"},
		{[]string{"schema", "apply"}, exitOK, "was up to date"},
		{[]string{"schema", "verify"}, exitOK, "is as servers need it"},
	} {
		if said, status := command(t, append(c.args, store...)...); status != c.status || !strings.Contains(said, c.says) {
			t.Errorf("%v has the status %d and says %s; want %d and %q", c.args, status, said, c.status, c.says)
		}
		if c.says == "coatcheck schema apply" {
			u := uptest.Launch(t, append(store, "--no-migrate")...)
			if code := u.Wait(); code != exitFailed || !strings.Contains(u.Stderr(), "leave out --no-migrate") {
				t.Errorf("up --no-migrate without a table has the status %d and says %s", code, u.Stderr())
			}
		}
	}
}
