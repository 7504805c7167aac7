package session_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/memstore"
)

// failOnce returns a hook that fails the first call of the kind op.
func failOnce(op string, err error) func(string, store.Key) error {
	failed := false
	return func(o string, _ store.Key) error {
		if o == op && !failed {
			failed = true
			return err
		}
		return nil
	}
}

// A logout that still carries the ID from before a renewal ends the session all
// the same, in whichever order the browser gets the two answers.
func TestLogoutWithIDFromBeforeRenewal(t *testing.T) {
	for _, renewalFirst := range []bool{false, true} {
		st := newCalls()
		m := newManager(t, st, nil)
		b := newBrowser(t)
		b.signIn(m, "alice")
		tab := b.same()
		renewal := b.send(m, func(_ http.ResponseWriter, r *http.Request) { check(t, m.From(r.Context()).Renew(r.Context())) })
		logout := tab.send(m, func(_ http.ResponseWriter, r *http.Request) { check(t, m.From(r.Context()).Destroy(r.Context())) })
		if renewalFirst {
			b.take(renewal)
			b.take(logout)
		} else {
			b.take(logout)
			b.take(renewal)
		}
		if owner, _ := b.look(m); owner != "" || len(st.live(t)) != 0 {
			t.Errorf("renewal's answer first: %t: after the logout the user is %q, %d sessions live", renewalFirst, owner, len(st.live(t)))
		}
	}
}

// One failed read keeps neither a logout nor a revocation from following a
// session to its new ID.
func TestEndSurvivesFailedRead(t *testing.T) {
	for what, end := range map[string]func(t *testing.T, m *session.Manager, s *session.Session) error{
		"Destroy": func(t *testing.T, _ *session.Manager, s *session.Session) error { return s.Destroy(t.Context()) },
		"Revoke": func(t *testing.T, m *session.Manager, s *session.Session) error {
			found, err := m.Revoke(t.Context(), "alice", s.Handle())
			if err == nil && !found {
				t.Error("Revoke found no session")
			}
			return err
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			st := newCalls()
			m := newManager(t, st, nil)
			b := newBrowser(t)
			b.signIn(m, "alice")
			b.same().do(m, func(s *session.Session) {
				b.do(m, func(s *session.Session) { check(t, s.Renew(t.Context())) })
				st.before = failOnce("get", errLost)
				if err := end(t, m, s); err != nil {
					t.Errorf("%s gave %v although the store answered the second time", what, err)
				}
				st.before = nil
			})
			if owner, _ := b.look(m); owner != "" {
				t.Errorf("after %s the session lives on as %s's", what, owner)
			}
		})
	}
}

// A logout that cannot read where the session went on says that it failed.
func TestDestroyInOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newCalls()
		m := newManager(t, st, nil)
		b := newBrowser(t)
		b.signIn(m, "alice")
		b.do(m, func(s *session.Session) {
			st.before = failing("get", errLost)
			if err := s.Destroy(t.Context()); !errors.Is(err, session.ErrUnavailable) {
				t.Errorf("Destroy gave %v, want ErrUnavailable", err)
			}
			st.before = nil
		})
		if b.id() != "" {
			t.Error("the cookie was not cleared: the next user of this computer is signed in")
		}
	})
}

// After Destroy the request begins anew, whatever had become of the session
// before it.
func TestDestroyForgetsWhatWentWrong(t *testing.T) {
	type scene struct {
		st *calls
		m  *session.Manager
		b  *browser
	}
	outage := func(t *testing.T, x scene, s *session.Session) {
		check(t, count.Set(s, 8))
		x.st.before = func(op string, _ store.Key) error { return errLost }
		if err := s.Commit(t.Context()); !errors.Is(err, session.ErrUnavailable) {
			t.Errorf("Commit gave %v, want ErrUnavailable", err)
		}
		x.st.before = nil
	}
	end := func(t *testing.T, x scene, s *session.Session) {
		_ = must(x.m.RevokeAll(t.Context(), "alice"))(t)
		check(t, count.Set(s, 8))
		if err := s.Commit(t.Context()); !errors.Is(err, session.ErrEnded) {
			t.Errorf("Commit gave %v, want ErrEnded", err)
		}
	}
	refuse := func(t *testing.T, s *session.Session) {
		if count.Set(s, 9) == nil {
			t.Error("the session took a change after it ended")
		}
	}
	for before, spoil := range map[string]func(t *testing.T, x scene, s *session.Session){
		"an end":            end,
		"an open outcome":   outage,
		"a refused change":  func(t *testing.T, x scene, s *session.Session) { end(t, x, s); refuse(t, s) },
		"and a later error": func(t *testing.T, x scene, s *session.Session) { outage(t, x, s); refuse(t, s) },
	} {
		t.Run(before, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				x := scene{st: newCalls(), b: newBrowser(t)}
				x.m = newManager(t, x.st, nil)
				x.b.signIn(x.m, "alice")
				x.b.do(x.m, func(s *session.Session) {
					spoil(t, x, s)
					check(t, s.Destroy(t.Context()))
					if err := count.Set(s, 1); err != nil {
						t.Fatalf("Set after Destroy gave %v", err)
					}
					check(t, s.Commit(t.Context()))
				})
				if owner, n := x.b.look(x.m); owner != "" || n != 1 {
					t.Errorf("the new session is %q's with %d; want nobody's with 1", owner, n)
				}
				x.b.signIn(x.m, "alice")
				resp := x.b.do(x.m, func(s *session.Session) {
					spoil(t, x, s)
					check(t, s.Destroy(t.Context()))
					check(t, count.Set(s, 1))
					check(t, s.Commit(t.Context()))
					outage(t, x, s) // this the handler knows
				})
				if resp.StatusCode != http.StatusOK {
					t.Errorf("status %d; a change refused before Destroy is held against the handler", resp.StatusCode)
				}
			})
		})
	}
}

// Ending the session when it is too late to clear the cookie ends it, and is
// told of.
func TestDestroyAfterHeader(t *testing.T) {
	var events []session.Event
	st := newCalls()
	m := newManager(t, st, &session.Options{Observer: func(_ context.Context, e session.Event) {
		if !measures[e.Kind] {
			events = append(events, e)
		}
	}})
	b := newBrowser(t)
	b.signIn(m, "alice")
	b.serve(m, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, page)
		check(t, m.From(r.Context()).Destroy(r.Context()))
	})
	if len(events) != 1 || events[0].Kind != session.EventLateChange || !errors.Is(events[0].Err, session.ErrHeadersSent) {
		t.Errorf("events %v; want one late_change with ErrHeadersSent", events)
	}
	if live := len(st.live(t)); live != 0 {
		t.Errorf("%d sessions live after the logout", live)
	}
}

// A logout whose session could not be loaded is carried out although its client
// has hung up.
func TestLogoutInOutageIgnoresHangUp(t *testing.T) {
	st := newCalls()
	m := newManager(t, st, &session.Options{Logout: func(*http.Request) bool { return true }})
	b := newBrowser(t)
	b.signIn(m, "alice")
	ctx, hangUp := context.WithCancel(t.Context())
	r := httptest.NewRequestWithContext(ctx, http.MethodPost, site.String(), nil)
	for _, c := range b.jar.Cookies(site) {
		r.AddCookie(c)
	}
	st.before = func(op string, _ store.Key) error {
		st.before = nil
		hangUp()
		return errLost
	}
	w := httptest.NewRecorder()
	m.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("the handler ran without the session")
	})).ServeHTTP(w, r)
	if live := len(st.live(t)); live != 0 || w.Code != http.StatusServiceUnavailable {
		t.Errorf("status %d, %d sessions live: the client undid its logout by hanging up", w.Code, live)
	}
}

// evader is a store whose owner signs in as fast as sessions are ended.
type evader struct{ *memstore.Store }

func (evader) DeleteOwner(context.Context, string, ...store.Handle) (int, error) { return 1, nil }

// A failure that may pass does not end RevokeAll: a password was changed, and a session of
// somebody else's must not live on for one broken connection. What does not pass is
// reported at once, and what lasts with its reason, not with the time that ran out.
func TestRevokeAllIsRepeated(t *testing.T) {
	refused := fmt.Errorf("store: %w", store.ErrRejected)
	for _, tt := range []struct {
		name     string
		failures int
		err      error
		calls    int // of the deletion; 0 for as many as there is time for
		want     error
	}{
		{"a broken connection, twice", 2, errLost, 3 + 1, nil},
		{"a refusal", 1, refused, 1, store.ErrRejected},
		{"an outage", 1 << 30, errLost, 0, errLost},
	} {
		synctest.Test(t, func(t *testing.T) {
			st := newCalls()
			m := newManager(t, st, nil)
			for range 2 {
				newBrowser(t).signIn(m, "alice")
			}
			calls := 0
			st.before = func(op string, _ store.Key) error {
				if op != "delete owner" {
					return nil
				}
				if calls++; calls <= tt.failures {
					return tt.err
				}
				return nil
			}
			n, err := m.RevokeAll(t.Context(), "alice")
			if tt.want == nil {
				if err != nil || n != 2 || len(st.live(t)) != 0 {
					t.Errorf("%s: %d ended, %v, and %d live; want two, and none", tt.name, n, err, len(st.live(t)))
				}
			} else if !errors.Is(err, session.ErrUnavailable) || !errors.Is(err, tt.want) || n != 0 {
				t.Errorf("%s: %d ended, %v; want ErrUnavailable for %v", tt.name, n, err, tt.want)
			}
			if tt.calls != 0 && calls != tt.calls || calls < 1 {
				t.Errorf("%s: %d deletions were tried; want %d", tt.name, calls, tt.calls)
			}
		})
	}
}

// RevokeAll does not report success when sessions keep appearing.
func TestRevokeAllCannotWin(t *testing.T) {
	m := newManager(t, evader{memstore.New()}, nil)
	if n, err := m.RevokeAll(t.Context(), "alice"); !errors.Is(err, session.ErrConflict) || n == 0 {
		t.Errorf("RevokeAll gave %d, %v; want what it ended and ErrConflict", n, err)
	}
}

// Signing out everywhere else ends the copies of this session's cookie too, and
// keeps the session.
func TestRevokeOthersEndsCopies(t *testing.T) {
	st := newCalls()
	m := newManager(t, st, nil)
	b, phone := newBrowser(t), newBrowser(t)
	b.signIn(m, "alice")
	phone.signIn(m, "alice")
	thief := b.same()
	var handle session.Handle
	b.do(m, func(s *session.Session) {
		handle = s.Handle()
		check(t, count.Set(s, 1))
		if n := must(s.RevokeOthers(t.Context()))(t); n != 1 {
			t.Errorf("RevokeOthers ended %d sessions, want the phone's", n)
		}
		if s.Handle() != handle {
			t.Error("the session got another handle")
		}
	})
	if owner, n := b.look(m); owner != "alice" || n != 1 {
		t.Errorf("who signed out everywhere else is %q with %d", owner, n)
	}
	for who, other := range map[string]*browser{"the phone": phone, "the copied cookie": thief} {
		if owner, _ := other.look(m); owner != "" {
			t.Errorf("%s is still signed in as %s", who, owner)
		}
	}
	if live := len(st.live(t)); live != 1 {
		t.Errorf("%d sessions live, want 1", live)
	}
}

// "" owns no sessions: asking for them is no outage and ends nobody's.
func TestNobodyOwnsNothing(t *testing.T) {
	st := newCalls()
	m := newManager(t, st, nil)
	b := newBrowser(t)
	b.do(m, func(s *session.Session) { check(t, count.Set(s, 1)) })
	var handle session.Handle
	b.do(m, func(s *session.Session) { handle = s.Handle() })
	if infos, err := m.Sessions(t.Context(), ""); err != nil || len(infos) != 0 {
		t.Errorf("Sessions gave %v, %v; want none", infos, err)
	}
	if n, err := m.RevokeAll(t.Context(), ""); err != nil || n != 0 {
		t.Errorf("RevokeAll gave %d, %v; want none", n, err)
	}
	if found, err := m.Revoke(t.Context(), "", handle); err != nil || found {
		t.Errorf("Revoke gave %t, %v; want none", found, err)
	}
	if _, n := b.look(m); n != 1 {
		t.Error("the anonymous session was ended")
	}
}

// A device that is renewing its session, for which there are two records for a
// moment, is listed once.
func TestDeviceListDuringRenewal(t *testing.T) {
	for what, do := range map[string]func(t *testing.T, s *session.Session) error{
		"Renew":  func(t *testing.T, s *session.Session) error { return s.Renew(t.Context()) },
		"SignIn": func(t *testing.T, s *session.Session) error { return s.SignIn(t.Context(), "alice", nil) },
	} {
		synctest.Test(t, func(t *testing.T) {
			st := newCalls()
			m := newManager(t, st, &session.Options{Policy: session.Policy{Idle: 24 * time.Hour}})
			b, phone := newBrowser(t), newBrowser(t)
			b.signIn(m, "alice")
			time.Sleep(time.Hour)
			phone.signIn(m, "alice") // sorted in between by age
			time.Sleep(time.Hour)
			looked := false
			st.on("retire", func() {
				looked = true
				if n := len(st.live(t)); n != 3 {
					t.Errorf("%d records live in the middle of %s: the test has lost its reach", n, what)
				}
				infos := must(m.Sessions(t.Context(), "alice"))(t)
				if len(infos) != 2 || infos[0].Handle == infos[1].Handle {
					t.Errorf("alice has 2 devices; in the middle of %s the list is %v", what, infos)
				}
			})
			b.do(m, func(s *session.Session) { check(t, do(t, s)) })
			if !looked {
				t.Error("nothing was renewed")
			}
		})
	}
}

// What a device list says of a session's end holds under the policy in force.
func TestDeviceListAfterShorterPolicy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newCalls()
		long := newManager(t, st, &session.Options{Policy: session.AAL1})
		m := newManager(t, st, nil)
		newBrowser(t).signIn(long, "alice")
		at := time.Now()
		infos := must(m.Sessions(t.Context(), "alice"))(t)
		if len(infos) != 1 || !infos[0].Deadline.Equal(at.Add(24*time.Hour)) || infos[0].Expires.After(infos[0].Deadline) {
			t.Errorf("the list is %+v; want a deadline in 24 h, and no expiry after it", infos)
		}
		time.Sleep(24 * time.Hour)
		if infos := must(m.Sessions(t.Context(), "alice"))(t); len(infos) != 0 {
			t.Errorf("the list has %d sessions that the policy ended", len(infos))
		}
	})
}

// A store that is full takes no marker, but it deletes: a logout must not fail for
// want of room.
func TestLogoutOfAFullStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newCalls()
		m := newManager(t, st, nil)
		b := newBrowser(t)
		b.signIn(m, "alice")
		thief := b.same()
		st.before = func(op string, _ store.Key) error {
			if op == "retire" || op == "replace" || op == "create" {
				return errors.New("no room")
			}
			return nil
		}
		b.do(m, func(s *session.Session) { check(t, s.Destroy(t.Context())) })
		if owner, _ := thief.look(m); owner != "" {
			t.Errorf("after the logout %s is still signed in", owner)
		}
	})
}

// A logout that the store does not take is an error in the log, whoever asks for it, and
// the user is told what it has done and what not.
func TestLogoutThatFailsIsTold(t *testing.T) {
	for _, tt := range []struct {
		name   string
		failed func(op string) bool
	}{
		{"the store takes no writes", func(op string) bool { return op != "get" }},
		{"the store is away", func(string) bool { return true }},
	} {
		synctest.Test(t, func(t *testing.T) {
			st := newCalls()
			var log bytes.Buffer
			leaving := false
			m := newManager(t, st, &session.Options{
				Logger: slog.New(slog.NewTextHandler(&log, nil)),
				Logout: func(*http.Request) bool { return leaving },
			})
			b := newBrowser(t)
			b.signIn(m, "alice")
			leaving = true
			st.before = func(op string, _ store.Key) error {
				if tt.failed(op) {
					return errors.New("no room")
				}
				return nil
			}
			resp := b.serve(m, func(w http.ResponseWriter, r *http.Request) {
				if err := m.From(r.Context()).Destroy(r.Context()); err != nil {
					m.HandleError(w, r, err)
				}
			})
			body, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(string(body), "signed out in this browser") || strings.Contains(string(body), "kept") {
				t.Errorf("%s: the logout is answered %d %q, %v", tt.name, resp.StatusCode, body, err)
			}
			if n := strings.Count(log.String(), `level=ERROR msg="session: logout could not end the session in the store`); n != 1 {
				t.Errorf("%s: the log tells %d times of a session that lives on, want once:\n%s", tt.name, n, log.String())
			}
		})
	}
}

// A sign-in that the store does not take is told of like a commit.
func TestSignInThatFailsIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newCalls()
		var log bytes.Buffer
		observed := 0
		m := newManager(t, st, &session.Options{
			Logger: slog.New(slog.NewTextHandler(&log, nil)),
			Observer: func(_ context.Context, e session.Event) {
				if e.Kind == session.EventUnavailable {
					observed++
				}
			},
		})
		st.before = func(string, store.Key) error { return errors.New("no room") }
		newBrowser(t).do(m, func(s *session.Session) {
			if err := s.SignIn(t.Context(), "alice", nil); !errors.Is(err, session.ErrUnavailable) {
				t.Errorf("SignIn: %v; want ErrUnavailable", err)
			}
		})
		if !strings.Contains(log.String(), `level=ERROR msg="session: sign-in failed"`) || observed == 0 {
			t.Errorf("observed %d times, and the log says\n%s", observed, log.String())
		}
	})
}
