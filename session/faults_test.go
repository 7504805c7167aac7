package session_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/store"
)

// The tests of this file are named after the faults of session libraries that
// docs/security.md lists. Each shows that this library does not have it.

// A request that loaded a session and is still running when the session ends
// must not bring it back, whichever way it ended.
func TestFault01LateWriteRevivesEndedSession(t *testing.T) {
	ends := map[string]func(t *testing.T, b *browser, m *session.Manager){
		"logout": func(t *testing.T, b *browser, m *session.Manager) {
			b.do(m, func(s *session.Session) { check(t, s.Destroy(t.Context())) })
		},
		"revoke": func(t *testing.T, _ *browser, m *session.Manager) {
			infos := must(m.Sessions(t.Context(), "alice"))(t)
			if found := must(m.Revoke(t.Context(), "alice", infos[0].Handle))(t); !found {
				t.Fatal("Revoke found no session")
			}
		},
		"revoke all": func(t *testing.T, _ *browser, m *session.Manager) {
			if n := must(m.RevokeAll(t.Context(), "alice"))(t); n != 1 {
				t.Fatalf("RevokeAll ended %d sessions, want 1", n)
			}
		},
		"renewal": func(t *testing.T, b *browser, m *session.Manager) {
			b.do(m, func(s *session.Session) { check(t, s.Renew(t.Context())) })
		},
		"sign-in": func(_ *testing.T, b *browser, m *session.Manager) { b.signIn(m, "alice") },
		"idle timeout": func(*testing.T, *browser, *session.Manager) {
			time.Sleep(session.AAL2.Idle)
		},
	}
	for end, do := range ends {
		t.Run(end, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				st := newCalls()
				opts := &session.Options{Observer: func(_ context.Context, e session.Event) {
					if e.Kind == session.EventCorrupt {
						t.Error("what an end leaves behind was taken for damage")
					}
				}}
				m, other := newManager(t, st, opts), newManager(t, st, opts)
				b := newBrowser(t)
				b.signIn(m, "alice")
				old := b.same()
				resp := old.same().serve(m, func(w http.ResponseWriter, r *http.Request) {
					s := m.From(r.Context())
					check(t, count.Update(s, add(1)))
					do(t, b, other)
					_, _ = io.WriteString(w, "the late handler's page")
				})
				if body := must(io.ReadAll(resp.Body))(t); resp.StatusCode != http.StatusConflict || bytes.Contains(body, []byte("late")) {
					t.Errorf("the late request got %d %q; want 409 and nothing of its page, for its change is lost", resp.StatusCode, body)
				}
				if set := resp.Header["Set-Cookie"]; set != nil {
					t.Errorf("the late response sets a cookie, %q; it would overwrite that of a newer session", set)
				}
				for range 3 { // dead for good, on every server
					for _, server := range []*session.Manager{m, other} {
						if owner, _ := old.same().look(server); owner != "" {
							t.Errorf("the old ID is alive after the end: the late write revived the session of %s", owner)
						}
					}
					time.Sleep(markerLifetimes)
				}
			})
		})
	}
}

// markerLifetimes is longer than whatever an end leaves behind.
const markerLifetimes = 11 * time.Minute

// Parallel updates of one session all count.
func TestFault02ParallelUpdatesAreLost(t *testing.T) {
	const updates = 200
	st := newCalls()
	servers := []*session.Manager{newManager(t, st, nil), newManager(t, st, nil), newManager(t, st, nil)}
	b := newBrowser(t)
	b.signIn(servers[0], "alice")
	var wg sync.WaitGroup
	for i := range updates {
		wg.Go(func() {
			resp := b.same().do(servers[i%3], func(s *session.Session) {
				if err := count.Update(s, add(1)); err != nil {
					t.Error(err)
				}
			})
			if resp.StatusCode != http.StatusOK {
				t.Errorf("an update was answered %d", resp.StatusCode)
			}
		})
	}
	wg.Wait()
	if _, n := b.look(servers[0]); n != updates {
		t.Errorf("%d of %d acknowledged updates are there", n, updates)
	}
}

// A stream that has been open for long must not write back what it loaded when
// it began.
func TestFault03ClosingStreamRollsBack(t *testing.T) {
	st := newCalls()
	m := newManager(t, st, nil)
	b := newBrowser(t)
	b.do(m, func(s *session.Session) { check(t, count.Set(s, 1)) })
	stream := func(change func(s *session.Session)) {
		b.same().serve(m, func(w http.ResponseWriter, r *http.Request) {
			s := m.From(r.Context())
			_ = must(count.Get(s))(t)
			_, _ = io.WriteString(w, "data: hello\n\n")
			w.(http.Flusher).Flush()
			b.do(m, func(s *session.Session) { check(t, count.Update(s, add(1))) })
			change(s)
		})
	}
	stream(func(*session.Session) {})
	if _, n := b.look(m); n != 2 {
		t.Errorf("after a stream that changed nothing the count is %d; want 2, the newer value", n)
	}
	stream(func(s *session.Session) { check(t, name.Set(s, "Alice")) })
	if _, n := b.look(m); n != 3 {
		t.Errorf("after a stream that set another attribute the count is %d; want 3, the newer value", n)
	}
	b.do(m, func(s *session.Session) {
		if v := must(name.Get(s))(t); v != "Alice" {
			t.Errorf("the name that the stream set at its end is %q", v)
		}
	})
}

// Flushing or an informational header first loses neither cookie nor change,
// and a change that comes too late for its cookie is told of.
func TestFault04EarlyFlushLosesCookie(t *testing.T) {
	for first, write := range map[string]func(w http.ResponseWriter){
		"flush": func(w http.ResponseWriter) { w.(http.Flusher).Flush() },
		"103":   func(w http.ResponseWriter) { w.WriteHeader(http.StatusEarlyHints) },
	} {
		t.Run(first, func(t *testing.T) {
			m := newManager(t, newCalls(), nil)
			srv := httptest.NewTLSServer(m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				check(t, count.Set(m.From(r.Context()), 7))
				write(w)
				_, _ = io.WriteString(w, "page")
			})))
			defer srv.Close()
			resp := must(srv.Client().Get(srv.URL))(t)
			defer resp.Body.Close()
			b := newBrowser(t)
			b.take(resp)
			if _, n := b.look(m); n != 7 {
				t.Errorf("the change made before the first write is lost: count is %d, want 7", n)
			}
		})
	}
	t.Run("change after the first byte", func(t *testing.T) {
		var events []session.EventKind
		st := newCalls()
		m := newManager(t, st, &session.Options{Observer: func(_ context.Context, e session.Event) {
			if !measures[e.Kind] {
				events = append(events, e.Kind)
			}
		}})
		b := newBrowser(t)
		late := func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, "page")
			check(t, count.Update(m.From(r.Context()), add(1)))
		}
		b.serve(m, late)
		if len(events) != 1 || events[0] != session.EventLateChange || st.count("create") != 0 {
			t.Errorf("events %v, %d sessions created; want one late_change and no session whose cookie nobody has", events, st.count("create"))
		}
		b.do(m, func(s *session.Session) { check(t, count.Set(s, 1)) })
		b.serve(m, late)
		if _, n := b.look(m); n != 2 {
			t.Errorf("a late change that needs no cookie is lost: count is %d, want 2", n)
		}
	})
}

// The answer to a failed commit is the error alone.
func TestFault05FailedCommitShowsPage(t *testing.T) {
	st := newCalls()
	m := newManager(t, st, &session.Options{CommitTimeout: time.Millisecond})
	st.before = func(op string, _ store.Key) error {
		if op == "create" {
			return errors.New("the disk is on fire")
		}
		return nil
	}
	resp := newBrowser(t).serve(m, func(w http.ResponseWriter, r *http.Request) {
		check(t, count.Set(m.From(r.Context()), 1))
		w.Header().Set("Content-Length", "12")
		w.Header().Set("Content-Encoding", "gzip")
		w.WriteHeader(http.StatusCreated)
		if _, err := io.WriteString(w, "you have won"); !errors.Is(err, session.ErrUnavailable) {
			t.Errorf("writing after the failed commit gave %v, want ErrUnavailable", err)
		}
	})
	body := string(must(io.ReadAll(resp.Body))(t))
	if resp.StatusCode != http.StatusServiceUnavailable || strings.Contains(body, "won") || strings.Contains(body, "fire") {
		t.Errorf("got %d %q; want 503 with neither the page nor the store's error", resp.StatusCode, body)
	}
	for _, h := range []string{"Content-Length", "Content-Encoding", "Set-Cookie"} {
		if v := resp.Header.Get(h); v != "" {
			t.Errorf("%s: %q of the handler is left on the error", h, v)
		}
	}
	if resp.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
}

// An ID that the store does not know is never taken up.
func TestFault06UnknownIDIsAdopted(t *testing.T) {
	st := newCalls()
	m := newManager(t, st, nil)
	planted := strings.Repeat("A", 43)
	b := newBrowser(t)
	b.jar.SetCookies(site, []*http.Cookie{{Name: "__Host-session", Value: planted, Secure: true, Path: "/"}})
	resp := b.do(m, func(*session.Session) {})
	if set := resp.Header["Set-Cookie"]; set != nil || b.id() != planted {
		t.Errorf("a response that changed nothing sets %q; it could delete the cookie of a faster sign-in", set)
	}
	b.do(m, func(s *session.Session) { check(t, count.Set(s, 1)) })
	if b.id() == planted {
		t.Error("the session was created under the ID that the client brought")
	}
	b.signIn(m, "alice")
	attacker := newBrowser(t)
	attacker.jar.SetCookies(site, []*http.Cookie{{Name: "__Host-session", Value: planted, Secure: true, Path: "/"}})
	if owner, _ := attacker.look(m); owner != "" {
		t.Error("the planted ID leads into the victim's session")
	}
	before := b.same()
	b.signIn(m, "alice")
	if owner, _ := before.look(m); owner != "" {
		t.Error("the ID from before a sign-in works after it")
	}
}

// What does not decode spoils itself alone, and a program keeps what it does not
// know.
func TestFault07UndecodableValueBreaksSession(t *testing.T) {
	type cartV1 struct{ Items int }
	oldCart, newCart := session.NewAttr[cartV1]("cart"), session.NewAttr[[]string]("cart")
	m := newManager(t, newCalls(), nil)
	b := newBrowser(t)
	b.do(m, func(s *session.Session) {
		check(t, oldCart.Set(s, cartV1{3}))
		check(t, count.Set(s, 1))
		check(t, s.SignIn(t.Context(), "alice", nil))
	})
	b.do(m, func(s *session.Session) { // the new version of the app
		_, err := newCart.Get(s)
		var decode *session.DecodeError
		if !errors.As(err, &decode) || decode.Attr != "cart" || !errors.Is(err, session.ErrDecode) {
			t.Errorf("reading the old cart as a new one gave %v; want a DecodeError that names it", err)
		}
		check(t, count.Update(s, add(1)))
	})
	if owner, n := b.look(m); owner != "alice" || n != 2 {
		t.Errorf("owner %q, count %d: one attribute that does not decode spoiled the session", owner, n)
	}
	b.do(m, func(s *session.Session) { // an old server is still running
		if c := must(oldCart.Get(s))(t); c.Items != 3 {
			t.Errorf("the old server finds the cart %+v after the new one wrote; it must be kept byte for byte", c)
		}
	})
	b.do(m, func(s *session.Session) { check(t, newCart.Set(s, []string{"apple"})) })
	b.do(m, func(s *session.Session) { _ = must(newCart.Get(s))(t) })
}

// A record that does not open is an anonymous visitor, not an error for ever;
// one from a newer program is left alone.
func TestFault07DamagedRecord(t *testing.T) {
	for damage, c := range map[string]struct {
		change func(r *store.Record)
		status int
	}{
		"flipped bit":        {func(r *store.Record) { r.Data[len(r.Data)-1] ^= 1 }, 200},
		"truncated":          {func(r *store.Record) { r.Data = r.Data[:len(r.Data)/2] }, 200},
		"empty":              {func(r *store.Record) { r.Data = nil }, 200},
		"garbage":            {func(r *store.Record) { r.Data = append([]byte{1}, "garbage"...) }, 200},
		"swapped owner":      {func(r *store.Record) { r.Owner = "mallory" }, 200},
		"newer format":       {func(r *store.Record) { r.Data[0] = 99 }, 503},
		"key unknown to us":  {func(r *store.Record) { r.Data = []byte{1, 0x0a, 2, 'k', '2', 0x12, 0} }, 503},
		"unsealed by writer": {func(r *store.Record) { r.Data = []byte{1, 0x1a, 0} }, 200},
	} {
		t.Run(damage, func(t *testing.T) {
			st := newCalls()
			m := newManager(t, st, nil)
			b := newBrowser(t)
			b.signIn(m, "alice")
			rec := st.live(t)[0]
			_ = must(st.Store.Delete(t.Context(), rec.Key))(t)
			c.change(&rec.Record)
			check(t, st.Store.Create(t.Context(), rec.Key, rec.Record))
			for range 2 {
				ran := false
				resp := b.do(m, func(s *session.Session) {
					ran = true
					if s.Owner() != "" {
						t.Errorf("the damaged session is %q's", s.Owner())
					}
				})
				if resp.StatusCode != c.status || ran != (c.status == 200) {
					t.Errorf("status %d, handler ran: %v; want %d", resp.StatusCode, ran, c.status)
				}
				if set := resp.Header["Set-Cookie"]; set != nil {
					t.Errorf("sets a cookie: %q", set)
				}
			}
			if c.status == 200 {
				b.signIn(m, "alice")
				if owner, _ := b.look(m); owner != "alice" {
					t.Error("the visitor cannot sign in again")
				}
			} else if got := must(st.Store.Get(t.Context(), rec.Key))(t); !bytes.Equal(got.Data, rec.Data) {
				t.Error("the record of a newer program was changed")
			}
		})
	}
}

// Record and cookie expire together, and nothing lives past the deadline.
func TestFault08ExpiryDrifts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newCalls()
		policy := session.Policy{Idle: time.Hour, Absolute: 150 * time.Minute}
		m := newManager(t, st, &session.Options{Policy: policy, Cookie: session.Cookie{Persistent: true}})
		b := newBrowser(t)
		start := time.Now()
		resp := b.do(m, func(s *session.Session) { check(t, s.SignIn(t.Context(), "alice", nil)) })
		if age := resp.Cookies()[0].MaxAge; age != int(policy.Absolute/time.Second) {
			t.Errorf("Max-Age is %d s; the deadline is in %v", age, policy.Absolute)
		}
		for time.Since(start) < policy.Absolute-time.Minute {
			time.Sleep(25 * time.Minute)
			owner, _ := b.look(m)
			left := policy.Absolute - time.Since(start)
			if (owner == "alice") != (left > 0) {
				t.Errorf("%v before the deadline the owner is %q", left, owner)
			}
			for _, r := range st.live(t) {
				if r.Expires.After(r.Deadline) || r.Deadline.Sub(start) > policy.Absolute {
					t.Errorf("the record expires %v after its deadline", r.Expires.Sub(r.Deadline))
				}
			}
		}
		if n := len(st.live(t)); n != 0 {
			t.Errorf("%d records live after the deadline", n)
		}
	})
}

// An outage of the store signs nobody out, hands out no empty session, and
// does not concern those who have none.
func TestFault09OutageSignsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newCalls()
		m := newManager(t, st, &session.Options{Logout: func(r *http.Request) bool { return r.URL.Path == "/logout" }})
		b := newBrowser(t)
		b.signIn(m, "alice")
		b.do(m, func(s *session.Session) { check(t, count.Set(s, 5)) })
		for outage, before := range map[string]func(string, store.Key) error{
			"refused": func(string, store.Key) error { return errors.New("connection refused") },
			"hangs": func(string, store.Key) error {
				time.Sleep(2 * time.Second) // the deadline of a call
				return context.DeadlineExceeded
			},
		} {
			st.before = before
			id, start := b.id(), time.Now()
			resp := b.do(m, func(*session.Session) { t.Errorf("%s: the handler runs without its session", outage) })
			if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
				t.Errorf("%s: got %d, Retry-After %q; want 503 with one", outage, resp.StatusCode, resp.Header.Get("Retry-After"))
			}
			if b.id() != id || resp.Header["Set-Cookie"] != nil {
				t.Errorf("%s: the outage took the cookie", outage)
			}
			if took := time.Since(start); took > 3*time.Second {
				t.Errorf("%s: the request hung for %v", outage, took)
			}
			calls := st.count("get")
			if resp := newBrowser(t).do(m, func(*session.Session) {}); resp.StatusCode != 200 || st.count("get") != calls {
				t.Errorf("%s: a visitor without a session got %d and %d store calls; want 200 and 0", outage, resp.StatusCode, st.count("get")-calls)
			}
			// Signing out must work in front of a shared computer.
			shared := b.same()
			r := httptest.NewRequest(http.MethodPost, "https://shop.example/logout", nil)
			r.AddCookie(&http.Cookie{Name: "__Host-session", Value: shared.id()})
			w := httptest.NewRecorder()
			m.Handler(http.NotFoundHandler()).ServeHTTP(w, r)
			shared.take(w.Result())
			if w.Code != http.StatusServiceUnavailable || shared.id() != "" {
				t.Errorf("%s: a logout got %d and the cookie is %q; want 503 and no cookie", outage, w.Code, shared.id())
			}
		}
		st.before = nil
		if owner, n := b.look(m); owner != "alice" || n != 5 {
			t.Errorf("after the outage the session is %q's and counts %d; want alice's and 5", owner, n)
		}
	})
}

// Visitors who leave nothing cost nothing.
func TestFault10BotsFillStore(t *testing.T) {
	st := newCalls()
	m := newManager(t, st, nil)
	for range 1000 {
		resp := newBrowser(t).do(m, func(s *session.Session) {
			_ = must(count.Get(s))(t)
			check(t, name.Set(s, "x"))
			name.Delete(s) // changed its mind
			_ = must(notice.Pop(s))(t)
		})
		if len(resp.Header) != 0 {
			t.Fatalf("a visit that kept nothing was answered with %v", resp.Header)
		}
	}
	if n := st.count("create") + st.count("get"); n != 0 {
		t.Errorf("1000 visits made %d store calls, want 0", n)
	}
}

// The list of an owner's sessions holds the live ones and nothing else, however
// often they were renewed, and shows no secret.
func TestFault11OwnerIndexGrows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newCalls()
		m, other := newManager(t, st, nil), newManager(t, st, nil)
		b := newBrowser(t)
		b.signIn(m, "alice")
		var handle session.Handle
		for range 50 {
			b.do(other, func(s *session.Session) { check(t, s.Renew(t.Context())); handle = s.Handle() })
		}
		if infos := must(m.Sessions(t.Context(), "alice"))(t); len(infos) != 1 || infos[0].Handle != handle {
			t.Errorf("after 50 renewals the owner has %d sessions, want the one", len(infos))
		}
		newBrowser(t).signIn(other, "alice")
		if n := must(m.RevokeAll(t.Context(), "alice", handle))(t); n != 1 {
			t.Errorf("signing out everywhere else ended %d sessions, want 1", n)
		}
		if owner, _ := b.look(m); owner != "alice" {
			t.Error("signing out everywhere else signed this session out")
		}
		time.Sleep(25 * time.Hour)
		if infos := must(m.Sessions(t.Context(), "alice"))(t); len(infos) != 0 {
			t.Errorf("%d expired sessions are listed", len(infos))
		}
		if n := must(st.Sweep(t.Context(), 1000))(t); n == 0 || n > 60 {
			t.Errorf("the sweep removed %d records", n)
		}
	})
}

// Sweeping goes in bounded batches and stops when told.
func TestFault12UnboundedCleanup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := &sweeps{calls: newCalls()}
		swept := 0
		m := newManager(t, st, &session.Options{Observer: func(_ context.Context, e session.Event) {
			if e.Kind == session.EventSwept {
				swept += e.N
			}
		}})
		for range 1200 {
			newBrowser(t).do(m, func(s *session.Session) { check(t, count.Set(s, 1)) })
		}
		time.Sleep(2 * time.Hour)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- m.Run(ctx) }()
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if len(st.limits) < 3 || st.removed != 1200 || swept != 1200 {
			t.Errorf("%d sweeps removed %d records, and events told of %d; want batches, and all 1200", len(st.limits), st.removed, swept)
		}
		for _, limit := range st.limits {
			if limit > 1000 {
				t.Errorf("one sweep was to remove %d records at once", limit)
			}
		}
		if !st.bounded {
			t.Error("a sweep has no deadline")
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run ended with %v, want context.Canceled", err)
		}
	})
}

// A store that takes long over a batch is busy, and has most of the time for its
// users.
func TestSweepingLeavesABusyStoreToItsUsers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const batch = 200 * time.Millisecond
		st := &sweeps{calls: newCalls(), takes: batch}
		m := newManager(t, st, nil)
		for range 500 {
			newBrowser(t).do(m, func(s *session.Session) { check(t, count.Set(s, 1)) })
		}
		time.Sleep(2 * time.Hour)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := m.Run(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("Run ended with %v", err)
		}
		if len(st.began) < 5 {
			t.Fatalf("%d batches in a minute, want at least 5", len(st.began))
		}
		for i, next := range st.began[1:5] {
			if rest := next.Sub(st.began[i].Add(batch)); rest < 3*batch {
				t.Errorf("the store rests %v after a batch of %v, want three times as long", rest, batch)
			}
		}
	})
}

// A sweep that its time has not sufficed for goes on soon: what it has done stays
// done, and the rest would grow.
func TestSweepThatTakesTooLongGoesOnSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := &sweeps{calls: newCalls(), takes: time.Hour}
		failed := 0
		m := newManager(t, st, &session.Options{Observer: func(_ context.Context, e session.Event) {
			if e.Kind == session.EventSweepFailed {
				failed++
			}
		}})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := m.Run(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("Run ended with %v", err)
		}
		// Two seconds, and three times as long to rest.
		if len(st.began) < 6 || len(st.began) > 9 || failed < 6 {
			t.Errorf("%d sweeps in a minute, of which %d are told as failed; want one about every eight seconds, and all", len(st.began), failed)
		}
	})
}

type sweeps struct {
	*calls
	takes   time.Duration
	began   []time.Time
	limits  []int
	removed int
	bounded bool
}

func (s *sweeps) Sweep(ctx context.Context, limit int) (int, error) {
	s.began = append(s.began, time.Now())
	select {
	case <-time.After(s.takes):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	n, err := s.calls.Sweep(ctx, limit)
	s.limits = append(s.limits, limit)
	s.removed += n
	_, s.bounded = ctx.Deadline()
	return n, err
}

// A request that hangs holds up no other request of its session.
func TestFault13LocksCascade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t, newCalls(), nil)
		b := newBrowser(t)
		b.signIn(m, "alice")
		start := time.Now()
		done := make(chan struct{})
		go func() {
			defer close(done)
			b.same().do(m, func(s *session.Session) {
				check(t, count.Update(s, add(1)))
				time.Sleep(30 * time.Minute)
			})
		}()
		synctest.Wait()
		for range 10 {
			b.do(m, func(s *session.Session) { check(t, count.Update(s, add(1))) })
		}
		if waited := time.Since(start); waited > time.Second {
			t.Errorf("10 requests waited %v for a slow one", waited)
		}
		<-done
		if _, n := b.look(m); n != 11 {
			t.Errorf("count is %d, want 11", n)
		}
	})
}

// What one request holds is never another's.
func TestFault14SharedSessionObject(t *testing.T) {
	items := session.NewAttr[map[string]int]("items")
	m := newManager(t, newCalls(), nil)
	b := newBrowser(t)
	b.do(m, func(s *session.Session) { check(t, items.Set(s, map[string]int{"apple": 1})) })
	var kept *session.Session
	b.do(m, func(s *session.Session) {
		kept = s
		mine := must(items.Get(s))(t)
		mine["pear"] = 9 // not a change of the session
		if again := must(items.Get(s))(t); again["pear"] != 0 {
			t.Error("changing what Get returned changed the session")
		}
	})
	b.do(m, func(s *session.Session) {
		if s == kept {
			t.Error("two requests share a Session")
		}
		if got := must(items.Get(s))(t); len(got) != 1 {
			t.Errorf("another request sees %v", got)
		}
	})
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			user := fmt.Sprintf("user-%d", i)
			b := newBrowser(t)
			b.signIn(m, user)
			for range 20 {
				if owner, _ := b.look(m); owner != user {
					t.Errorf("%s sees the session of %q", user, owner)
				}
			}
		})
	}
	wg.Wait()
}

// No log line, error or encoding of a session shows an ID, an owner or a value.
func TestFault15SecretsInLogs(t *testing.T) {
	var log bytes.Buffer
	st := newCalls()
	m := newManager(t, st, &session.Options{
		Logger:        slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		CommitTimeout: 5 * time.Millisecond, MaxSize: 5000,
	})
	b := newBrowser(t)
	var printed string
	const owner, value = "alice@secret.example", "hunter2-hunter2"
	b.do(m, func(s *session.Session) {
		check(t, s.SignIn(t.Context(), owner, nil))
		check(t, name.Set(s, value))
		for _, form := range []string{"%v", "%+v", "%#v", "%s", "%d", "%x"} {
			fmt.Fprintf(&log, form+" "+form+"\n", s, s.Handle())
		}
		slog.New(slog.NewJSONHandler(&log, nil)).Info("session: here", "session", s)
		printed = log.String()
	})
	ids := []string{b.id()}
	provoke := func(f func(s *session.Session)) { ids = append(ids, b.id()); b.do(m, f) }
	provoke(func(s *session.Session) { check(t, name.Set(s, strings.Repeat(value, 300))) }) // large
	provoke(func(s *session.Session) { check(t, name.Set(s, strings.Repeat(value, 400))) }) // too large
	provoke(func(s *session.Session) {
		check(t, name.Set(s, value))
		_, err := session.NewAttr[int]("name").Get(s)
		fmt.Fprintln(&log, err)
	})
	for _, op := range []string{"replace", "retire", "create", "get", "delete", "touch"} {
		st.before = func(o string, _ store.Key) error {
			if o == op {
				return errors.New("down")
			}
			return nil
		}
		provoke(func(s *session.Session) {
			check(t, name.Set(s, value))
			fmt.Fprintln(&log, s.Commit(t.Context()))
		})
		provoke(func(s *session.Session) { fmt.Fprintln(&log, s.Renew(t.Context())) })
		provoke(func(s *session.Session) { fmt.Fprintln(&log, s.SignIn(t.Context(), owner, nil)) })
	}
	st.before = nil
	provoke(func(s *session.Session) { fmt.Fprintln(&log, s.Destroy(t.Context())) })
	for _, secret := range append(ids, owner, value) {
		if secret != "" && strings.Contains(log.String(), secret) {
			t.Errorf("the log shows %q:\n%s", secret, log.String())
		}
	}
	for _, b := range must(base64.RawURLEncoding.DecodeString(ids[0]))(t)[:4] {
		// Printed as numbers, the ID would show all of its bytes.
		ids[0] = fmt.Sprintf("%s %d", ids[0], b)
	}
	_, numbers, _ := strings.Cut(ids[0], " ")
	if strings.Contains(printed, numbers) {
		t.Errorf("printing a session shows its ID as numbers: %s", printed)
	}
	if !strings.Contains(log.String(), "session:") {
		t.Error("nothing was logged: the test has lost its reach")
	}
}
