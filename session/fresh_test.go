package session_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/session/internal/format"
	"github.com/coatcheck/coatcheck/store"
)

// copies is the worst store that a FreshReader may be: Get answers for ever with
// the first thing it saw under a key, absence too.
type copies struct {
	*calls
	// refresh, if not nil, says after a read through whether the copy is replaced.
	refresh func() bool

	mu   sync.Mutex
	held map[store.Key]held
}

type held struct {
	rec store.Record
	err error
}

func newCopies(st *calls) *copies { return &copies{calls: st, held: map[store.Key]held{}} }

func (c *copies) Get(ctx context.Context, k store.Key) (store.Record, error) {
	c.mu.Lock()
	h, ok := c.held[k]
	c.mu.Unlock()
	if ok {
		return clone(h.rec), h.err
	}
	return c.keep(ctx, k)
}

func (c *copies) GetFresh(ctx context.Context, k store.Key) (store.Record, error) {
	c.calls.mu.Lock()
	c.n["fresh"]++
	c.calls.mu.Unlock()
	if c.refresh != nil && c.refresh() {
		return c.keep(ctx, k)
	}
	return c.calls.Get(ctx, k)
}

func (c *copies) keep(ctx context.Context, k store.Key) (store.Record, error) {
	rec, err := c.calls.Get(ctx, k)
	if err == nil || errors.Is(err, store.ErrNotFound) {
		c.mu.Lock()
		c.held[k] = held{clone(rec), err}
		c.mu.Unlock()
	}
	return rec, err
}

func clone(r store.Record) store.Record {
	r.Data, r.Label = slices.Clone(r.Data), slices.Clone(r.Label)
	return r
}

// near returns two servers that share a store, each with copies of its own.
func near(t testing.TB, opts *session.Options) (st *calls, caches [2]*copies, servers [2]*session.Manager) {
	st = newCalls()
	for i := range servers {
		caches[i] = newCopies(st)
		servers[i] = newManager(t, caches[i], opts)
	}
	return st, caches, servers
}

const seenName = "__Host-session-v"

// seen returns the browser's second cookie.
func (b *browser) seen() string {
	for _, c := range b.jar.Cookies(site) {
		if c.Name == seenName {
			return c.Value
		}
	}
	return ""
}

// setSeen replaces the browser's second cookie; "" removes it.
func (b *browser) setSeen(v string) {
	c := &http.Cookie{Name: seenName, Value: v, Path: "/", Secure: true}
	if v == "" {
		c.MaxAge = -1
	}
	b.jar.SetCookies(site, []*http.Cookie{c})
}

// tampers are what may become of the second cookie between two requests.
var tampers = map[string]func(rng *rand.Rand, b *browser, users []*browser, old []string){
	"kept":      nil,
	"lost":      func(_ *rand.Rand, b *browser, _ []*browser, _ []string) { b.setSeen("") },
	"regressed": func(rng *rand.Rand, b *browser, _ []*browser, old []string) { b.setSeen(old[rng.IntN(len(old))]) },
	"foreign": func(rng *rand.Rand, b *browser, users []*browser, _ []string) {
		b.setSeen(users[rng.IntN(len(users))].seen())
	},
	"garbled": func(rng *rand.Rand, b *browser, _ []*browser, _ []string) {
		junk := make([]byte, rng.IntN(20))
		for i := range junk {
			junk[i] = "ABCxyz019-_=+/ %"[rng.IntN(16)]
		}
		b.setSeen(strings.TrimSpace(string(junk)))
	},
}

// TestReadYourWrites: users who wander between two servers, each request after
// the answer to the last, never read older than they wrote, although both
// servers keep their copies for ever. If the second cookie is lost or spoilt,
// they may; but nothing else happens to them.
func TestReadYourWrites(t *testing.T) {
	users, steps := 40, 8000
	if testing.Short() {
		users, steps = 15, 2000
	}
	for name, tamper := range tampers {
		t.Run(name, func(t *testing.T) {
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			w := newWandering(t, rand.New(rand.NewPCG(seed, 2)), users)
			for i := range steps {
				w.step(i, tamper)
				if t.Failed() {
					t.Fatalf("at step %d of seed %d", i, seed)
				}
			}
			switch {
			case tamper == nil && w.stale > 0:
				t.Errorf("%d of %d requests read older than their own last write", w.stale, steps)
			case tamper != nil && w.stale == 0:
				t.Error("nobody read anything stale: the second cookie is not what keeps users from it, or the test has lost its reach")
			}
			w.judge()
		})
	}
}

// wandering are users with what each has written.
type wandering struct {
	t       *testing.T
	rng     *rand.Rand
	servers [2]*session.Manager
	st      *calls
	users   []*browser
	model   []wrote
	old     []string // values of second cookies
	stale   int
}

type wrote struct {
	owner, name string
	count       int
}

func newWandering(t *testing.T, rng *rand.Rand, users int) *wandering {
	st, caches, servers := near(t, nil)
	for _, c := range caches {
		c.refresh = func() bool { return rng.IntN(4) == 0 }
	}
	w := &wandering{t: t, rng: rng, servers: servers, st: st, model: make([]wrote, users), old: []string{""}}
	for range users {
		w.users = append(w.users, newBrowser(t))
	}
	return w
}

// step is one request of somebody.
func (w *wandering) step(i int, tamper func(*rand.Rand, *browser, []*browser, []string)) {
	t, u := w.t, w.rng.IntN(len(w.users))
	b, m, is := w.users[u], w.servers[w.rng.IntN(2)], &w.model[u]
	if tamper != nil {
		w.old = append(w.old, b.seen())
		tamper(w.rng, b, w.users, w.old)
	}
	ops := []string{"read", "read", "set", "update", "update", "delete", "sign in", "sign in again", "renew", "commit", "refresh", "destroy"}
	op := ops[w.rng.IntN(len(ops))]
	if op == "destroy" && w.rng.IntN(3) > 0 {
		op = "read"
	}
	resp := b.do(m, func(s *session.Session) {
		if op == "refresh" {
			check(t, s.Refresh(t.Context()))
		}
		got := wrote{s.Owner(), must(name.Get(s))(t), must(count.Get(s))(t)}
		if got != *is {
			w.stale++
			switch {
			case op == "refresh":
				t.Errorf("user %d reads %+v after Refresh, want %+v", u, got, *is)
			case tamper == nil:
				t.Errorf("user %d reads %+v, but wrote %+v", u, got, *is)
			case got.owner != "" && got.owner != is.owner:
				t.Errorf("user %d reads the session of %q, not of %q", u, got.owner, is.owner)
			}
		}
		switch op {
		case "set":
			is.name = fmt.Sprint("name ", i)
			check(t, name.Set(s, is.name))
		case "delete":
			is.name = ""
			name.Delete(s)
		case "update", "commit":
			is.count++
			check(t, count.Update(s, add(1)))
			if op == "commit" {
				check(t, s.Commit(t.Context()))
				is.name = "committed"
				check(t, name.Set(s, is.name))
			}
		case "sign in", "sign in again":
			owner := fmt.Sprint("user-", u)
			if is.owner == "" || op == "sign in again" {
				is.owner = owner
				check(t, s.SignIn(t.Context(), owner, nil))
			}
		case "renew":
			is.count++
			check(t, count.Update(s, add(1)))
			check(t, s.Renew(t.Context()))
		case "destroy":
			*is = wrote{}
			check(t, s.Destroy(t.Context()))
		}
	})
	if resp.StatusCode != http.StatusOK {
		t.Errorf("user %d, %s: status %d", u, op, resp.StatusCode)
	}
}

// judge looks at what is in the store, through a server that has no copies.
func (w *wandering) judge() {
	m, sessions := newManager(w.t, w.st.Store, nil), 0
	for u, b := range w.users {
		var got wrote
		b.do(m, func(s *session.Session) {
			got = wrote{s.Owner(), must(name.Get(s))(w.t), must(count.Get(s))(w.t)}
			if s.Handle() != (session.Handle{}) {
				sessions++
			}
		})
		if got != w.model[u] {
			w.t.Errorf("the session of user %d holds %+v, want %+v", u, got, w.model[u])
		}
	}
	if live := len(w.st.live(w.t)); live != sessions {
		w.t.Errorf("%d sessions live in the store, of which users hold %d", live, sessions)
	}
}

// The second cookie is there for stores with copies alone, looks like the first,
// comes when something was written, and goes with it.
func TestSeenCookie(t *testing.T) {
	set := func(resp *http.Response) (names []string) {
		for _, c := range resp.Cookies() {
			names = append(names, c.Name)
		}
		return names
	}
	t.Run("without copies", func(t *testing.T) {
		m := newManager(t, newCalls(), nil)
		b := newBrowser(t)
		for _, f := range []func(*session.Session){
			func(s *session.Session) { check(t, count.Set(s, 1)) },
			func(s *session.Session) { check(t, s.SignIn(t.Context(), "alice", nil)) },
			func(s *session.Session) { check(t, s.Destroy(t.Context())) },
		} {
			if resp := b.do(m, f); slices.Contains(set(resp), seenName) {
				t.Errorf("the store has no copies, yet the cookies %v are set", set(resp))
			}
		}
	})
	t.Run("with copies", func(t *testing.T) {
		st, _, servers := near(t, nil)
		m, b := servers[0], newBrowser(t)
		last := "nothing"
		for _, step := range []struct {
			name string
			f    func(*session.Session)
			want []string
		}{
			{"a visit", func(*session.Session) {}, nil},
			{"a first value", func(s *session.Session) { check(t, count.Set(s, 1)) }, []string{"__Host-session", seenName}},
			{"a read", func(s *session.Session) { _ = must(count.Get(s))(t) }, nil},
			{"a change", func(s *session.Session) { check(t, count.Set(s, 2)) }, []string{seenName}},
			{"the same again", func(s *session.Session) { check(t, count.Set(s, 2)) }, []string{seenName}},
			{"a sign-in", func(s *session.Session) { check(t, s.SignIn(t.Context(), "alice", nil)) }, []string{"__Host-session", seenName}},
			{"a renewal", func(s *session.Session) { check(t, s.Renew(t.Context())) }, []string{"__Host-session", seenName}},
			{"a refused change", func(s *session.Session) {
				check(t, count.Set(s, 3))
				_ = must(st.DeleteOwner(t.Context(), "alice"))(t)
			}, nil},
		} {
			resp := b.do(m, step.f)
			if got := set(resp); !slices.Equal(got, step.want) {
				t.Errorf("%s sets the cookies %v, want %v", step.name, got, step.want)
			}
			if slices.Contains(step.want, seenName) {
				if cc := resp.Header.Get("Cache-Control"); cc != "no-store" {
					t.Errorf("%s: a response with a cookie has Cache-Control %q", step.name, cc)
				}
				last = step.name
				live := st.live(t)
				if want := format.NewSeen(live[0].Key, live[0].Version).Encode(); b.seen() != want {
					t.Errorf("after %s the browser knows %q, want %q of the record", last, b.seen(), want)
				}
			}
		}
	})
	t.Run("Destroy clears both", func(t *testing.T) {
		_, _, servers := near(t, nil)
		b := newBrowser(t)
		b.signIn(servers[0], "alice")
		b.do(servers[1], func(s *session.Session) { check(t, s.Destroy(t.Context())) })
		if b.id() != "" || b.seen() != "" {
			t.Error("a cookie is left after Destroy")
		}
	})
	t.Run("attributes", func(t *testing.T) {
		m := newManager(t, newCopies(newCalls()), &session.Options{
			Cookie: session.Cookie{Name: "__Secure-a", Domain: "shop.example", Path: "/b", SameSite: http.SameSiteStrictMode, Partitioned: true, Persistent: true},
		})
		resp := newBrowser(t).do(m, func(s *session.Session) { check(t, count.Set(s, 1)) })
		first, second := resp.Header["Set-Cookie"][0], resp.Header["Set-Cookie"][1]
		_, first, _ = strings.Cut(first, ";")
		value, second, _ := strings.Cut(second, ";")
		if first != second || !strings.HasPrefix(value, "__Secure-a-v=") || !strings.Contains(second, "HttpOnly") {
			t.Errorf("the second cookie, %s;%s, has other attributes than the first:%s", value, second, first)
		}
	})
	t.Run("longest name", func(t *testing.T) {
		name := "__Host-" + strings.Repeat("n", 4096-43-len("__Host-"))
		m := newManager(t, newCopies(newCalls()), &session.Options{Cookie: session.Cookie{Name: name}})
		resp := newBrowser(t).do(m, func(s *session.Session) { check(t, count.Set(s, 1)) })
		for _, c := range resp.Cookies() {
			if n := len(c.Name) + len(c.Value); n > 4096 {
				t.Errorf("a cookie has %d bytes; browsers drop those of more than 4096", n)
			}
		}
	})
	t.Run("a session that ends after a commit", func(t *testing.T) {
		_, _, servers := near(t, nil)
		b := newBrowser(t)
		b.signIn(servers[0], "alice")
		resp := b.do(servers[0], func(s *session.Session) {
			check(t, count.Set(s, 2))
			check(t, s.Commit(t.Context()))
			_ = must(servers[0].RevokeAll(t.Context(), "alice"))(t)
			check(t, count.Set(s, 3))
		})
		if len(set(resp)) > 0 {
			t.Errorf("the response sets %v; that of a faster sign-in would be overwritten", set(resp))
		}
	})
	t.Run("a refused commit after one that went well", func(t *testing.T) {
		_, _, servers := near(t, &session.Options{MaxSize: 100})
		b := newBrowser(t)
		b.do(servers[0], func(s *session.Session) { check(t, count.Set(s, 1)) })
		_, _ = b.look(servers[1])
		b.do(servers[0], func(s *session.Session) {
			check(t, count.Set(s, 2))
			check(t, s.Commit(t.Context()))
			check(t, name.Set(s, strings.Repeat("x", 200)))
		})
		if _, n := b.look(servers[1]); n != 2 {
			t.Errorf("count is %d after it was committed as 2: the error's response dropped the second cookie", n)
		}
	})
}

// What a client sends for the second cookie costs a read of the store at most.
func TestSeenCookieGarbage(t *testing.T) {
	st, _, servers := near(t, nil)
	b := newBrowser(t)
	b.signIn(servers[0], "alice")
	first := b.seen()
	if owner, _ := b.look(servers[1]); owner != "alice" { // its copy is of now
		t.Fatal("alice is signed out")
	}
	b.do(servers[0], func(s *session.Session) { check(t, count.Set(s, 7)) })
	key := st.live(t)[0].Key
	const a = seenName + "="
	for name, tt := range map[string]struct {
		lines []string
		fresh bool // it makes the server read its own store
	}{
		"own":               {[]string{a + "{own}"}, true},
		"own, with spaces":  {[]string{"x=1;\t " + a + "{own} \t; y=2"}, true},
		"of the far future": {[]string{a + format.NewSeen(key, 1<<64-1).Encode()}, true},
		"older":             {[]string{a + first}, false},
		"none":              {nil, false},
		"empty":             {[]string{a}, false},
		"bare":              {[]string{seenName}, false},
		"zero":              {[]string{a + "AAAAAAAAAAAAAAAA"}, false},
		"of another":        {[]string{a + format.NewSeen(store.Key{1}, 1<<60).Encode()}, false},
		"twice":             {[]string{a + "{own}; " + a + "{own}"}, false},
		"in two headers":    {[]string{a + "{own}", a + "{own}"}, false},
		"thrice":            {[]string{a + "{own}; " + a + "{own}; " + a + "{own}"}, false},
		"quoted":            {[]string{a + `"{own}"`}, false},
		"padded":            {[]string{a + "{own}="}, false},
		"short":             {[]string{a + "AAAA"}, false},
		"a line break":      {[]string{a + "AAAAAAA\nAAAAAAAA"}, false},
		"another alphabet":  {[]string{a + "++++++++++++++++"}, false},
		"another case":      {[]string{"__Host-Session-v={own}"}, false},
		"a longer name":     {[]string{seenName + "v={own}"}, false},
		"a million bytes":   {[]string{a + strings.Repeat("A", 1e6)}, false},
	} {
		t.Run(name, func(t *testing.T) {
			before := st.count("fresh")
			r := httptest.NewRequest(http.MethodGet, site.String(), nil)
			r.Header["Cookie"] = []string{"__Host-session=" + b.id()}
			for _, l := range tt.lines {
				r.Header["Cookie"] = append(r.Header["Cookie"], strings.ReplaceAll(l, "{own}", b.seen()))
			}
			n := -1
			servers[1].Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				s := servers[1].From(r.Context())
				if n = must(count.Get(s))(t); s.Owner() != "alice" {
					t.Error("alice is signed out")
				}
			})).ServeHTTP(httptest.NewRecorder(), r)
			want := 0
			if tt.fresh {
				want = 7
			}
			if reads := st.count("fresh") - before; n != want || reads != want/7 {
				t.Errorf("count is %d after %d reads through, want %d after %d", n, reads, want, want/7)
			}
		})
	}
}

// A failover of the store may lose what a browser has seen. It is told once.
func TestSeenWriteIsLost(t *testing.T) {
	for name, lose := range map[string]func(rec store.Record) store.Record{
		"an older record":              func(old store.Record) store.Record { return old },
		"one of another history since": func(old store.Record) store.Record { old.Version += 1 << 32; old.Version ^= 1; return old },
	} {
		t.Run(name, func(t *testing.T) {
			st, caches, servers := near(t, nil)
			caches[0].refresh = func() bool { return true }
			b := newBrowser(t)
			b.signIn(servers[0], "alice")
			old := st.live(t)[0]
			b.do(servers[0], func(s *session.Session) { check(t, count.Set(s, 7)) })
			_ = must(st.Store.Delete(t.Context(), old.Key))(t)
			check(t, st.Store.Create(t.Context(), old.Key, lose(old.Record)))
			for i := range 3 {
				owner, n := b.look(servers[i%2])
				if owner != "alice" || n != 0 {
					t.Errorf("request %d sees %q with %d, want alice with what the store has left", i, owner, n)
				}
			}
			if n := st.count("fresh"); n != 1 {
				t.Errorf("%d requests read through after the loss, want the first alone", n)
			}
		})
	}
}

// Two histories that a failover tore apart may count to the same number. A copy
// of the lost one lacks what the user wrote into the other.
func TestCopyOfLostHistory(t *testing.T) {
	st, caches, servers := near(t, nil)
	b := newBrowser(t)
	b.signIn(servers[0], "alice")
	old := st.live(t)[0]
	b.same().do(servers[0], func(s *session.Session) { check(t, count.Set(s, 1)) })
	_, _ = b.look(servers[1]) // a copy of what will be lost
	_ = must(st.Store.Delete(t.Context(), old.Key))(t)
	check(t, st.Store.Create(t.Context(), old.Key, old.Record))
	b.do(servers[0], func(s *session.Session) { check(t, count.Set(s, 2)) })
	if lost, now := caches[1].held[old.Key].rec.Version, st.live(t)[0].Version; lost>>32 != now>>32 {
		t.Fatalf("versions %#x and %#x: nothing is shown", lost, now)
	}
	if _, n := b.look(servers[1]); n != 2 {
		t.Errorf("the user reads %d from a history that was lost, want the 2 they wrote", n)
	}
}

// A copy that says absent, ended or overdue is not believed when the user knows
// better, and a copy alone removes nothing.
func TestStaleVerdicts(t *testing.T) {
	t.Run("absent", func(t *testing.T) {
		for _, keeps := range []bool{true, false} {
			st, caches, servers := near(t, nil)
			b := newBrowser(t)
			b.signIn(servers[0], "alice")
			caches[1].held[st.live(t)[0].Key] = held{err: store.ErrNotFound}
			if !keeps {
				b.setSeen("")
			}
			id := b.id()
			resp := b.do(servers[1], func(s *session.Session) {
				if (s.Owner() == "alice") != keeps {
					t.Errorf("with the second cookie %t: the owner is %q", keeps, s.Owner())
				}
				check(t, count.Update(s, add(1)))
			})
			if resp.StatusCode != http.StatusOK || b.id() != id {
				t.Error("a copy without the session made a new one take its cookie: alice is signed out")
			}
			if owner, n := b.look(servers[1]); owner != "alice" || n != 1 {
				t.Errorf("after a write alice's session is of %q with %d", owner, n)
			}
		}
	})
	t.Run("absent, and a logout", func(t *testing.T) {
		st, caches, servers := near(t, nil)
		b := newBrowser(t)
		b.signIn(servers[0], "alice")
		caches[1].held[st.live(t)[0].Key] = held{err: store.ErrNotFound}
		b.setSeen("")
		b.do(servers[1], func(s *session.Session) { check(t, s.Destroy(t.Context())) })
		if n := len(st.live(t)); n != 0 {
			t.Error("a logout believed a copy that had no session: it lives on in the store")
		}
	})
	t.Run("absent, and a sign-in or renewal", func(t *testing.T) {
		for _, in := range []bool{true, false} {
			st, caches, servers := near(t, nil)
			b := newBrowser(t)
			b.do(servers[0], func(s *session.Session) { check(t, count.Set(s, 3)) })
			caches[1].held[st.live(t)[0].Key] = held{err: store.ErrNotFound}
			b.setSeen("")
			b.do(servers[1], func(s *session.Session) {
				if in {
					check(t, s.SignIn(t.Context(), "alice", nil))
				} else {
					check(t, s.Renew(t.Context()))
				}
			})
			if _, n := b.look(servers[1]); n != 3 || len(st.live(t)) != 1 {
				t.Errorf("sign-in %t: the cart holds %d, want the 3 from before, in one session", in, n)
			}
		}
	})
	t.Run("overdue", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			st, _, servers := near(t, nil)
			// The policy is shortened, server by server; the second still has a copy.
			short := newCopies(st)
			strict := newManager(t, short, &session.Options{Policy: session.Policy{Idle: 20 * time.Minute}})
			b := newBrowser(t)
			b.signIn(servers[0], "alice")
			_, _ = b.look(strict)
			for range 4 {
				time.Sleep(15 * time.Minute)
				_, _ = b.look(servers[0])
				if owner, _ := b.look(strict); owner != "alice" {
					t.Fatal("a session in use was removed because a copy had not seen that")
				}
			}
		})
	})
	t.Run("damaged, newer, or a marker", func(t *testing.T) {
		for _, bad := range []func(*store.Keyed){
			func(r *store.Keyed) { r.Data = []byte{1} },
			func(r *store.Keyed) { r.Data = []byte("?") },
			func(r *store.Keyed) { r.Next, r.Data = r.Key, nil },
		} {
			st, caches, servers := near(t, nil)
			b := newBrowser(t)
			b.signIn(servers[0], "alice")
			rec := st.live(t)[0]
			bad(&rec)
			caches[1].held[rec.Key] = held{rec: rec.Record}
			if owner, _ := b.look(servers[1]); owner != "alice" {
				t.Errorf("alice is signed out by a copy with the data %q", rec.Data)
			}
		}
	})
}

// Where a session has ended, a copy shows it within the copy's bound; but nothing
// can be written by it, and routes that ask do not see it.
func TestEndedSessionInCopy(t *testing.T) {
	routes := map[string]func(m *session.Manager, h http.Handler) http.Handler{
		"plain":          func(_ *session.Manager, h http.Handler) http.Handler { return h },
		"Fresh":          func(_ *session.Manager, h http.Handler) http.Handler { return session.Fresh(h) },
		"Manager.Fresh":  func(m *session.Manager, h http.Handler) http.Handler { return m.Fresh(h) },
		"recent sign-in": func(m *session.Manager, h http.Handler) http.Handler { return m.RequireRecentSignIn(time.Hour, h, nil) },
	}
	ends := map[string]func(t *testing.T, m *session.Manager, b *browser){
		"revoked": func(t *testing.T, m *session.Manager, _ *browser) { _ = must(m.RevokeAll(t.Context(), "alice"))(t) },
		"logout": func(t *testing.T, m *session.Manager, b *browser) {
			b.same().do(m, func(s *session.Session) { check(t, s.Destroy(t.Context())) })
		},
		"renewed": func(t *testing.T, m *session.Manager, b *browser) {
			b.same().do(m, func(s *session.Session) { check(t, s.Renew(t.Context())) })
		},
	}
	for route, wrap := range routes {
		for end, do := range ends {
			t.Run(route+"/"+end, func(t *testing.T) {
				st, _, servers := near(t, nil)
				b := newBrowser(t)
				b.signIn(servers[0], "alice")
				_, _ = b.look(servers[1])
				do(t, servers[0], b)
				owner, ran := "", false
				resp := b.send(servers[1], func(w http.ResponseWriter, r *http.Request) {
					wrap(servers[1], http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
						ran, owner = true, session.From(r.Context()).Owner()
					})).ServeHTTP(w, r)
				})
				if route == "plain" && owner != "alice" {
					t.Fatal("the copy is not shown: the test has lost its reach")
				}
				if route != "plain" && (owner != "" || ran == (route == "recent sign-in")) {
					t.Errorf("the handler ran: %t, for %q, by a copy of a session that has ended", ran, owner)
				}
				if len(resp.Header["Set-Cookie"]) > 0 {
					t.Errorf("the response sets cookies: %v", resp.Header["Set-Cookie"])
				}
				resp = b.send(servers[1], func(_ http.ResponseWriter, r *http.Request) {
					check(t, count.Set(servers[1].From(r.Context()), 1))
				})
				if resp.StatusCode != http.StatusConflict || len(resp.Header["Set-Cookie"]) > 0 {
					t.Errorf("a write by the copy was answered %d", resp.StatusCode)
				}
				if want := map[bool]int{true: 1}[end == "renewed"]; len(st.live(t)) != want {
					t.Errorf("%d sessions live, want %d", len(st.live(t)), want)
				}
			})
		}
	}
}

func TestRefresh(t *testing.T) {
	stale := func(t *testing.T, opts *session.Options) (*calls, [2]*session.Manager, *browser) {
		st, _, servers := near(t, opts)
		b := newBrowser(t)
		b.signIn(servers[0], "alice")
		_, _ = b.look(servers[1])
		b.same().do(servers[0], func(s *session.Session) { check(t, count.Set(s, 7)) }) // its cookies are lost
		return st, servers, b
	}
	t.Run("reads once and keeps changes", func(t *testing.T) {
		st, servers, b := stale(t, nil)
		b.do(servers[1], func(s *session.Session) {
			if n := must(count.Get(s))(t); n != 0 {
				t.Fatalf("count is %d: nothing is stale, so nothing is shown", n)
			}
			check(t, count.Update(s, add(1)))
			before := st.count("fresh")
			check(t, errors.Join(s.Refresh(t.Context()), s.Refresh(t.Context())))
			if n := must(count.Get(s))(t); n != 8 || st.count("fresh") != before+1 {
				t.Errorf("count is %d after %d reads through, want 7 and the change after one", n, st.count("fresh")-before)
			}
		})
		if _, n := b.look(servers[0]); n != 8 {
			t.Errorf("count is stored as %d, want 8", n)
		}
	})
	t.Run("is nothing without copies", func(t *testing.T) {
		st := newCalls()
		m := newManager(t, st, nil)
		b := newBrowser(t)
		b.signIn(m, "alice")
		before := st.count("get")
		b.serve(m, func(w http.ResponseWriter, r *http.Request) {
			session.Fresh(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})).ServeHTTP(w, r)
		})
		if n := st.count("get") - before; n != 1 {
			t.Errorf("%d reads of a store without copies, want 1", n)
		}
	})
	t.Run("changes of an ended session", func(t *testing.T) {
		_, servers, b := stale(t, nil)
		_ = must(servers[0].RevokeAll(t.Context(), "alice"))(t)
		b.do(servers[1], func(s *session.Session) {
			check(t, count.Set(s, 1))
			if err := s.Refresh(t.Context()); !errors.Is(err, session.ErrEnded) {
				t.Errorf("Refresh returns %v, want ErrEnded", err)
			}
		})
	})
	t.Run("an outage", func(t *testing.T) {
		for _, route := range []string{"Fresh", "recent sign-in"} {
			var events []session.EventKind
			st, servers, b := stale(t, &session.Options{Observer: func(_ context.Context, e session.Event) { events = append(events, e.Kind) }})
			st.before = func(string, store.Key) error { return errLost }
			h := http.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				t.Errorf("%s: the handler ran", route)
				_, _ = io.WriteString(w, "page")
			}))
			if h = session.Fresh(h); route != "Fresh" {
				h = servers[1].RequireRecentSignIn(time.Hour, h, nil)
			}
			id := b.id()
			resp := b.serve(servers[1], h.ServeHTTP)
			if resp.StatusCode != http.StatusServiceUnavailable || b.id() != id {
				t.Errorf("%s: the answer is %d; want 503 with the cookie kept", route, resp.StatusCode)
			}
			if !slices.Contains(events, session.EventUnavailable) {
				t.Errorf("%s: nobody is told: %v", route, events)
			}
		}
	})
	t.Run("when a copy alone lacks the session", func(t *testing.T) {
		st, caches, servers := near(t, nil)
		b := newBrowser(t)
		b.signIn(servers[0], "alice")
		caches[1].held[st.live(t)[0].Key] = held{err: store.ErrNotFound}
		b.setSeen("")
		b.do(servers[1], func(s *session.Session) {
			check(t, count.Set(s, 5))
			if err := s.Refresh(t.Context()); err != nil || s.Owner() != "alice" {
				t.Errorf("after Refresh, %v, the owner is %q", err, s.Owner())
			}
		})
		if _, n := b.look(servers[0]); n != 5 {
			t.Errorf("count is %d, want the 5 that was set before Refresh", n)
		}
	})
	t.Run("an observer may look at the session", func(t *testing.T) {
		st, _, servers := near(t, &session.Options{Observer: func(ctx context.Context, _ session.Event) {
			if s, ok := ctx.Value(observed{}).(*session.Session); ok {
				_, _ = count.Get(s)
			}
		}})
		b := newBrowser(t)
		b.signIn(servers[0], "alice")
		rec := st.live(t)[0]
		b.do(servers[1], func(s *session.Session) {
			rec.Data = []byte{1}
			_ = must(st.Store.Delete(t.Context(), rec.Key))(t)
			check(t, st.Store.Create(t.Context(), rec.Key, rec.Record))
			check(t, s.Refresh(context.WithValue(t.Context(), observed{}, s)))
			if s.Owner() != "" {
				t.Error("a damaged session is still alice's")
			}
		})
	})
}

type observed struct{}

// EventStaleRead tells how often the second cookie was worth it.
func TestStaleReadIsObserved(t *testing.T) {
	stale := 0
	_, _, servers := near(t, &session.Options{Observer: func(_ context.Context, e session.Event) {
		if e.Kind == session.EventStaleRead {
			stale++
		}
	}})
	b := newBrowser(t)
	b.signIn(servers[0], "alice")
	_, _ = b.look(servers[1])
	b.do(servers[0], func(s *session.Session) { check(t, count.Set(s, 1)) })
	if stale != 0 {
		t.Errorf("%d stale reads before there was one", stale)
	}
	_, _ = b.look(servers[1])
	if stale != 1 {
		t.Errorf("%d stale reads are observed, want 1", stale)
	}
}

// In a fleet of which one server has no copies, that one sets no second cookie.
// What is written there may be read late elsewhere, and nothing worse.
func TestServersWithAndWithoutCopies(t *testing.T) {
	st := newCalls()
	near, plain := newManager(t, newCopies(st), nil), newManager(t, st, nil)
	b := newBrowser(t)
	b.signIn(near, "alice")
	_, _ = b.look(near)
	resp := b.do(plain, func(s *session.Session) { check(t, count.Update(s, add(1))) })
	if set := resp.Header["Set-Cookie"]; len(set) > 0 {
		t.Errorf("a server without copies sets %v", set)
	}
	if owner, n := b.look(near); owner != "alice" || n != 0 {
		t.Errorf("%q reads %d; docs/design.md says that this is not covered", owner, n)
	}
	b.do(near, func(s *session.Session) { check(t, count.Update(s, add(1))) })
	if _, n := b.look(near); n != 2 {
		t.Errorf("count is %d after two additions: one was lost to a copy", n)
	}
	b.do(plain, func(s *session.Session) { check(t, s.Renew(t.Context())) })
	if owner, n := b.look(near); owner != "alice" || n != 2 {
		t.Errorf("after a renewal without the second cookie: %q with %d", owner, n)
	}
}

// Ping asks the store itself.
func TestPingReadsThrough(t *testing.T) {
	st := newCalls()
	c := newCopies(st)
	m := newManager(t, pingless{c}, nil)
	check(t, m.Ping(t.Context()))
	c.held[store.Key{}] = held{err: store.ErrNotFound}
	st.before = func(string, store.Key) error { return errLost }
	if err := m.Ping(t.Context()); !errors.Is(err, session.ErrUnavailable) {
		t.Errorf("Ping returns %v while the store is down: a copy has answered", err)
	}
}

// pingless has copies and no Ping.
type pingless struct{ inner *copies }

func (p pingless) Get(ctx context.Context, k store.Key) (store.Record, error) {
	return p.inner.Get(ctx, k)
}

func (p pingless) GetFresh(ctx context.Context, k store.Key) (store.Record, error) {
	return p.inner.GetFresh(ctx, k)
}

func (p pingless) Create(ctx context.Context, k store.Key, r store.Record) error {
	return p.inner.Create(ctx, k, r)
}

func (p pingless) Replace(ctx context.Context, k store.Key, old uint64, r store.Record) error {
	return p.inner.Replace(ctx, k, old, r)
}

func (p pingless) Touch(ctx context.Context, k store.Key, expires time.Time) error {
	return p.inner.Touch(ctx, k, expires)
}

func (p pingless) Delete(ctx context.Context, k store.Key) (bool, error) {
	return p.inner.Delete(ctx, k)
}

var _ store.FreshReader = (*copies)(nil)

// TestGuardAfterKnownEnd: who has learned from a commit that the session has ended
// does not pass a guard by the values that are still there.
func TestGuardAfterKnownEnd(t *testing.T) {
	for route, wrap := range map[string]func(m *session.Manager, h http.Handler) http.Handler{
		"Fresh":          func(m *session.Manager, h http.Handler) http.Handler { return m.Fresh(h) },
		"recent sign-in": func(m *session.Manager, h http.Handler) http.Handler { return m.RequireRecentSignIn(time.Hour, h, nil) },
	} {
		t.Run(route, func(t *testing.T) {
			_, _, servers := near(t, nil)
			b := newBrowser(t)
			b.signIn(servers[0], "alice")
			_, _ = b.look(servers[1])
			_ = must(servers[0].RevokeAll(t.Context(), "alice"))(t)
			resp := b.send(servers[1], func(w http.ResponseWriter, r *http.Request) {
				s := servers[1].From(r.Context())
				check(t, count.Set(s, 1))
				if err := s.Commit(r.Context()); !errors.Is(err, session.ErrEnded) {
					t.Fatalf("Commit by the copy of a revoked session: %v, want ErrEnded", err)
				}
				wrap(servers[1], http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
					t.Errorf("the guarded handler ran for %q, whose session is known to be revoked", s.Owner())
				})).ServeHTTP(w, r)
			})
			if resp.StatusCode != http.StatusConflict {
				t.Errorf("the answer is %d, want 409", resp.StatusCode)
			}
		})
	}
}

// TestDeadCookieReadsThroughOnce: the browser of a session that has ended keeps its
// ID, but what it has seen is gone for good, so that copies serve it from then on.
func TestDeadCookieReadsThroughOnce(t *testing.T) {
	_, _, servers := near(t, nil)
	b := newBrowser(t)
	b.signIn(servers[0], "alice")
	_ = must(servers[0].RevokeAll(t.Context(), "alice"))(t)
	if b.seen() == "" {
		t.Fatal("the browser has no second cookie: the test has lost its reach")
	}
	b.take(b.send(servers[1], func(http.ResponseWriter, *http.Request) {}))
	if b.seen() != "" {
		t.Error("the browser keeps the version of a session that has ended: each of its requests reads the store")
	}
	if len(b.jar.Cookies(site)) != 1 {
		t.Errorf("the browser has %d cookies, want the ID alone", len(b.jar.Cookies(site)))
	}
}
