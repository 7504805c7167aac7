package session_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/store"
)

// on runs f once, just before the first store call of the kind op.
func (c *calls) on(op string, f func()) {
	c.before = func(o string, _ store.Key) error {
		if o == op {
			c.before = nil // f may call the store too
			f()
		}
		return nil
	}
}

// TestRenewKeepsConcurrentCommit: a change that is committed on the old ID while
// it is being renewed survives, and so does the renewal's own.
func TestRenewKeepsConcurrentCommit(t *testing.T) {
	st := newCalls()
	m, other := newManager(t, st, nil), newManager(t, st, nil)
	b := newBrowser(t)
	b.signIn(m, "alice")
	old := b.same()
	st.on("retire", func() {
		resp := old.same().do(other, func(s *session.Session) { check(t, count.Update(s, add(10))) })
		if resp.StatusCode != http.StatusOK {
			t.Errorf("the commit on the old ID was answered %d", resp.StatusCode)
		}
	})
	b.do(m, func(s *session.Session) {
		check(t, count.Update(s, add(1)))
		check(t, s.Renew(t.Context()))
	})
	if owner, n := b.look(other); owner != "alice" || n != 11 {
		t.Errorf("the new ID leads to %q, count %d; want alice and 11", owner, n)
	}
	if owner, _ := old.look(other); owner != "" {
		t.Error("the old ID is alive")
	}
}

// TestRevocationDuringRenewal: whoever ends the session between the two steps of
// a renewal wins.
func TestRevocationDuringRenewal(t *testing.T) {
	for _, step := range []string{"create", "retire"} {
		for end, do := range map[string]func(t *testing.T, m *session.Manager, b *browser){
			"revoke all": func(t *testing.T, m *session.Manager, _ *browser) { _ = must(m.RevokeAll(t.Context(), "alice"))(t) },
			"revoke": func(t *testing.T, m *session.Manager, _ *browser) {
				_ = must(m.Revoke(t.Context(), "alice", must(m.Sessions(t.Context(), "alice"))(t)[0].Handle))(t)
			},
			"logout": func(t *testing.T, m *session.Manager, b *browser) {
				b.same().do(m, func(s *session.Session) { check(t, s.Destroy(t.Context())) })
			},
		} {
			t.Run(end+" before "+step, func(t *testing.T) {
				st := newCalls()
				m, other := newManager(t, st, nil), newManager(t, st, nil)
				b := newBrowser(t)
				b.signIn(m, "alice")
				old := b.same()
				st.on(step, func() { do(t, other, old) })
				resp := b.do(m, func(s *session.Session) {
					if err := s.Renew(t.Context()); !errors.Is(err, session.ErrEnded) {
						t.Errorf("Renew gave %v, want ErrEnded", err)
					}
				})
				if set := resp.Header["Set-Cookie"]; set != nil {
					t.Errorf("sets %q", set)
				}
				if live := st.live(t); len(live) != 0 {
					t.Errorf("%d sessions survive", len(live))
				}
			})
		}
	}
}

// TestSlowRequestLeavesNewCookie: a request with the old ID that is answered
// after a sign-in must leave the cookie of the sign-in alone.
func TestSlowRequestLeavesNewCookie(t *testing.T) {
	for kind, slow := range map[string]func(s *session.Session){
		"reads":   func(s *session.Session) { _ = must(count.Get(s))(t) },
		"changes": func(s *session.Session) { check(t, count.Update(s, add(1))) },
	} {
		t.Run(kind, func(t *testing.T) {
			st := newCalls()
			m := newManager(t, st, nil)
			b := newBrowser(t)
			b.do(m, func(s *session.Session) { check(t, count.Set(s, 5)) })
			resp := b.send(m, func(_ http.ResponseWriter, r *http.Request) { // loaded before, answered after
				slow(m.From(r.Context()))
				b.signIn(m, "alice")
			})
			id := b.id()
			b.take(resp)
			if b.id() != id {
				t.Error("the slow response replaced the cookie of the sign-in")
			}
			resp = newBrowser(t).with(strings.Repeat("B", 42)+"A").send(m, func(_ http.ResponseWriter, r *http.Request) {
				slow(m.From(r.Context()))
			})
			if kind == "reads" && resp.Header["Set-Cookie"] != nil {
				t.Error("an unknown ID had its cookie cleared")
			}
			if owner, n := b.look(m); owner != "alice" || n != 5 {
				t.Errorf("after it the user is %q with %d", owner, n)
			}
		})
	}
}

func (b *browser) with(id string) *browser {
	b.jar.SetCookies(site, []*http.Cookie{{Name: "__Host-session", Value: id, Path: "/", Secure: true}})
	return b
}

// TestSignIn: who signs in gets a new ID, a new life and their values; another
// person gets none of them.
func TestSignIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newCalls()
		m := newManager(t, st, nil)
		b := newBrowser(t)
		b.do(m, func(s *session.Session) {
			if s.Owner() != "" || s.Handle() != (session.Handle{}) || !s.SignedInAt().IsZero() || !s.Deadline().IsZero() {
				t.Error("a new session has an owner, a handle, a sign-in or a deadline")
			}
			check(t, count.Set(s, 1))
		})
		anonymous := b.same()
		for range 20 {
			time.Sleep(time.Hour - 10*time.Minute)
			b.look(m)
		}
		at := time.Now()
		b.do(m, func(s *session.Session) {
			check(t, count.Update(s, add(1)))
			check(t, s.SignIn(t.Context(), "alice", &session.SignInOptions{Methods: []string{"password", "otp"}, Label: "Firefox"}))
			check(t, count.Update(s, add(1)))
		})
		if b.id() == anonymous.id() {
			t.Error("the ID is the one from before the sign-in")
		}
		if _, n := anonymous.look(m); n != 0 {
			t.Error("the ID from before the sign-in is alive")
		}
		var handle session.Handle
		b.do(m, func(s *session.Session) {
			if n := must(count.Get(s))(t); n != 3 || s.Owner() != "alice" {
				t.Errorf("owner %q, count %d; want alice and 3", s.Owner(), n)
			}
			if !s.SignedInAt().Equal(at) || !s.Deadline().Equal(at.Add(24*time.Hour)) || strings.Join(s.Methods(), "+") != "password+otp" {
				t.Errorf("signed in at %v by %v until %v; the sign-in was at %v", s.SignedInAt(), s.Methods(), s.Deadline(), at)
			}
			handle = s.Handle()
		})
		infos := must(m.Sessions(t.Context(), "alice"))(t)
		if len(infos) != 1 || infos[0].Label != "Firefox" || infos[0].Handle != handle || !infos[0].Created.Equal(at) {
			t.Errorf("the device list is %+v", infos)
		}
		if h, err := session.ParseHandle(handle.String()); err != nil || h != handle {
			t.Errorf("ParseHandle(%q) = %v, %v", handle, h, err)
		}
		time.Sleep(30 * time.Minute)
		b.signIn(m, "alice") // proves it again
		b.do(m, func(s *session.Session) {
			if n := must(count.Get(s))(t); n != 3 || s.Handle() != handle || !s.SignedInAt().Equal(at.Add(30*time.Minute)) {
				t.Errorf("after signing in again: count %d, same handle %v, signed in at %v", n, s.Handle() == handle, s.SignedInAt())
			}
		})
		b.do(m, func(s *session.Session) {
			check(t, name.Set(s, "alice's"))
			check(t, s.SignIn(t.Context(), "bob", nil))
			if n, v := must(count.Get(s))(t), must(name.Get(s))(t); n != 0 || v != "" {
				t.Errorf("bob finds %d and %q of alice", n, v)
			}
		})
		if owner, n := b.look(m); owner != "bob" || n != 0 {
			t.Errorf("bob's session is %q's and counts %d", owner, n)
		}
		if infos := must(m.Sessions(t.Context(), "alice"))(t); len(infos) != 0 {
			t.Errorf("alice has %d sessions left", len(infos))
		}
	})
}

// TestDoubleClickOnSignIn: two sign-ins of one person at once both succeed, with
// a session each.
func TestDoubleClickOnSignIn(t *testing.T) {
	st := newCalls()
	m, other := newManager(t, st, nil), newManager(t, st, nil)
	b := newBrowser(t)
	b.do(m, func(s *session.Session) { check(t, count.Set(s, 1)) })
	second := b.same()
	st.on("retire", func() { second.signIn(other, "alice") })
	b.signIn(m, "alice")
	for _, click := range []*browser{b, second} {
		if owner, n := click.look(m); owner != "alice" || n != 1 {
			t.Errorf("a click ended as %q with count %d", owner, n)
		}
	}
	infos := must(m.Sessions(t.Context(), "alice"))(t)
	if len(infos) != 2 || infos[0].Handle == infos[1].Handle || len(st.live(t)) != 2 {
		t.Errorf("there are %d sessions and %d records; want two with handles of their own", len(infos), len(st.live(t)))
	}
}

// TestSignInAfterEnd: a sign-in does not fail because the anonymous session
// before it ended, but revives nothing of it.
func TestSignInAfterEnd(t *testing.T) {
	for step, hook := range map[string]bool{"in the middle": true, "before": false} {
		t.Run(step, func(t *testing.T) {
			st := newCalls()
			m := newManager(t, st, nil)
			b := newBrowser(t)
			b.do(m, func(s *session.Session) { check(t, count.Set(s, 5)) })
			destroy := func() { b.same().do(m, func(s *session.Session) { check(t, s.Destroy(t.Context())) }) }
			b.do(m, func(s *session.Session) {
				check(t, name.Set(s, "mine"))
				if hook {
					st.on("retire", destroy)
				} else {
					destroy()
					if err := s.Commit(t.Context()); !errors.Is(err, session.ErrEnded) {
						t.Errorf("Commit gave %v, want ErrEnded", err)
					}
				}
				check(t, s.SignIn(t.Context(), "alice", nil))
			})
			if owner, n := b.look(m); owner != "alice" || n != 0 {
				t.Errorf("signed in as %q with count %d; want alice with nothing of the ended session", owner, n)
			}
		})
	}
}

// TestSignInRevoked: signing in again does not save a session that is being
// revoked.
func TestSignInRevoked(t *testing.T) {
	st := newCalls()
	m := newManager(t, st, nil)
	b := newBrowser(t)
	b.signIn(m, "alice")
	st.on("retire", func() { _ = must(m.RevokeAll(t.Context(), "alice"))(t) })
	b.do(m, func(s *session.Session) {
		var ended *session.EndedError
		if err := s.SignIn(t.Context(), "alice", nil); !errors.As(err, &ended) {
			t.Errorf("SignIn gave %v, want ErrEnded", err)
		}
	})
	if n := len(st.live(t)); n != 0 {
		t.Errorf("%d sessions survive the revocation", n)
	}
}

// TestEndReasons: the reason is exact where something knows it.
func TestEndReasons(t *testing.T) {
	for want, end := range map[session.Reason]func(st *calls, b *browser, m *session.Manager){
		session.ReasonRenewed: func(_ *calls, b *browser, m *session.Manager) {
			b.same().do(m, func(s *session.Session) { check(t, s.Renew(t.Context())) })
		},
		session.ReasonLogout: func(st *calls, b *browser, m *session.Manager) {
			st.before = func(op string, _ store.Key) error { // the marker stays if it cannot be removed
				if op == "delete" {
					return errLost
				}
				return nil
			}
			b.same().do(m, func(s *session.Session) { check(t, s.Destroy(t.Context())) })
		},
		session.ReasonUnknown: func(st *calls, b *browser, m *session.Manager) {
			_ = must(m.RevokeAll(t.Context(), "alice"))(t)
		},
	} {
		st := newCalls()
		m := newManager(t, st, nil)
		b := newBrowser(t)
		b.signIn(m, "alice")
		b.do(m, func(s *session.Session) {
			check(t, count.Set(s, 1))
			end(st, b, m)
			var ended *session.EndedError
			if err := s.Commit(t.Context()); !errors.As(err, &ended) || ended.Reason != want {
				t.Errorf("got %v, want the reason %q", err, want)
			}
		})
	}
}

// TestSignInErrors: what cannot be a sign-in says why and changes nothing.
func TestSignInErrors(t *testing.T) {
	m := newManager(t, newCalls(), nil)
	b := newBrowser(t)
	b.signIn(m, "alice")
	id := b.id()
	for what, signIn := range map[string]func(s *session.Session) error{
		"no owner":   func(s *session.Session) error { return s.SignIn(t.Context(), "", nil) },
		"long owner": func(s *session.Session) error { return s.SignIn(t.Context(), strings.Repeat("x", 256), nil) },
		"long label": func(s *session.Session) error {
			return s.SignIn(t.Context(), "bob", &session.SignInOptions{Label: strings.Repeat("x", 1025)})
		},
	} {
		b.do(m, func(s *session.Session) {
			if err := signIn(s); err == nil || strings.Contains(err.Error(), "xxx") {
				t.Errorf("%s: %v; want an error that does not repeat the owner", what, err)
			}
		})
	}
	b.serve(m, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		if err := m.From(r.Context()).SignIn(r.Context(), "bob", nil); !errors.Is(err, session.ErrHeadersSent) {
			t.Errorf("after the header: %v, want ErrHeadersSent", err)
		}
	})
	if owner, _ := b.look(m); owner != "alice" || b.id() != id {
		t.Error("a refused sign-in changed the session")
	}
}

// TestDestroyBeginsAnew: what is set after a logout, such as a farewell, belongs
// to a new session.
func TestDestroyBeginsAnew(t *testing.T) {
	m := newManager(t, newCalls(), nil)
	b := newBrowser(t)
	b.signIn(m, "alice")
	old := b.same()
	resp := b.do(m, func(s *session.Session) {
		check(t, count.Set(s, 1))
		check(t, s.Destroy(t.Context()))
		if n := must(count.Get(s))(t); n != 0 || s.Owner() != "" {
			t.Errorf("after Destroy the session has owner %q, count %d", s.Owner(), n)
		}
		check(t, notice.Add(s, "goodbye"))
	})
	if n := len(resp.Header["Set-Cookie"]); n != 1 {
		t.Errorf("%d cookies, want the new one alone", n)
	}
	b.do(m, func(s *session.Session) {
		if got := must(notice.Pop(s))(t); len(got) != 1 || s.Owner() != "" {
			t.Errorf("owner %q, notices %q", s.Owner(), got)
		}
	})
	if owner, _ := old.look(m); owner != "" {
		t.Error("the old ID is alive")
	}
}

// TestShorterPolicy: a policy that is made shorter ends sessions that it would
// not have let live so long, and keeps the others.
func TestShorterPolicy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newCalls()
		long := newManager(t, st, &session.Options{Policy: session.Policy{Idle: 10 * time.Hour, Absolute: 100 * time.Hour}})
		idle := newManager(t, st, &session.Options{Policy: session.Policy{Idle: time.Hour, Absolute: 100 * time.Hour}})
		absolute := newManager(t, st, &session.Options{Policy: session.Policy{Idle: 10 * time.Hour, Absolute: 10 * time.Hour}})
		fresh, stale, old := newBrowser(t), newBrowser(t), newBrowser(t)
		for _, b := range []*browser{fresh, stale, old} {
			b.signIn(long, "alice")
		}
		time.Sleep(9 * time.Hour)
		fresh.look(long)
		old.look(long)
		time.Sleep(30 * time.Minute)
		if owner, _ := stale.same().look(idle); owner != "" {
			t.Error("a session idle for 9.5 h lives under an idle timeout of 1 h")
		}
		if owner, _ := fresh.look(idle); owner != "alice" {
			t.Error("a session idle for half an hour was ended by an idle timeout of 1 h")
		}
		time.Sleep(59 * time.Minute)
		if owner, _ := fresh.look(idle); owner != "alice" {
			t.Error("a session in use was ended after the policy was shortened")
		}
		time.Sleep(61 * time.Minute)
		if owner, _ := fresh.look(long); owner != "" {
			t.Error("the new idle timeout was not written down: a server with the old one still accepts the session")
		}
		if owner, _ := old.same().look(long); owner != "alice" {
			t.Fatal("the session is not there to be ended")
		}
		if owner, _ := old.same().look(absolute); owner != "" {
			t.Error("a session of 11 h lives under an absolute timeout of 10 h")
		}
	})
}

// TestRequireRecentSignIn: the guard lets in who has just proved who they are.
func TestRequireRecentSignIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t, newCalls(), nil)
		b := newBrowser(t)
		guarded := m.RequireRecentSignIn(5*time.Minute, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusNoContent)
		}), nil)
		visit := func() int { return b.serve(m, guarded.ServeHTTP).StatusCode }
		if got := visit(); got != http.StatusForbidden {
			t.Errorf("an anonymous visitor got %d", got)
		}
		b.signIn(m, "alice")
		if got := visit(); got != http.StatusNoContent {
			t.Errorf("who has just signed in got %d", got)
		}
		time.Sleep(5*time.Minute + time.Millisecond)
		if got := visit(); got != http.StatusForbidden {
			t.Errorf("who signed in 5 minutes ago got %d", got)
		}
	})
}

// TestSeveralManagers: two managers with cookies of their own live in one app.
func TestSeveralManagers(t *testing.T) {
	st := newCalls()
	shop := newManager(t, st, nil)
	admin := newManager(t, st, &session.Options{Cookie: session.Cookie{Name: "__Host-admin"}})
	b := newBrowser(t)
	both := admin.Handler
	b.serve(shop, both(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		check(t, shop.From(r.Context()).SignIn(r.Context(), "alice", nil))
		check(t, admin.From(r.Context()).SignIn(r.Context(), "root", nil))
		func() {
			defer func() {
				if recover() == nil {
					t.Error("session.From chose one of two sessions silently")
				}
			}()
			session.From(r.Context())
		}()
	})).ServeHTTP)
	b.serve(shop, both(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if a, b := shop.From(r.Context()).Owner(), admin.From(r.Context()).Owner(); a != "alice" || b != "root" {
			t.Errorf("owners are %q and %q", a, b)
		}
	})).ServeHTTP)
	twice := shop.Handler(shop.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		check(t, count.Update(session.From(r.Context()), add(1)))
	})))
	if resp := b.send(shop, twice.ServeHTTP); resp.StatusCode != http.StatusOK {
		t.Errorf("a handler wrapped twice answered %d", resp.StatusCode)
	}
}
