package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/memstore"
	"github.com/redis/rueidis"
)

// A benchmark of sessions that are not kept, not shared or not extended would
// compare nothing.
func TestPeers(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	for _, p := range peers {
		if bare(p) {
			continue
		}
		t.Run(p.name, func(t *testing.T) {
			admin := adminClient(t)
			a := open(t, p)
			before := keys(t, admin)
			const i = 7
			cookie, err := a.signIn(t.Context(), i)
			if err != nil || cookie == "" {
				t.Fatalf("signing in: cookie %q, %v", cookie, err)
			}
			// express answers before it has saved, if the answer is short.
			var key string
			until(t, "a session that was signed in has no key in Redis", func() bool {
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
			second := open(t, p)
			if got := whole(second, i, cookie); got != want {
				t.Errorf("another server shows %q; want %q: the session is not shared", got, want)
			}

			if d := ttl(t, admin, key); d <= 0 || d > absolute+10*time.Minute {
				t.Errorf("the time to live is %v: not what the timeouts say", d)
			}
			extends(t, p, a, admin, key, i, cookie)

			if err := admin.Do(t.Context(), admin.B().Del().Key(key).Build()).Error(); err != nil {
				t.Fatal(err)
			}
			until(t, "the session outlives its key: its values are not from Redis", func() bool {
				_, err := a.read(0)(i, cookie)
				if err == nil && !a.cached {
					t.Fatal("the session outlives its key: its values are not from Redis")
				}
				return errors.Is(err, errAnswer)
			})
		})
	}
}

// extends checks that a read extends the idle timeout, or that it does not where
// the name of the peer says so.
func extends(t *testing.T, p peer, a *app, admin rueidis.Client, key string, i int, cookie string) {
	t.Helper()
	const soon = 10 * time.Minute
	if err := admin.Do(t.Context(), admin.B().Pexpire().Key(key).Milliseconds(soon.Milliseconds()).Build()).Error(); err != nil {
		t.Fatal(err)
	}
	longer := func() bool { return ttl(t, admin, key) > idle-time.Minute }
	switch p.name {
	case scsNoIdle, gorillaNoIdle:
		if _, err := a.read(0)(i, cookie); err != nil || longer() {
			t.Errorf("a read extends the idle timeout, or fails: %v", err)
		}
	case coatcheck, near, coatcheckServed, delayed(coatcheck, flushDelays[0]), delayed(coatcheck, flushDelays[1]), delayed(coatcheck, flushDelays[2]):
		// It was used just now: nothing is due. See TestTouching.
		if _, err := a.read(0)(i, cookie); err != nil || longer() {
			t.Errorf("a read right after another writes to the store, or fails: %v", err)
		}
	case touching:
		for range 10 {
			if _, err := a.read(0)(i, cookie); err != nil {
				t.Fatal(err)
			}
		}
		if !longer() {
			t.Error("of ten reads none has extended the idle timeout")
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
	for _, p := range peers {
		if !bare(p) || p.name == casStore || p.name == plainSET {
			continue
		}
		a := open(t, p)
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
}

// The two writes below the sessions leave values of nearly the same size, in which
// compare-and-swap has not lost a version.
func TestStoreLevel(t *testing.T) {
	admin := adminClient(t)
	var sizes []int64
	for _, name := range []string{casStore, plainSET} {
		before := keys(t, admin)
		a := open(t, find(name))
		for i := range concurrency {
			if _, err := a.signIn(t.Context(), i); err != nil {
				t.Fatal(err)
			}
		}
		do := a.write(5)
		for i := range 2 * concurrency {
			if _, err := do(i%concurrency, ""); err != nil {
				t.Fatalf("%s: a write of a key of its own fails: %v", name, err)
			}
		}
		n, err := admin.Do(t.Context(), admin.B().Strlen().Key(newest(t, admin, before)).Build()).AsInt64()
		if err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, n)
	}
	if d := sizes[0] - sizes[1]; d < -16 || d > 16 {
		t.Errorf("compare-and-swap writes %d bytes, SET %d: they are not to be compared", sizes[0], sizes[1])
	}
}

func adminClient(t *testing.T) rueidis.Client {
	t.Helper()
	c, err := newClient(redisURL(t), 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func keys(t *testing.T, admin rueidis.Client) []string {
	t.Helper()
	all, err := admin.Do(t.Context(), admin.B().Keys().Pattern("*").Build()).AsStrSlice()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// newest returns a string that is there since before, not an index.
func newest(t *testing.T, admin rueidis.Client, before []string) string {
	t.Helper()
	for _, k := range keys(t, admin) {
		if slices.Contains(before, k) {
			continue
		}
		if kind, err := admin.Do(t.Context(), admin.B().Type().Key(k).Build()).ToString(); err == nil && kind == "string" {
			return k
		}
	}
	return ""
}

func ttl(t *testing.T, admin rueidis.Client, key string) time.Duration {
	t.Helper()
	ms, err := admin.Do(t.Context(), admin.B().Pttl().Key(key).Build()).AsInt64()
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(ms) * time.Millisecond
}

// whole returns what the page "all" answers.
func whole(a *app, i int, cookie string) string {
	body, _ := a.all(0)(i, cookie)
	return string(body)
}
