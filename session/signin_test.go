package session_test

import (
	"context"
	"errors"
	"math"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/store"
)

// Who signs in over somebody else's session takes nothing of it, so nothing
// that happens to it can make the sign-in fail.
func TestSignInOverAnotherOwner(t *testing.T) {
	for meanwhile, do := range map[string]func(t *testing.T, m *session.Manager, b *browser){
		"nothing": func(*testing.T, *session.Manager, *browser) {},
		"a change": func(t *testing.T, m *session.Manager, b *browser) {
			b.do(m, func(s *session.Session) { check(t, count.Update(s, add(1))) })
		},
		"revocation": func(t *testing.T, m *session.Manager, _ *browser) { _ = must(m.RevokeAll(t.Context(), "alice"))(t) },
		"renewal": func(t *testing.T, m *session.Manager, b *browser) {
			b.do(m, func(s *session.Session) { check(t, s.Renew(t.Context())) })
		},
		"logout": func(t *testing.T, m *session.Manager, b *browser) {
			b.do(m, func(s *session.Session) { check(t, s.Destroy(t.Context())) })
		},
		"expiry":      func(*testing.T, *session.Manager, *browser) { time.Sleep(1500 * time.Millisecond) },
		"her sign-in": func(_ *testing.T, m *session.Manager, b *browser) { b.signIn(m, "alice") },
	} {
		for _, step := range []string{"before", "create", "retire"} {
			t.Run(meanwhile+" at "+step, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					st := newCalls()
					m := newManager(t, st, nil)
					b := newBrowser(t)
					b.signIn(m, "alice")
					time.Sleep(time.Hour - time.Second)
					b.do(m, func(s *session.Session) {
						runs := 0
						check(t, count.Update(s, func(n int) (int, error) {
							if runs++; runs > 1 {
								return 0, errors.New("no stock")
							}
							return n + 1, nil
						}))
						happen := func() { do(t, m, b.same()) }
						if step == "before" {
							happen()
						} else {
							st.on(step, happen)
						}
						if err := s.SignIn(t.Context(), "bob", nil); err != nil {
							t.Errorf("SignIn gave %v", err)
						}
					})
					if owner, n := b.look(m); owner != "bob" || n != 0 {
						t.Errorf("the browser is signed in as %q with %d; want bob with nothing of alice's", owner, n)
					}
				})
			})
		}
	}
}

// Two people who sign in at once from one anonymous session, as with a planted
// cookie: the second gets nothing that was loaded, for it may be the first one's
// by now, but keeps what its own request did.
func TestParallelSignInsOfTwoUsers(t *testing.T) {
	st := newCalls()
	m, other := newManager(t, st, nil), newManager(t, st, nil)
	first := newBrowser(t)
	first.do(m, func(s *session.Session) { check(t, count.Set(s, 5)) })
	second := first.same()
	st.on("retire", func() { first.signIn(other, "bob") })
	second.do(m, func(s *session.Session) {
		check(t, name.Set(s, "mine"))
		check(t, s.SignIn(t.Context(), "alice", nil))
	})
	if owner, n := first.look(m); owner != "bob" || n != 5 {
		t.Errorf("the first is %q with %d, want bob with 5", owner, n)
	}
	second.do(m, func(s *session.Session) {
		if n, v := must(count.Get(s))(t), must(name.Get(s))(t); s.Owner() != "alice" || n != 0 || v != "mine" {
			t.Errorf("the second is %q with %d and %q; want alice with 0 of bob's and her own change", s.Owner(), n, v)
		}
	})
	if bob, alice := len(must(m.Sessions(t.Context(), "bob"))(t)), len(must(m.Sessions(t.Context(), "alice"))(t)); bob != 1 || alice != 1 || len(st.live(t)) != 2 {
		t.Errorf("bob has %d sessions, alice %d, %d live; want one each", bob, alice, len(st.live(t)))
	}
}

// A sign-in whose session is rebuilt, because the old one changed meanwhile,
// dates from when it began, and so does what this request is told of it.
func TestRebuiltSignInKeepsItsDates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newCalls()
		m, other := newManager(t, st, nil), newManager(t, st, nil)
		b := newBrowser(t)
		b.do(m, func(s *session.Session) { check(t, count.Set(s, 1)) })
		time.Sleep(time.Minute)
		at := time.Now()
		st.on("retire", func() {
			time.Sleep(time.Second)
			b.same().do(other, func(s *session.Session) { check(t, count.Update(s, add(1))) })
		})
		b.do(m, func(s *session.Session) {
			check(t, s.SignIn(t.Context(), "alice", nil))
			if !s.Deadline().Equal(at.Add(24 * time.Hour)) {
				t.Errorf("the deadline is %v after the sign-in began, want 24h", s.Deadline().Sub(at))
			}
			check(t, count.Update(s, add(1))) // under the dates that were stored
		})
		if time.Since(at) != time.Second {
			t.Error("nothing happened during the sign-in: the test has lost its reach")
		}
		if owner, n := b.look(m); owner != "alice" || n != 3 {
			t.Errorf("the session is %q's with %d, want alice's with 3: its dates do not fit its seal", owner, n)
		}
		if infos := must(m.Sessions(t.Context(), "alice"))(t); len(infos) != 1 || !infos[0].Created.Equal(at) || !infos[0].Deadline.Equal(at.Add(24*time.Hour)) {
			t.Errorf("the list is %+v, want one from %v for 24h", infos, at)
		}
	})
}

// A sign-in in an outage signs nobody in.
func TestSignInInOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newCalls()
		m := newManager(t, st, nil)
		b := newBrowser(t)
		b.do(m, func(s *session.Session) { check(t, count.Set(s, 1)) })
		b.do(m, func(s *session.Session) {
			st.before = failing("retire", errLost)
			if err := s.SignIn(t.Context(), "alice", nil); !errors.Is(err, session.ErrUnavailable) {
				t.Errorf("SignIn gave %v, want ErrUnavailable", err)
			}
			st.before = nil
		})
		if owner, n := b.look(m); owner != "" || n != 1 {
			t.Errorf("after the failed sign-in the session is %q's with %d, want nobody's with 1", owner, n)
		}
		if infos := must(m.Sessions(t.Context(), "alice"))(t); len(infos) != 0 {
			t.Errorf("alice has %d sessions that nobody holds", len(infos))
		}
	})
}

// An outage in the middle of a change of ID does not sign the user out: the new
// ID is handed out, since the old one may be dead.
func TestChangeOfIDInOutage(t *testing.T) {
	for what, do := range map[string]func(t *testing.T, s *session.Session) error{
		"Renew":  func(t *testing.T, s *session.Session) error { return s.Renew(t.Context()) },
		"SignIn": func(t *testing.T, s *session.Session) error { return s.SignIn(t.Context(), "alice", nil) },
	} {
		for _, applied := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				st := newCalls()
				m := newManager(t, st, nil)
				b := newBrowser(t)
				b.signIn(m, "alice")
				b.do(m, func(s *session.Session) {
					check(t, count.Set(s, 7))
					down := false
					st.before = func(op string, _ store.Key) error {
						down = down || op == "retire" && !applied
						if down && op != "delete" { // what cleans up may work
							return errLost
						}
						return nil
					}
					st.after = func(op string, _ store.Key) error {
						down = down || op == "retire"
						return st.before(op, store.Key{})
					}
					if err := do(t, s); !errors.Is(err, session.ErrUnavailable) || !errors.Is(err, session.ErrAmbiguous) {
						t.Errorf("%s gave %v, want ErrUnavailable and ErrAmbiguous", what, err)
					}
					if err := count.Set(s, 8); !errors.Is(err, session.ErrUnavailable) {
						t.Errorf("a change on top of an open outcome gave %v", err)
					}
					st.before, st.after = nil, nil
				})
				if owner, n := b.look(m); owner != "alice" || n != 7 {
					t.Errorf("%s, old ID dead: %t: after the outage the user is %q with %d, want alice with 7", what, applied, owner, n)
				}
			})
		}
	}
}

// When the outcome of a commit is open, the session changes no ID either: the
// new one would be built on values that may not be stored.
func TestNoChangeOfIDOnOpenOutcome(t *testing.T) {
	for what, do := range map[string]func(t *testing.T, s *session.Session) error{
		"Renew":          func(t *testing.T, s *session.Session) error { return s.Renew(t.Context()) },
		"SignIn":         func(t *testing.T, s *session.Session) error { return s.SignIn(t.Context(), "alice", nil) },
		"another SignIn": func(t *testing.T, s *session.Session) error { return s.SignIn(t.Context(), "bob", nil) },
	} {
		synctest.Test(t, func(t *testing.T) {
			st := newCalls()
			m := newManager(t, st, nil)
			b := newBrowser(t)
			b.signIn(m, "alice")
			id := b.id()
			b.do(m, func(s *session.Session) {
				check(t, count.Set(s, 1))
				st.before = failing("replace", errLost)
				if err := s.Commit(t.Context()); !errors.Is(err, session.ErrAmbiguous) {
					t.Errorf("Commit gave %v, want ErrAmbiguous", err)
				}
				st.before = nil
				creates := st.count("create")
				if err := do(t, s); !errors.Is(err, session.ErrAmbiguous) || st.count("create") != creates {
					t.Errorf("%s on an open outcome gave %v and created %d records; want ErrAmbiguous and none", what, err, st.count("create")-creates)
				}
			})
			if owner, _ := b.look(m); owner != "alice" || b.id() != id {
				t.Errorf("after %s the session is %q's, its ID the same: %t", what, owner, b.id() == id)
			}
		})
	}
}

// A session that could not be begun anew has no ID, and none is sent.
func TestNoCookieWithoutSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newCalls()
		m := newManager(t, st, nil)
		b := newBrowser(t)
		resp := b.do(m, func(s *session.Session) {
			check(t, s.SignIn(t.Context(), "alice", nil)) // a cookie to be sent
			_ = must(m.RevokeAll(t.Context(), "alice"))(t)
			check(t, count.Set(s, 1))
			if err := s.Commit(t.Context()); !errors.Is(err, session.ErrEnded) {
				t.Errorf("Commit gave %v, want ErrEnded", err)
			}
			st.before = failing("create", errLost)
			if err := s.SignIn(t.Context(), "alice", nil); !errors.Is(err, session.ErrUnavailable) {
				t.Errorf("SignIn gave %v, want ErrUnavailable", err)
			}
			st.before = nil
		})
		if set := resp.Header["Set-Cookie"]; set != nil {
			t.Errorf("there is no session, yet the browser is sent %q", set)
		}
	})
}

// However long ago is recent enough, somebody must have signed in.
func TestRequireRecentSignInOfAnybody(t *testing.T) {
	m := newManager(t, newCalls(), nil)
	b := newBrowser(t)
	guarded := m.RequireRecentSignIn(math.MaxInt64, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNoContent)
	}), nil)
	if got := b.serve(m, guarded.ServeHTTP).StatusCode; got != http.StatusForbidden {
		t.Errorf("an anonymous visitor got %d", got)
	}
	b.signIn(m, "alice")
	if got := b.serve(m, guarded.ServeHTTP).StatusCode; got != http.StatusNoContent {
		t.Errorf("alice got %d", got)
	}
}

// lateCreate loses the first Create on the way, and can deliver it later.
type lateCreate struct {
	*calls
	deliver func() error
}

func (l *lateCreate) Create(ctx context.Context, k store.Key, r store.Record) error {
	if l.deliver == nil {
		l.deliver = func() error { return l.Store.Create(context.Background(), k, r) }
		return errLost
	}
	return l.calls.Create(ctx, k, r)
}

// TestLateCreateRevivesNothing: a sign-in whose first attempt is held up somewhere, and
// arrives when the session has ended, does not bring it back.
func TestLateCreateRevivesNothing(t *testing.T) {
	ends := map[string]func(t *testing.T, b *browser, m *session.Manager){
		"logout": func(t *testing.T, b *browser, m *session.Manager) {
			b.same().do(m, func(s *session.Session) { check(t, s.Destroy(t.Context())) })
		},
		"revoke all": func(t *testing.T, _ *browser, m *session.Manager) {
			if n := must(m.RevokeAll(t.Context(), "alice"))(t); n != 1 {
				t.Errorf("RevokeAll ended %d sessions; want 1", n)
			}
		},
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				st := &lateCreate{calls: newCalls()}
				m, other := newManager(t, st, nil), newManager(t, st, nil)
				b := newBrowser(t)
				b.signIn(m, "alice")
				if owner, _ := b.look(other); owner != "alice" {
					t.Fatalf("%q is signed in; want alice, by the second attempt", owner)
				}
				end(t, b, other)
				check(t, st.deliver())
				for _, server := range []*session.Manager{m, other} {
					if owner, _ := b.same().look(server); owner != "" {
						t.Errorf("%s is signed in again by a write that came late", owner)
					}
				}
			})
		})
	}
}
