package integration

import (
	"fmt"
	"strings"
	"testing"

	"github.com/coatcheck/coatcheck/internal/testserver"
	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/redisstore"
)

// redisInspect returns the severity of each finding.
func redisInspect(t *testing.T, s *redisstore.Store) map[string]store.Finding {
	t.Helper()
	list, err := s.Inspect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]store.Finding{}
	for _, f := range list {
		found[f.Check] = f
	}
	return found
}

// redisFindings compares the severities with "check severity, …".
func redisFindings(t *testing.T, found map[string]store.Finding, want string) {
	t.Helper()
	checks := strings.Split(want, ", ")
	if len(found) != len(checks) {
		t.Errorf("%d findings; want %d", len(found), len(checks))
	}
	for _, c := range checks {
		name, severity, _ := strings.Cut(c, " ")
		f := found[name]
		if f.Severity.String() != severity {
			t.Errorf("%s is %v (%s); want %s", name, f.Severity, f.Evidence, severity)
		}
		if (f.Severity > store.SeverityUnknown) != (f.Fix != "") {
			t.Errorf("%s is %v and has the advice %q", name, f.Severity, f.Fix)
		}
	}
}

const redisInspectRights = "+info +config|get +acl|whoami +acl|getuser +time"

func TestRedisInspectFindsWhatIsWrong(t *testing.T) {
	notShort(t)
	srv := testserver.Start(t, "redis", &testserver.Options{Config: []string{
		"maxmemory 100mb", "maxmemory-policy allkeys-lru", "protected-mode no",
	}})
	s := redisOpen(t, srv.URL, &redisstore.Options{MinReplicas: 1})
	redisFindings(t, redisInspect(t, s), "tls warning, auth critical, privileges unknown, eviction critical, persistence warning, replication critical, protected-mode critical, clock ok, version ok")

	t.Run("an app with all rights", func(t *testing.T) {
		srv := testserver.Start(t, "redis", &testserver.Options{Password: "pw-1", Config: []string{
			"maxmemory-policy volatile-ttl", "appendonly yes", "appendfsync no", // without maxmemory nothing is evicted yet
		}})
		s := redisOpen(t, srv.URL, nil)
		redisFindings(t, redisInspect(t, s), "tls warning, auth ok, privileges warning, eviction warning, persistence warning, replication ok, protected-mode ok, clock ok, version ok")
	})
	t.Run("snapshots alone", func(t *testing.T) {
		srv := testserver.Start(t, "redis", &testserver.Options{Config: []string{"save 3600 1"}})
		f := redisInspect(t, redisOpen(t, srv.URL, nil))["persistence"]
		if f.Severity != store.SeverityWarning || !strings.Contains(f.Evidence, "snapshots alone") {
			t.Errorf("%v: %s", f.Severity, f.Evidence)
		}
	})
}

// TestRedisInspectAWellConfiguredServer: nothing is worse than ok, and without the
// rights to ask it is unknown, not ok.
func TestRedisInspectAWellConfiguredServer(t *testing.T) {
	notShort(t)
	srv := testserver.Start(t, "redis-tls", &testserver.Options{Config: []string{"maxmemory 100mb", "maxmemory-policy noeviction", "appendonly yes", "appendfsync everysec"}})
	rights := redisRestrict(t, srv, "coatcheck:", strings.Fields(redisInspectRights)...)
	blind := redisRestrict(t, srv, "coatcheck:")
	redisDo(t, redisClient(t, srv, srv.Nodes[0].Addr, ""), "ACL", "SETUSER", "default", "off")

	found := redisInspect(t, redisOpen(t, rights, nil))
	redisFindings(t, found, "tls ok, auth ok, privileges ok, eviction ok, persistence ok, replication ok, protected-mode ok, clock ok, version ok")
	for _, f := range found {
		if strings.Contains(fmt.Sprint(f), rights[strings.Index(rights, ":")+3:strings.Index(rights, "@")]) {
			t.Errorf("%s holds the password", f.Check)
		}
	}
	redisFindings(t, redisInspect(t, redisOpen(t, blind, nil)), "tls ok, auth unknown, privileges unknown, eviction unknown, persistence unknown, replication unknown, protected-mode unknown, clock unknown, version unknown")
}

// TestRedisInspectIsDocumented: the rights that Inspect is tested with are those
// that the documentation names.
func TestRedisInspectIsDocumented(t *testing.T) {
	doc := redisDoc(t)
	for _, right := range strings.Fields(redisInspectRights) {
		if !strings.Contains(doc, right) {
			t.Errorf("the documentation of redisstore does not name %s", right)
		}
	}
}

// TestRedisInspectEveryPrimary: in a cluster one bad server is enough.
func TestRedisInspectEveryPrimary(t *testing.T) {
	notShort(t)
	t.Parallel()
	srv := testserver.Start(t, "redis-cluster", nil)
	s := redisOpen(t, srv.URL, nil)
	if f := redisInspect(t, s)["eviction"]; f.Severity != store.SeverityOK {
		t.Fatalf("eviction is %v at the start: %s", f.Severity, f.Evidence)
	}
	admin := redisAdmin(t, srv, "")
	bad := ""
	for _, n := range srv.Nodes {
		text, err := redisDo(t, admin[n.Name], "INFO", "replication").ToString()
		if err == nil && strings.Contains(text, "role:master") {
			redisDo(t, admin[n.Name], "CONFIG", "SET", "maxmemory", "100mb", "maxmemory-policy", "allkeys-lru")
			bad = n.Addr
		}
	}
	for _, n := range srv.Nodes {
		if n.Addr != bad {
			redisDo(t, admin[n.Name], "CONFIG", "SET", "maxmemory-policy", "noeviction")
		}
	}
	f := redisInspect(t, s)["eviction"]
	if f.Severity != store.SeverityCritical || !strings.Contains(f.Evidence, bad) {
		t.Errorf("eviction is %v (%s); want critical, and the name of the one server %s that evicts", f.Severity, f.Evidence, bad)
	}
}
