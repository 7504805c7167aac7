package storetest

import (
	"strings"
	"testing"

	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/memstore"
)

func memory(*testing.T) store.Store { return memstore.New() }

func same(_ *testing.T, s store.Store) store.Store { return s }

func TestNaive(t *testing.T) {
	Run(t, Config{
		New:      func(*testing.T) store.Store { return new(naive) },
		Second:   same,
		Synctest: true,
		Count:    func(_ *testing.T, s store.Store) int { return s.(*naive).entries() },
	})
}

// The suite must also hold on the real clock, as it runs against servers.
func TestRealClock(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for records to expire: some seconds; run without -short")
	}
	Run(t, Config{New: memory, Second: same})
}

func TestIdleFaults(t *testing.T) {
	Run(t, Config{
		New:      func(*testing.T) store.Store { return NewFaults(memstore.New(), nil) },
		Second:   same,
		Synctest: true,
	})
}

// bare has no capability.
type bare struct{ store.Store }

func TestSkipsNameTheReason(t *testing.T) {
	c := Config{New: func(*testing.T) store.Store { return bare{memstore.New()} }, Synctest: true}
	skips := map[string]string{
		"owner-index/lists-live-sessions":         "OwnerIndex",
		"owner-index/empty-owner-deletes-nothing": "OwnerIndex",
		"list/yields-every-live-record":           "Lister",
		"sweep/spares-the-living":                 "Sweeper",
		"get-many/returns-the-live-ones":          "GetMany",
		"ping/answers":                            "Pinger",
		"watch/tells-of-every-change":             "Watcher",
		"fresh/sees-finished-writes":              "FreshReader",
		"inspect/order-is-fixed":                  "Inspector",
		"shards/in-range":                         "Sharded",
		"read/other-process-sees-finished-writes": "Config.Second",
		"sizes/over-its-limit-is-too-large":       "Config.MaxData",
		"isolation/nothing-is-left-behind":        "Config.Count",
	}
	for name, v := range verdicts(t, c, func(string) bool { return true }) {
		if v.failed {
			t.Errorf("%s failed a store without capabilities:\n%s", name, v.text)
		}
		if reason := skips[name]; reason != "" && (!v.skipped || !strings.Contains(v.text, reason)) {
			t.Errorf("%s: skipped %v with %q; want a reason that names %s", name, v.skipped, v.text, reason)
		}
	}
}

func TestRulesExplainThemselves(t *testing.T) {
	names := make(map[string]bool)
	for _, g := range groups {
		for _, r := range g.rules {
			name := g.name + "/" + r.name
			if names[name] {
				t.Errorf("%s: two rules of this name", name)
			}
			names[name] = true
			for what, text := range map[string]string{"says": r.says, "why": r.why, "look": r.look} {
				if len(text) < 10 || !strings.HasSuffix(text, ".") {
					t.Errorf("%s: %s is %q; want a sentence", name, what, text)
				}
			}
			if strings.ContainsAny(r.name, " _/") || strings.ToLower(r.name) != r.name {
				t.Errorf("%s: want lower case words and hyphens, for go test -run", name)
			}
		}
	}
}
