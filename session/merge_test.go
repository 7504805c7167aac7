package session_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/store"
)

// The last acknowledged change wins, also if it only restores what the request
// had loaded.
func TestChangeEqualToStaleBase(t *testing.T) {
	for what, c := range map[string]struct {
		before, theirs, mine func(s *session.Session) error
		want                 string
	}{
		"Set": {setName("light"), setName("dark"), setName("light"), "light"},
		"Delete": {
			func(s *session.Session) error { return count.Set(s, 1) }, setName("secret"),
			func(s *session.Session) error { name.Delete(s); return nil }, "",
		},
		"Update": {
			setName("ab"), setName("abcd"),
			func(s *session.Session) error {
				return name.Update(s, func(v string) (string, error) { return v[:2], nil })
			}, "ab",
		},
	} {
		m := newManager(t, newCalls(), nil)
		b := newBrowser(t)
		b.do(m, func(s *session.Session) { check(t, c.before(s)) })
		b.do(m, func(s *session.Session) {
			b.same().do(m, func(s *session.Session) { check(t, c.theirs(s)) }) // acknowledged first
			check(t, c.mine(s))
			check(t, s.Commit(t.Context()))
			if v := must(name.Get(s))(t); v != c.want {
				t.Errorf("%s: the request sees %q, want %q", what, v, c.want)
			}
		})
		b.do(m, func(s *session.Session) {
			if v := must(name.Get(s))(t); v != c.want {
				t.Errorf("%s: stored is %q, but the last acknowledged change left %q", what, v, c.want)
			}
		})
	}
}

func setName(v string) func(s *session.Session) error {
	return func(s *session.Session) error { return name.Set(s, v) }
}

// A change that needs no write still tells that the session has ended.
func TestChangeOfNothingOnEndedSession(t *testing.T) {
	m := newManager(t, newCalls(), nil)
	b := newBrowser(t)
	b.do(m, func(s *session.Session) {
		check(t, s.SignIn(t.Context(), "alice", nil))
		check(t, name.Set(s, "light"))
	})
	b.do(m, func(s *session.Session) {
		_ = must(m.RevokeAll(t.Context(), "alice"))(t)
		check(t, name.Set(s, "light"))
		if err := s.Commit(t.Context()); !errors.Is(err, session.ErrEnded) {
			t.Errorf("Commit gave %v, want ErrEnded", err)
		}
	})
}

// A refusal is told once: what Commit told the handler is no error of the
// request any more, what nobody was told is.
func TestRefusedChangeIsToldOnce(t *testing.T) {
	for _, asked := range []bool{false, true} {
		m := newManager(t, newCalls(), nil)
		b := newBrowser(t)
		b.signIn(m, "alice")
		resp := b.do(m, func(s *session.Session) {
			_ = must(m.RevokeAll(t.Context(), "alice"))(t)
			check(t, count.Set(s, 1))
			if err := s.Commit(t.Context()); !errors.Is(err, session.ErrEnded) {
				t.Errorf("Commit gave %v, want ErrEnded", err)
			}
			count.Delete(s) // refused, and Delete cannot say so
			if !asked {
				return
			}
			if err := s.Commit(t.Context()); !errors.Is(err, session.ErrEnded) {
				t.Errorf("Commit after a refused change gave %v, want ErrEnded", err)
			}
			check(t, s.Commit(t.Context()))
		})
		want := http.StatusConflict
		if asked {
			want = http.StatusOK
		}
		if resp.StatusCode != want {
			t.Errorf("the handler was told: %t; status %d, want %d", asked, resp.StatusCode, want)
		}
	}
}

// What a request has read stays read when a commit moves it to newer values.
func TestStaleSetAfterCommit(t *testing.T) {
	absent := session.NewAttr[string]("absent")
	for _, attr := range []session.Attr[string]{name, absent} {
		m := newManager(t, newCalls(), &session.Options{RejectStaleSet: true})
		b := newBrowser(t)
		b.do(m, func(s *session.Session) { check(t, name.Set(s, "first")); check(t, count.Set(s, 0)) })
		b.do(m, func(s *session.Session) {
			old := must(attr.Get(s))(t)
			b.same().do(m, func(s *session.Session) { check(t, attr.Set(s, "theirs")) })
			check(t, count.Update(s, add(1)))
			check(t, s.Commit(t.Context())) // on top of theirs, which the request has not seen
			check(t, attr.Set(s, old+"!"))
			if err := s.Commit(t.Context()); !errors.Is(err, session.ErrConflict) {
				t.Errorf("%s: a Set built on a value that has changed since gave %v, want ErrConflict", attr.Name(), err)
			}
			_ = must(attr.Get(s))(t) // now it has
			check(t, attr.Set(s, "mine"))
			check(t, s.Commit(t.Context()))
			check(t, attr.Set(s, "mine too")) // its own is no news
			check(t, s.Commit(t.Context()))
		})
	}
}

// Reading back what the request itself has set is no reading of the store.
func TestReadOfOwnValueIsNotStale(t *testing.T) {
	m := newManager(t, newCalls(), &session.Options{RejectStaleSet: true})
	b := newBrowser(t)
	b.do(m, func(s *session.Session) { check(t, name.Set(s, "first")) })
	b.do(m, func(s *session.Session) {
		check(t, name.Set(s, "blind"))
		_ = must(name.Get(s))(t)
		b.same().do(m, func(s *session.Session) { check(t, name.Set(s, "theirs")) })
		check(t, name.Set(s, "blind as well"))
		if err := s.Commit(t.Context()); err != nil {
			t.Errorf("Commit of a Set that looked at nothing stored gave %v", err)
		}
	})
}

// A stale Set is one event, however often it had to be tried.
func TestStaleSetIsCountedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newCalls()
		stale, conflicts := 0, 0
		m := newManager(t, st, &session.Options{Observer: func(_ context.Context, e session.Event) {
			switch e.Kind {
			case session.EventStaleSet:
				stale++
			case session.EventConflict:
				conflicts++
			}
		}})
		other := newManager(t, st, nil)
		b := newBrowser(t)
		b.do(m, func(s *session.Session) { check(t, name.Set(s, "first")) })
		b.do(m, func(s *session.Session) {
			_ = must(name.Get(s))(t)
			check(t, name.Set(s, "mine"))
			var race func(n int)
			race = func(n int) {
				if n > 0 {
					st.on("replace", func() {
						b.same().do(other, func(s *session.Session) { check(t, name.Set(s, fmt.Sprint("theirs ", n))) })
						race(n - 1)
					})
				}
			}
			race(3)
			check(t, s.Commit(t.Context()))
		})
		if stale != 1 || conflicts != 3 {
			t.Errorf("%d events for one stale Set that lost %d races; want 1 and 3", stale, conflicts)
		}
	})
}

// pin does not encode if it is wrong, and its error quotes it.
type pin struct{ V string }

func (p pin) MarshalJSON() ([]byte, error) {
	if p.V == "4711-wrong" {
		return nil, errors.New("bad pin " + p.V)
	}
	return json.Marshal(p.V)
}

func (p *pin) UnmarshalJSON(b []byte) error { return json.Unmarshal(b, &p.V) }

// A codec's error may quote the value. It can be had, but no text shows it, also
// not of a commit that had to run an update again.
func TestEncodeErrorHidesValue(t *testing.T) {
	var buf bytes.Buffer
	secret := session.NewAttr[pin]("pin")
	m := newManager(t, newCalls(), &session.Options{Logger: slog.New(slog.NewTextHandler(&buf, nil))})
	b := newBrowser(t)
	b.do(m, func(s *session.Session) {
		check(t, secret.Set(s, pin{"4711"}))
		err := secret.Set(s, pin{"4711-wrong"})
		var cause *json.MarshalerError
		if err == nil || strings.Contains(err.Error(), "4711") || !errors.As(err, &cause) {
			t.Errorf("Set gave %v; want an error that hides the value and wraps the codec's", err)
		}
	})
	resp := b.do(m, func(s *session.Session) {
		check(t, secret.Update(s, func(p pin) (pin, error) {
			if p.V == "4711-" {
				p.V += "wrong"
			}
			return p, nil
		}))
		check(t, count.Set(s, 1))
		b.same().do(m, func(s *session.Session) { check(t, secret.Set(s, pin{"4711-"})) })
	})
	if resp.StatusCode != http.StatusConflict || buf.Len() == 0 {
		t.Errorf("status %d, log %q: the update did not fail on newer values, so the test has lost its reach", resp.StatusCode, &buf)
	}
	if strings.Contains(buf.String(), "4711") {
		t.Errorf("a value is in the log: %s", &buf)
	}
}

// plainText stores a string as it is.
type plainText struct{}

func (plainText) Encode(v string) ([]byte, error) { return []byte(v), nil }
func (plainText) Decode(b []byte) (string, error) { return string(b), nil }

// What is damaged in a flash does not swallow what is added to it.
func TestFlashAddToDamagedList(t *testing.T) {
	raw := session.NewAttrCodec("notice", session.Codec[string](plainText{}))
	for _, damaged := range []string{"\xff\xff\xffgarbage", "\x0a", "\x0a\x7fshort", "\x0a\x01x", "\x08\x01"} {
		m := newManager(t, newCalls(), nil)
		b := newBrowser(t)
		b.do(m, func(s *session.Session) { check(t, raw.Set(s, damaged)) })
		b.do(m, func(s *session.Session) { check(t, notice.Add(s, "hello")) })
		b.do(m, func(s *session.Session) {
			if got := must(notice.Pop(s))(t); len(got) != 1 || got[0] != "hello" {
				t.Errorf("after an acknowledged Add to %q, Pop gave %q", damaged, got)
			}
		})
	}
}

// oneBuffer is a codec that encodes into the same memory each time.
type oneBuffer struct{ buf *[]byte }

func (c oneBuffer) Encode(v string) ([]byte, error) {
	*c.buf = append((*c.buf)[:0], v...)
	return *c.buf, nil
}

func (oneBuffer) Decode(b []byte) (string, error) { return string(b), nil }

// A codec may use its buffer again as soon as Set, Update or Add has returned.
func TestCodecReusesBuffer(t *testing.T) {
	buf := make([]byte, 0, 64)
	first := session.NewAttrCodec("first", session.Codec[string](oneBuffer{&buf}))
	second := session.NewAttrCodec("second", session.Codec[string](oneBuffer{&buf}))
	m := newManager(t, newCalls(), nil)
	b := newBrowser(t)
	look := func(s *session.Session) {
		t.Helper()
		if x, y := must(first.Get(s))(t), must(second.Get(s))(t); x != "alice" || y != "other" {
			t.Errorf("the values are %q and %q, want alice and other", x, y)
		}
	}
	b.do(m, func(s *session.Session) {
		check(t, first.Update(s, func(string) (string, error) { return "alice", nil }))
		check(t, second.Set(s, "other"))
		look(s)
	})
	b.do(m, look)
}

// A store that neither creates nor answers is not asked without a pause.
func TestCreateDoesNotSpin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newCalls()
		m := newManager(t, st, nil)
		st.before = func(op string, _ store.Key) error {
			switch {
			case st.count("create") > 1000: // no time passes here without a pause
				panic("the store was asked a thousand times without a pause")
			case op == "create":
				return fmt.Errorf("store: %w", store.ErrConflict)
			}
			return errLost
		}
		newBrowser(t).do(m, func(s *session.Session) {
			check(t, count.Set(s, 1))
			if err := s.Commit(t.Context()); !errors.Is(err, session.ErrUnavailable) {
				t.Errorf("Commit gave %v, want ErrUnavailable", err)
			}
		})
		if n := st.count("create"); n < 2 || n > 60 {
			t.Errorf("%d tries in 5 s; pauses must grow", n)
		}
	})
}
