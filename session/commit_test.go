package session_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/store"
)

var errLost = errors.New("connection reset by peer")

// fail makes the n-th write to st fail: before its effect, or after it.
func (c *calls) fail(n int, after bool, err error) (writes func() int) {
	i := 0
	hook := func(op string, _ store.Key) error {
		if op == "get" || op == "list owner" {
			return nil
		}
		if i++; i == n {
			return err
		}
		return nil
	}
	c.before, c.after = nil, nil
	if after {
		c.after = hook
	} else {
		c.before = hook
	}
	return func() int { return i }
}

// TestLostAnswers makes each write of each operation fail, before and after its
// effect. Either way the operation must recover, and have its effect once.
func TestLostAnswers(t *testing.T) {
	ctx := context.Background()
	operations := map[string]struct {
		do   func(s *session.Session) error
		want string // owner and count afterwards
	}{
		"commit": {func(s *session.Session) error { return s.Commit(ctx) }, "alice 2"},
		"renew":  {func(s *session.Session) error { return s.Renew(ctx) }, "alice 2"},
		"sign in again": {func(s *session.Session) error {
			return s.SignIn(ctx, "alice", nil)
		}, "alice 2"},
		"sign in as another": {func(s *session.Session) error {
			return s.SignIn(ctx, "bob", nil)
		}, "bob 0"},
		"destroy": {func(s *session.Session) error { return s.Destroy(ctx) }, " 0"},
	}
	for name, op := range operations {
		for _, after := range []bool{false, true} {
			for _, err := range []error{errLost, fmt.Errorf("store: %w", store.ErrAmbiguous)} {
				for n := 1; ; n++ {
					reached := false
					title := fmt.Sprintf("%s, write %d, after its effect: %v, %v", name, n, after, err)
					synctest.Test(t, func(t *testing.T) {
						st := newCalls()
						m := newManager(t, st, nil)
						b := newBrowser(t)
						b.do(m, func(s *session.Session) {
							check(t, count.Set(s, 1))
							check(t, s.SignIn(t.Context(), "alice", nil))
						})
						writes := st.fail(n, after, err)
						resp := b.do(m, func(s *session.Session) {
							check(t, count.Update(s, add(1)))
							if err := op.do(s); err != nil {
								t.Errorf("%s: %v", title, err)
							}
						})
						reached = writes() >= n
						st.before, st.after = nil, nil
						if resp.StatusCode != http.StatusOK {
							t.Errorf("%s: status %d", title, resp.StatusCode)
						}
						owner, got := b.look(m)
						if is := fmt.Sprintf("%s %d", owner, got); is != op.want {
							t.Errorf("%s: session is %q, want %q", title, is, op.want)
						}
						if live := len(st.live(t)); (owner == "") != (live == 0) || live > 1 {
							t.Errorf("%s: %d sessions live", title, live)
						}
					})
					if !reached {
						if n == 1 {
							t.Errorf("%s: never wrote: the test has lost its reach", title)
						}
						break
					}
				}
			}
		}
	}
}

// TestAmbiguous: when somebody else wrote after a write whose answer was lost,
// it cannot be told any more whether that happened. It must not be repeated.
func TestAmbiguous(t *testing.T) {
	for _, applied := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			st := newCalls()
			m := newManager(t, st, nil)
			b := newBrowser(t)
			b.do(m, func(s *session.Session) { check(t, count.Set(s, 0)) })
			other := b.same()
			lose := func(op string, _ store.Key) error {
				if op != "replace" {
					return nil
				}
				st.before, st.after = nil, nil
				other.do(newManager(t, st, nil), func(s *session.Session) { check(t, count.Update(s, add(10))) })
				return errLost
			}
			want := 10
			if applied {
				st.after, want = lose, 11
			} else {
				st.before = lose
			}
			resp := b.do(m, func(s *session.Session) {
				check(t, count.Update(s, add(1)))
				if err := s.Commit(t.Context()); !errors.Is(err, session.ErrAmbiguous) {
					t.Errorf("Commit gave %v, want ErrAmbiguous", err)
				}
				if err := count.Update(s, add(1)); !errors.Is(err, session.ErrAmbiguous) {
					t.Errorf("a change on top of an open outcome gave %v, want ErrAmbiguous", err)
				}
			})
			if resp.StatusCode != http.StatusInternalServerError {
				t.Errorf("status %d, want 500: the change after the open outcome was not kept", resp.StatusCode)
			}
			if _, n := b.look(m); n != want {
				t.Errorf("count is %d, want %d: the write was repeated or undone", n, want)
			}
		})
	}
}

// TestOutageDuringCommit: the commit gives up in time, says so, and applies
// nothing later.
func TestOutageDuringCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newCalls()
		m := newManager(t, st, nil)
		b := newBrowser(t)
		b.do(m, func(s *session.Session) { check(t, count.Set(s, 1)) })
		down := func(string, store.Key) error { return errLost }
		start := time.Now()
		resp := b.do(m, func(s *session.Session) {
			check(t, count.Update(s, add(1)))
			st.before = down
		})
		if resp.StatusCode != http.StatusServiceUnavailable || time.Since(start) > 6*time.Second {
			t.Errorf("got %d after %v; want 503 within the commit timeout", resp.StatusCode, time.Since(start))
		}
		if tries := st.count("replace"); tries > 60 {
			t.Errorf("%d tries against a dead store in 5 s; pauses must grow", tries)
		}
		st.before = nil
		b.do(m, func(s *session.Session) {
			check(t, count.Update(s, add(1)))
			st.before = down
			err := s.Commit(t.Context())
			if !errors.Is(err, session.ErrUnavailable) || !errors.Is(err, session.ErrAmbiguous) || !errors.Is(err, errLost) {
				t.Errorf("Commit gave %v; want ErrUnavailable and ErrAmbiguous with the store's own error", err)
			}
		})
		st.before = nil
		if _, n := b.look(m); n != 1 {
			t.Errorf("count is %d, want 1", n)
		}
	})
}

// TestCommitIgnoresHangUp: a client that goes away cannot undo what it did.
func TestCommitIgnoresHangUp(t *testing.T) {
	st := newCalls()
	m := newManager(t, st, nil)
	b := newBrowser(t)
	b.signIn(m, "alice")
	ctx, cancel := context.WithCancel(t.Context())
	b.do(m, func(s *session.Session) {
		check(t, count.Set(s, 1))
		cancel()
		check(t, s.Commit(ctx))
	})
	if _, n := b.look(m); n != 1 {
		t.Error("the commit was lost with its client")
	}
	b.do(m, func(s *session.Session) { check(t, s.Destroy(ctx)) })
	if len(st.live(t)) != 0 {
		t.Error("the logout was lost with its client")
	}
}

// TestUpdateRefusesOnReplay: stock that was there at the first run may be gone
// at the second.
func TestUpdateRefusesOnReplay(t *testing.T) {
	errSoldOut := errors.New("sold out")
	take := func(n int) (int, error) {
		if n == 0 {
			return 0, errSoldOut
		}
		return n - 1, nil
	}
	m := newManager(t, newCalls(), nil)
	b := newBrowser(t)
	b.do(m, func(s *session.Session) { check(t, count.Set(s, 1)) })
	resp := b.do(m, func(s *session.Session) {
		check(t, count.Update(s, take))
		b.do(m, func(s *session.Session) { check(t, count.Update(s, take)) })
		err := s.Commit(t.Context())
		if !errors.Is(err, session.ErrRefused) || !errors.Is(err, errSoldOut) {
			t.Errorf("Commit gave %v; want ErrRefused that wraps the function's error", err)
		}
		if n := must(count.Get(s))(t); n != 0 {
			t.Errorf("after the refusal the request sees %d; want the stored 0", n)
		}
	})
	if resp.StatusCode != http.StatusOK {
		t.Errorf("status %d; the handler knew of the refusal, so its own answer stands", resp.StatusCode)
	}
	resp = b.do(m, func(s *session.Session) {
		if err := count.Update(s, take); !errors.Is(err, errSoldOut) || errors.Is(err, session.ErrRefused) {
			t.Errorf("the first run gave %v; want the function's error as it is", err)
		}
	})
	if resp.StatusCode != http.StatusOK {
		t.Errorf("status %d after an update that refused at once", resp.StatusCode)
	}
	b.do(m, func(s *session.Session) { check(t, count.Set(s, 1)) })
	resp = b.do(m, func(s *session.Session) {
		check(t, count.Update(s, take))
		b.do(m, func(s *session.Session) { check(t, count.Update(s, take)) })
	})
	if resp.StatusCode != http.StatusConflict {
		t.Errorf("status %d; a refusal that the handler did not see is a 409", resp.StatusCode)
	}
}

// TestPanicInReplay: a panic of an update function commits nothing and leaves
// nobody in line.
func TestPanicInReplay(t *testing.T) {
	m := newManager(t, newCalls(), nil)
	b := newBrowser(t)
	b.do(m, func(s *session.Session) { check(t, count.Set(s, 0)) })
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		runs := 0
		b.do(m, func(s *session.Session) {
			check(t, name.Set(s, "not to be kept"))
			check(t, count.Update(s, func(n int) (int, error) {
				if runs++; runs > 1 {
					panic("on replay")
				}
				return n + 1, nil
			}))
			b.do(m, func(s *session.Session) { check(t, count.Update(s, add(1))) })
		})
	}()
	b.do(m, func(s *session.Session) {
		if n, v := must(count.Get(s))(t), must(name.Get(s))(t); n != 1 || v != "" {
			t.Errorf("the panic committed something: count %d, name %q", n, v)
		}
		check(t, count.Update(s, add(1)))
		b.do(m, func(s *session.Session) { check(t, count.Update(s, add(1))) })
	})
	if _, n := b.look(m); n != 3 {
		t.Errorf("after the panic the count is %d, want 3", n)
	}
}

// TestStaleSet: setting what was read and has changed since is told of, or
// refused on request.
func TestStaleSet(t *testing.T) {
	for _, reject := range []bool{false, true} {
		t.Run(fmt.Sprintf("reject=%v", reject), func(t *testing.T) {
			var stale []string
			m := newManager(t, newCalls(), &session.Options{
				RejectStaleSet: reject,
				Observer: func(_ context.Context, e session.Event) {
					if e.Kind == session.EventStaleSet {
						stale = append(stale, e.Attr)
					}
				},
			})
			b := newBrowser(t)
			b.do(m, func(s *session.Session) { check(t, name.Set(s, "first")) })
			race := func(f func(s *session.Session), theirs func(s *session.Session)) (status int, value string) {
				resp := b.do(m, func(s *session.Session) { f(s); b.do(m, theirs) })
				b.do(m, func(s *session.Session) { value = must(name.Get(s))(t) })
				return resp.StatusCode, value
			}
			theirs := func(s *session.Session) { check(t, name.Set(s, "theirs")) }
			if status, value := race(func(s *session.Session) { check(t, name.Set(s, "blind")) }, theirs); status != 200 || value != "blind" || stale != nil {
				t.Errorf("a Set without a read: %d %q, stale %v; want it to win silently", status, value, stale)
			}
			if status, value := race(func(s *session.Session) {
				_ = must(name.Get(s))(t)
				check(t, name.Set(s, "other attribute changed"))
			}, func(s *session.Session) { check(t, count.Set(s, 1)) }); status != 200 || value != "other attribute changed" || stale != nil {
				t.Errorf("a Set beside a change of another attribute: %d %q, stale %v", status, value, stale)
			}
			status, value := race(func(s *session.Session) {
				_ = must(name.Get(s))(t)
				check(t, name.Set(s, "draft")) // and again: still stale
				_ = must(name.Get(s))(t)
				check(t, name.Set(s, "stale"))
			}, theirs)
			if reject && (status != http.StatusConflict || value != "theirs") {
				t.Errorf("a stale Set got %d and left %q; want 409 and theirs", status, value)
			}
			if !reject && (status != 200 || value != "stale" || len(stale) != 1 || stale[0] != "name") {
				t.Errorf("a stale Set got %d and left %q, events %v; want it to win and be told of once", status, value, stale)
			}
			absent := session.NewAttr[string]("absent")
			status, _ = race(func(s *session.Session) {
				_ = must(absent.Get(s))(t)
				check(t, absent.Set(s, "mine"))
			}, func(s *session.Session) { check(t, absent.Set(s, "theirs")) })
			if reject != (status == http.StatusConflict) || (!reject && len(stale) != 2) {
				t.Errorf("setting what was absent when read: %d, stale %v", status, stale)
			}
		})
	}
}

// TestFlash: each message is shown, once, and a newer one survives a Pop that
// did not return it.
func TestFlash(t *testing.T) {
	m := newManager(t, newCalls(), nil)
	b := newBrowser(t)
	pop := func() (got string) {
		b.do(m, func(s *session.Session) { got = strings.Join(must(notice.Pop(s))(t), ",") })
		return got
	}
	b.do(m, func(s *session.Session) {
		check(t, notice.Add(s, "one"))
		check(t, notice.Add(s, "two"))
	})
	b.do(m, func(s *session.Session) {
		if got := strings.Join(must(notice.Pop(s))(t), ","); got != "one,two" {
			t.Errorf("Pop gave %q", got)
		}
		if again := must(notice.Pop(s))(t); again != nil {
			t.Errorf("a second Pop gave %q", again)
		}
		b.do(m, func(s *session.Session) { check(t, notice.Add(s, "newer")) })
	})
	if got := pop(); got != "newer" {
		t.Errorf("after the race Pop gave %q; want the newer message alone", got)
	}
	if got := pop(); got != "" {
		t.Errorf("a message was shown twice: %q", got)
	}
	b.do(m, func(s *session.Session) { check(t, session.NewFlash[int]("notice").Add(s, 7)) })
	b.do(m, func(s *session.Session) {
		if _, err := notice.Pop(s); !errors.Is(err, session.ErrDecode) {
			t.Errorf("a message that does not decode gave %v", err)
		}
	})
	if got := pop(); got != "" {
		t.Errorf("a message that does not decode stays for ever: %q", got)
	}
}

// TestWriteAvoidance: reading writes nothing, setting an equal value writes
// nothing, and activity is recorded once per tenth of the idle timeout.
func TestWriteAvoidance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newCalls()
		m := newManager(t, st, nil)
		b := newBrowser(t)
		b.signIn(m, "alice")
		b.do(m, func(s *session.Session) { check(t, count.Set(s, 1)) })
		writes := func() int { return st.count("replace") + st.count("create") + st.count("delete") }
		before := writes()
		for range 60 {
			time.Sleep(time.Minute)
			b.do(m, func(s *session.Session) {
				_ = must(count.Get(s))(t)
				check(t, count.Set(s, 1))
				check(t, count.Update(s, add(0)))
			})
		}
		if n := writes() - before; n != 0 {
			t.Errorf("60 requests that changed nothing wrote %d times", n)
		}
		if n := st.count("touch"); n < 9 || n > 11 {
			t.Errorf("activity was recorded %d times in an idle timeout, want 10", n)
		}
		st.before = func(op string, _ store.Key) error {
			if op == "touch" {
				return errLost
			}
			return nil
		}
		time.Sleep(10 * time.Minute)
		if resp := b.do(m, func(*session.Session) {}); resp.StatusCode != http.StatusOK {
			t.Errorf("a failed touch was answered %d", resp.StatusCode)
		}
	})
}

// TestTooLarge: what exceeds the limit is refused before it is sent, and the
// error names the attribute.
func TestTooLarge(t *testing.T) {
	st := newCalls()
	m := newManager(t, st, &session.Options{MaxSize: 10_000})
	b := newBrowser(t)
	b.do(m, func(s *session.Session) { check(t, count.Set(s, 1)) })
	b.do(m, func(s *session.Session) {
		check(t, name.Set(s, strings.Repeat("x", 10_000)))
		err := s.Commit(t.Context())
		if !errors.Is(err, session.ErrTooLarge) || !strings.Contains(err.Error(), `"name"`) {
			t.Errorf("got %v; want ErrTooLarge that names the attribute", err)
		}
	})
	if st.count("replace") != 0 {
		t.Error("the oversized session was sent")
	}
	if _, n := b.look(m); n != 1 {
		t.Error("the session from before is spoiled")
	}
}
