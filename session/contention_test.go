package session_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/store"
)

// slowWrites gives st writes that take a millisecond, as of a server nearby.
func (c *calls) slowWrites() {
	c.before = func(op string, _ store.Key) error {
		if op != "get" {
			time.Sleep(time.Millisecond)
		}
		return nil
	}
}

// Requests of one process that write one session stand in line: each writes
// once, on what the one before it left, and reads nothing more.
func TestWritersStandInLine(t *testing.T) {
	const writers = 50
	synctest.Test(t, func(t *testing.T) {
		st := newCalls()
		m := newManager(t, st, nil)
		b := newBrowser(t)
		b.signIn(m, "alice")
		st.slowWrites()
		gets := st.count("get")
		var all, loaded sync.WaitGroup
		loaded.Add(writers)
		for range writers {
			all.Go(func() {
				b.same().do(m, func(s *session.Session) {
					loaded.Done()
					loaded.Wait()
					check(t, count.Update(s, add(1)))
				})
			})
		}
		all.Wait()
		writes, reads := st.count("replace"), st.count("get")-gets
		if writes != writers || reads != writers {
			t.Errorf("%d writers wrote %d times and read %d times; want one of each", writers, writes, reads)
		}
		if _, n := b.look(m); n != writers {
			t.Errorf("the count is %d, want %d", n, writers)
		}
	})
}

// A renewal that lost a race stands in line with the writers of its process, or
// they would win again and again.
func TestRenewalStandsInLine(t *testing.T) {
	const writers = 50
	synctest.Test(t, func(t *testing.T) {
		st := newCalls()
		m := newManager(t, st, nil)
		b := newBrowser(t)
		b.signIn(m, "alice")
		st.slowWrites()
		var all, loaded sync.WaitGroup
		loaded.Add(writers + 1)
		for range writers {
			all.Go(func() {
				b.same().do(m, func(s *session.Session) {
					loaded.Done()
					loaded.Wait()
					check(t, count.Update(s, add(1)))
				})
			})
		}
		all.Go(func() {
			b.do(m, func(s *session.Session) {
				loaded.Done()
				loaded.Wait()
				check(t, count.Update(s, add(1)))
				check(t, s.Renew(t.Context()))
			})
		})
		all.Wait()
		if tries := st.count("retire"); tries < 2 || tries > 3 {
			t.Errorf("the renewal tried %d times; want 3 at most: before the line, and in its turn on what it waited for", tries)
		}
		if owner, n := b.look(m); owner != "alice" || n != writers+1 {
			t.Errorf("the session is %q's with %d, want alice's with %d", owner, n, writers+1)
		}
	})
}

// Who has its turn in the line does not stand in it again to record activity.
func TestTouchAfterEqualSetDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newCalls()
		long := newManager(t, st, nil)
		m := newManager(t, st, &session.Options{Policy: session.Policy{Idle: 30 * time.Minute}})
		b := newBrowser(t)
		b.do(long, func(s *session.Session) { check(t, name.Set(s, "light")) })
		b.do(m, func(s *session.Session) {
			check(t, name.Set(s, "light")) // no change, but the policy is to be written down
			writes, start := st.count("replace"), time.Now()
			check(t, s.Commit(t.Context()))
			if st.count("replace") != writes+1 {
				t.Error("the policy was not written down: the test has lost its reach")
			}
			if d := time.Since(start); d > 0 {
				t.Errorf("Commit waited %v for its own turn", d)
			}
		})
	})
}

// That the activity of a request could not be recorded does not stop what the
// request does afterwards.
func TestFailedTouchUndoesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newCalls()
		failed := 0
		old := newManager(t, st, nil)
		m := newManager(t, st, &session.Options{
			Policy: session.Policy{Idle: 30 * time.Minute},
			Observer: func(_ context.Context, e session.Event) {
				if e.Kind == session.EventTouchFailed {
					failed++
				}
			},
		})
		b := newBrowser(t)
		b.signIn(old, "alice")
		b.do(m, func(s *session.Session) {
			st.before = failing("replace", errLost) // the shorter policy has to be written down
			check(t, s.Commit(t.Context()))
			st.before = nil
			if failed != 1 {
				t.Errorf("%d touch_failed events, want 1", failed)
			}
			if err := count.Set(s, 1); err != nil {
				t.Errorf("Set gave %v after activity could not be recorded", err)
			}
		})
		if owner, n := b.look(m); owner != "alice" || n != 1 {
			t.Errorf("the session is %q's with %d, want alice's with 1", owner, n)
		}
	})
}

// Servers of two policies do not rewrite a session in turn.
func TestMixedPoliciesWriteSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newCalls()
		servers := []*session.Manager{
			newManager(t, st, nil),
			newManager(t, st, &session.Options{Policy: session.Policy{Idle: 30 * time.Minute}}),
		}
		b := newBrowser(t)
		b.signIn(servers[0], "alice")
		for i := range 20 {
			b.look(servers[i%2])
		}
		if n := st.count("replace") + st.count("touch"); n != 1 {
			t.Errorf("20 reads in an instant wrote %d times; want once, for the shorter policy", n)
		}
		for i := range 180 {
			time.Sleep(20 * time.Second)
			if owner, _ := b.look(servers[i%2]); owner != "alice" {
				t.Fatal("the session ended while it was in use")
			}
		}
		if n := st.count("replace") + st.count("touch"); n > 1+2*20 { // an hour has 20 tenths of the shorter timeout
			t.Errorf("180 reads in an hour wrote %d times; want at most once by each server for each 3 minutes", n)
		}
		time.Sleep(30 * time.Minute)
		if owner, _ := b.look(servers[1]); owner != "" {
			t.Error("the shorter policy is not kept")
		}
	})
}

// Waiting in line is bounded by the commit timeout, and who gives up has done
// nothing to the others.
func TestLineOutlivesImpatientWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newCalls()
		m := newManager(t, st, &session.Options{CommitTimeout: time.Second, StoreTimeout: time.Minute})
		b := newBrowser(t)
		b.signIn(m, "alice")
		hold := make(chan struct{})
		st.before = func(op string, _ store.Key) error {
			if op == "replace" {
				<-hold
			}
			return nil
		}
		var all sync.WaitGroup
		for range 3 {
			all.Go(func() {
				b.same().do(m, func(s *session.Session) {
					check(t, count.Update(s, add(1)))
					if err := s.Commit(t.Context()); !errors.Is(err, session.ErrUnavailable) {
						t.Errorf("Commit against a store that hangs gave %v, want ErrUnavailable", err)
					}
				})
			})
		}
		time.Sleep(10 * time.Second)
		close(hold)
		all.Wait()
		st.before = nil
		start := time.Now()
		b.do(m, func(s *session.Session) { check(t, count.Set(s, 7)) })
		if _, n := b.look(m); n != 7 || time.Since(start) > 0 {
			t.Errorf("the count is %d after %v, want 7 at once", n, time.Since(start))
		}
	})
}
