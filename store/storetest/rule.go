package storetest

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// group is what a name's first part stands for.
type group struct {
	name  string
	rules []rule
}

// rule is one rule of the contract and the script that tries it.
type rule struct {
	name string
	says string // the rule
	why  string // what a user suffers where it is broken
	look string // where an implementer should look
	run  func(*script)
}

// explanation is what a failure ends with.
func (r rule) explanation() string {
	return "broken rule: " + r.says + "\n\twhy it matters: " + r.why + "\n\twhere to look: " + r.look
}

// reporter is what a rule needs of a *testing.T. The tests of this package put
// a recorder in its place, to see which rules a broken store breaks.
type reporter interface {
	Helper()
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Skipf(format string, args ...any)
	Logf(format string, args ...any)
	Failed() bool
}

// judge runs r against a new store of c. If report is nil, it reports to t.
func (r rule) judge(t *testing.T, c Config, report reporter) {
	t.Helper()
	if c.Expiry == 0 {
		c.Expiry = 300 * time.Millisecond
	}
	try := func(t *testing.T) {
		t.Helper()
		x := &script{reporter: report, t: t, c: c}
		if report == nil {
			x.reporter = t
		}
		defer func() {
			t.Helper()
			if x.Failed() {
				x.Errorf("%s", r.explanation())
			}
		}()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		x.ctx = ctx
		x.store = c.New(t)
		r.run(x)
	}
	if c.Synctest {
		synctest.Test(t, try)
	} else {
		try(t)
	}
}
