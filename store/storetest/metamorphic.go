package storetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/memstore"
)

// RunScripts runs one random sequence of operations per seed on a new store of
// c and on a memstore, and compares what each operation returns. Where they
// differ it prints the seed and the shortest script that it could find that
// still shows the difference. Without seeds it takes ten fixed ones and a
// random one.
func RunScripts(t *testing.T, c Config, seeds ...uint64) {
	t.Helper()
	if len(seeds) == 0 {
		for seed := range uint64(10) {
			seeds = append(seeds, seed)
		}
		seeds = append(seeds, rand.Uint64())
	}
	model := func(*testing.T) store.Store { return memstore.New() }
	for _, seed := range seeds {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { compareStores(t, t, c, model, seed) })
	}
}

// compareStores runs the script of seed on c's store and on the model, and
// reports the first difference.
func compareStores(t *testing.T, report reporter, c Config, model func(*testing.T) store.Store, seed uint64) {
	t.Helper()
	if c.Expiry == 0 {
		c.Expiry = 300 * time.Millisecond
	}
	run := func(t *testing.T) {
		t.Helper()
		ops := randomOps(seed, c.Synctest)
		differs := func(ops []op) string {
			p := &pair{ctx: t.Context(), subject: c.New(t), model: model(t), synctest: c.Synctest, expiry: c.Expiry}
			return p.run(t, c, model, ops)
		}
		difference := differs(ops)
		if difference == "" {
			return
		}
		shortest := minimise(ops, func(ops []op) bool { return differs(ops) != "" })
		if d := differs(shortest); d != "" { // a race may be gone
			difference = d
		}
		var b strings.Builder
		for i, o := range shortest {
			fmt.Fprintf(&b, "\n\t%3d  %s", i+1, o)
		}
		report.Errorf("the store differs from the model (seed %d; to repeat: storetest.RunScripts(t, c, %d))\n%s\nshortest script found:%s",
			seed, seed, difference, b.String())
	}
	if c.Synctest {
		synctest.Test(t, run)
	} else {
		run(t)
	}
}

// op is one step of a script. It holds choices, not values, so that it means
// something whatever steps before it are left out.
type op struct {
	what   string
	key    int // of a handful, so that operations meet
	owner  int
	fresh  bool          // Replace: names the version that is stored
	marker bool          // Create, Replace
	expiry time.Duration // 0: soon, in the unit that the clock allows
	limit  time.Duration // the deadline
	id     uint64        // of the step: makes version, handle and data
}

var scriptOwners = []string{"", "alice", "Alice", "bob"}

func (o op) String() string {
	s := fmt.Sprintf("%-11s", o.what)
	switch o.what {
	case "Create", "Replace":
		s += fmt.Sprintf(" k%d owner=%q version=%d expires=%s deadline=%s", o.key, scriptOwners[o.owner], o.id, life(o.expiry), life(o.limit))
		if o.marker {
			s += " marker"
		}
		if o.what == "Replace" {
			s += map[bool]string{true: " of the stored version", false: " of another version"}[o.fresh]
		}
	case "Touch":
		s += fmt.Sprintf(" k%d expires=%s", o.key, life(o.expiry))
	case "Get", "Delete":
		s += fmt.Sprintf(" k%d", o.key)
	case "ListOwner":
		s += fmt.Sprintf(" %q", scriptOwners[o.owner])
	case "DeleteOwner":
		s += fmt.Sprintf(" %q", scriptOwners[o.owner])
		if o.fresh {
			s += fmt.Sprintf(" keep k%d", o.key)
		}
	}
	return strings.TrimRight(s, " ")
}

func life(d time.Duration) string {
	if d == 0 {
		return "soon"
	}
	return d.String()
}

// randomOps returns the script of seed.
func randomOps(seed uint64, synctest bool) []op {
	rnd := rand.New(rand.NewPCG(seed, 0))
	weights := []struct {
		what string
		n    int
	}{
		{"Create", 20},
		{"Replace", 30},
		{"Touch", 15},
		{"Get", 20},
		{"Delete", 5},
		{"ListOwner", 8},
		{"DeleteOwner", 3},
		{"List", 4},
		{"GetMany", 4},
		{"Sweep", 2},
		{"wait", 4},
	}
	var deck []string
	for _, w := range weights {
		for range w.n {
			deck = append(deck, w.what)
		}
	}
	const steps = 300
	waits := 0
	ops := make([]op, 0, steps)
	for i := range steps {
		o := op{
			what:   deck[rnd.IntN(len(deck))],
			key:    rnd.IntN(5),
			owner:  rnd.IntN(len(scriptOwners)),
			fresh:  rnd.IntN(4) > 0,
			marker: rnd.IntN(8) == 0,
			limit:  time.Duration(2+rnd.IntN(3)) * time.Hour,
			id:     uint64(i + 1),
		}
		if rnd.IntN(3) > 0 {
			o.expiry = time.Duration(1+rnd.IntN(9)) * 10 * time.Minute
			if o.what == "Touch" && rnd.IntN(3) == 0 {
				o.expiry = 24 * time.Hour // past every deadline
			}
		}
		if o.what == "wait" {
			if waits++; waits > 3 && !synctest {
				continue // each takes real time
			}
		}
		ops = append(ops, o)
	}
	return ops
}

// pair is a store and the model that it is compared with.
type pair struct {
	ctx            context.Context
	subject, model store.Store
	synctest       bool
	expiry         time.Duration
	soonest        []time.Time // on the real clock: when records were to expire soon
}

// run runs ops on both and returns the first difference, or "". On the real
// clock a step during which a record was due to expire proves nothing: it then
// begins again with longer lives.
func (p *pair) run(t *testing.T, c Config, model func(*testing.T) store.Store, ops []op) string {
	for range 6 {
		difference, slow := p.try(ops)
		if !slow {
			return difference
		}
		p = &pair{ctx: p.ctx, subject: c.New(t), model: model(t), synctest: p.synctest, expiry: 2 * p.expiry}
	}
	t.Fatalf("storetest: the store is too slow to run a script whose records live for %v; raise Config.Expiry", p.expiry)
	return ""
}

func (p *pair) try(ops []op) (difference string, slow bool) {
	for i, o := range ops {
		if o.what == "wait" {
			p.wait(o)
			continue
		}
		p.stepAside()
		begin := time.Now()
		step := p.bind(o, begin.Truncate(time.Millisecond).UTC())
		want := step(p.model)
		got := step(p.subject)
		if !p.synctest {
			end := time.Now()
			for _, soon := range p.soonest {
				if !soon.Before(begin.Add(-time.Millisecond)) && !soon.After(end) {
					return "", true
				}
			}
		}
		if got != want {
			return fmt.Sprintf("step %d of the script below, %s\n\tthe store: %s\n\tthe model: %s", i+1, o, got, want), false
		}
	}
	return "", false
}

// wait lets time pass: on the real clock until all that expires soon has.
func (p *pair) wait(o op) {
	if p.synctest {
		time.Sleep(max(o.expiry, time.Minute) / 2)
		return
	}
	for _, soon := range p.soonest {
		sleepPast(soon)
	}
	p.soonest = nil
}

// stepAside lets a record expire first that would during the step to come,
// when the store and the model could honestly differ about it.
func (p *pair) stepAside() {
	if p.synctest {
		return
	}
	slices.SortFunc(p.soonest, time.Time.Compare)
	for len(p.soonest) > 0 && time.Until(p.soonest[0]) < p.expiry/6 {
		sleepPast(p.soonest[0])
		p.soonest = p.soonest[1:]
	}
}

func sleepPast(t time.Time) {
	for !time.Now().After(t) {
		time.Sleep(time.Until(t) + time.Millisecond)
	}
}

// bind returns o with its values, as a function that runs it and tells what
// came of it. It returns "" where the subject lacks the capability.
func (p *pair) bind(o op, now time.Time) func(store.Store) string {
	keys := make([]store.Key, 5)
	for i := range keys {
		keys[i] = store.Key{0: byte(i + 1), 31: 0xfe}
	}
	k := keys[o.key]
	owner := scriptOwners[o.owner]
	stored, storedErr := p.model.Get(p.ctx, k)
	expires := now.Add(o.expiry)
	if o.expiry == 0 {
		expires = now.Add(p.expiry)
		if o.what == "Create" || o.what == "Replace" || o.what == "Touch" {
			p.soonest = append(p.soonest, expires)
		}
	}
	r := store.Record{
		Version:  o.id,
		Handle:   store.Handle{8: byte(o.id >> 8), 9: byte(o.id)},
		Owner:    owner,
		Created:  now.Add(-time.Duration(o.id) * time.Second),
		Deadline: now.Add(o.limit),
		Expires:  expires,
		Data:     fmt.Appendf(nil, "data of step %d", o.id),
	}
	if o.id%3 == 0 {
		r.Label = fmt.Appendf(nil, "label of step %d", o.id)
	}
	if o.marker {
		r.Next = keys[(o.key+1)%len(keys)]
	}

	switch o.what {
	case "Get":
		return func(s store.Store) string {
			r, err := s.Get(p.ctx, k)
			return outcome(err) + describe(store.Keyed{Record: r})
		}
	case "Create":
		return func(s store.Store) string { return outcome(s.Create(p.ctx, k, r)) }
	case "Replace":
		old := o.id + 1<<32
		if o.fresh && storedErr == nil {
			old = stored.Version
		}
		return func(s store.Store) string { return outcome(s.Replace(p.ctx, k, old, r)) }
	case "Touch":
		return func(s store.Store) string { return outcome(s.Touch(p.ctx, k, expires)) }
	case "Delete":
		return func(s store.Store) string {
			existed, err := s.Delete(p.ctx, k)
			return fmt.Sprint(outcome(err), " existed=", existed)
		}
	case "ListOwner":
		return withCapability(p, func(idx store.OwnerIndex) string {
			list, err := idx.ListOwner(p.ctx, owner)
			return outcome(err) + describe(list...)
		})
	case "DeleteOwner":
		var keep []store.Handle
		if o.fresh {
			keep = append(keep, stored.Handle)
		}
		return withCapability(p, func(idx store.OwnerIndex) string {
			n, err := idx.DeleteOwner(p.ctx, owner, keep...)
			return fmt.Sprint(outcome(err), " ended=", n)
		})
	case "List":
		return withCapability(p, func(l store.Lister) string {
			var list []store.Keyed
			for kr, err := range l.List(p.ctx) {
				if err != nil {
					return outcome(err)
				}
				if !slices.ContainsFunc(list, func(l store.Keyed) bool { return l.Key == kr.Key }) {
					list = append(list, kr)
				}
			}
			return describe(list...)
		})
	case "GetMany":
		return withCapability(p, func(m store.GetMany) string {
			found, err := m.GetMany(p.ctx, keys)
			var list []store.Keyed
			for k, r := range found {
				list = append(list, store.Keyed{Key: k, Record: r})
			}
			return outcome(err) + describe(list...)
		})
	case "Sweep":
		// Who may have removed what has expired, and when, is not prescribed, so
		// the number is not compared.
		return withCapability(p, func(s store.Sweeper) string {
			_, err := s.Sweep(p.ctx, 3)
			return outcome(err)
		})
	}
	panic("storetest: no such operation: " + o.what)
}

// withCapability returns f for stores that have T, unless the subject does not:
// then the step is left out on both sides.
func withCapability[T any](p *pair, f func(T) string) func(store.Store) string {
	return func(s store.Store) string {
		if _, ok := store.As[T](p.subject); !ok {
			return ""
		}
		t, ok := store.As[T](s)
		if !ok {
			return "lacks the capability"
		}
		return f(t)
	}
}

// outcome names err by what a caller can tell about it.
func outcome(err error) string {
	if err == nil {
		return "ok"
	}
	for _, s := range sentinels {
		if errors.Is(err, s) {
			return s.Error()
		}
	}
	return "other error: " + err.Error()
}

// describe writes records down in the order of their keys.
func describe(list ...store.Keyed) string {
	slices.SortFunc(list, func(a, b store.Keyed) int { return slices.Compare(a.Key[:], b.Key[:]) })
	var b strings.Builder
	for _, kr := range list {
		fmt.Fprintf(&b, "\n\t\tk%d version=%d handle=%x owner=%q created=%s deadline=%s expires=%s next=k%d label=%q data=%q",
			int(kr.Key[0])-1, kr.Version, kr.Handle[8:10], kr.Owner, instant(kr.Created), instant(kr.Deadline), instant(kr.Expires),
			int(kr.Next[0])-1, kr.Label, kr.Data)
	}
	return b.String()
}

func instant(t time.Time) string { return t.Format("15:04:05.999999999Z07:00") }

// minimise leaves out what it can of ops while fails, which is tried a few
// hundred times at most, still says yes.
func minimise(ops []op, fails func([]op) bool) []op {
	tries := 0
	for size := len(ops) / 2; size > 0; {
		shorter := false
		for i := 0; i+size <= len(ops) && tries < 400; {
			tries++
			if without := slices.Delete(slices.Clone(ops), i, i+size); fails(without) {
				ops, shorter = without, true
			} else {
				i += size
			}
		}
		if !shorter || size > 1 {
			size /= 2
		}
	}
	return ops
}
