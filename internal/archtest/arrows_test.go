package archtest

import (
	"strings"
	"sync"
	"testing"
)

// checkout is this repository, listed once.
var checkout = sync.OnceValues(func() (*repository, error) { return open("../..") })

func load(t *testing.T) *repository {
	t.Helper()
	r, err := checkout()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestImports(t *testing.T) {
	g := load(t).graph()
	for _, must := range []string{"./store", "net/http"} {
		if g[must] == nil {
			t.Errorf("%s is not in the graph: the go command was asked the wrong question", must)
		}
	}
	for _, r := range rules {
		for _, v := range r.violations(g) {
			t.Error(v)
		}
	}
}

func TestRequirements(t *testing.T) {
	requires := load(t).requires()
	if len(requires["."]) == 0 {
		t.Error("the root module requires nothing: go.mod was not read")
	}
	for _, q := range requirements {
		for _, v := range q.violations(requires) {
			t.Error(v)
		}
	}
}

func TestEveryPackageHasAHouse(t *testing.T) {
	for path, p := range load(t).graph() {
		if p.ours() && !anyWithin(houses, path) {
			t.Errorf("%s is in no folder that internal/archtest/rules.go knows: give it a rule and a line in houses", path)
		}
	}
}

// sound returns a graph of made-up packages that breaks no rule, drawn like the
// real one.
func sound() graph {
	g := graph{}
	add := func(module, path string, imports ...string) {
		g[path] = &pkg{path: path, module: module, standard: module == "", imports: imports}
	}
	add("", "context")
	add("", "expvar", "net/http")
	add("", "log")
	add("", "log/slog", "log")
	add("", "net")
	add("", "net/http", "context", "net", "log")
	add("", "net/http/pprof", "net/http")
	add("", "database/sql", "context")
	add("", "testing", "context")
	add("", "testing/synctest", "testing")
	add("google.golang.org/protobuf", "google.golang.org/protobuf/proto", "context")
	add("modernc.org/sqlite", "modernc.org/sqlite", "database/sql")
	add("github.com/redis/rueidis", "github.com/redis/rueidis", "net")
	add("github.com/stretchr/testify", "github.com/stretchr/testify/require", "testing")

	add("github.com/maypok86/otter/v2", "github.com/maypok86/otter/v2", "context")
	add("github.com/sony/gobreaker/v2", "github.com/sony/gobreaker/v2", "context")

	add(".", "./internal/x", "context")
	add(".", "./internal/testserver", "testing")
	add(".", "./store", "context", "log/slog")
	add(".", "./store/storetest", "./store", "testing")
	add(".", "./store/memstore", "./store", "context")
	add(".", "./store/memstore/internal/x", "context")
	add(".", "./store/sqlstore", "./store", "database/sql", "./store/sqlstore/internal/x")
	add(".", "./store/sqlstore/internal/x", "context")
	add(".", "./session", "./store", "net/http", "./internal/x", "./session/internal/x", "google.golang.org/protobuf/proto")
	add(".", "./session/internal/x", "context")
	add(".", "./session/sessiontest", "./session", "./store/memstore", "testing", "net/http")
	g["./session"].testImports = []string{"./store/memstore", "./session/sessiontest", "testing"}

	add("./store/redisstore", "./store/redisstore", "./store", "github.com/redis/rueidis")
	add("./store/dynamostore", "./store/dynamostore", "./store", "github.com/aws/aws-sdk-go-v2/service/dynamodb")
	add("go.mongodb.org/mongo-driver/v2", "go.mongodb.org/mongo-driver/v2/x/mongo/driver/topology", "net")
	add("go.mongodb.org/mongo-driver/v2", "go.mongodb.org/mongo-driver/v2/mongo", "go.mongodb.org/mongo-driver/v2/x/mongo/driver/topology")
	add("./store/mongostore", "./store/mongostore", "./store", "go.mongodb.org/mongo-driver/v2/mongo")
	add("./store/nearcache", "./store/nearcache", "./store", "github.com/maypok86/otter/v2")
	add("./store/breaker", "./store/breaker", "./store", "github.com/sony/gobreaker/v2")
	g["./store/redisstore"].testImports = []string{"./internal/testserver"}
	add("./cmd/coatcheck", "./cmd/coatcheck", "./cmd/coatcheck/internal/shop")
	add("./cmd/coatcheck", "./cmd/coatcheck/internal/shop", "./session", "./store/sqlstore", "modernc.org/sqlite", "log")
	add("./integration", "./integration", "./store/storetest", "github.com/stretchr/testify/require", "testing")
	g["./integration"].testImports = []string{"./session", "./store/sqlstore", "modernc.org/sqlite"}
	add("./bench", "./bench", "./session", "testing")
	add("./deploy", "./deploy", "testing")
	return g
}

// TestRulesCanFail proves of each rule that it lets a sound graph pass, refuses
// the one that is broken its way, and says why.
func TestRulesCanFail(t *testing.T) {
	for _, r := range rules {
		g := sound()
		for _, v := range r.violations(g) {
			t.Errorf("in a sound graph: %s", v)
		}
		for _, e := range r.broken {
			p, ok := g[e.from]
			if !ok || g[e.to] == nil {
				t.Fatalf("the edge from %s to %s has no such ends", e.from, e.to)
			}
			if e.test {
				p.testImports = append(p.testImports, e.to)
			} else {
				p.imports = append(p.imports, e.to)
			}
		}
		switch found := r.violations(g); {
		case len(r.broken) == 0:
			t.Errorf("no graph proves that this rule can fail: %s", r.why)
		case len(found) == 0:
			t.Errorf("%+v passes, but it is forbidden: %s", r.broken, r.why)
		case !strings.Contains(found[0], r.why):
			t.Errorf("the reason is missing from %q", found[0])
		}
	}
}

// TestTestFilesAreBoundWhereSaid proves that an import in a test file breaks the
// rules that bind test files and no other.
func TestTestFilesAreBoundWhereSaid(t *testing.T) {
	for _, r := range rules {
		g := sound()
		e := r.broken[0]
		g[e.from].testImports = append(g[e.from].testImports, e.to)
		if got := len(r.violations(g)) > 0; got != r.tests {
			t.Errorf("an import of %s by a test of %s is refused: %t, want %t (%s)", e.to, e.from, got, r.tests, r.why)
		}
	}
}

func TestRequirementsCanFail(t *testing.T) {
	for _, q := range requirements {
		requires := map[string][]string{
			".":                  {"google.golang.org/protobuf"},
			"./store/redisstore": {".", "github.com/redis/rueidis"},
			"./cmd/coatcheck":    {".", "./store/redisstore", "modernc.org/sqlite"},
			"./integration":      {".", "./store/redisstore", "github.com/stretchr/testify"},
			"./bench":            {"."},
			"./deploy":           {"."},
		}
		for _, v := range q.violations(requires) {
			t.Errorf("among sound requirements: %s", v)
		}
		requires[q.broken.from] = append(requires[q.broken.from], q.broken.to)
		found := q.violations(requires)
		if len(found) != 1 || !strings.Contains(found[0], q.why) {
			t.Errorf("%+v: got %q, want one violation that says: %s", q.broken, found, q.why)
		}
	}
}

func TestHousesCanFail(t *testing.T) {
	for _, path := range []string{".", "./utils", "./sessions"} {
		if anyWithin(houses, path) {
			t.Errorf("%s passes for a folder that is known", path)
		}
	}
}

func TestShort(t *testing.T) {
	for path, want := range map[string]string{
		root:                       ".",
		root + "/store/memstore":   "./store/memstore",
		root + "er/store":          root + "er/store",
		"net/http":                 "net/http",
		"google.golang.org/x/y/z":  "google.golang.org/x/y/z",
		root + "/cmd/coatcheck/in": "./cmd/coatcheck/in",
	} {
		if got := short(path); got != want {
			t.Errorf("short(%q) = %q, want %q", path, got, want)
		}
	}
}
