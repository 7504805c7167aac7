package session_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/memstore"
	"github.com/coatcheck/coatcheck/store/storetest"
)

// replicated is a primary with a replica that gets its writes in order, but only
// when it is not frozen. A write is not confirmed before the replica has it.
type replicated struct {
	*memstore.Store

	mu      sync.Mutex
	frozen  bool
	replica *memstore.Store
	behind  []write
}

type write func(context.Context, *memstore.Store) error

func newReplicated() *replicated {
	return &replicated{Store: memstore.New(), replica: memstore.New()}
}

func (r *replicated) Confirms() bool { return true }

func (r *replicated) write(ctx context.Context, f write) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := f(ctx, r.Store); err != nil {
		return err
	}
	r.behind = append(r.behind, f)
	if !r.frozen {
		for _, f := range r.behind {
			_ = f(context.WithoutCancel(ctx), r.replica)
		}
		r.behind = nil
	}
	return nil
}

func (r *replicated) freeze(yes bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.frozen = yes
}

// failOver kills the primary: what the replica does not have is gone.
func (r *replicated) failOver() {
	r.mu.Lock()
	defer r.mu.Unlock()
	fresh := memstore.New()
	for k, err := range r.replica.List(context.Background()) {
		if err == nil {
			_ = fresh.Create(context.Background(), k.Key, k.Record)
		}
	}
	r.Store, r.behind = r.replica, nil
	r.replica = fresh
}

func (r *replicated) Create(ctx context.Context, k store.Key, rec store.Record) error {
	return r.write(ctx, func(ctx context.Context, st *memstore.Store) error { return st.Create(ctx, k, rec) })
}

func (r *replicated) Replace(ctx context.Context, k store.Key, old uint64, rec store.Record) error {
	return r.write(ctx, func(ctx context.Context, st *memstore.Store) error { return st.Replace(ctx, k, old, rec) })
}

func (r *replicated) Touch(ctx context.Context, k store.Key, expires time.Time) error {
	return r.write(ctx, func(ctx context.Context, st *memstore.Store) error { return st.Touch(ctx, k, expires) })
}

func (r *replicated) Delete(ctx context.Context, k store.Key) (existed bool, err error) {
	err = r.write(ctx, func(ctx context.Context, st *memstore.Store) error {
		ok, err := st.Delete(ctx, k)
		existed = existed || ok
		return err
	})
	return existed, err
}

// unconfirmed returns a hook by which the replica is frozen during the writes that
// which names, counted from 1: they happen, but only on the primary, and fail.
func (r *replicated) unconfirmed(which func(n int) bool) (hook func(storetest.Call) storetest.Fault, writes func() int) {
	n := 0
	hook = func(c storetest.Call) storetest.Fault {
		if !slices.Contains([]string{"Create", "Replace", "Touch", "Delete"}, c.Method) {
			return storetest.Fault{}
		}
		n++
		r.freeze(which(n))
		if which(n) {
			return storetest.Fault{After: true, Err: fmt.Errorf("store: %w", store.ErrUnconfirmed)}
		}
		return storetest.Fault{}
	}
	return hook, func() int { return n }
}

var unconfirmedOps = map[string]struct {
	do   func(ctx context.Context, s *session.Session) error
	want string // owner and count after success
}{
	"commit":              {func(ctx context.Context, s *session.Session) error { return s.Commit(ctx) }, "alice 2"},
	"renew":               {func(ctx context.Context, s *session.Session) error { return s.Renew(ctx) }, "alice 2"},
	"sign in again":       {func(ctx context.Context, s *session.Session) error { return s.SignIn(ctx, "alice", nil) }, "alice 2"},
	"sign in as another":  {func(ctx context.Context, s *session.Session) error { return s.SignIn(ctx, "bob", nil) }, "bob 0"},
	"destroy":             {func(ctx context.Context, s *session.Session) error { return s.Destroy(ctx) }, " 0"},
	"destroy, then begin": {destroyAndBegin, " 5"},
}

func destroyAndBegin(ctx context.Context, s *session.Session) error {
	return errors.Join(s.Destroy(ctx), count.Set(s, 5), s.Commit(ctx))
}

// TestUnconfirmedWrites: what a request was told is done survives the server
// that did it, at whichever of its writes the replica had fallen behind, and for
// however many of them. The old ID is as dead after it as before.
func TestUnconfirmedWrites(t *testing.T) {
	for name, op := range unconfirmedOps {
		for _, row := range []int{1, 2, 3} { // so many writes in a row
			for n := 1; ; n++ {
				reached := false
				title := fmt.Sprintf("%s, writes %d to %d unconfirmed", name, n, n+row-1)
				synctest.Test(t, func(t *testing.T) {
					st := newReplicated()
					faults := storetest.NewFaults(st, nil)
					m := newManager(t, faults, nil)
					b := newBrowser(t)
					b.do(m, func(s *session.Session) {
						check(t, count.Set(s, 1))
						check(t, s.SignIn(t.Context(), "alice", nil))
					})
					old := b.same()
					hook, writes := st.unconfirmed(func(i int) bool { return i >= n && i < n+row })
					faults.SetHook(hook)
					var told error
					resp := b.do(m, func(s *session.Session) {
						check(t, count.Update(s, add(1)))
						told = op.do(t.Context(), s)
						st.failOver()
					})
					reached = writes() >= n
					faults.SetHook(nil)
					if told != nil || resp.StatusCode != http.StatusOK {
						t.Fatalf("%s: %v, status %d", title, told, resp.StatusCode)
					}
					owner, got := b.look(m)
					if is := fmt.Sprintf("%s %d", owner, got); is != op.want {
						t.Errorf("%s: after a failover the session is %q, want %q: it was acknowledged", title, is, op.want)
					}
					if owner, _ := old.look(m); owner != "" && name != "commit" {
						t.Errorf("%s: after a failover the old ID is %s's again", title, owner)
					}
				})
				if !reached {
					if n == 1 {
						t.Errorf("%s: never wrote: the test has lost its reach", title)
					}
					break
				}
			}
		}
	}
}

// A write that is never confirmed is not acknowledged, and takes the bound of a
// commit; a touch is nobody's business.
func TestNeverConfirmed(t *testing.T) {
	for name, op := range unconfirmedOps {
		synctest.Test(t, func(t *testing.T) {
			st := newReplicated()
			faults := storetest.NewFaults(st, nil)
			m := newManager(t, faults, nil)
			b := newBrowser(t)
			b.signIn(m, "alice")
			hook, _ := st.unconfirmed(func(int) bool { return true })
			faults.SetHook(hook)
			start := time.Now()
			b.do(m, func(s *session.Session) {
				check(t, count.Set(s, 1))
				err := op.do(t.Context(), s)
				if !errors.Is(err, session.ErrUnavailable) || !errors.Is(err, session.ErrAmbiguous) || !errors.Is(err, store.ErrUnconfirmed) {
					t.Errorf("%s: %v; want ErrUnavailable and ErrAmbiguous, for it may be lost", name, err)
				}
				if session.StatusCode(err) != http.StatusServiceUnavailable {
					t.Errorf("%s: status %d, want 503", name, session.StatusCode(err))
				}
			})
			if d := time.Since(start); d > 11*time.Second {
				t.Errorf("%s: it took %v, past the bound of a commit", name, d)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		st := newReplicated()
		faults := storetest.NewFaults(st, nil)
		m := newManager(t, faults, nil)
		b := newBrowser(t)
		b.do(m, func(s *session.Session) { check(t, count.Set(s, 1)) })
		time.Sleep(20 * time.Minute)
		hook, writes := st.unconfirmed(func(int) bool { return true })
		faults.SetHook(hook)
		if resp := b.do(m, func(*session.Session) {}); resp.StatusCode != http.StatusOK || writes() != 1 {
			t.Errorf("an unconfirmed touch: status %d after %d writes, want 200 after 1", resp.StatusCode, writes())
		}
	})
}

// A failover between a write and its confirmation takes the write away: it is
// sent again, once.
func TestFailoverBeforeConfirmation(t *testing.T) {
	for name, op := range unconfirmedOps {
		for n := 1; n <= 3; n++ { // which write it is
			synctest.Test(t, func(t *testing.T) {
				st := newReplicated()
				faults := storetest.NewFaults(st, nil)
				m := newManager(t, faults, nil)
				b := newBrowser(t)
				b.do(m, func(s *session.Session) {
					check(t, count.Set(s, 1))
					check(t, s.SignIn(t.Context(), "alice", nil))
				})
				hook, writes := st.unconfirmed(func(i int) bool { return i == n })
				faults.SetHook(func(c storetest.Call) storetest.Fault {
					if c.Method == "Replace" && writes() == n { // the confirmation is on its way
						st.failOver()
					}
					return hook(c)
				})
				b.do(m, func(s *session.Session) {
					check(t, count.Update(s, add(1)))
					if err := op.do(t.Context(), s); err != nil {
						t.Errorf("%s, write %d: %v", name, n, err)
					}
				})
				faults.SetHook(nil)
				st.failOver()
				owner, got := b.look(m)
				if is := fmt.Sprintf("%s %d", owner, got); is != op.want {
					t.Errorf("%s, write %d: the session is %q, want %q", name, n, is, op.want)
				}
			})
		}
	}
}

// What somebody builds on an unconfirmed write cannot tell whether that survived.
func TestUnconfirmedAndBuiltUpon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newReplicated()
		faults := storetest.NewFaults(st, nil)
		m, other := newManager(t, faults, nil), newManager(t, st, nil)
		b := newBrowser(t)
		b.do(m, func(s *session.Session) { check(t, count.Set(s, 1)) })
		hook, _ := st.unconfirmed(func(n int) bool { return n == 1 })
		replaces := 0
		faults.SetHook(func(c storetest.Call) storetest.Fault {
			if c.Method == "Replace" {
				if replaces++; replaces == 2 { // about to be confirmed
					b.same().do(other, func(s *session.Session) { check(t, count.Update(s, add(10))) })
				}
			}
			return hook(c)
		})
		b.do(m, func(s *session.Session) {
			check(t, count.Update(s, add(1)))
			if err := s.Commit(t.Context()); !errors.Is(err, session.ErrAmbiguous) {
				t.Errorf("Commit returns %v, want ErrAmbiguous", err)
			}
		})
		if _, n := b.look(other); n != 12 {
			t.Errorf("count is %d, want 12: it was added once", n)
		}
	})
}

// A logout that finds the end of another, unconfirmed one, is told nothing that a
// failover undoes.
func TestLogoutAfterUnconfirmedLogout(t *testing.T) {
	for _, first := range []string{"logout", "renewal"} {
		synctest.Test(t, func(t *testing.T) {
			st := newReplicated()
			faults := storetest.NewFaults(st, nil)
			m := newManager(t, faults, nil)
			b := newBrowser(t)
			b.signIn(m, "alice")
			old := b.same()
			late := b.same()
			var told error
			late.do(m, func(s *session.Session) { // loaded before, so that it still has the key
				hook, _ := st.unconfirmed(func(int) bool { return true })
				faults.SetHook(hook)
				b.same().do(m, func(s *session.Session) {
					if first == "logout" {
						_ = s.Destroy(t.Context())
					} else {
						_ = s.Renew(t.Context())
					}
				})
				faults.SetHook(func(c storetest.Call) storetest.Fault {
					st.freeze(c.Method == "Delete") // the removal is lost in any case
					if c.Method != "Delete" {
						return storetest.Fault{}
					}
					return storetest.Fault{After: true, Err: store.ErrUnconfirmed}
				})
				told = s.Destroy(t.Context())
			})
			faults.SetHook(nil)
			st.failOver()
			if owner, _ := old.look(m); owner != "" {
				t.Errorf("after a %s that was not confirmed, a logout was acknowledged and undone by a failover", first)
			}
			if told != nil {
				t.Errorf("%s: the logout says %v", first, told)
			}
		})
	}
}

// TestSameAgainIsConfirmed: a form that is sent again after a 503 finds its values
// in place, and is told that they are kept only when they are. What changes nothing
// still writes nothing.
func TestSameAgainIsConfirmed(t *testing.T) {
	for title, change := range map[string]func(*session.Session) error{
		"set": func(s *session.Session) error { return name.Set(s, "after") },
		"update": func(s *session.Session) error {
			return name.Update(s, func(string) (string, error) { return "after", nil })
		},
		"delete": func(s *session.Session) error { name.Delete(s); return nil },
	} {
		synctest.Test(t, func(t *testing.T) {
			st := newReplicated()
			faults := storetest.NewFaults(st, nil)
			m := newManager(t, faults, nil)
			b := newBrowser(t)
			read := func() (v string) {
				b.do(m, func(s *session.Session) {
					v = must(name.Get(s))(t)
					_ = must(notice.Pop(s))(t)
				})
				return v
			}
			b.do(m, func(s *session.Session) {
				check(t, name.Set(s, "before"))
				check(t, count.Set(s, 1))
			})
			hook, _ := st.unconfirmed(func(int) bool { return true })
			faults.SetHook(hook)
			for range 2 { // the second finds what the first has written
				resp := b.do(m, func(s *session.Session) { check(t, change(s)) })
				if resp.StatusCode != http.StatusServiceUnavailable {
					t.Errorf("%s: status %d for a value that no replica has, want 503", title, resp.StatusCode)
				}
			}
			hook, writes := st.unconfirmed(func(int) bool { return false })
			faults.SetHook(hook)
			want := read()
			if n := writes(); n != 0 || want == "before" {
				t.Errorf("%s: a request that reads %q wrote %d times, want the new value and no write", title, want, n)
			}
			if resp := b.do(m, func(s *session.Session) { check(t, change(s)) }); resp.StatusCode != http.StatusOK || writes() != 1 {
				t.Errorf("%s: sent again, status %d after %d writes, want 200 after 1", title, resp.StatusCode, writes())
			}
			faults.SetHook(nil)
			st.failOver()
			if got := read(); got != want {
				t.Errorf("%s: after a failover the value is %q, want %q: it was acknowledged", title, got, want)
			}
		})
	}
}

// A value that is written again, only to be confirmed, replaces nothing.
func TestSameAgainIsNotStale(t *testing.T) {
	st := newReplicated()
	m := newManager(t, st, &session.Options{Observer: func(_ context.Context, e session.Event) {
		if e.Kind == session.EventStaleSet {
			t.Error("a Set of what is there already is told as one that replaced a newer value")
		}
	}})
	b := newBrowser(t)
	b.do(m, func(s *session.Session) { check(t, name.Set(s, "before")) })
	b.do(m, func(s *session.Session) {
		_ = must(name.Get(s))(t)
		b.same().do(m, func(s *session.Session) { check(t, name.Set(s, "after")) })
		check(t, name.Set(s, "after"))
	})
}
