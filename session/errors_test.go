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
)

// What the user is told fits what happened, and tells nothing of the error.
func TestDefaultErrorHandler(t *testing.T) {
	secret := errors.New("dial db7.internal: password for alice refused")
	for _, tt := range []struct {
		err    error
		status int
		says   string
		not    string
	}{
		{session.ErrUnavailable, 503, "Your session is kept; please try again", "check"},
		{fmt.Errorf("%w: %w", session.ErrUnavailable, session.ErrAmbiguous), 503, "Your session is kept; please check in a moment whether", "try again"},
		{session.ErrAmbiguous, 500, "may not have been saved. Please check before you try again", "unavailable"},
		{&session.EndedError{Reason: session.ReasonRevoked}, 409, "was not saved. Please reload", "revoked"},
		{session.ErrConflict, 409, "was not saved. Please reload", ""},
		{session.ErrRefused, 409, "was not saved. Please reload", ""},
		{session.ErrTooLarge, 500, "may not have been saved", "large"},
		{session.ErrHeadersSent, 500, "may not have been saved", "header"},
		{session.ErrFinished, 500, "may not have been saved", ""},
		{&session.DecodeError{Attr: "cart", Err: secret}, 500, "may not have been saved", "cart"},
		{secret, 500, "may not have been saved", ""},
	} {
		err := fmt.Errorf("while saving: %w: %w", tt.err, secret)
		if got := session.StatusCode(err); got != tt.status {
			t.Errorf("the status of %v is %d, want %d", tt.err, got, tt.status)
		}
		w := httptest.NewRecorder()
		session.DefaultErrorHandler(w, httptest.NewRequest(http.MethodGet, "/", nil), err)
		body := w.Body.String()
		if w.Code != tt.status || !strings.Contains(body, tt.says) || tt.not != "" && strings.Contains(body, tt.not) {
			t.Errorf("%v is answered %d %q; want %d, %q and not %q", tt.err, w.Code, body, tt.status, tt.says, tt.not)
		}
		for _, word := range []string{"db7", "alice", "saving"} {
			if strings.Contains(body, word) {
				t.Errorf("the answer to %v quotes the error: %q", tt.err, body)
			}
		}
		if retry := w.Header().Get("Retry-After"); (retry == "1") != (tt.status == 503) || w.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("%v: Retry-After %q, Cache-Control %q", tt.err, retry, w.Header().Get("Cache-Control"))
		}
	}
}

// TestRefusedLoadsAreNotLogged: the calls that find out that the store is away are
// errors in the log. Those that a breaker then refuses, which can be thousands a
// second, are not; they are answered and counted all the same.
func TestRefusedLoadsAreNotLogged(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
	}{
		{errLost, "ERROR"},
		{fmt.Errorf("breaker: %w: circuit open", store.ErrNotAsked), "DEBUG"},
	} {
		st := newCalls()
		var log bytes.Buffer
		observed := 0
		m := newManager(t, st, &session.Options{
			Logger:   slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
			Observer: counting(session.EventUnavailable, &observed),
		})
		b := newBrowser(t)
		b.signIn(m, "alice")
		st.before = func(string, store.Key) error { return tt.err }
		resp := b.do(m, func(*session.Session) { t.Error("the handler ran without the session") })
		if resp.StatusCode != http.StatusServiceUnavailable || observed != 1 {
			t.Errorf("%v: status %d, observed %d times; want 503, once", tt.err, resp.StatusCode, observed)
		}
		if !strings.Contains(log.String(), "level="+tt.want+` msg="session: load failed"`) {
			t.Errorf("%v: want it to be logged as %s:\n%s", tt.err, tt.want, log.String())
		}
	}
}

// TestFailedLoadsAreRepeatedOnce: a connection that broke under a read, or one call that
// took too long, is no reason for an error page. An outage is, and so is what another
// read cannot mend.
func TestFailedLoadsAreRepeatedOnce(t *testing.T) {
	late := fmt.Errorf("store: %w", context.DeadlineExceeded) // of the call, not of the request
	for _, tt := range []struct {
		name   string
		errs   []error
		reads  int
		status int
	}{
		{"a lost connection", []error{errLost, nil}, 2, http.StatusOK},
		{"a slow call", []error{late, nil}, 2, http.StatusOK},
		{"an outage", []error{errLost, errLost, nil}, 2, http.StatusServiceUnavailable},
		{"a circuit that opened", []error{errLost, fmt.Errorf("breaker: %w", store.ErrNotAsked), nil}, 2, http.StatusServiceUnavailable},
		{"a circuit that is open", []error{fmt.Errorf("breaker: %w", store.ErrNotAsked), nil}, 1, http.StatusServiceUnavailable},
		{"a refusal", []error{fmt.Errorf("store: %w", store.ErrRejected), nil}, 1, http.StatusServiceUnavailable},
		{"no such session", []error{fmt.Errorf("store: %w", store.ErrNotFound), nil}, 1, http.StatusOK},
		{"a damaged record", []error{fmt.Errorf("store: %w", store.ErrCorrupt), nil}, 1, http.StatusOK},
	} {
		for _, through := range []bool{false, true} {
			what, st := tt.name, newCalls()
			m := newManager(t, st, nil)
			if through {
				m = newManager(t, newCopies(st), nil)
			}
			b := newBrowser(t)
			b.signIn(m, "alice")
			if through { // its copy is older than what its user wrote elsewhere
				what += ", reading through"
				b.look(m)
				b.do(newManager(t, newCopies(st), nil), func(s *session.Session) { check(t, count.Set(s, 1)) })
			}
			reads := 0
			st.before = func(op string, _ store.Key) error {
				if op != "get" {
					return nil
				}
				reads++
				return tt.errs[min(reads, len(tt.errs))-1]
			}
			resp := b.do(m, func(s *session.Session) {
				if want := tt.errs[reads-1] == nil; (s.Owner() == "alice") != want {
					t.Errorf("%s: the owner is %q", what, s.Owner())
				}
			})
			if resp.StatusCode != tt.status || reads != tt.reads {
				t.Errorf("%s: status %d after %d reads; want %d after %d", what, resp.StatusCode, reads, tt.status, tt.reads)
			}
		}
	}

	// One that took all the time there is leaves none for another.
	synctest.Test(t, func(t *testing.T) {
		st := newCalls()
		m := newManager(t, st, &session.Options{StoreTimeout: time.Second})
		b := newBrowser(t)
		b.signIn(m, "alice")
		st.before = func(string, store.Key) error { time.Sleep(time.Second); return late }
		before := st.count("get")
		if resp := b.do(m, func(*session.Session) {}); resp.StatusCode != http.StatusServiceUnavailable || st.count("get") != before+1 {
			t.Errorf("status %d after %d reads; want 503 after one", resp.StatusCode, st.count("get")-before)
		}
	})
}

// TestRefusedCommits: a write that a breaker refused was not sent. It is no error in
// the log, and it is known that nothing is stored; unless an attempt before it was
// lost on the way.
func TestRefusedCommits(t *testing.T) {
	refused := fmt.Errorf("breaker: %w: circuit open", store.ErrNotAsked)
	for _, tt := range []struct {
		name      string
		first     error
		ambiguous bool
		want      string
	}{
		{"refused", refused, false, "DEBUG"},
		{"lost, then refused", errLost, true, "ERROR"},
	} {
		for _, signedIn := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				st := newCalls()
				var log bytes.Buffer
				var answered error
				observed := 0
				m := newManager(t, st, &session.Options{
					Logger:       slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
					Observer:     counting(session.EventUnavailable, &observed),
					ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) { answered = err },
				})
				b := newBrowser(t)
				if signedIn {
					b.signIn(m, "alice")
				}
				b.do(m, func(s *session.Session) {
					err := tt.first
					st.before = func(op string, _ store.Key) error {
						defer func() { err = refused }()
						return err
					}
					check(t, name.Set(s, "after"))
				})
				if !errors.Is(answered, session.ErrUnavailable) || errors.Is(answered, session.ErrAmbiguous) != tt.ambiguous || observed != 1 {
					t.Errorf("%s, signed in %v: %v, observed %d times; want ErrUnavailable, once, and ErrAmbiguous: %v", tt.name, signedIn, answered, observed, tt.ambiguous)
				}
				if !strings.Contains(log.String(), "level="+tt.want+` msg="session: commit failed"`) {
					t.Errorf("%s, signed in %v: want it to be logged as %s:\n%s", tt.name, signedIn, tt.want, log.String())
				}
			})
		}
	}
}

// A write that was refused, and finds a newer record when it is tried again, was not
// stored: it is applied to that.
func TestRefusedThenOvertaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newCalls()
		m, elsewhere := newManager(t, st, nil), newManager(t, st, nil)
		b := newBrowser(t)
		b.do(m, func(s *session.Session) { check(t, count.Set(s, 1)) })
		resp := b.do(m, func(s *session.Session) {
			check(t, name.Set(s, "mine"))
			st.before = func(op string, k store.Key) error {
				if op != "replace" {
					return nil
				}
				st.before = nil
				b.same().do(elsewhere, func(s *session.Session) { check(t, count.Set(s, 2)) })
				return fmt.Errorf("breaker: %w: circuit open", store.ErrNotAsked)
			}
		})
		if resp.StatusCode != http.StatusOK {
			t.Errorf("status %d, want 200", resp.StatusCode)
		}
		b.do(m, func(s *session.Session) {
			if n, text := must(count.Get(s))(t), must(name.Get(s))(t); n != 2 || text != "mine" {
				t.Errorf("the session holds %d and %q; want both values", n, text)
			}
		})
	})
}

// TestStoreRefuses: of a store that takes no writes, and will not in a moment, the user
// hears at once, and is not asked to check what was saved. Logging out works: what takes
// no marker may still delete.
func TestStoreRefuses(t *testing.T) {
	full := fmt.Errorf("store: %w: no space left", store.ErrRejected)
	refuse := func(op string, _ store.Key) error {
		if op == "create" || op == "replace" || op == "touch" || op == "retire" {
			return full
		}
		return nil
	}
	for _, signedIn := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			st := newCalls()
			var log bytes.Buffer
			m := newManager(t, st, &session.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
			b := newBrowser(t)
			if signedIn {
				b.signIn(m, "alice")
			}
			st.before = refuse
			tries := st.count("create") + st.count("replace")
			began := time.Now()
			resp := b.do(m, func(s *session.Session) { check(t, name.Set(s, "after")) })
			body := string(must(io.ReadAll(resp.Body))(t))
			if resp.StatusCode != http.StatusServiceUnavailable || strings.Contains(body, "check") {
				t.Errorf("signed in %v: %d %q; want 503, and no word of checking", signedIn, resp.StatusCode, body)
			}
			if took, n := time.Since(began), st.count("create")+st.count("replace")-tries; took > 50*time.Millisecond || n != 3 {
				t.Errorf("signed in %v: answered after %v and %d writes; want at once, after a few", signedIn, took, n)
			}
			if !strings.Contains(log.String(), `level=ERROR msg="session: commit failed"`) || !strings.Contains(log.String(), "no space left") {
				t.Errorf("signed in %v: want an error in the log, with its reason:\n%s", signedIn, log.String())
			}
			if signedIn {
				began = time.Now()
				b.do(m, func(s *session.Session) { check(t, s.Destroy(t.Context())) })
				if took := time.Since(began); took > 50*time.Millisecond || len(st.live(t)) != 0 {
					t.Errorf("logged out after %v, and %d sessions are left; want none, at once", took, len(st.live(t)))
				}
			}
		})
	}
}

// newAnswering returns a manager, and the error that it was last asked to answer with.
func newAnswering(t *testing.T, st store.Store) (m *session.Manager, answer *error) {
	answer = new(error)
	return newManager(t, st, &session.Options{ErrorHandler: func(_ http.ResponseWriter, _ *http.Request, err error) { *answer = err }}), answer
}

// TestStoreRefusesAfterALoss: an answer that was lost leaves open what happened, whatever
// the store says afterwards.
func TestStoreRefusesAfterALoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newCalls()
		m, answer := newAnswering(t, st)
		b := newBrowser(t)
		b.signIn(m, "alice")
		b.do(m, func(s *session.Session) {
			err := errLost
			st.before = func(op string, _ store.Key) error {
				if op != "replace" {
					return nil
				}
				defer func() { err = fmt.Errorf("store: %w", store.ErrRejected) }()
				return err
			}
			check(t, name.Set(s, "after"))
		})
		if !errors.Is(*answer, session.ErrUnavailable) || !errors.Is(*answer, session.ErrAmbiguous) {
			t.Errorf("%v; want ErrUnavailable and ErrAmbiguous", *answer)
		}
	})
}

// TestUnappliedWritesAreTriedAgain: a write that the store could not do and may do in a
// moment, as while it fails over, is repeated; when time is up nothing is open.
func TestUnappliedWritesAreTriedAgain(t *testing.T) {
	for _, recovers := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			st := newCalls()
			m, answer := newAnswering(t, st)
			b := newBrowser(t)
			b.signIn(m, "alice")
			began := time.Now()
			b.do(m, func(s *session.Session) {
				st.before = func(op string, _ store.Key) error {
					if op == "replace" && (!recovers || time.Since(began) < time.Second) {
						return fmt.Errorf("store: %w: read only", store.ErrUnapplied)
					}
					return nil
				}
				check(t, name.Set(s, "after"))
			})
			if recovers && *answer != nil {
				t.Errorf("%v; want success, for the store recovered", *answer)
			}
			if !recovers && (!errors.Is(*answer, session.ErrUnavailable) || errors.Is(*answer, session.ErrAmbiguous)) {
				t.Errorf("%v; want ErrUnavailable, and not ErrAmbiguous", *answer)
			}
		})
	}
}

// TestStoreRejectsForAMoment: a full memory may have room for the same write at once.
func TestStoreRejectsForAMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newCalls()
		m := newManager(t, st, nil)
		b := newBrowser(t)
		b.signIn(m, "alice")
		left := 2
		st.before = func(op string, _ store.Key) error {
			if left > 0 && (op == "replace" || op == "retire") {
				left--
				return fmt.Errorf("store: %w", store.ErrRejected)
			}
			return nil
		}
		if resp := b.do(m, func(s *session.Session) { check(t, count.Set(s, 1)) }); resp.StatusCode != http.StatusOK || left != 0 {
			t.Errorf("status %d; want 200, for there was room the third time", resp.StatusCode)
		}
	})
}

// TestRenewalThatIsRejected: when it is certain that the old session lives, the browser
// keeps that, and no second one is left behind.
func TestRenewalThatIsRejected(t *testing.T) {
	for what, renew := range map[string]func(context.Context, *session.Session) error{
		"Renew": func(ctx context.Context, s *session.Session) error { return s.Renew(ctx) },
		"SignIn": func(ctx context.Context, s *session.Session) error {
			return s.SignIn(ctx, "alice", &session.SignInOptions{Methods: []string{"otp"}})
		},
	} {
		for _, refusal := range []error{store.ErrRejected, store.ErrUnapplied} {
			synctest.Test(t, func(t *testing.T) {
				st := newCalls()
				m := newManager(t, st, nil)
				b := newBrowser(t)
				b.signIn(m, "alice")
				id := b.id()
				st.before = func(op string, _ store.Key) error {
					if op == "retire" {
						return fmt.Errorf("store: %w", refusal)
					}
					return nil
				}
				b.do(m, func(s *session.Session) {
					check(t, count.Set(s, 7))
					if err := renew(t.Context(), s); !errors.Is(err, session.ErrUnavailable) || errors.Is(err, session.ErrAmbiguous) {
						t.Errorf("%s: %v; want ErrUnavailable, and not ErrAmbiguous", what, err)
					}
				})
				st.before = nil
				if owner, n := b.look(m); b.id() != id || owner != "alice" || n != 0 {
					t.Errorf("%s, %v: the browser has another ID: %v, and is %q with the value %d; want the old session as it was", what, refusal, b.id() != id, owner, n)
				}
				if n := len(st.live(t)); n != 1 {
					t.Errorf("%s, %v: %d sessions live; want 1", what, refusal, n)
				}
			})
		}
	}
}

// TestLogoutWithoutMarkerFollowsARenewal: a store that takes no marker of the end may
// have taken a renewal's.
func TestLogoutWithoutMarkerFollowsARenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newCalls()
		m, other := newManager(t, st, nil), newManager(t, st, nil)
		b := newBrowser(t)
		b.signIn(m, "alice")
		renewing := b.same()
		tries := 0
		st.before = func(op string, _ store.Key) error {
			if op != "retire" {
				return nil
			}
			if tries++; tries == 3 { // the last, and a renewal is quicker
				before := st.before
				st.before = nil
				renewing.do(other, func(s *session.Session) { check(t, s.Renew(t.Context())) })
				st.before = before
			}
			if tries > 3 {
				return nil
			}
			return fmt.Errorf("store: %w", store.ErrRejected)
		}
		b.do(m, func(s *session.Session) { check(t, s.Destroy(t.Context())) })
		st.before = nil
		if owner, _ := renewing.look(other); owner != "" || len(st.live(t)) != 0 {
			t.Errorf("after the logout %q is signed in, and %d sessions live; want nobody, and none", owner, len(st.live(t)))
		}
	})
}

// TestLogoutWhoseDeletionIsLost: it may have ended the session, so it is open.
func TestLogoutWhoseDeletionIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newCalls()
		m := newManager(t, st, nil)
		b := newBrowser(t)
		b.signIn(m, "alice")
		st.before = func(op string, _ store.Key) error {
			if op == "retire" {
				return fmt.Errorf("store: %w", store.ErrRejected)
			}
			return nil
		}
		st.after = func(op string, _ store.Key) error {
			if op == "delete" {
				return errLost
			}
			return nil
		}
		b.do(m, func(s *session.Session) {
			if err := s.Destroy(t.Context()); !errors.Is(err, session.ErrAmbiguous) || !errors.Is(err, session.ErrUnavailable) {
				t.Errorf("Destroy: %v; want ErrUnavailable and ErrAmbiguous", err)
			}
		})
	})
}

// TestWhyIsNotForgotten: when time is up, the error says why the write was refused, and
// not that the last look took too long.
func TestWhyIsNotForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newCalls()
		m, answer := newAnswering(t, st)
		b := newBrowser(t)
		b.signIn(m, "alice")
		b.do(m, func(s *session.Session) {
			began := time.Now()
			st.before = func(op string, _ store.Key) error {
				switch {
				case op == "replace":
					return fmt.Errorf("store: %w: read only", store.ErrUnapplied)
				case op == "get" && time.Since(began) > 4*time.Second:
					time.Sleep(2 * time.Second)
					return context.DeadlineExceeded
				}
				return nil
			}
			check(t, name.Set(s, "after"))
		})
		if *answer == nil || !strings.Contains((*answer).Error(), "read only") {
			t.Errorf("%v; want why the write was refused", *answer)
		}
	})
}

// counting returns an observer that counts events of the kind k in n.
func counting(k session.EventKind, n *int) func(context.Context, session.Event) {
	return func(_ context.Context, e session.Event) {
		if e.Kind == k {
			*n++
		}
	}
}
