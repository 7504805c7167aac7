package session_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/store"
)

// within fails the test if f hangs. Nothing depends on how fast f is.
func within(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal(what + " hangs")
	}
}

// http.TimeoutHandler answers while its handler still runs. A sign-in of that
// either reaches the browser or fails: no session lives whose cookie nobody
// has. And under -race: the session never touches the header of the answer.
func TestTimeoutHandlerInside(t *testing.T) {
	st := newCalls()
	m := newManager(t, st, nil)
	var handlers sync.WaitGroup
	busy := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		defer handlers.Done()
		s := m.From(r.Context())
		var err error
		for err == nil {
			err = s.SignIn(r.Context(), "alice", nil)
		}
		if !errors.Is(err, session.ErrHeadersSent) && !errors.Is(err, session.ErrFinished) {
			t.Errorf("a sign-in after the answer gave %v, want ErrHeadersSent or ErrFinished", err)
		}
	})
	srv := httptest.NewServer(m.Handler(http.TimeoutHandler(busy, time.Millisecond, "slow")))
	defer srv.Close()
	reached := 0
	for range 50 {
		handlers.Add(1)
		resp := must(srv.Client().Get(srv.URL))(t)
		check(t, resp.Body.Close())
		if resp.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("status %d, want the 503 of the TimeoutHandler", resp.StatusCode)
		}
		if len(resp.Cookies()) > 0 {
			reached++
		}
	}
	handlers.Wait()
	if live := len(st.live(t)); live != reached {
		t.Errorf("%d sessions live, %d reached a browser", live, reached)
	}
}

// A goroutine of the handler may commit while the handler writes: what Commit
// acknowledges has its cookie in the answer.
func TestGoroutineCommitsWhileHandlerWrites(t *testing.T) {
	st := newCalls()
	m := newManager(t, st, nil)
	acknowledged := false
	srv := httptest.NewServer(m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := m.From(r.Context())
		var side sync.WaitGroup
		side.Go(func() {
			err := count.Set(s, 1)
			if err == nil {
				err = s.Commit(r.Context())
			}
			acknowledged = err == nil
			if err != nil && !errors.Is(err, session.ErrHeadersSent) {
				t.Errorf("the goroutine's change gave %v, want nil or ErrHeadersSent", err)
			}
		})
		w.Header().Set("X-Page", "1")
		_, _ = io.WriteString(w, "page")
		side.Wait()
	})))
	defer srv.Close()
	cookies := 0
	for range 50 {
		resp := must(srv.Client().Get(srv.URL))(t)
		check(t, resp.Body.Close())
		if got := len(resp.Cookies()) > 0; got != acknowledged {
			t.Errorf("acknowledged: %t, cookie in the answer: %t", acknowledged, got)
		}
		cookies += len(resp.Cookies())
	}
	if live := len(st.live(t)); live != cookies {
		t.Errorf("%d sessions live, %d reached a browser", live, cookies)
	}
}

// When the handler has returned, however it did, the session takes no more
// changes, says so, and stores nothing.
func TestChangesAfterHandlerReturned(t *testing.T) {
	changes := map[string]func(s *session.Session) error{
		"Set":    func(s *session.Session) error { return count.Set(s, 2) },
		"Update": func(s *session.Session) error { return count.Update(s, add(1)) },
		"Add":    func(s *session.Session) error { return notice.Add(s, "too late") },
		"Pop":    func(s *session.Session) error { _, err := notice.Pop(s); return err },
		"Delete": func(s *session.Session) error { count.Delete(s); return s.Commit(context.Background()) },
		"SignIn": func(s *session.Session) error { return s.SignIn(context.Background(), "alice", nil) },
		"Renew":  func(s *session.Session) error { return s.Renew(context.Background()) },
		"RevokeOthers": func(s *session.Session) error {
			_, err := s.RevokeOthers(context.Background())
			return err
		},
	}
	for end, leave := range map[string]func(w http.ResponseWriter){
		"without an answer": func(http.ResponseWriter) {},
		"with an answer":    func(w http.ResponseWriter) { _, _ = io.WriteString(w, page) },
		"in panic":          func(http.ResponseWriter) { panic("the handler's") },
	} {
		for what, change := range changes {
			t.Run(what+" after a return "+end, func(t *testing.T) {
				st := newCalls()
				m := newManager(t, st, nil)
				b := newBrowser(t)
				if what != "SignIn" { // that needs no session before it
					b.do(m, func(s *session.Session) { check(t, count.Set(s, 1)); check(t, notice.Add(s, "kept")) })
				}
				stored := len(st.live(t))
				var s *session.Session
				func() {
					defer func() { _ = recover() }()
					b.serve(m, func(w http.ResponseWriter, r *http.Request) { s = m.From(r.Context()); leave(w) })
				}()
				if err := change(s); !errors.Is(err, session.ErrFinished) {
					t.Errorf("%s gave %v, want ErrFinished: nothing will ever commit it", what, err)
				}
				if live := len(st.live(t)); live != stored {
					t.Errorf("%d sessions in the store, before it %d", live, stored)
				}
				if _, n := b.look(m); n != stored {
					t.Errorf("the next request finds %d, want %d", n, stored)
				}
			})
		}
	}
}

// looking is a store with a wrapper that looks at the session of each call.
type looking struct {
	*calls
	look func(context.Context)
}

func (l looking) Get(ctx context.Context, k store.Key) (store.Record, error) {
	l.look(ctx)
	return l.calls.Get(ctx, k)
}

func (l looking) Create(ctx context.Context, k store.Key, r store.Record) error {
	l.look(ctx)
	return l.calls.Create(ctx, k, r)
}

func (l looking) Replace(ctx context.Context, k store.Key, old uint64, r store.Record) error {
	l.look(ctx)
	return l.calls.Replace(ctx, k, old, r)
}

func (l looking) Delete(ctx context.Context, k store.Key) (bool, error) {
	l.look(ctx)
	return l.calls.Delete(ctx, k)
}

// lookingLog is a log handler that looks at the session of each record.
type lookingLog struct {
	slog.Handler
	look func(context.Context)
}

func (l lookingLog) Enabled(context.Context, slog.Level) bool { return true }

func (l lookingLog) Handle(ctx context.Context, _ slog.Record) error {
	l.look(ctx)
	return nil
}

// An observer and a log handler may look at the session they are told of, its
// values included, and a store at what it is of: none of them hangs the request.
func TestObserversMayLookAtTheSession(t *testing.T) {
	for kind, provoke := range map[session.EventKind]func(st *calls, m, other *session.Manager, b *browser){
		session.EventConflict: func(_ *calls, m, other *session.Manager, b *browser) {
			b.do(m, func(s *session.Session) {
				check(t, count.Update(s, add(1)))
				b.same().do(other, func(s *session.Session) { check(t, count.Update(s, add(1))) })
			})
		},
		session.EventStaleSet: func(_ *calls, m, other *session.Manager, b *browser) {
			b.do(m, func(s *session.Session) {
				_ = must(name.Get(s))(t)
				check(t, name.Set(s, "mine"))
				b.same().do(other, func(s *session.Session) { check(t, name.Set(s, "theirs")) })
			})
		},
		session.EventCorrupt: func(st *calls, m, _ *session.Manager, b *browser) {
			st.before = failing("get", fmt.Errorf("store: %w", store.ErrCorrupt))
			b.do(m, func(*session.Session) {})
		},
		session.EventTouchFailed: func(st *calls, m, _ *session.Manager, b *browser) {
			st.before = failing("replace", errLost)
			b.do(m, func(*session.Session) {}) // whose policy is shorter
		},
		session.EventLateChange: func(_ *calls, m, _ *session.Manager, b *browser) {
			newBrowser(t).serve(m, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.WriteString(w, page)
				check(t, count.Set(m.From(r.Context()), 1))
			})
			b.serve(m, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.WriteString(w, page)
				check(t, m.From(r.Context()).Destroy(r.Context()))
			})
		},
		session.EventLarge: func(_ *calls, m, _ *session.Manager, b *browser) {
			b.do(m, func(s *session.Session) { check(t, name.Set(s, strings.Repeat("x", 5000))) })
		},
		session.EventUnavailable: func(st *calls, m, _ *session.Manager, b *browser) {
			st.before = failing("create", errLost)
			newBrowser(t).do(m, func(s *session.Session) { check(t, count.Set(s, 1)) })
			st.before = failing("get", errLost)
			b.do(m, func(*session.Session) {})
		},
		"": func(_ *calls, m, _ *session.Manager, b *browser) { // the store alone
			b.signIn(m, "alice")
			b.do(m, func(s *session.Session) { check(t, s.Renew(t.Context())) })
			b.do(m, func(s *session.Session) { check(t, s.Destroy(t.Context())) })
		},
	} {
		t.Run(string(kind), func(t *testing.T) {
			st := newCalls()
			other := newManager(t, st, nil)
			b := newBrowser(t)
			b.signIn(other, "alice")
			seen := map[session.EventKind]int{"": 1}
			looks := 0
			var m *session.Manager
			look := func(ctx context.Context) {
				if s, ok := m.Lookup(ctx); ok {
					looks++
					_ = fmt.Sprint(s, s.Handle(), s.Owner(), s.Methods(), s.SignedInAt(), s.Deadline())
				}
			}
			lookAtValues := func(ctx context.Context) {
				look(ctx)
				if s, ok := m.Lookup(ctx); ok {
					_, _ = count.Get(s)
				}
			}
			m = newManager(t, looking{st, look}, &session.Options{
				Policy:        session.Policy{Idle: 30 * time.Minute},
				CommitTimeout: 20 * time.Millisecond, // of an outage
				Logger:        slog.New(lookingLog{slog.DiscardHandler, lookAtValues}),
				Observer: func(ctx context.Context, e session.Event) {
					lookAtValues(ctx)
					seen[e.Kind]++
				},
			})
			within(t, "a request whose observer looks at its session", func() { provoke(st, m, other, b) })
			if seen[kind] == 0 || looks == 0 {
				t.Errorf("%d events of that kind, %d looks at a session: the test has lost its reach", seen[kind], looks)
			}
		})
	}
}

// A log handler is called when nothing is locked: it may read the session's values in a
// logout that fails, and what it asks the store is told to the observer at once.
func TestLoggersMayAskTheStore(t *testing.T) {
	for _, observed := range []bool{false, true} {
		for what, provoke := range map[string]func(st *calls, m *session.Manager, b *browser){
			"a logout that fails": func(st *calls, m *session.Manager, b *browser) {
				b.serve(m, func(_ http.ResponseWriter, r *http.Request) {
					st.before = failing("get", errLost)
					_ = m.From(r.Context()).Destroy(r.Context())
				})
			},
			"a marker that stays": func(st *calls, m *session.Manager, b *browser) {
				st.before = failing("delete", errLost)
				b.serve(m, func(_ http.ResponseWriter, r *http.Request) {
					check(t, m.From(r.Context()).Destroy(r.Context()))
				})
			},
			"activity that is not recorded": func(st *calls, m *session.Manager, b *browser) {
				st.before = failing("replace", errLost)
				b.do(m, func(*session.Session) {}) // whose policy is shorter
			},
			"a damaged record": func(st *calls, m *session.Manager, b *browser) {
				st.before = failing("get", fmt.Errorf("store: %w", store.ErrCorrupt))
				b.do(m, func(*session.Session) {})
			},
			"a large session": func(_ *calls, m *session.Manager, b *browser) {
				b.do(m, func(s *session.Session) { check(t, name.Set(s, strings.Repeat("x", 5000))) })
			},
		} {
			st := newCalls()
			b := newBrowser(t)
			b.signIn(newManager(t, st, nil), "alice")
			var m *session.Manager
			logged, pings := 0, 0
			opts := &session.Options{
				Policy:        session.Policy{Idle: 30 * time.Minute},
				CommitTimeout: 20 * time.Millisecond, // of an outage
				Logger: slog.New(lookingLog{slog.DiscardHandler, func(ctx context.Context) {
					s, ok := m.Lookup(ctx)
					if !ok {
						t.Errorf("%s: the context of the log is not the request's", what)
						return
					}
					logged++
					_, _ = count.Get(s)
					before := pings
					_ = m.Ping(ctx)
					if observed && pings != before+1 {
						t.Errorf("%s: the observer was not told of what the log handler asked the store", what)
					}
				}}),
			}
			if observed {
				opts.Observer = func(_ context.Context, e session.Event) {
					if e.Op == "ping" {
						pings++
					}
				}
			}
			m = newManager(t, st, opts)
			within(t, what, func() { provoke(st, m, b) })
			if logged == 0 {
				t.Errorf("%s is not logged", what)
			}
		}
	}
}

// failing returns a hook that fails every call of the kind op.
func failing(op string, err error) func(string, store.Key) error {
	return func(o string, _ store.Key) error {
		if o == op {
			return err
		}
		return nil
	}
}

// What tells of the session does not wait for a commit that waits for the
// store.
func TestGettersDoNotWaitForTheStore(t *testing.T) {
	for what, do := range map[string]struct {
		op string
		f  func(s *session.Session) error
	}{
		"Commit":  {"replace", func(s *session.Session) error { return s.Commit(t.Context()) }},
		"SignIn":  {"create", func(s *session.Session) error { return s.SignIn(t.Context(), "alice", nil) }},
		"Renew":   {"retire", func(s *session.Session) error { return s.Renew(t.Context()) }},
		"Destroy": {"retire", func(s *session.Session) error { return s.Destroy(t.Context()) }},
	} {
		st := newCalls()
		m := newManager(t, st, nil)
		b := newBrowser(t)
		b.signIn(m, "alice")
		looked := false
		b.do(m, func(s *session.Session) {
			check(t, count.Set(s, 1))
			st.on(do.op, func() { // the store is not done before they are
				within(t, "looking at a session during "+what, func() {
					_ = fmt.Sprint(s, s.LogValue(), s.Methods(), s.SignedInAt(), s.Deadline())
					if s.Owner() != "alice" || s.Handle() == (session.Handle{}) {
						t.Errorf("during %s the session is %q's, %v", what, s.Owner(), s.Handle())
					}
					looked = true
				})
			})
			check(t, do.f(s))
		})
		if !looked {
			t.Errorf("%s did not call the store: the test has lost its reach", what)
		}
	}
}

// The function given to Update must not use the values of the session; that it
// may look at the owner is what makes a log line in it harmless.
func TestUpdateMayLookAtOwner(t *testing.T) {
	m := newManager(t, newCalls(), nil)
	b := newBrowser(t)
	b.signIn(m, "alice")
	within(t, "an update that looks at the owner", func() {
		b.do(m, func(s *session.Session) {
			check(t, count.Update(s, func(n int) (int, error) { return n + len(s.Owner()+s.Handle().String()), nil }))
		})
	})
	if _, n := b.look(m); n != len("alice")+22 {
		t.Errorf("count is %d", n)
	}
}
