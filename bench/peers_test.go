package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/memstore"
)

// A benchmark of sessions that are not kept, not shared or not extended would
// compare nothing.
func TestPeers(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds: run it without -short")
	}
	eachFamily(t, func(t *testing.T, f *family) {
		for _, p := range f.peers {
			if !bare(p) {
				t.Run(p.name, func(t *testing.T) { testPeer(t, f, p) })
			}
		}
	})
}

func testPeer(t *testing.T, f *family, p peer) {
	admin := adminOf(t, f)
	a := open(t, f, p)
	before := admin.keys(t)
	const i = 7
	cookie, err := a.signIn(t.Context(), i)
	if err != nil || cookie == "" {
		t.Fatalf("signing in: cookie %q, %v", cookie, err)
	}
	// express answers before it has saved, if the answer is short.
	var key string
	until(t, "a session that was signed in is not on the server", func() bool {
		key = newest(t, admin, before)
		return key != ""
	})
	if _, err := a.read(0)(i, cookie); err != nil {
		t.Errorf("read shows something else than was signed in: %v", err)
	}
	if _, err := a.read(0)(i+1, cookie); err == nil {
		t.Error("read shows what it is asked to show, not what is in the session")
	}
	for range 2 {
		if _, err := a.write(0)(i, cookie); err != nil {
			t.Fatalf("write: %v", err)
		}
	}
	want := fmt.Sprintf("%s 3", greetings[i])
	until(t, "two writes after a cart with one item do not show three", func() bool { return whole(a, i, cookie) == want })

	// Another server of the same app.
	second := open(t, f, p)
	if got := whole(second, i, cookie); got != want {
		t.Errorf("another server shows %q; want %q: the session is not shared", got, want)
	}

	if d := admin.ttl(t, key); d <= 0 || d > absolute+10*time.Minute {
		t.Errorf("the time to live is %v: not what the timeouts say", d)
	}
	extends(t, p, a, admin, key, i, cookie)

	admin.remove(t, key)
	until(t, "the session outlives its key: its values are not from the server", func() bool {
		_, err := a.read(0)(i, cookie)
		if err == nil && !a.cached {
			t.Fatal("the session outlives its key: its values are not from the server")
		}
		return errors.Is(err, errAnswer)
	})
}

// extends checks that a read extends the idle timeout, or that it does not where
// the name of the peer says so.
func extends(t *testing.T, p peer, a *app, admin admin, key string, i int, cookie string) {
	t.Helper()
	admin.expire(t, key, idle-3*time.Minute) // sooner than Coatcheck would touch it
	longer := func() bool { return admin.ttl(t, key) > idle-time.Minute }
	switch {
	case strings.HasSuffix(p.name, "no idle timeout"):
		if _, err := a.read(0)(i, cookie); err != nil || longer() {
			t.Errorf("a read extends the idle timeout, or fails: %v", err)
		}
	case p.name == touching:
		for range 10 {
			if _, err := a.read(0)(i, cookie); err != nil {
				t.Fatal(err)
			}
		}
		if !longer() {
			t.Error("of ten reads none has extended the idle timeout")
		}
	case strings.HasPrefix(p.name, coatcheck):
		// It was used just now: nothing is due. See TestTouching.
		if _, err := a.read(0)(i, cookie); err != nil || longer() {
			t.Errorf("a read right after another writes to the store, or fails: %v", err)
		}
	default:
		if _, err := a.read(0)(i, cookie); err != nil {
			t.Fatal(err)
		}
		until(t, "a read has not extended the idle timeout", longer)
	}
}

// One read in ten is due, no more and no fewer.
func TestTouching(t *testing.T) {
	st := &touches{Store: memstore.New()}
	a, err := coatcheckApp(&aging{Store: st, every: 10}, func() {})
	if err != nil {
		t.Fatal(err)
	}
	cookie, err := a.signIn(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	do := a.read(0)
	for range 50 {
		if _, err := do(0, cookie); err != nil {
			t.Fatal(err)
		}
	}
	if st.n != 5 {
		t.Errorf("fifty reads with one in ten due touched %d times; want 5", st.n)
	}
}

// touches counts.
type touches struct {
	store.Store
	n int
}

func (s *touches) Touch(ctx context.Context, k store.Key, expires time.Time) error {
	s.n++
	return s.Store.Touch(ctx, k, expires)
}

// bare reports whether p is no session but what one is compared with.
func bare(p peer) bool {
	return p.name == noSession || p.name == casStore || strings.HasPrefix(p.name, "bare")
}

// What the bare rows read and write is there.
func TestBare(t *testing.T) {
	eachFamily(t, func(t *testing.T, f *family) {
		for _, p := range f.peers {
			if !bare(p) {
				continue
			}
			a := open(t, f, p)
			if a.read == nil {
				continue // it writes: see TestStoreLevel
			}
			cookie, err := a.signIn(t.Context(), 3)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := a.read(0)(3, cookie); err != nil {
				t.Errorf("%s: %v", p.name, err)
			}
			if _, err := a.read(0)(4, cookie); err == nil {
				t.Errorf("%s: shows what it is asked to show", p.name)
			}
		}
	})
}

// The two writes below the sessions leave values of nearly the same size, in which
// compare-and-swap has not lost a version.
func TestStoreLevel(t *testing.T) {
	eachFamily(t, func(t *testing.T, f *family) {
		admin := adminOf(t, f)
		i := slices.IndexFunc(f.sections, func(s section) bool { return s.name == "store" })
		plain := f.sections[i].base
		sizes := map[string]int64{}
		for _, name := range []string{casStore, plain} {
			a := open(t, f, find(t, f, name))
			const worker = 5 // who writes the session of that number alone
			if _, err := a.signIn(t.Context(), worker-1); err != nil {
				t.Fatal(err)
			}
			before := admin.keys(t)
			if _, err := a.signIn(t.Context(), worker); err != nil {
				t.Fatal(err)
			}
			key := newest(t, admin, before)
			admin.expire(t, key, time.Minute)
			do := a.write(worker)
			for i := range 2 * concurrency {
				if _, err := do(i%concurrency, ""); err != nil {
					t.Fatalf("%s: a write of a key of its own fails: %v", name, err)
				}
			}
			if d := admin.ttl(t, key); d < idle-time.Minute {
				t.Errorf("%s: after writes the time to live is %v: it has not written this record", name, d)
			}
			sizes[name] = admin.size(t, key)
		}
		if d := sizes[casStore] - sizes[plain]; d < -16 || d > 16 {
			t.Errorf("compare-and-swap writes %d bytes, the plain write %d: they are not to be compared", sizes[casStore], sizes[plain])
		}
	})
}

// What is told of the server's processor time is of all its processes.
func TestServerTime(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux tells the processor time of others")
	}
	eachFamily(t, func(t *testing.T, f *family) {
		srv := serverOf(t, f)
		used, closing, err := f.cpu(t.Context(), srv)
		if err != nil {
			t.Fatal(err)
		}
		defer closing()
		before, err := used()
		if err != nil {
			t.Fatal(err)
		}
		a := open(t, f, find(t, f, coatcheck))
		if _, err := signInAll(t.Context(), a, 500); err != nil {
			t.Fatal(err)
		}
		until(t, "five hundred sign-ins cost the server no time", func() bool {
			now, err := used()
			if err != nil {
				t.Fatal(err)
			}
			return now > before
		})
		for _, pid := range srv.pids {
			if f.kinds[0] != "redis" && processTime(pid) == 0 {
				t.Errorf("process %d of the server has used no time: is it the one that works?", pid)
			}
		}
	})
}

// A commit waits for the disk, except while that is relaxed.
func TestRelaxed(t *testing.T) {
	for kind, test := range map[string]struct {
		s                *sqlServer
		query            string
		waiting, relaxed string
	}{
		"postgres": {&postgres, "SELECT current_setting('fsync') || ' ' || current_setting('synchronous_commit')", "on on", "on off"},
		"mariadb":  {&mariadb, "SELECT CONCAT(@@innodb_flush_log_at_trx_commit, ' ', @@innodb_flush_method)", "1 O_DIRECT", "2 O_DIRECT"},
	} {
		t.Run(kind, func(t *testing.T) {
			f, err := familyOf(kind)
			if err != nil {
				t.Fatal(err)
			}
			url := serverOf(t, f).url
			// The connection that sees the change is older than it, as those of the peers.
			db := openSQL(t, test.s, url)
			is := func(want string) func() bool {
				return func() bool {
					var got string
					if err := db.QueryRowContext(t.Context(), test.query).Scan(&got); err != nil {
						t.Fatal(err)
					}
					return got == want
				}
			}
			until(t, "a commit does not wait for the disk", is(test.waiting))
			restore, err := f.relax(t.Context(), url)
			if err != nil {
				t.Fatal(err)
			}
			until(t, "a commit waits for the disk where it should not", is(test.relaxed))
			if err := restore(); err != nil {
				t.Fatal(err)
			}
			until(t, "a commit does not wait for the disk any more", is(test.waiting))
		})
	}
}

// whole returns what the page "all" answers.
func whole(a *app, i int, cookie string) string {
	body, _ := a.all(0)(i, cookie)
	return string(body)
}
