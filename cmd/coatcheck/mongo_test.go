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

// onMongo returns the arguments for a fleet on the server of MongoDB's protocol that
// the tests share, in a collection of its own.
func onMongo(t *testing.T) []string {
	t.Helper()
	collection := strings.ReplaceAll(strings.TrimPrefix(t.Name(), "Test"), "/", "_")
	return []string{"--store", testserver.Shared(t, "mongo").URL + "?collection=" + collection}
}

func TestUpOnMongo(t *testing.T) {
	args := onMongo(t)
	u := uptest.Start(t, append(args, "--workers", "3", "--near-cache")...)
	v := newVisitor(t, u, nil)
	v.post("/login", url.Values{"user": {"alice"}, "password": {"demo"}})
	v.post("/cart", url.Values{"sku": {"apple"}, "qty": {"2"}})
	for range 3 {
		v.mustHave("alice", 2)
	}
	parsed, err := url.Parse(testserver.Shared(t, "mongo").URL)
	if err != nil {
		t.Fatal(err)
	}
	want := admin.Store{URL: "mongodb://" + parsed.Host + "/coatcheck", Name: "mongodb://" + parsed.Host + "/coatcheck", Kind: "mongodb", Topology: "mongodb", Shared: true, State: "ok", Breaker: "closed"}
	if got := storeOf(t, u); got != want || u.Store != want.URL {
		t.Errorf("the status says %+v, want %+v; the ready line %s", got, want, u.Store)
	}
	if got, _ := askReadyz(t, u); got != (readyz{"ready", "ok", "closed", "timed"}) {
		t.Errorf("GET /readyz says %+v", got)
	}
	if !strings.Contains(u.Stderr(), "set up the session store") {
		t.Errorf("nobody is told that the collection was made:\n%s", u.Stderr())
	}
}

// Without MongoDB itself this takes FerretDB and PostgreSQL, who want more of a small
// machine than the shoppers leave them.
func TestSoakShoppersNeverNoticeKillsAndScalingOnMongo(t *testing.T) {
	if soak() == 0 {
		t.Skip("takes minutes and four cores: run it with COATCHECK_SOAK=1")
	}
	testKillsAndScaling(t, soak(), onMongo(t)...)
}

func TestSignOutEndsTheSessionOnEveryServerOnMongo(t *testing.T) {
	testSignOut(t, onMongo(t)...)
}

func TestSoakOutageOfMongoSignsNobodyOut(t *testing.T) {
	if soak() == 0 {
		t.Skip("takes minutes: run it with COATCHECK_SOAK=1")
	}
	testOutage(t, soak(), testserver.Start(t, "mongo", nil))
}

func TestSchemaOnMongo(t *testing.T) { testSchemaWithoutSQL(t, onMongo(t)) }
