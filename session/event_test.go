package session_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/memstore"
)

// measures are the kinds of events that come with requests which went well.
var measures = map[session.EventKind]bool{
	session.EventCall: true, session.EventCommit: true, session.EventSignIn: true, session.EventRenew: true,
	session.EventDestroy: true, session.EventRevoke: true, session.EventTouchSaved: true, session.EventWriteSaved: true,
}

// tally counts events by what an app would export of them.
type tally map[string]int

func (c tally) observe(_ context.Context, e session.Event) {
	words := []string{string(e.Kind)}
	if e.Op != "" {
		words = append(words, e.Op)
	}
	if e.Kind != session.EventTouchSaved && e.Kind != session.EventWriteSaved && e.Kind != session.EventConflict {
		words = append(words, e.Outcome())
	}
	c[strings.Join(words, " ")] += max(1, e.N)
}

// step takes what was counted since the last step.
func (c tally) step() tally {
	t := maps.Clone(c)
	clear(c)
	return t
}

func (c tally) want(t *testing.T, what string, want tally) {
	t.Helper()
	if got := c.step(); !reflect.DeepEqual(got, want) {
		var diff []string
		for k := range got {
			if got[k] != want[k] {
				diff = append(diff, fmt.Sprintf("%s: %d, want %d", k, got[k], want[k]))
			}
		}
		for k := range want {
			if _, ok := got[k]; !ok {
				diff = append(diff, fmt.Sprintf("%s: 0, want %d", k, want[k]))
			}
		}
		slices.Sort(diff)
		t.Errorf("%s is counted as\n\t%s", what, strings.Join(diff, "\n\t"))
	}
}

// What is counted is exact: each step of a script, and all that it costs.
func TestEventsCountEachStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newCalls()
		counted := tally{}
		m := newManager(t, st, &session.Options{Policy: session.Policy{Idle: time.Hour}, Observer: counted.observe})
		other := newManager(t, st, &session.Options{Policy: session.Policy{Idle: time.Hour}})
		b := newBrowser(t)

		b.do(m, func(*session.Session) {})
		counted.want(t, "a request without a session", tally{})

		b.do(m, func(s *session.Session) {
			check(t, count.Set(s, 1))
			count.Delete(s)
		})
		counted.want(t, "a value that is gone before it is stored", tally{"commit ok": 1, "write_saved": 1})

		b.do(m, func(s *session.Session) {
			check(t, count.Set(s, 1))
			check(t, s.Commit(t.Context()))
		})
		counted.want(t, "the first value", tally{"commit ok": 1, "call create ok": 1})

		b.look(m)
		counted.want(t, "a read", tally{"call get ok": 1, "touch_saved": 1})

		time.Sleep(7 * time.Minute)
		b.look(m)
		counted.want(t, "a read after a tenth of the idle timeout", tally{"call get ok": 1, "call touch ok": 1})

		b.do(m, func(s *session.Session) {
			for n := range 3 {
				check(t, count.Set(s, n))
				check(t, s.Commit(t.Context()))
			}
		})
		counted.want(t, "three commits of one request", tally{"call get ok": 1, "commit ok": 3, "call replace ok": 3})

		b.do(m, func(s *session.Session) { check(t, count.Set(s, 2)) })
		counted.want(t, "a value that is there already", tally{"call get ok": 2, "commit ok": 1, "write_saved": 1, "touch_saved": 1})

		b.do(m, func(s *session.Session) {
			check(t, count.Update(s, add(1)))
			b.same().do(other, func(s *session.Session) { check(t, count.Update(s, add(1))) })
		})
		counted.want(t, "a race with another server", tally{
			"call get ok": 2, "commit ok": 1, "call replace conflict": 1, "call replace ok": 1, "conflict": 1,
		})

		b.signIn(m, "alice")
		counted.want(t, "a sign-in", tally{"call get ok": 1, "sign_in ok": 1, "call create ok": 1, "call replace ok": 1})

		b.do(m, func(s *session.Session) { check(t, s.Renew(t.Context())) })
		counted.want(t, "a renewal", tally{"call get ok": 1, "renew ok": 1, "call create ok": 1, "call replace ok": 1})

		phone := newBrowser(t)
		phone.signIn(other, "alice")
		var handle session.Handle
		b.do(m, func(s *session.Session) { handle = s.Handle() })
		counted.step()
		if n := must(m.RevokeAll(t.Context(), "alice", handle))(t); n != 1 {
			t.Errorf("%d sessions revoked", n)
		}
		counted.want(t, "one session of two revoked", tally{"call delete_owner ok": 3, "revoke ok": 1})
		_ = must(m.Sessions(t.Context(), "alice"))(t)
		counted.want(t, "a list of devices", tally{"call list_owner ok": 1})
		_ = must(m.Revoke(t.Context(), "alice", session.Handle{1}))(t)
		if got := counted.step(); got["revoke ok"] != 1 {
			t.Errorf("a revocation of nothing is counted as %v", got)
		}

		phone.do(m, func(s *session.Session) {
			if s.Owner() != "" {
				t.Error("the phone is still signed in")
			}
		})
		counted.want(t, "a session that has ended", tally{"call get not_found": 1})

		b.do(m, func(s *session.Session) { check(t, s.Destroy(t.Context())) })
		counted.want(t, "a logout", tally{"call get ok": 2, "destroy ok": 1, "call replace ok": 1, "call delete ok": 1})

		b.do(m, func(s *session.Session) { check(t, s.Destroy(t.Context())) })
		counted.want(t, "a logout of nobody", tally{})

		check(t, m.Ping(t.Context()))
		counted.want(t, "a ping", tally{"call ping ok": 1})
	})
}

// What goes wrong is counted by the word for it, each attempt as one call.
func TestEventsCountFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newCalls()
		counted := tally{}
		m := newManager(t, st, &session.Options{Observer: counted.observe})
		b := newBrowser(t)
		b.signIn(m, "alice")
		counted.step()
		once := func(op string, err error) {
			st.before = func(o string, _ store.Key) error {
				if o != op {
					return nil
				}
				st.before = nil
				return err
			}
		}
		ten := func(s *session.Session) { check(t, count.Set(s, 10)) }

		once("get", fmt.Errorf("store: %w", context.DeadlineExceeded))
		b.do(m, func(*session.Session) {})
		counted.want(t, "a read that takes too long", tally{"call get timeout": 1, "retry get timeout": 1, "call get ok": 1, "touch_saved": 1})

		st.before = failing("get", fmt.Errorf("store: %w", io.ErrUnexpectedEOF))
		b.do(m, ten)
		counted.want(t, "a store that is away", tally{"call get error": 2, "retry get error": 1, "unavailable unavailable": 1})
		st.before = nil

		once("replace", fmt.Errorf("store: %w", store.ErrUnapplied))
		b.do(m, ten)
		counted.want(t, "a write that is refused once", tally{
			"call get ok": 2, "call replace error": 1, "retry replace error": 1, "call replace ok": 1, "commit ok": 1,
		})

		st.after = func(op string, _ store.Key) error {
			if op != "replace" {
				return nil
			}
			st.after = nil
			return fmt.Errorf("store: %w", store.ErrAmbiguous)
		}
		b.do(m, func(s *session.Session) { check(t, count.Set(s, 11)) })
		counted.want(t, "a write whose answer is lost", tally{"call get ok": 2, "call replace ambiguous": 1, "commit ok": 1})

		st.before = failing("replace", fmt.Errorf("store: %w", store.ErrRejected))
		b.do(m, ten)
		counted.want(t, "a store that is full", tally{
			"call get ok": 3, "call replace rejected": 3, "retry replace rejected": 2, "commit unavailable": 1, "unavailable unavailable": 1,
		})

		once("create", fmt.Errorf("store: %w", io.ErrUnexpectedEOF))
		newBrowser(t).do(m, ten)
		counted.want(t, "a first value that is lost on its way", tally{
			"call create error": 1, "call get not_found": 1, "retry create error": 1, "call create ok": 1, "commit ok": 1,
		})

		first := true
		st.before = func(op string, _ store.Key) error {
			if op == "create" && first {
				return fmt.Errorf("store: %w", io.ErrUnexpectedEOF)
			}
			if op == "get" && first {
				first = false
				return fmt.Errorf("store: %w", context.DeadlineExceeded)
			}
			return nil
		}
		newBrowser(t).do(m, ten)
		counted.want(t, "and one after which the store is silent for a moment", tally{
			"call create error": 1, "call get timeout": 1, "retry get timeout": 1, "call get not_found": 1,
			"retry create error": 1, "call create ok": 1, "commit ok": 1,
		})

		st.before = nil
		phone := newBrowser(t)
		phone.signIn(m, "alice")
		counted.step()
		phone.do(m, func(s *session.Session) {
			once("get", fmt.Errorf("store: %w", io.ErrUnexpectedEOF))
			check(t, s.Destroy(t.Context()))
		})
		counted.want(t, "a logout whose first look fails", tally{
			"call get ok": 2, "call get error": 1, "retry get error": 1, "call replace ok": 1, "call delete ok": 1, "destroy ok": 1,
		})

		phone.signIn(m, "bob")
		counted.step()
		once("delete owner", fmt.Errorf("store: %w", io.ErrUnexpectedEOF))
		if n := must(m.RevokeAll(t.Context(), "bob"))(t); n != 1 {
			t.Errorf("%d sessions revoked", n)
		}
		counted.want(t, "a revocation whose first pass fails", tally{
			"call delete_owner error": 1, "retry delete_owner error": 1, "call delete_owner ok": 3, "revoke ok": 1,
		})

		b.do(m, func(s *session.Session) {
			for _, r := range st.live(t) {
				_ = must(st.Store.Delete(t.Context(), r.Key))(t)
			}
			ten(s)
		})
		counted.want(t, "a session that ends meanwhile", tally{"call get ok": 1, "call replace not_found": 1, "commit ended": 1})

		st.before = nil
		newBrowser(t).do(m, func(s *session.Session) { check(t, name.Set(s, strings.Repeat("x", 70_000))) })
		counted.want(t, "a session that is too large", tally{"commit too_large": 1})
	})
}

// A session is large when it is stored, once, however often that was tried.
func TestEventsOfLargeSessions(t *testing.T) {
	st := newCalls()
	counted := tally{}
	m := newManager(t, st, &session.Options{Observer: counted.observe, CommitTimeout: 20 * time.Millisecond})
	b := newBrowser(t)
	b.signIn(m, "alice")
	counted.step()
	b.do(m, func(s *session.Session) {
		check(t, name.Set(s, strings.Repeat("x", 5000)))
		b.same().do(m, func(s *session.Session) { check(t, count.Set(s, 1)) })
	})
	if got := counted.step(); got["conflict"] != 1 || got["large ok"] != 1 {
		t.Errorf("a large value in a race is counted as %v; want it large once", got)
	}
	b.do(m, func(s *session.Session) { check(t, s.Renew(t.Context())) })
	if got := counted.step(); got["large ok"] != 1 {
		t.Errorf("the renewal of a large session is counted as %v", got)
	}
	st.before = failing("replace", errLost)
	b.do(m, func(s *session.Session) { check(t, name.Set(s, strings.Repeat("y", 5000))) })
	if got := counted.step(); got["large ok"] != 0 || got["commit unavailable"] != 1 {
		t.Errorf("a large value that is not stored is counted as %v", got)
	}
}

// A logout during an outage is one that failed.
func TestEventsOfALogoutInAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newCalls()
		counted := tally{}
		m := newManager(t, st, &session.Options{Observer: counted.observe, Logout: func(*http.Request) bool { return true }})
		b := newBrowser(t)
		b.signIn(m, "alice")
		counted.step()
		st.before = failing("get", fmt.Errorf("store: %w", io.ErrUnexpectedEOF))
		b.do(m, func(*session.Session) {}) // answered without the handler
		if got := counted.step(); got["destroy unavailable"] != 1 || got["unavailable unavailable"] != 1 {
			t.Errorf("a logout in an outage is counted as %v; want a destroy with the outcome unavailable", got)
		}

		st.before = nil
		b.signIn(m, "alice")
		b.do(m, func(s *session.Session) {
			st.before = failing("get", fmt.Errorf("store: %w", io.ErrUnexpectedEOF))
			_ = s.Destroy(t.Context())
		})
		if got := counted.step(); got["destroy unavailable"] != 1 {
			t.Errorf("a logout by the handler in an outage is counted as %v; want a destroy with the outcome unavailable", got)
		}
	})
}

// A revocation that fails has ended nothing that is certain.
func TestEventsOfARevocationThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newCalls()
		ended := 0
		var last session.Event
		m := newManager(t, st, &session.Options{Observer: func(_ context.Context, e session.Event) {
			if e.Kind == session.EventRevoke {
				ended, last = ended+e.N, e
			}
		}})
		b := newBrowser(t)
		b.signIn(m, "alice")
		var h session.Handle
		b.do(m, func(s *session.Session) { h = s.Handle() })
		st.before = failing("get", fmt.Errorf("store: %w", io.ErrUnexpectedEOF))
		if found, err := m.Revoke(t.Context(), "alice", h); !found || !errors.Is(err, session.ErrUnavailable) {
			t.Fatalf("a revocation in an outage: %v, %v", found, err)
		}
		if ended != 0 || last.Outcome() != "unavailable" {
			t.Errorf("a revocation in an outage is counted as %d sessions, %s; want none, unavailable", ended, last.Outcome())
		}
		st.before = nil
		if found, err := m.Revoke(t.Context(), "alice", h); !found || err != nil {
			t.Fatalf("the next one: %v, %v", found, err)
		}
		if ended != 1 || last.Outcome() != "ok" {
			t.Errorf("the next one is counted as %d sessions, %s; want one, ok", ended, last.Outcome())
		}
	})
}

// Whoever is told of a call finds the session loaded, and may go on to ask the store.
func TestObserversMayUseWhatTheyAreTold(t *testing.T) {
	st := newCalls()
	var m *session.Manager
	calls, lists := 0, 0
	m = newManager(t, st, &session.Options{Observer: func(ctx context.Context, e session.Event) {
		s, ok := m.Lookup(ctx)
		switch {
		case e.Kind == session.EventCall && e.Op == "get" && ok:
			calls++
			if n := must(count.Get(s))(t); n != 7 {
				t.Errorf("the observer of a load sees %d, want 7", n)
			}
		case e.Kind == session.EventCall && e.Op == "list_owner":
			lists++
		case e.Kind == session.EventCommit:
			_ = must(m.Sessions(ctx, "alice"))(t)
		}
	}})
	b := newBrowser(t)
	b.do(m, func(s *session.Session) { check(t, count.Set(s, 7)) })
	b.do(m, func(s *session.Session) { check(t, name.Set(s, "x")) })
	if calls != 1 || lists != 2 {
		t.Errorf("%d loads and %d lists of devices were observed, want 1 and 2", calls, lists)
	}
}

// Events that measure say how long it took and how large it was.
func TestEventsMeasure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newCalls()
		took := map[string]time.Duration{}
		sizes := map[string]int{}
		m := newManager(t, st, &session.Options{Observer: func(_ context.Context, e session.Event) {
			took[string(e.Kind)+" "+e.Op] = e.Duration
			sizes[e.Op] = e.Size
		}})
		st.before = func(op string, _ store.Key) error {
			time.Sleep(map[string]time.Duration{"get": time.Second, "create": 10 * time.Millisecond, "retire": time.Millisecond}[op])
			return nil
		}
		b := newBrowser(t)
		b.do(m, func(s *session.Session) { check(t, name.Set(s, strings.Repeat("x", 1000))) })
		if got := took["commit "]; got != 10*time.Millisecond {
			t.Errorf("a commit took %v, want the 10ms of its create", got)
		}
		b.signIn(m, "alice")
		for k, want := range map[string]time.Duration{"call get": time.Second, "call create": 10 * time.Millisecond, "sign_in ": 11 * time.Millisecond} {
			if took[k] != want {
				t.Errorf("%s took %v, want %v", k, took[k], want)
			}
		}
		stored := len(st.live(t)[0].Data)
		if stored < 1000 || sizes["create"] != stored || sizes["get"] < 1000 {
			t.Errorf("sizes %v; want those of the sealed values, %d", sizes, stored)
		}
	})
}

// A copy and the store itself are told apart.
func TestEventsTellCopiesFromTheStore(t *testing.T) {
	counted := tally{}
	_, _, servers := near(t, &session.Options{Observer: counted.observe})
	b := newBrowser(t)
	b.signIn(servers[0], "alice")
	counted.step()
	b.do(servers[0], func(s *session.Session) { check(t, s.Refresh(t.Context())) })
	counted.want(t, "a refresh", tally{"call get ok": 1, "call get_fresh ok": 1, "touch_saved": 1})
}

// Run counts what it sweeps, and each call that it takes.
func TestEventsOfRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		counted := tally{}
		m := newManager(t, memstore.New(), &session.Options{Policy: session.Policy{Idle: time.Second}, Observer: counted.observe})
		for range 3 {
			newBrowser(t).do(m, func(s *session.Session) { check(t, count.Set(s, 1)) })
		}
		counted.step()
		time.Sleep(time.Minute)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_ = m.Run(ctx)
		counted.want(t, "a sweep of three", tally{"call sweep ok": 1, "swept ok": 3})
	})
}

// Whatever an error may be, its outcome is one of a few words and nothing of its text.
func TestOutcomeIsOneWord(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
	}{
		{nil, "ok"},
		{errors.New("dial tcp 10.0.0.1: alice"), "error"},
		{store.ErrInvalid, "error"},
		{store.ErrUnapplied, "error"},
		{store.ErrNotFound, "not_found"},
		{store.ErrConflict, "conflict"},
		{session.ErrConflict, "conflict"},
		{store.ErrTooLarge, "too_large"},
		{store.ErrCorrupt, "corrupt"},
		{store.ErrNotAsked, "not_asked"},
		{store.ErrRejected, "rejected"},
		{store.ErrAmbiguous, "ambiguous"},
		{store.ErrUnconfirmed, "ambiguous"},
		{fmt.Errorf("%w: %w", store.ErrAmbiguous, context.DeadlineExceeded), "timeout"},
		{context.Canceled, "canceled"},
		{&session.EndedError{Reason: session.ReasonLogout}, "ended"},
		{session.ErrRefused, "refused"},
		{session.ErrHeadersSent, "error"},
		{fmt.Errorf("%w: %w: %w", session.ErrUnavailable, session.ErrAmbiguous, context.DeadlineExceeded), "unavailable"},
		{fmt.Errorf("%w: %w", session.ErrUnavailable, store.ErrNotAsked), "unavailable"},
	} {
		if got := (session.Event{Err: fmt.Errorf("wrapped: %w", tt.err)}).Outcome(); tt.err != nil && got != tt.want {
			t.Errorf("the outcome of %v is %q, want %q", tt.err, got, tt.want)
		}
		if got := (session.Event{Err: tt.err}).Outcome(); got != tt.want {
			t.Errorf("the outcome of %v is %q, want %q", tt.err, got, tt.want)
		}
	}
}
