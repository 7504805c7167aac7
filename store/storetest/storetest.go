// Package storetest judges implementations of the contract in package store.
//
// [Run] runs every rule of the contract as a sub-test of its own. One that
// fails explains itself: which rule was broken, what a user would suffer from
// it, and where to look. [RunScripts] runs random sequences of operations
// against a store and against memstore, and compares. [Faults] is a store
// around a store that fails on command, for the tests of what uses a store.
//
// Backends and wrappers (caches, breakers, …) alike are expected to pass Run
// and RunScripts, each against its real server. docs/store-guide.md shows how.
package storetest

import (
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/store"
)

// Config says how to make the stores to be judged.
type Config struct {
	// New returns a store that is empty and shares no record with any other
	// that New returned. It is called once or more per rule, and releases what
	// it holds with t.Cleanup. It is required.
	New func(t *testing.T) store.Store

	// Second returns another store on the backend of s, as a second process
	// would open it: with its own connections and its own caches.
	//
	// If zero, rules about several processes are skipped. Leave it zero for a
	// wrapper that promises only bounded staleness between processes.
	Second func(t *testing.T, s store.Store) store.Store

	// Inner returns the store that the wrapper s is around, to write past s as
	// another process does.
	//
	// If zero, the rule about GetFresh and other processes takes Second.
	Inner func(t *testing.T, s store.Store) store.Store

	// Synctest runs every rule in a bubble of testing/synctest, where hours
	// pass at once. Set it for stores that do no I/O.
	//
	// If zero, the rules about expiry wait for it on the real clock.
	Synctest bool

	// Expiry is the life of records that are to expire on the real clock. A
	// rule that finds the store slower than that begins again with more.
	//
	// If zero, 300 ms.
	Expiry time.Duration

	// MaxData is the store's own limit on Record.Data, past which it answers
	// ErrTooLarge.
	//
	// If zero, the store is taken to have none.
	MaxData int

	// Count returns how many entries of any kind (records, expired ones too,
	// and index entries) the backend holds for s.
	//
	// If zero, the rule that nothing is left behind is skipped.
	Count func(t *testing.T, s store.Store) int
}

// Run tests that the stores that c makes keep the contract of package store, in
// sub-tests named group/rule. A capability that a store lacks is skipped, with
// the reason.
func Run(t *testing.T, c Config) {
	t.Helper()
	if c.New == nil {
		t.Fatal("storetest: Config.New is nil; it must return a new, empty store")
	}
	for _, g := range groups {
		t.Run(g.name, func(t *testing.T) {
			for _, r := range g.rules {
				t.Run(r.name, func(t *testing.T) { r.judge(t, c, nil) })
			}
		})
	}
}

// groups are all rules, in the order in which an implementer meets them.
var groups = []group{
	{"create", createRules},
	{"read", readRules},
	{"replace", replaceRules},
	{"delete", deleteRules},
	{"touch", touchRules},
	{"expiry", expiryRules},
	{"times", timeRules},
	{"markers", markerRules},
	{"isolation", isolationRules},
	{"sizes", sizeRules},
	{"owner-index", ownerIndexRules},
	{"list", listRules},
	{"sweep", sweepRules},
	{"get-many", getManyRules},
	{"ping", pingRules},
	{"watch", watchRules},
	{"fresh", freshRules},
	{"inspect", inspectRules},
	{"shards", shardRules},
	{"cancellation", cancellationRules},
	{"secrecy", secrecyRules},
	{"races", raceRules},
}
