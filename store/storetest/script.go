package storetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/store"
)

// script is what a rule's function writes its story with. Those of its methods
// that are named after one of a store's end the rule if that fails.
type script struct {
	reporter
	t     *testing.T
	c     Config
	ctx   context.Context
	store store.Store
	made  uint64 // keys and handles so far
}

// another returns a different script of the same rule, on the store st.
func (x *script) another(st store.Store) *script {
	return &script{reporter: x.reporter, t: x.t, c: x.c, ctx: x.ctx, store: st, made: x.made + 1<<32}
}

// second returns another handle on the same backend, or skips the rule.
func (x *script) second() *script {
	x.Helper()
	if x.c.Second == nil {
		x.Skipf("Config.Second is nil: no second process to look at the same backend")
	}
	return x.another(x.c.Second(x.t, x.store))
}

// handles returns the stores that races are run over.
func (x *script) handles() []store.Store {
	if x.c.Second == nil {
		return []store.Store{x.store}
	}
	return []store.Store{x.store, x.c.Second(x.t, x.store)}
}

// need returns the capability T of the store, or skips the rule.
func need[T any](x *script) T {
	x.Helper()
	t, ok := store.As[T](x.store)
	if !ok {
		x.Skipf("the store has no %s", reflect.TypeFor[T]().Name())
	}
	return t
}

// key returns a key not used before, as spread as a real one.
func (x *script) key() store.Key {
	x.made++
	return sha256.Sum256(binary.BigEndian.AppendUint64([]byte("storetest"), x.made))
}

// session returns a record of an hour's life, unlike any other.
func (x *script) session(owner string) store.Record {
	x.made++
	now := time.Now().Truncate(time.Millisecond).UTC()
	r := store.Record{
		Version:  1,
		Owner:    owner,
		Created:  now.Add(-time.Minute),
		Deadline: now.Add(24 * time.Hour),
		Expires:  now.Add(time.Hour),
		Label:    fmt.Appendf(nil, "label %d", x.made),
		Data:     fmt.Appendf(nil, "data %d", x.made),
	}
	binary.BigEndian.PutUint64(r.Handle[8:], x.made)
	return r
}

// marker returns a marker that leads to a key of its own.
func (x *script) marker(owner string) store.Record {
	r := x.session(owner)
	r.Next = x.key()
	return r
}

// changed returns r as a later commit would write it: a higher version, other
// bytes.
func (x *script) changed(r store.Record) store.Record {
	x.made++
	r.Version++
	r.Label = fmt.Appendf(nil, "label %d, version %d", x.made, r.Version)
	r.Data = fmt.Appendf(nil, "data %d, version %d", x.made, r.Version)
	return r
}

// created creates r and returns its new key.
func (x *script) created(r store.Record) store.Key {
	x.Helper()
	k := x.key()
	x.create(k, r)
	return k
}

func (x *script) create(k store.Key, r store.Record) {
	x.Helper()
	if err := x.store.Create(x.ctx, k, r); err != nil {
		x.Fatalf("Create: %v; want success", err)
	}
}

func (x *script) replace(k store.Key, old uint64, r store.Record) {
	x.Helper()
	if err := x.store.Replace(x.ctx, k, old, r); err != nil {
		x.Fatalf("Replace of version %#x: %v; want success", old, err)
	}
}

func (x *script) touch(k store.Key, expires time.Time) {
	x.Helper()
	if err := x.store.Touch(x.ctx, k, expires); err != nil {
		x.Fatalf("Touch: %v; want success", err)
	}
}

func (x *script) delete(k store.Key) bool {
	x.Helper()
	existed, err := x.store.Delete(x.ctx, k)
	if err != nil {
		x.Fatalf("Delete: %v; want success", err)
	}
	return existed
}

func (x *script) get(k store.Key) store.Record {
	x.Helper()
	r, err := x.store.Get(x.ctx, k)
	if err != nil {
		x.Fatalf("Get: %v; want a record", err)
	}
	return r
}

func (x *script) listOwner(owner string) map[store.Key]store.Record {
	x.Helper()
	list, err := need[store.OwnerIndex](x).ListOwner(x.ctx, owner)
	if err != nil {
		x.Fatalf("ListOwner: %v; want success", err)
	}
	found := make(map[store.Key]store.Record, len(list))
	for _, kr := range list {
		if _, twice := found[kr.Key]; twice {
			x.Errorf("ListOwner returned one key twice")
		}
		found[kr.Key] = kr.Record
	}
	return found
}

func (x *script) deleteOwner(owner string, keep ...store.Handle) int {
	x.Helper()
	n, err := need[store.OwnerIndex](x).DeleteOwner(x.ctx, owner, keep...)
	if err != nil {
		x.Fatalf("DeleteOwner: %v; want success", err)
	}
	return n
}

func (x *script) list() map[store.Key]store.Record {
	x.Helper()
	found := make(map[store.Key]store.Record)
	for kr, err := range need[store.Lister](x).List(x.ctx) {
		if err != nil {
			x.Fatalf("List: %v; want success", err)
		}
		found[kr.Key] = kr.Record
	}
	return found
}

// sentinels are the errors that a caller acts upon, each in its own way.
var sentinels = []error{store.ErrNotFound, store.ErrConflict, store.ErrInvalid, store.ErrTooLarge, store.ErrCorrupt, store.ErrAmbiguous, store.ErrUnapplied}

// want reports err unless it is target and no other sentinel.
func (x *script) want(what string, err, target error) {
	x.Helper()
	if !errors.Is(err, target) || err == nil != (target == nil) {
		x.Errorf("%s: got error %v; want %v", what, err, target)
		return
	}
	for _, s := range sentinels {
		if s == store.ErrUnapplied && !slices.Contains(sentinels, target) {
			continue // a write that ended with its context has changed nothing
		}
		if !errors.Is(target, s) && errors.Is(err, s) {
			x.Errorf("%s: error %v is %v, as wanted, but also %v", what, err, target, s)
		}
	}
}

// gone reports a record that Get returns under k.
func (x *script) gone(what string, k store.Key) {
	x.Helper()
	r, err := x.store.Get(x.ctx, k)
	if err == nil {
		x.Errorf("%s: Get returned a record (version %#x); want ErrNotFound", what, r.Version)
		return
	}
	x.want(what+": Get", err, store.ErrNotFound)
}

// holds reports where the record under k differs from want.
func (x *script) holds(what string, k store.Key, want store.Record) {
	x.Helper()
	got, err := x.store.Get(x.ctx, k)
	if err != nil {
		x.Errorf("%s: Get: %v; want a record", what, err)
		return
	}
	x.same(what, got, want)
}

// same reports where got differs from want, which it truncates.
func (x *script) same(what string, got, want store.Record) {
	x.Helper()
	for _, d := range diff(got, want) {
		x.Errorf("%s: %s", what, d)
	}
}

// holdsOnly reports where found is not exactly want.
func (x *script) holdsOnly(what string, found, want map[store.Key]store.Record) {
	x.Helper()
	missing, foreign := 0, 0
	for k, w := range want {
		if got, ok := found[k]; ok {
			x.same(what, got, w)
		} else {
			missing++
		}
	}
	for k := range found {
		if _, ok := want[k]; !ok {
			foreign++
		}
	}
	if missing > 0 || foreign > 0 {
		x.Errorf("%s: of %d records %d are missing, and %d are there that should not be", what, len(want), missing, foreign)
	}
}

// diff names the fields in which got differs from want, with both values: those
// of a test are no secret.
func diff(got, want store.Record) []string {
	want = want.Truncate()
	var d []string
	field := func(name string, equal bool, g, w any) {
		if !equal {
			d = append(d, fmt.Sprintf("%s is %v; want %v", name, g, w))
		}
	}
	field("Version", got.Version == want.Version, got.Version, want.Version)
	field("Handle", got.Handle == want.Handle, got.Handle, want.Handle)
	field("Owner", got.Owner == want.Owner, abbreviate(got.Owner), abbreviate(want.Owner))
	field("Created", got.Created.Equal(want.Created), got.Created, want.Created)
	field("Deadline", got.Deadline.Equal(want.Deadline), got.Deadline, want.Deadline)
	field("Expires", got.Expires.Equal(want.Expires), got.Expires, want.Expires)
	field("Next", got.Next == want.Next, got.Next[:], want.Next[:])
	field("Label", bytes.Equal(got.Label, want.Label), abbreviate(got.Label), abbreviate(want.Label))
	field("Data", bytes.Equal(got.Data, want.Data), abbreviate(got.Data), abbreviate(want.Data))
	return d
}

func abbreviate[T string | []byte](v T) string {
	if len(v) > 64 {
		return fmt.Sprintf("%q… (%d bytes)", v[:64], len(v))
	}
	return fmt.Sprintf("%q", v)
}

// soon returns an instant that has not come when attempt, which is given it,
// has returned. On the real clock that may take more than one attempt.
func (x *script) soon(attempt func(soon time.Time) error) time.Time {
	x.Helper()
	const attempts = 6 // each with twice the time: 19 s in all by default
	life := x.c.Expiry
	for range attempts {
		soon := time.Now().Add(life).Truncate(time.Millisecond).UTC()
		err := attempt(soon)
		if time.Now().Before(soon) {
			if err != nil {
				x.Fatalf("setting up a record that is to expire in %v: %v; want success", life, err)
			}
			return soon
		}
		life *= 2
	}
	x.Fatalf("the store took longer than %v to write one record", life/2)
	return time.Time{}
}

// expired stores r with a short life, waits for its end, and returns its key.
func (x *script) expired(r store.Record) store.Key {
	x.Helper()
	var k store.Key
	x.sleepUntil(x.soon(func(soon time.Time) error {
		k = x.key()
		r.Expires = soon
		return x.store.Create(x.ctx, k, r)
	}))
	return k
}

// sleepUntil waits for the clock to reach t: expiry is what is being tested, so
// there is nothing else to wait for.
func (x *script) sleepUntil(t time.Time) {
	for time.Now().Before(t) {
		time.Sleep(time.Until(t))
	}
}

// together runs n functions at once and waits for all of them.
func together(n int, f func(i int)) {
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-start
			f(i)
		})
	}
	close(start)
	wg.Wait()
}
