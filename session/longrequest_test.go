package session_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coatcheck/coatcheck/session"
)

// lateOps are what a request may end with after a long upload or a slow
// password check.
var lateOps = map[string]func(t *testing.T, s *session.Session) error{
	"Commit":           func(t *testing.T, s *session.Session) error { return s.Commit(t.Context()) },
	"Renew":            func(t *testing.T, s *session.Session) error { return s.Renew(t.Context()) },
	"SignIn":           func(t *testing.T, s *session.Session) error { return s.SignIn(t.Context(), "alice", nil) },
	"Commit, unequal":  func(t *testing.T, s *session.Session) error { check(t, count.Set(s, 7)); return s.Commit(t.Context()) },
	"Commit, as it is": func(t *testing.T, s *session.Session) error { check(t, count.Set(s, 1)); return s.Commit(t.Context()) },
}

// A session that times out during a request has ended, and this server, which
// knows the time, says by which timeout.
func TestTimeoutDuringRequest(t *testing.T) {
	for want, policy := range map[session.Reason]session.Policy{
		session.ReasonIdle:     {Idle: time.Hour, Absolute: 24 * time.Hour},
		session.ReasonAbsolute: {Idle: time.Hour, Absolute: time.Hour},
	} {
		for what, op := range lateOps {
			t.Run(string(want)+"/"+what, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					st := newCalls()
					m := newManager(t, st, &session.Options{Policy: policy})
					b := newBrowser(t)
					b.do(m, func(s *session.Session) {
						check(t, count.Set(s, 1))
						check(t, s.SignIn(t.Context(), "alice", nil))
					})
					time.Sleep(time.Hour - time.Minute)
					b.do(m, func(s *session.Session) {
						if s.Owner() != "alice" {
							t.Fatal("the session was not there when the request began")
						}
						if what == "Commit" {
							check(t, count.Update(s, add(1)))
						}
						time.Sleep(2 * time.Minute)
						var ended *session.EndedError
						if err := op(t, s); !errors.As(err, &ended) || ended.Reason != want {
							t.Errorf("%s gave %v, want the reason %q", what, err, want)
						}
					})
					if owner, _ := b.look(m); owner != "" || len(st.live(t)) != 0 {
						t.Errorf("%d sessions live, and the browser is signed in as %q", len(st.live(t)), owner)
					}
				})
			})
		}
	}
}

// A request may take longer than the idle timeout while others keep the session
// alive.
func TestOthersKeepAliveDuringRequest(t *testing.T) {
	for what, op := range lateOps {
		synctest.Test(t, func(t *testing.T) {
			m := newManager(t, newCalls(), nil)
			b := newBrowser(t)
			b.do(m, func(s *session.Session) {
				check(t, count.Set(s, 1))
				check(t, s.SignIn(t.Context(), "alice", nil))
			})
			b.do(m, func(s *session.Session) {
				if what == "Commit" {
					check(t, count.Update(s, add(1)))
				}
				for range 5 {
					time.Sleep(30 * time.Minute)
					if owner, _ := b.same().look(m); owner != "alice" {
						t.Fatal("the other requests do not keep it alive")
					}
				}
				if err := op(t, s); err != nil {
					t.Errorf("%s of a session that others keep alive gave %v", what, err)
				}
			})
			if owner, n := b.look(m); owner != "alice" || n == 0 {
				t.Errorf("after %s the session is %q's with %d", what, owner, n)
			}
		})
	}
}

// A sign-in that takes long does not fail because the anonymous session before
// it timed out meanwhile.
func TestAnonymousSessionExpiresDuringSignIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t, newCalls(), nil)
		b := newBrowser(t)
		b.do(m, func(s *session.Session) { check(t, count.Set(s, 1)) })
		time.Sleep(time.Hour - time.Second)
		b.do(m, func(s *session.Session) {
			if n := must(count.Get(s))(t); n != 1 {
				t.Fatal("the session was not there when the request began")
			}
			time.Sleep(2 * time.Second)
			check(t, s.SignIn(t.Context(), "alice", nil))
		})
		if owner, _ := b.look(m); owner != "alice" {
			t.Errorf("the next request is %q's, want alice's", owner)
		}
	})
}
