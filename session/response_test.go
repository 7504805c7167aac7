package session_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/store"
)

// wire is a real server and what it logged. Handlers are mounted under paths of
// their own, so that all cases of a table share its connections.
type wire struct {
	*httptest.Server
	mux *http.ServeMux

	mu     sync.Mutex
	logged bytes.Buffer
}

func newWire(t *testing.T, http2 bool) *wire {
	t.Helper()
	wi := &wire{mux: http.NewServeMux()}
	wi.Server = httptest.NewUnstartedServer(wi.mux)
	wi.EnableHTTP2 = http2
	wi.Config.ErrorLog = log.New(wi, "", 0)
	wi.StartTLS()
	t.Cleanup(func() {
		wi.Close()
		wi.mu.Lock()
		defer wi.mu.Unlock()
		if wi.logged.Len() > 0 {
			t.Errorf("net/http's server complained:\n%s", &wi.logged)
		}
	})
	return wi
}

// Write takes the server's log.
func (wi *wire) Write(b []byte) (int, error) {
	wi.mu.Lock()
	defer wi.mu.Unlock()
	if bytes.Contains(b, []byte("TLS handshake error")) {
		return len(b), nil
	}
	return wi.logged.Write(b)
}

// client returns a client of wi with a cookie jar that starts with b's session.
func (wi *wire) client(b *browser) *http.Client {
	jar, err := cookiejar.New(nil)
	check(b.t, err)
	jar.SetCookies(wi.root(), b.jar.Cookies(site))
	return &http.Client{
		Transport:     wi.Client().Transport,
		Jar:           jar,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func (wi *wire) root() *url.URL {
	u, _ := url.Parse(wi.URL + "/")
	return u
}

// back returns a browser with the cookies that c has now.
func (wi *wire) back(t testing.TB, c *http.Client) *browser {
	b := newBrowser(t)
	b.jar.SetCookies(site, c.Jar.Cookies(wi.root()))
	return b
}

// writing is a way to write a response. One that finds that it cannot hijack
// answers 501.
type writing struct {
	name   string
	status int
	body   string
	do     func(w http.ResponseWriter, r *http.Request) error

	early    int  // the informational status that comes first
	upgrade  bool // it takes over the connection, which HTTP/2 does not have
	raw      bool // nothing of the server's own header leaves
	switches bool // the answer is 101, which HTTP/2 does not have
	returns  bool // nothing has left when the handler returns
	panics   bool
}

const page = "the page of the handler"

func writings(file string) []writing {
	header := func(code int) func(http.ResponseWriter, *http.Request) error {
		return func(w http.ResponseWriter, _ *http.Request) error {
			w.WriteHeader(code)
			return nil
		}
	}
	hijack := func(w http.ResponseWriter, answer string) error {
		conn, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			if errors.Is(err, http.ErrNotSupported) {
				http.Error(w, "cannot hijack", http.StatusNotImplemented)
			}
			return err
		}
		defer conn.Close()
		_, _ = rw.WriteString(answer)
		return rw.Flush()
	}
	return []writing{
		{name: "WriteHeader(200)", status: 200, do: header(200)},
		{name: "WriteHeader(204)", status: 204, do: header(204)},
		{name: "WriteHeader(304)", status: 304, do: header(304)},
		{name: "WriteHeader(404)", status: 404, do: header(404)},
		{name: "WriteHeader(103), 200", status: 200, body: page, early: 103, do: func(w http.ResponseWriter, _ *http.Request) error {
			w.Header().Set("Link", "</style.css>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
			w.WriteHeader(http.StatusOK)
			_, err := w.Write([]byte(page))
			return err
		}},
		{name: "Write", status: 200, body: page, do: func(w http.ResponseWriter, _ *http.Request) error {
			_, err := w.Write([]byte(page))
			return err
		}},
		{name: "Write of nothing", status: 200, do: func(w http.ResponseWriter, _ *http.Request) error {
			_, err := w.Write(nil)
			return err
		}},
		{name: "io.WriteString", status: 200, body: page, do: func(w http.ResponseWriter, _ *http.Request) error {
			_, err := io.WriteString(w, page)
			return err
		}},
		{name: "io.Copy of a file", status: 200, body: page, do: func(w http.ResponseWriter, _ *http.Request) error {
			f, err := os.Open(file)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = io.Copy(w, f)
			return err
		}},
		{name: "ReadFrom", status: 200, body: page, do: func(w http.ResponseWriter, _ *http.Request) error {
			_, err := w.(io.ReaderFrom).ReadFrom(strings.NewReader(page))
			return err
		}},
		{name: "Flush, Write", status: 200, body: page, do: func(w http.ResponseWriter, _ *http.Request) error {
			w.(http.Flusher).Flush()
			_, err := io.WriteString(w, page)
			return err
		}},
		{name: "ResponseController.Flush", status: 200, do: func(w http.ResponseWriter, _ *http.Request) error {
			return http.NewResponseController(w).Flush()
		}},
		{name: "Hijack", status: 200, body: "raw", upgrade: true, raw: true, do: func(w http.ResponseWriter, _ *http.Request) error {
			return hijack(w, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\nraw")
		}},
		// What coder/websocket does: the header by the server, then the connection.
		{name: "WriteHeader(101), Hijack", status: 101, body: "switched", upgrade: true, switches: true, do: func(w http.ResponseWriter, _ *http.Request) error {
			w.Header().Set("Connection", "Upgrade")
			w.Header().Set("Upgrade", "test")
			w.WriteHeader(http.StatusSwitchingProtocols)
			return hijack(w, "switched")
		}},
		{name: "return", status: 200, returns: true, do: func(http.ResponseWriter, *http.Request) error { return nil }},
		{name: "http.Error", status: 418, body: "short and stout\n", do: func(w http.ResponseWriter, _ *http.Request) error {
			http.Error(w, "short and stout", http.StatusTeapot)
			return nil
		}},
		{name: "http.Redirect", status: 303, body: "<a href=\"/elsewhere\">See Other</a>.\n\n", do: func(w http.ResponseWriter, r *http.Request) error {
			http.Redirect(w, r, "/elsewhere", http.StatusSeeOther)
			return nil
		}},
		{name: "http.ServeContent", status: 200, body: page, do: func(w http.ResponseWriter, r *http.Request) error {
			http.ServeContent(w, r, "page.txt", time.Time{}, strings.NewReader(page))
			return nil
		}},
		{name: "http.ServeContent of a range", status: 206, body: "page", do: func(w http.ResponseWriter, r *http.Request) error {
			r.Header.Set("Range", "bytes=4-7")
			http.ServeContent(w, r, "page.txt", time.Time{}, strings.NewReader(page))
			return nil
		}},
		// Its error deletes the caching headers that it finds.
		{name: "http.ServeContent of a range beyond", status: 416, body: "invalid range: failed to overlap\n", do: func(w http.ResponseWriter, r *http.Request) error {
			r.Header.Set("Range", "bytes=4000-")
			http.ServeContent(w, r, "page.txt", time.Time{}, strings.NewReader(page))
			return nil
		}},
		{name: "server-sent events", status: 200, body: "data: 0\n\ndata: 1\n\ndata: 2\n\n", do: func(w http.ResponseWriter, _ *http.Request) error {
			w.Header().Set("Content-Type", "text/event-stream")
			for i := range 3 {
				if _, err := fmt.Fprintf(w, "data: %d\n\n", i); err != nil {
					return err
				}
				if err := http.NewResponseController(w).Flush(); err != nil {
					return err
				}
			}
			return nil
		}},
		{name: "panic", status: 500, body: "recovered\n", panics: true, do: func(http.ResponseWriter, *http.Request) error {
			panic(errDeliberate)
		}},
	}
}

var errDeliberate = errors.New("deliberate")

// visitor is who sends the request of a case, and what the store holds of them.
type visitor int

const (
	newcomer  visitor = iota // no cookie
	anonymous                // a session with count 1
	alice                    // signed in, with count 1
)

// cookieWish is what a response must do about the session cookie.
type cookieWish int

const (
	untouched cookieWish = iota
	replaced
	cleared
)

// state is what the visitor's next request finds.
type state struct {
	owner   string
	count   int
	records int // in the store, of everybody
}

func (v visitor) state() state {
	switch v {
	case anonymous:
		return state{"", 1, 1}
	case alice:
		return state{"alice", 1, 1}
	}
	return state{}
}

// changing is a way to change the session, before the first byte or after it.
type changing struct {
	name   string
	by     visitor
	before func(s *session.Session, st *calls) error
	after  func(s *session.Session) error
	late   bool // it tests what happens after the first byte

	cookie cookieWish
	leaves state
	err    error // why the commit fails
	status int   // what the failure answers
	lost   bool  // the late change is lost, and said to be

	// A panic commits nothing. What was done at once stands: what the next
	// request then finds, if not what it found before.
	stands *state
}

func changings() []changing {
	tooLarge := func(op string) func(string, store.Key) error {
		return func(got string, _ store.Key) error {
			if got == op {
				return fmt.Errorf("test: %w", store.ErrTooLarge)
			}
			return nil
		}
	}
	increment := func(s *session.Session, _ *calls) error { return count.Update(s, add(1)) }
	lateIncrement := func(s *session.Session) error { return count.Update(s, add(1)) }
	signIn := func(s *session.Session) error { return s.SignIn(context.Background(), "alice", nil) }
	return []changing{
		{name: "nothing by a newcomer", by: newcomer},
		{name: "nothing by alice", by: alice, leaves: alice.state()},
		{name: "a read of nothing", by: newcomer, before: func(s *session.Session, _ *calls) error {
			_, err := count.Get(s)
			return err
		}},
		{name: "Set", by: anonymous, before: func(s *session.Session, _ *calls) error { return count.Set(s, 7) }, leaves: state{"", 7, 1}},
		{name: "Update by alice", by: alice, before: increment, leaves: state{"alice", 2, 1}},
		{name: "Set by a newcomer", by: newcomer, before: increment, cookie: replaced, leaves: state{"", 1, 1}},
		{name: "Commit by a newcomer", by: newcomer, before: func(s *session.Session, st *calls) error {
			return errors.Join(increment(s, st), s.Commit(context.Background()))
		}, cookie: replaced, leaves: state{"", 1, 1}, stands: &state{"", 1, 1}},
		{name: "SignIn", by: anonymous, before: func(s *session.Session, st *calls) error {
			return errors.Join(increment(s, st), signIn(s))
		}, cookie: replaced, leaves: state{"alice", 2, 1}, stands: &state{"alice", 2, 1}},
		{name: "SignIn by a newcomer", by: newcomer, before: func(s *session.Session, _ *calls) error { return signIn(s) }, cookie: replaced, leaves: state{"alice", 0, 1}, stands: &state{"alice", 0, 1}},
		{name: "SignIn, then Set", by: newcomer, before: func(s *session.Session, _ *calls) error {
			return errors.Join(signIn(s), count.Set(s, 3))
		}, cookie: replaced, leaves: state{"alice", 3, 1}, stands: &state{"alice", 0, 1}},
		{name: "Renew", by: alice, before: func(s *session.Session, st *calls) error {
			return errors.Join(increment(s, st), s.Renew(context.Background()))
		}, cookie: replaced, leaves: state{"alice", 2, 1}, stands: &state{"alice", 2, 1}},
		{name: "Destroy", by: alice, before: func(s *session.Session, _ *calls) error {
			return s.Destroy(context.Background())
		}, cookie: cleared, stands: &state{}},
		{name: "Destroy by a newcomer", by: newcomer, before: func(s *session.Session, _ *calls) error {
			return s.Destroy(context.Background())
		}, cookie: cleared, stands: &state{}},
		{name: "Destroy, then SignIn", by: alice, before: func(s *session.Session, _ *calls) error {
			return errors.Join(s.Destroy(context.Background()), signIn(s))
		}, cookie: replaced, leaves: state{"alice", 0, 1}, stands: &state{"alice", 0, 1}},

		{name: "late Set", late: true, by: anonymous, after: lateIncrement, leaves: state{"", 2, 1}},
		{name: "late Set by a newcomer who has a cookie by now", late: true, by: newcomer, before: increment, after: lateIncrement, cookie: replaced, leaves: state{"", 2, 1}},
		{name: "late Set by a newcomer", late: true, by: newcomer, after: lateIncrement, lost: true},
		{name: "late SignIn", late: true, by: anonymous, after: func(s *session.Session) error {
			if err := signIn(s); !errors.Is(err, session.ErrHeadersSent) {
				return fmt.Errorf("late SignIn: %v, want ErrHeadersSent", err)
			}
			return nil
		}, leaves: anonymous.state()},
		{name: "late Renew", late: true, by: alice, after: func(s *session.Session) error {
			if err := s.Renew(context.Background()); !errors.Is(err, session.ErrHeadersSent) {
				return fmt.Errorf("late Renew: %v, want ErrHeadersSent", err)
			}
			return nil
		}, leaves: alice.state()},

		{name: "commit too large", by: anonymous, before: func(s *session.Session, st *calls) error {
			st.before = tooLarge("replace")
			return count.Set(s, 7)
		}, err: session.ErrTooLarge, status: 500, leaves: anonymous.state()},
		{name: "commit of a newcomer too large", by: newcomer, before: func(s *session.Session, st *calls) error {
			st.before = tooLarge("create")
			return count.Set(s, 7)
		}, err: session.ErrTooLarge, status: 500},
		{name: "commit during an outage", by: alice, before: func(s *session.Session, st *calls) error {
			st.before = func(string, store.Key) error { return errors.New("connection refused") }
			return count.Set(s, 7)
		}, err: session.ErrUnavailable, status: 503, leaves: alice.state()},
		{name: "commit of an ended session", by: alice, before: func(s *session.Session, st *calls) error {
			_, err := st.Store.DeleteOwner(context.Background(), "alice")
			return errors.Join(err, count.Set(s, 7))
		}, err: session.ErrEnded, status: 409, stands: &state{}},
		{name: "SignIn, then commit too large", by: anonymous, before: func(s *session.Session, st *calls) error {
			err := signIn(s)
			st.before = tooLarge("replace")
			return errors.Join(err, count.Set(s, 7))
		}, cookie: replaced, err: session.ErrTooLarge, status: 500, leaves: alice.state(), stands: &state{"alice", 1, 1}},
		{name: "Destroy, then commit too large", by: alice, before: func(s *session.Session, st *calls) error {
			err := s.Destroy(context.Background())
			st.before = tooLarge("create")
			return errors.Join(err, count.Set(s, 7))
		}, cookie: cleared, err: session.ErrTooLarge, status: 500, stands: &state{}},
	}
}

// Every way to write × every way to change, over real connections.
func TestResponse(t *testing.T) {
	file := filepath.Join(t.TempDir(), "page.txt")
	check(t, os.WriteFile(file, []byte(page), 0o600))
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(proto, func(t *testing.T) {
			wi := newWire(t, proto == "HTTP/2.0")
			for i, wr := range writings(file) {
				for j, ch := range changings() {
					if wr.switches && proto == "HTTP/2.0" || wr.returns && ch.late {
						continue // there is no such thing
					}
					t.Run(wr.name+"/"+ch.name, func(t *testing.T) {
						responseCase{wi, proto, wr, ch}.run(t, fmt.Sprintf("/%d/%d", i, j))
					})
				}
			}
		})
	}
}

type responseCase struct {
	wi    *wire
	proto string
	wr    writing
	ch    changing
}

func (c responseCase) run(t *testing.T, path string) {
	wr, ch := c.wr, c.ch
	st := newCalls()
	var events events
	m := newManager(t, st, &session.Options{
		CommitTimeout: 20 * time.Millisecond, // how long an outage is fought
		Observer:      events.observe,
	})
	b := newBrowser(t)
	switch ch.by {
	case newcomer:
	case anonymous:
		b.do(m, func(s *session.Session) { check(t, count.Set(s, 1)) })
	case alice:
		b.do(m, func(s *session.Session) { check(t, errors.Join(count.Set(s, 1), s.SignIn(t.Context(), "alice", nil))) })
	}

	returned := make(chan struct{})
	var writeErr error
	app := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := m.From(r.Context())
		if ch.err != nil {
			// What the handler meant for its page must not spoil the error.
			w.Header().Set("X-Handler", "was here")
			w.Header().Set("Content-Length", "1")
			w.Header().Set("Content-Encoding", "gzip")
			w.Header().Set("Content-Type", "image/png")
		}
		if ch.before != nil {
			if err := ch.before(s, st); err != nil {
				t.Errorf("change: %v", err)
			}
		}
		writeErr = wr.do(w, r)
		if ch.after != nil {
			if err := ch.after(s); err != nil {
				t.Errorf("late change: %v", err)
			}
		}
		if ch.err != nil && !wr.returns {
			checkDead(t, w, ch.err)
		}
	})
	recoverer := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(returned)
		defer func() {
			if p := recover(); p != nil {
				if p != errDeliberate {
					t.Errorf("panic: %v", p)
				}
				for _, k := range []string{"Content-Length", "Content-Encoding"} {
					w.Header().Del(k)
				}
				http.Error(w, "recovered", http.StatusInternalServerError)
			}
		}()
		m.Handler(app).ServeHTTP(w, r)
	})
	c.wi.mux.Handle(path, recoverer)

	client := c.wi.client(b)
	resp, body, early := get(t, client, c.wi.URL+path)
	<-returned
	st.before = nil

	if resp.Proto != c.proto {
		t.Fatalf("the response came by %s", resp.Proto)
	}
	want := c.expect()
	if resp.StatusCode != want.status {
		t.Errorf("status %d, want %d", resp.StatusCode, want.status)
	}
	if body != want.body {
		t.Errorf("body %q, want %q", body, want.body)
	}
	if early != wr.early {
		t.Errorf("informational status %d, want %d", early, wr.early)
	}
	if !want.raw {
		checkSessionCookie(t, resp, want.cookie)
		if got := strings.Join(resp.Header["Cache-Control"], "|"); got != want.cacheControl {
			t.Errorf("Cache-Control %q, want %q", got, want.cacheControl)
		}
	}
	if ch.err != nil && !wr.panics {
		for _, h := range []string{"X-Handler", "Content-Encoding"} {
			if v := resp.Header.Get(h); v != "" {
				t.Errorf("the error answer has the handler's %s: %s", h, v)
			}
		}
		if got := resp.Header.Get("Content-Type"); got != "text/plain; charset=utf-8" {
			t.Errorf("the error answer has Content-Type %q", got)
		}
		if got := resp.Header.Get("Retry-After"); (got != "") != (ch.status == 503) {
			t.Errorf("Retry-After %q with status %d", got, ch.status)
		}
	} else if want.hijackFails != errors.Is(writeErr, http.ErrNotSupported) || !want.hijackFails && writeErr != nil {
		t.Errorf("writing returned %v", writeErr)
	}
	owner, n := c.wi.back(t, client).look(m)
	if got := (state{owner, n, len(st.live(t))}); got != want.leaves {
		t.Errorf("the next request finds %+v, want %+v", got, want.leaves)
	}
	if got := events.errs(session.EventLateChange); want.lost != (len(got) == 1 && errors.Is(got[0], session.ErrHeadersSent)) || !want.lost && len(got) > 0 {
		t.Errorf("late changes reported as lost: %v, want one: %t", got, want.lost)
	}
}

type expected struct {
	status       int
	body         string
	cookie       cookieWish
	cacheControl string
	leaves       state
	hijackFails  bool
	raw          bool
	lost         bool
}

func (c responseCase) expect() expected {
	wr, ch := c.wr, c.ch
	e := expected{status: wr.status, body: wr.body, cookie: ch.cookie, leaves: ch.leaves, raw: wr.raw, lost: ch.lost}
	owner := ch.leaves.owner
	if ch.late {
		owner = ch.by.state().owner
	}
	switch {
	case wr.panics:
		e.lost = false
		if ch.stands == nil {
			e.leaves, e.cookie = ch.by.state(), untouched
		} else {
			e.leaves = *ch.stands
		}
		switch {
		case e.cookie != untouched:
			e.cacheControl = "no-store"
		case ch.by.state().owner != "":
			e.cacheControl = "private, no-store"
		}
		return e
	case ch.err != nil:
		e.status, e.raw, e.cacheControl = ch.status, false, "no-store"
		e.body = errorText[ch.status]
		return e
	case wr.upgrade && !wr.switches && (ch.cookie != untouched || c.proto == "HTTP/2.0"):
		e.status, e.body, e.raw, e.hijackFails = 501, "cannot hijack\n", false, true
	}
	switch {
	case e.cookie != untouched:
		e.cacheControl = "no-store"
	case owner != "":
		e.cacheControl = "private, no-store"
	}
	return e
}

var errorText = func() map[int]string {
	texts := map[int]string{}
	for _, err := range []error{errors.Join(session.ErrUnavailable, session.ErrAmbiguous), session.ErrEnded, session.ErrTooLarge} {
		w := httptest.NewRecorder()
		session.DefaultErrorHandler(w, nil, err)
		texts[w.Code] = w.Body.String()
	}
	return texts
}()

// checkDead checks that nothing more can be written.
func checkDead(t *testing.T, w http.ResponseWriter, want error) {
	t.Helper()
	more := []byte("more")
	_, errWrite := w.Write(more)
	_, errString := io.WriteString(w, "more")
	_, errRead := w.(io.ReaderFrom).ReadFrom(bytes.NewReader(more))
	_, _, errHijack := w.(http.Hijacker).Hijack()
	for what, err := range map[string]error{
		"Write": errWrite, "WriteString": errString, "ReadFrom": errRead,
		"Flush": http.NewResponseController(w).Flush(), "Hijack": errHijack,
	} {
		if !errors.Is(err, want) {
			t.Errorf("after the failed commit, %s returned %v, want %v", what, err, want)
		}
	}
	w.WriteHeader(http.StatusOK)
	w.WriteHeader(http.StatusProcessing)
}

func checkSessionCookie(t *testing.T, resp *http.Response, want cookieWish) {
	t.Helper()
	var ours []*http.Cookie
	for _, c := range resp.Cookies() {
		if c.Name == "__Host-session" {
			ours = append(ours, c)
		}
	}
	switch {
	case want == untouched && len(ours) == 0:
	case want == replaced && len(ours) == 1 && ours[0].MaxAge == 0 && len(ours[0].Value) == 43:
	case want == cleared && len(ours) == 1 && ours[0].MaxAge < 0 && ours[0].Value == "":
	default:
		t.Errorf("Set-Cookie %d times, want %s", len(ours), [...]string{"none", "one with an ID", "one that clears"}[want])
	}
}

// get sends a GET and returns the whole answer and the status of an
// informational one before it.
func get(t *testing.T, c *http.Client, target string) (resp *http.Response, body string, early int) {
	t.Helper()
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, _ textproto.MIMEHeader) error {
			early = code
			return nil
		},
	})
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	check(t, err)
	resp, err = c.Do(req)
	check(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Errorf("the response was cut short: %v", err)
	}
	return resp, string(b), early
}

// events collects what a manager reports.
type events struct {
	mu sync.Mutex
	es []session.Event
}

func (e *events) observe(_ context.Context, ev session.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.es = append(e.es, ev)
}

func (e *events) errs(kind session.EventKind) []error {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []error
	for _, ev := range e.es {
		if ev.Kind == kind {
			out = append(out, ev.Err)
		}
	}
	return out
}

// Caching: a response that sets the cookie is kept by nobody, whatever the
// handler says and in whatever order; else the handler's policy stands.
func TestResponseCaching(t *testing.T) {
	signIn := func(s *session.Session) { check(t, s.SignIn(t.Context(), "alice", nil)) }
	public := func(w http.ResponseWriter) { w.Header().Set("Cache-Control", "public, max-age=3600") }
	for _, tt := range []struct {
		name string
		by   visitor
		do   func(w http.ResponseWriter, s *session.Session)
		want string
	}{
		{"policy, then sign-in", newcomer, func(w http.ResponseWriter, s *session.Session) { public(w); signIn(s) }, "no-store"},
		{"sign-in, then policy", newcomer, func(w http.ResponseWriter, s *session.Session) { signIn(s); public(w) }, "no-store"},
		{"policy, and a first value", newcomer, func(w http.ResponseWriter, s *session.Session) { check(t, count.Set(s, 1)); public(w) }, "no-store"},
		{"policy for alice", alice, func(w http.ResponseWriter, _ *session.Session) { public(w) }, "public, max-age=3600"},
		{"no policy for alice", alice, func(http.ResponseWriter, *session.Session) {}, "private, no-store"},
		{"no policy for a newcomer", newcomer, func(http.ResponseWriter, *session.Session) {}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newManager(t, newCalls(), nil)
			b := newBrowser(t)
			if tt.by == alice {
				b.signIn(m, "alice")
			}
			resp := b.serve(m, func(w http.ResponseWriter, r *http.Request) {
				tt.do(w, m.From(r.Context()))
				_, _ = io.WriteString(w, page)
			})
			if got := strings.Join(resp.Header["Cache-Control"], "|"); got != tt.want {
				t.Errorf("Cache-Control %q, want %q", got, tt.want)
			}
		})
	}
	t.Run("a handler that asks by Lookup", func(t *testing.T) {
		m := newManager(t, newCalls(), nil)
		b := newBrowser(t)
		b.signIn(m, "alice")
		resp := b.serve(m, func(w http.ResponseWriter, r *http.Request) {
			s, _ := m.Lookup(r.Context())
			_, _ = io.WriteString(w, s.Owner())
		})
		if got := resp.Header.Get("Cache-Control"); got != "private, no-store" {
			t.Errorf("Cache-Control %q: a shared cache may show alice's page to others", got)
		}
	})
	t.Run("a handler that does not ask for the session", func(t *testing.T) {
		m := newManager(t, newCalls(), nil)
		b := newBrowser(t)
		b.signIn(m, "alice")
		resp := b.serve(m, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, page) })
		if got := resp.Header.Get("Cache-Control"); got != "" {
			t.Errorf("Cache-Control %q on a page that is the same for everybody", got)
		}
	})
}

// An informational header leaves before the final one, and proxies may show it
// to others: the cookie of a sign-in is in the final one alone.
func TestEarlyHintsCarryNoCookie(t *testing.T) {
	m := newManager(t, newCalls(), nil)
	srv := httptest.NewServer(m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		check(t, m.From(r.Context()).SignIn(r.Context(), "alice", nil))
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		_, _ = io.WriteString(w, page)
	})))
	defer srv.Close()
	hints := 0
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(_ int, h textproto.MIMEHeader) error {
			hints++
			if set := h["Set-Cookie"]; set != nil || h.Get("Link") == "" {
				t.Errorf("the 103 carries Set-Cookie %q, Link %q; want the link alone", set, h.Get("Link"))
			}
			return nil
		},
	})
	resp := must(srv.Client().Do(must(http.NewRequestWithContext(ctx, http.MethodGet, srv.URL, nil))(t)))(t)
	check(t, resp.Body.Close())
	if hints != 1 {
		t.Errorf("%d informational headers, want 1", hints)
	}
	checkCookies(t, resp, 1)
}

// What a middleware outside has put into the header stays when a commit fails.
func TestResponseFailureKeepsOuterHeader(t *testing.T) {
	st := newCalls()
	m := newManager(t, st, nil)
	st.before = func(string, store.Key) error { return store.ErrTooLarge }
	h := m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Request-ID", "another")
		w.Header().Del("Strict-Transport-Security")
		check(t, count.Set(m.From(r.Context()), 1))
	}))
	w := httptest.NewRecorder()
	w.Header().Set("X-Request-ID", "7")
	w.Header().Set("Strict-Transport-Security", "max-age=1")
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	if w.Code != http.StatusInternalServerError {
		t.Errorf("status %d, want 500", w.Code)
	}
	if id, hsts := w.Header().Get("X-Request-ID"), w.Header().Get("Strict-Transport-Security"); id != "7" || hsts != "max-age=1" {
		t.Errorf("the headers from outside are %q and %q", id, hsts)
	}
}

// When the commit of one manager fails, the cookie by which another one told of
// a sign-in stays.
func TestResponseFailureKeepsOtherManagersCookie(t *testing.T) {
	outer := newManager(t, newCalls(), nil)
	st := newCalls()
	inner := newManager(t, st, &session.Options{Cookie: session.Cookie{Name: "__Host-inner"}})
	b := newBrowser(t)
	h := inner.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		check(t, outer.From(r.Context()).SignIn(r.Context(), "alice", nil))
		check(t, count.Set(inner.From(r.Context()), 1))
		st.before = func(string, store.Key) error { return store.ErrTooLarge }
		_, _ = io.WriteString(w, page)
	}))
	resp := b.serve(outer, h.ServeHTTP)
	if resp.StatusCode != http.StatusInternalServerError {
		t.Errorf("status %d, want 500", resp.StatusCode)
	}
	checkSessionCookie(t, resp, replaced)
	if owner, _ := b.look(outer); owner != "alice" {
		t.Error("the sign-in with the outer manager was lost")
	}
}

// Who hangs up while the handler runs undoes nothing.
func TestClientHangsUp(t *testing.T) {
	for _, tt := range []struct {
		name   string
		do     func(ctx context.Context, s *session.Session) error
		leaves state
	}{
		{"change", func(_ context.Context, s *session.Session) error { return count.Update(s, add(1)) }, state{"alice", 2, 1}},
		{"commit", func(ctx context.Context, s *session.Session) error {
			return errors.Join(count.Update(s, add(1)), s.Commit(ctx))
		}, state{"alice", 2, 1}},
		{"logout", func(ctx context.Context, s *session.Session) error { return s.Destroy(ctx) }, state{}},
		{"renewal", func(ctx context.Context, s *session.Session) error { return s.Renew(ctx) }, state{"", 0, 1}}, // the old ID is dead, the new one lost
		{"nothing", func(context.Context, *session.Session) error { return nil }, alice.state()},
	} {
		for _, http2 := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/http2=%t", tt.name, http2), func(t *testing.T) {
				st := newCalls()
				m := newManager(t, st, nil)
				b := newBrowser(t)
				b.do(m, func(s *session.Session) {
					check(t, errors.Join(count.Set(s, 1), s.SignIn(t.Context(), "alice", nil)))
				})
				wi := newWire(t, http2)
				running, gone, returned := make(chan struct{}), make(chan struct{}), make(chan struct{})
				wi.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
					defer close(returned)
					m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
						close(running)
						<-r.Context().Done()
						<-gone
						if err := tt.do(r.Context(), m.From(r.Context())); err != nil {
							t.Errorf("%s: %v", tt.name, err)
						}
					})).ServeHTTP(w, r)
				})
				ctx, hangUp := context.WithCancel(t.Context())
				req, err := http.NewRequestWithContext(ctx, http.MethodGet, wi.URL, nil)
				check(t, err)
				go func() {
					<-running
					hangUp()
				}()
				client := wi.client(b)
				if resp, err := client.Do(req); err == nil {
					resp.Body.Close()
					t.Error("the client got an answer")
				}
				close(gone)
				<-returned
				owner, n := wi.back(t, client).look(m)
				if got := (state{owner, n, len(st.live(t))}); got != tt.leaves {
					t.Errorf("the next request finds %+v, want %+v", got, tt.leaves)
				}
			})
		}
	}
}

// http.ResponseController reaches the server's own writer through ours.
func TestResponseController(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("http2=%t", http2), func(t *testing.T) {
			wi := newWire(t, http2)
			m := newManager(t, newCalls(), nil)
			errs := make(chan error, 1)
			wi.mux.Handle("/options", m.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				rc := http.NewResponseController(w)
				later := time.Now().Add(time.Hour)
				errs <- errors.Join(rc.SetReadDeadline(later), rc.SetWriteDeadline(later), rc.EnableFullDuplex())
			})))
			get(t, wi.client(newBrowser(t)), wi.URL+"/options")
			check(t, <-errs)

			// A deadline that has passed stops the writing: it did reach the server.
			wi.mux.Handle("/deadline", m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				rc := http.NewResponseController(w)
				err := rc.SetWriteDeadline(time.Now().Add(-time.Second))
				if err == nil && r.ProtoMajor == 2 {
					<-r.Context().Done() // HTTP/2 resets the stream
				}
				_, err2 := w.Write(make([]byte, 1<<20))
				if err2 == nil {
					err2 = rc.Flush()
				}
				if err2 == nil {
					err = errors.Join(err, errors.New("writing after the deadline worked"))
				}
				errs <- err
			})))
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, wi.URL+"/deadline", nil)
			check(t, err)
			if resp, err := wi.client(newBrowser(t)).Do(req); err == nil {
				_, err = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if err == nil {
					t.Error("the answer came whole after its deadline")
				}
			}
			check(t, <-errs)
		})
	}
}

// routerWriter is a writer of a router that asserts what it needs on the one
// that it is given, as gin's does.
type routerWriter struct{ http.ResponseWriter }

func (w routerWriter) Flush() { w.ResponseWriter.(http.Flusher).Flush() }

func (w routerWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return w.ResponseWriter.(http.Hijacker).Hijack()
}

// bareWriter is a writer of a middleware that hides everything.
type bareWriter struct{ http.ResponseWriter }

func TestResponseWriterOfRouters(t *testing.T) {
	m := newManager(t, newCalls(), nil)
	t.Run("router inside", func(t *testing.T) {
		wi := newWire(t, false)
		wi.mux.Handle("/flush", m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			check(t, count.Set(m.From(r.Context()), 1))
			w = routerWriter{w}
			w.(http.Flusher).Flush()
			_, _ = io.WriteString(w, page)
		})))
		wi.mux.Handle("/hijack", m.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			conn, rw, err := routerWriter{w}.Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			_, _ = rw.WriteString("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\nraw")
			_ = rw.Flush()
		})))
		client := wi.client(newBrowser(t))
		resp, body, _ := get(t, client, wi.URL+"/flush")
		checkSessionCookie(t, resp, replaced)
		if body != page {
			t.Errorf("body %q", body)
		}
		if _, body, _ = get(t, client, wi.URL+"/hijack"); body != "raw" {
			t.Errorf("body %q", body)
		}
	})
	t.Run("what the server's writer lacks is an error", func(t *testing.T) {
		h := m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if err := http.NewResponseController(w).Flush(); !errors.Is(err, http.ErrNotSupported) {
				t.Errorf("Flush: %v", err)
			}
			w.(http.Flusher).Flush()
			if _, _, err := w.(http.Hijacker).Hijack(); !errors.Is(err, http.ErrNotSupported) {
				t.Errorf("Hijack: %v", err)
			}
		}))
		h.ServeHTTP(bareWriter{httptest.NewRecorder()}, httptest.NewRequest(http.MethodGet, "/", nil))
	})
	t.Run("an upgrade that is not possible does not stop a sign-in", func(t *testing.T) {
		b := newBrowser(t)
		b.serve(m, func(w http.ResponseWriter, r *http.Request) {
			if _, _, err := w.(http.Hijacker).Hijack(); !errors.Is(err, http.ErrNotSupported) {
				t.Errorf("Hijack: %v", err)
			}
			check(t, m.From(r.Context()).SignIn(r.Context(), "bob", nil))
			check(t, count.Set(m.From(r.Context()), 5))
			_, _ = io.WriteString(w, page)
		})
		if owner, n := b.look(m); owner != "bob" || n != 5 {
			t.Errorf("the next request finds %q, %d", owner, n)
		}
	})
	for name, try := range map[string]func(http.ResponseWriter) error{
		"an upgrade": func(w http.ResponseWriter) error {
			_, _, err := w.(http.Hijacker).Hijack()
			return err
		},
		"a flush": func(w http.ResponseWriter) error { return http.NewResponseController(w).Flush() },
	} {
		t.Run(name+" that is not possible does not lose a newcomer's value", func(t *testing.T) {
			h := m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if err := try(w); !errors.Is(err, http.ErrNotSupported) {
					t.Errorf("%s: %v, want ErrNotSupported", name, err)
				}
				check(t, count.Set(m.From(r.Context()), 5))
				_, _ = io.WriteString(w, page)
			}))
			w := httptest.NewRecorder()
			h.ServeHTTP(bareWriter{w}, httptest.NewRequest(http.MethodGet, site.String(), nil))
			checkSessionCookie(t, w.Result(), replaced)
			b := newBrowser(t)
			b.take(w.Result())
			if _, n := b.look(m); n != 5 {
				t.Errorf("the next request finds %d, want 5", n)
			}
		})
	}
}
