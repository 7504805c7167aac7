// Package archtest holds the architecture to its word: which package may import
// which, and which module may require what. The rules are the two tables below;
// everything else in the package applies them to what the go command says of
// this repository.
package archtest

// Packages of ours are written "./path", relative to the root of the repository,
// with "/..." for a package and all below it. Other packages are written as they
// are imported. Besides, these words stand for kinds of packages:
const (
	std             = "<std>"              // the standard library
	otherBackend    = "<another backend>"  // a store other than the one that imports
	foreignInternal = "<another internal>" // an internal package of another module of ours
)

// rule forbids imports.
type rule struct {
	in  []string // the packages that are bound by the rule,
	not []string // but for these

	only    []string // if not nil, all that may be imported
	never   []string // what may not be imported
	but     []string // …but for these
	through bool     // …nor reached through what is imported
	tests   bool     // test files are bound, too

	why string

	// broken is a graph that breaks the rule: the proof that it can fail.
	broken []edge
}

var rules = []rule{
	// The contract and the stores.
	{
		in:     []string{"./store"},
		only:   []string{std},
		why:    "the contract is a leaf: whoever implements or uses it takes on no library with it",
		broken: []edge{{from: "./store", to: "google.golang.org/protobuf/proto"}},
	},
	{
		in:      []string{"./store"},
		never:   []string{"net/http", "net", "database/sql"},
		through: true,
		why:     "the contract knows neither HTTP nor any way to reach a server",
		broken:  []edge{{from: "./store", to: "./internal/x"}, {from: "./internal/x", to: "net/http"}},
	},
	{
		in:     []string{"./store/storetest/..."},
		only:   []string{std, "./store", "./store/storetest/...", "./store/memstore"},
		why:    "the suite runs in other people's modules: it brings them no assertion library, and no backend of ours but the model that it compares theirs with",
		broken: []edge{{from: "./store/storetest", to: "github.com/stretchr/testify/require"}},
	},
	{
		in:     []string{"./store/memstore/..."},
		only:   []string{std, "./store", "./store/memstore/..."},
		why:    "the reference implementation is read as an explanation of the contract: it has nothing but the contract under it",
		broken: []edge{{from: "./store/memstore", to: "./internal/x"}},
	},
	{
		in:     []string{"./store/sqlstore/..."},
		only:   []string{std, "./store", "./store/sqlstore/..."},
		why:    "the driver is the app's choice and the app's weight: sqlstore is given a *sql.DB",
		broken: []edge{{from: "./store/sqlstore", to: "modernc.org/sqlite"}},
	},
	{
		in:     []string{"./store/redisstore/..."},
		only:   []string{std, "./store", "./store/redisstore/...", "github.com/redis/rueidis/..."},
		why:    "who keeps sessions in Redis takes on its client, and nothing else",
		broken: []edge{{from: "./store/redisstore", to: "github.com/stretchr/testify/require"}},
	},
	{
		in:     []string{"./store/dynamostore/..."},
		only:   []string{std, "./store", "./store/dynamostore/...", "github.com/aws/aws-sdk-go-v2/...", "github.com/aws/smithy-go/..."},
		why:    "who keeps sessions in DynamoDB takes on AWS's client, and nothing else",
		broken: []edge{{from: "./store/dynamostore", to: "github.com/stretchr/testify/require"}},
	},
	{
		in:     []string{"./store/mongostore/..."},
		only:   []string{std, "./store", "./store/mongostore/...", "go.mongodb.org/mongo-driver/v2/..."},
		why:    "who keeps sessions in MongoDB takes on its driver, and nothing else",
		broken: []edge{{from: "./store/mongostore", to: "github.com/stretchr/testify/require"}},
	},
	{
		in:     []string{"./store/mongostore/..."},
		never:  []string{"go.mongodb.org/mongo-driver/v2/x/..."},
		why:    "below x the driver promises nothing from one version to the next, and the version is the app's choice",
		broken: []edge{{from: "./store/mongostore", to: "go.mongodb.org/mongo-driver/v2/x/mongo/driver/topology"}},
	},
	{
		in:     []string{"./store/nearcache/..."},
		only:   []string{std, "./store", "./store/nearcache/...", "github.com/maypok86/otter/v2/..."},
		why:    "the cache goes around any store, so it knows none",
		broken: []edge{{from: "./store/nearcache", to: "github.com/redis/rueidis"}},
	},
	{
		in:     []string{"./store/breaker/..."},
		only:   []string{std, "./store", "./store/breaker/...", "github.com/sony/gobreaker/v2/..."},
		why:    "the breaker goes around any store, so it knows none",
		broken: []edge{{from: "./store/breaker", to: "github.com/redis/rueidis"}},
	},
	{
		in:      []string{"./store/..."},
		not:     []string{"./store/storetest/..."},
		never:   []string{"./session/...", "./store/storetest/...", otherBackend},
		through: true,
		why:     "a backend knows the contract alone: not who calls it, and not its siblings",
		broken:  []edge{{from: "./store/sqlstore", to: "./store/sqlstore/internal/x"}, {from: "./store/sqlstore/internal/x", to: "./store/memstore"}},
	},

	// The sessions.
	{
		in:     []string{"./session/..."},
		not:    []string{"./session/sessiontest/..."},
		only:   []string{std, "./store", "./session/...", "./internal/...", "google.golang.org/protobuf/..."},
		why:    "an app that imports session takes on the contract and protobuf, and nothing else",
		broken: []edge{{from: "./session", to: "github.com/redis/rueidis"}},
	},
	{
		in:      []string{"./session/...", "./internal/..."},
		not:     []string{"./session/sessiontest/..."},
		never:   []string{"./store/memstore/...", "./store/sqlstore/...", "./store/storetest/...", "./session/sessiontest/..."},
		through: true,
		why:     "session works on the contract: a backend is the app's choice, and what serves tests stays out of its binary",
		broken:  []edge{{from: "./session", to: "./internal/x"}, {from: "./internal/x", to: "./store/memstore"}},
	},
	{
		in:     []string{"./session/sessiontest/..."},
		only:   []string{std, "./store", "./store/memstore", "./session/..."},
		why:    "an app's handler tests need a session in memory and no library of ours beyond it",
		broken: []edge{{from: "./session/sessiontest", to: "./store/sqlstore"}},
	},

	// What ends up in other people's binaries.
	{
		in:      []string{"./session/...", "./store/...", "./internal/..."},
		not:     []string{"./store/storetest/...", "./session/sessiontest/...", "./internal/testserver"},
		never:   []string{"testing/..."},
		through: true,
		why:     "package testing has no place in an app's binary: it belongs in test files, storetest and sessiontest",
		broken:  []edge{{from: "./store/memstore", to: "./store/memstore/internal/x"}, {from: "./store/memstore/internal/x", to: "testing/synctest"}},
	},
	{
		in:     []string{"./cmd/..."},
		not:    []string{"./cmd/coatcheck/internal/uptest"}, // starts the command for tests
		never:  []string{"testing/...", "./store/storetest/...", "./session/sessiontest/..."},
		why:    "package testing has no place in the command: it belongs in test files and in integration",
		broken: []edge{{from: "./cmd/coatcheck/internal/shop", to: "./session/sessiontest"}},
	},
	{
		in:     []string{"./session/...", "./store/..."},
		never:  []string{"log"},
		why:    "the process-wide logger is the app's: a library writes to the slog.Logger that it is given",
		broken: []edge{{from: "./session", to: "log"}},
	},
	{
		in:      []string{"./session/...", "./store/..."},
		never:   []string{"net/http/pprof", "expvar"},
		through: true,
		why:     "they publish on http.DefaultServeMux of whoever imports them",
		broken:  []edge{{from: "./session", to: "net/http/pprof"}},
	},

	// The ends of the arrows.
	{
		in:     []string{"./..."},
		not:    []string{"./cmd/coatcheck/internal/uptest", "./integration/...", "./bench/...", "./deploy/..."}, // for tests, all of them
		never:  []string{"./internal/testserver"},
		why:    "it starts servers for tests: nothing that is shipped needs it",
		broken: []edge{{from: "./session", to: "./internal/testserver"}},
	},
	{
		in:     []string{"./..."},
		never:  []string{foreignInternal},
		but:    []string{"./internal/testserver"}, // which starts the servers of every module's tests
		tests:  true,
		why:    "the other modules are our first customers: what they cannot do with exported API, nobody can",
		broken: []edge{{from: "./cmd/coatcheck/internal/shop", to: "./internal/x", test: true}},
	},
	{
		in:     []string{"./..."},
		not:    []string{"./cmd/..."},
		never:  []string{"./cmd/..."},
		tests:  true,
		why:    "the command uses everything and nothing uses it: tests run its binary",
		broken: []edge{{from: "./integration", to: "./cmd/coatcheck/internal/shop", test: true}},
	},
	{
		in:     []string{"./..."},
		not:    []string{"./integration/..."},
		never:  []string{"./integration/..."},
		tests:  true,
		why:    "integration holds drivers and test tools so that nothing else has to",
		broken: []edge{{from: "./session", to: "./integration", test: true}},
	},
	{
		in:     []string{"./..."},
		not:    []string{"./bench/..."},
		never:  []string{"./bench/..."},
		tests:  true,
		why:    "bench holds the peers that we are compared with, so that nothing else has to",
		broken: []edge{{from: "./integration", to: "./bench", test: true}},
	},
	{
		in:     []string{"./..."},
		not:    []string{"./deploy/..."},
		never:  []string{"./deploy/..."},
		tests:  true,
		why:    "deploy holds files and what judges them, and no code for anybody",
		broken: []edge{{from: "./integration", to: "./deploy", test: true}},
	},
	{
		in:     []string{"./deploy/..."},
		never:  []string{"./session/...", "./store/..."},
		tests:  true,
		why:    "what is in deploy is for any app: its tests see the command as an operator does, from outside",
		broken: []edge{{from: "./deploy", to: "./session", test: true}},
	},
}

// requirement limits what a module's go.mod requires, directly or not. Modules
// are written as packages are.
type requirement struct {
	in  []string
	not []string

	only  []string // if not nil, all that may be required
	never []string // what may not be required

	why    string
	broken edge
}

var requirements = []requirement{
	{
		in:     []string{"."},
		only:   []string{"google.golang.org/protobuf"},
		why:    "the root module weighs nothing: heavy libraries live in modules of their own",
		broken: edge{from: ".", to: "github.com/redis/rueidis"},
	},
	{
		in:     []string{"./store/..."},
		never:  []string{"./store/...", "./cmd/...", "./integration/...", "./bench/...", "./deploy/..."},
		why:    "a backend's module builds on the root module and never on another backend's",
		broken: edge{from: "./store/redisstore", to: "./store/mongostore"},
	},
	{
		in:     []string{"./..."},
		never:  []string{"./cmd/...", "./integration/...", "./bench/...", "./deploy/..."},
		why:    "the command, integration, bench and deploy are where the arrows end",
		broken: edge{from: "./integration", to: "./cmd/coatcheck"},
	},
}

// houses are the folders that hold packages. A new one is a decision: it needs
// a rule above that says what it may import, and a line here.
var houses = []string{"./session/...", "./store/...", "./internal/...", "./cmd/...", "./integration/...", "./bench/...", "./deploy/..."}
