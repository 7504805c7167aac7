package format_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/internal/formatcheck"
	"github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/memstore"
)

// These tests put package session and formatcheck, which knows docs/format.md
// alone, on two sides of one store: what the one writes, the other reads.

const cookieName = "__Host-session"

var notices = session.NewFlash[string]("notices")

func newManager(t *testing.T, st store.Store, opts *session.Options) *session.Manager {
	t.Helper()
	opts.Logger = slog.New(slog.DiscardHandler)
	m, err := session.New(st, opts)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// visit sends a request with that cookie through m and returns the response. If
// f is nil, the handler must not run.
func visit(t *testing.T, m *session.Manager, cookie string, f func(*session.Session)) *http.Response {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "https://shop.example/", nil)
	if cookie != "" {
		r.Header.Set("Cookie", cookieName+"="+cookie)
	}
	ran := false
	w := httptest.NewRecorder()
	m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		ran = true
		if f != nil {
			f(m.From(r.Context()))
		}
	})).ServeHTTP(w, r)
	if ran != (f != nil) {
		t.Errorf("the handler ran: %t", ran)
	}
	return w.Result()
}

// idOf reads the cookie of a response by the document.
func idOf(t *testing.T, resp *http.Response) formatcheck.ID {
	t.Helper()
	cookies := resp.Cookies()
	if len(cookies) != 1 {
		t.Fatalf("the response sets the cookies %v", cookies)
	}
	c := cookies[0]
	id, ok := formatcheck.ParseID(c.Value)
	if c.Name != cookieName || !ok || c.Quoted || !c.Secure || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/" {
		t.Fatalf("the cookie is %s", c)
	}
	return id
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

// read opens the record of id by the document.
func read(t *testing.T, st store.Store, id formatcheck.ID, unsealed bool) (store.Record, formatcheck.Payload) {
	t.Helper()
	rec, err := st.Get(t.Context(), id.Key())
	if err != nil {
		t.Fatal(err)
	}
	plain, err := formatcheck.Open(id, formatcheck.Record{
		Handle: rec.Handle, Owner: []byte(rec.Owner), Created: rec.Created.UnixMilli(), Data: rec.Data,
	}, unsealed)
	if err != nil {
		t.Fatal(err)
	}
	p, err := formatcheck.ParsePayload(plain)
	if err != nil {
		t.Fatal(err)
	}
	return rec, p
}

// write creates a record by the document.
func write(t *testing.T, st store.Store, id formatcheck.ID, owner string, p formatcheck.Payload) {
	t.Helper()
	now := time.Now()
	rec := store.Record{
		Version: 1 << 32, Handle: store.Handle{7}, Owner: owner,
		Created: now, Deadline: now.Add(time.Hour), Expires: now.Add(time.Hour),
	}.Truncate()
	rec.Data = formatcheck.Seal(id, formatcheck.Record{
		Handle: rec.Handle, Owner: []byte(owner), Created: rec.Created.UnixMilli(),
	}, [12]byte{1}, p.Encode())
	if err := st.Create(t.Context(), id.Key(), rec); err != nil {
		t.Fatal(err)
	}
}

func TestSessionsAreReadByTheDocument(t *testing.T) {
	for _, unsealed := range []bool{false, true} {
		st := memstore.New()
		m := newManager(t, st, &session.Options{Unsealed: unsealed})
		before := time.Now()
		id := idOf(t, visit(t, m, "", func(s *session.Session) {
			must(t, session.NewAttr[map[string]int]("cart").Set(s, map[string]int{"apple": 2}))
			must(t, notices.Add(s, "one"))
			must(t, notices.Add(s, "two"))
			must(t, s.SignIn(t.Context(), "alice\xff", &session.SignInOptions{Methods: []string{"password", "otp"}, Label: "Firefox"}))
		}))
		rec, p := read(t, st, id, unsealed)
		if rec.Owner != "alice\xff" || string(rec.Label) != "Firefox" || rec.Version>>32 == 0 ||
			!rec.Deadline.Equal(rec.Created.Add(24*time.Hour)) || rec.Expires.Before(before) || !rec.Expires.Before(rec.Deadline) {
			t.Errorf("the record is %+v of %q", rec, rec.Owner)
		}
		if len(p.Attrs) != 2 || string(p.Attrs[0].Name) != "cart" || string(p.Attrs[0].Value) != `{"apple":2}` || string(p.Attrs[1].Name) != "notices" {
			t.Fatalf("attributes %q", p.Attrs)
		}
		items := formatcheck.ParseFlash(p.Attrs[1].Value)
		if len(items) != 2 || string(items[0].Value) != `"one"` || string(items[1].Value) != `"two"` || items[0].ID == items[1].ID {
			t.Errorf("flash items %q", items)
		}
		if again := formatcheck.EncodeFlash(items); !bytes.Equal(again, p.Attrs[1].Value) {
			t.Errorf("the flash is written as %x, by the document as %x", p.Attrs[1].Value, again)
		}
		if !p.SignedIn || p.SignedInAt < before.UnixMilli() || p.SignedInAt > time.Now().UnixMilli() {
			t.Errorf("signed in at %d, %t", p.SignedInAt, p.SignedIn)
		}
		if len(p.Methods) != 2 || string(p.Methods[0]) != "password" || string(p.Methods[1]) != "otp" {
			t.Errorf("methods %q", p.Methods)
		}
		if p.IdleTimeout != time.Hour.Milliseconds() || p.Unknown != nil {
			t.Errorf("idle timeout %d, unknown %x", p.IdleTimeout, p.Unknown)
		}
	}
}

func TestSessionsAreWrittenByTheDocument(t *testing.T) {
	st := memstore.New()
	m := newManager(t, st, &session.Options{})
	id := formatcheck.ID{1, 2, 3}
	cart, theirs := session.NewAttr[map[string]int]("cart"), []byte("\x00 not JSON")
	unknown := []byte("\x4a\x03new\x50\x96\x01")
	write(t, st, id, "alice", formatcheck.Payload{
		Attrs: []formatcheck.Attr{
			{Name: []byte("theirs"), Value: theirs},
			{Name: []byte("cart"), Value: []byte(`{"apple":2}`)},
			{Name: []byte("notices"), Value: formatcheck.EncodeFlash([]formatcheck.FlashItem{{ID: [8]byte{1}, Value: []byte(`"Saved."`)}})},
		},
		SignedIn: true, SignedInAt: 1767225600123, Methods: [][]byte{[]byte("otp")},
		IdleTimeout: time.Hour.Milliseconds(), Unknown: unknown,
	})
	visit(t, m, id.Text(), func(s *session.Session) {
		if s.Owner() != "alice" || s.Handle() != (session.Handle{7}) || s.SignedInAt().UnixMilli() != 1767225600123 || len(s.Methods()) != 1 {
			t.Errorf("owner %q, handle %v, signed in at %v by %q", s.Owner(), s.Handle(), s.SignedInAt(), s.Methods())
		}
		if c, err := cart.Get(s); err != nil || c["apple"] != 2 {
			t.Errorf("cart %v, %v", c, err)
		}
		if n, err := notices.Pop(s); err != nil || len(n) != 1 || n[0] != "Saved." {
			t.Errorf("notices %q, %v", n, err)
		}
		must(t, cart.Update(s, func(c map[string]int) (map[string]int, error) {
			c["apple"]++
			return c, nil
		}))
	})
	rec, p := read(t, st, id, false)
	if rec.Version>>32 != 2 {
		t.Errorf("version %#x follows %#x", rec.Version, 1<<32)
	}
	if len(p.Attrs) != 2 || !bytes.Equal(p.Attrs[0].Value, theirs) || string(p.Attrs[1].Value) != `{"apple":3}` {
		t.Errorf("attributes %q", p.Attrs)
	}
	if !bytes.Equal(p.Unknown, unknown) || p.SignedInAt != 1767225600123 || len(p.Methods) != 1 {
		t.Errorf("unknown fields %x, signed in at %d by %q", p.Unknown, p.SignedInAt, p.Methods)
	}
}

// TestFlashVectors pops the flashes of the vectors.
func TestFlashVectors(t *testing.T) {
	b, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	vectors, err := formatcheck.ParseVectors(b)
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range vectors.Flashes {
		st := memstore.New()
		id := formatcheck.ID{byte(i + 1)}
		write(t, st, id, "", formatcheck.Payload{Attrs: []formatcheck.Attr{{Name: []byte("notices"), Value: v.Value}}})
		visit(t, newManager(t, st, &session.Options{}), id.Text(), func(s *session.Session) {
			var want []string
			for _, item := range v.Items {
				var text string
				if json.Unmarshal(item.Value, &text) == nil {
					want = append(want, text)
				}
			}
			got, err := notices.Pop(s)
			if len(got) != len(want) || (err != nil) != (len(want) < len(v.Items)) {
				t.Fatalf("%s: %q and %v, want %q", v.Name, got, err, want)
			}
			for i := range got {
				if got[i] != want[i] {
					t.Errorf("%s: %q, want %q", v.Name, got, want)
				}
			}
		})
		if _, p := read(t, st, id, false); len(p.Attrs) != 0 {
			t.Errorf("%s: the flash is still there: %q", v.Name, p.Attrs)
		}
	}
}

// markers keeps the markers that are deleted as soon as they are written.
type markers struct {
	*memstore.Store
	seen map[store.Key]store.Record
}

func (m markers) Replace(ctx context.Context, k store.Key, old uint64, r store.Record) error {
	if r.IsMarker() {
		m.seen[k] = r
	}
	return m.Store.Replace(ctx, k, old, r)
}

func TestMarkers(t *testing.T) {
	st := markers{memstore.New(), make(map[store.Key]store.Record)}
	m := newManager(t, st, &session.Options{})
	count := session.NewAttr[int]("count")
	first := idOf(t, visit(t, m, "", func(s *session.Session) { must(t, count.Set(s, 1)) }))
	base, _ := read(t, st, first, false)
	second := idOf(t, visit(t, m, first.Text(), func(s *session.Session) { must(t, s.Renew(t.Context())) }))

	check := func(what string, id formatcheck.ID, next store.Key, label string) {
		t.Helper()
		rec, ok := st.seen[id.Key()]
		if !ok || rec.Next != next || string(rec.Label) != label || len(rec.Data) != 0 || rec.Version>>32 < 2 {
			t.Errorf("%s leaves the marker %+v, label %q, there: %t", what, rec, rec.Label, ok)
		}
		if rec.Handle != base.Handle || !rec.Created.Equal(base.Created) || !rec.Deadline.Equal(base.Deadline) ||
			rec.Expires.After(time.Now().Add(10*time.Minute)) {
			t.Errorf("%s leaves a marker with other fields than the session: %+v", what, rec)
		}
	}
	check("a renewal", first, second.Key(), "")
	visit(t, m, first.Text(), func(s *session.Session) {
		if n, err := count.Get(s); err != nil || n != 0 || s.Handle() != (session.Handle{}) {
			t.Errorf("a request with the old ID sees %d, %v", n, err)
		}
	})
	visit(t, m, second.Text(), func(s *session.Session) { must(t, s.Destroy(t.Context())) })
	check("a logout", second, second.Key(), "logout")
	if _, err := st.Get(t.Context(), second.Key()); err == nil {
		t.Error("the marker of a logout is still there")
	}

	third := idOf(t, visit(t, m, "", func(s *session.Session) { must(t, s.SignIn(t.Context(), "alice", nil)) }))
	base, _ = read(t, st, third, false)
	if ok, err := m.Revoke(t.Context(), "alice", session.Handle(base.Handle)); !ok || err != nil {
		t.Fatalf("revoked: %t, %v", ok, err)
	}
	check("a revocation", third, third.Key(), "revoked")
}

// TestRefusalsAreAnswered holds what the document says becomes of a request
// whose record does not open.
func TestRefusalsAreAnswered(t *testing.T) {
	id := formatcheck.ID{1, 2, 3}
	for _, tc := range []struct {
		name  string
		newer bool
		data  func(sealed []byte) []byte
	}{
		{"newer, by its version", true, func(b []byte) []byte { return append([]byte{2}, b[1:]...) }},
		{"newer, by its key ID", true, func(b []byte) []byte { return append([]byte("\x01\x0a\x01k"), b[1:]...) }},
		{"damaged", false, func(b []byte) []byte { return b[:len(b)-1] }},
		{"damaged to nothing", false, func([]byte) []byte { return nil }},
		{"damaged in its payload", false, func(b []byte) []byte { return b }},
		{"unsealed", false, func([]byte) []byte { return formatcheck.Unsealed([12]byte{}, nil) }},
	} {
		st := memstore.New()
		m := newManager(t, st, &session.Options{})
		write(t, st, id, "", formatcheck.Payload{Unknown: []byte{0x80}})
		rec, err := st.Get(t.Context(), id.Key())
		if err != nil {
			t.Fatal(err)
		}
		rec.Data = tc.data(rec.Data)
		if err := st.Replace(t.Context(), id.Key(), rec.Version, rec); err != nil {
			t.Fatal(err)
		}
		if tc.newer {
			resp := visit(t, m, id.Text(), nil)
			if resp.StatusCode != http.StatusServiceUnavailable || len(resp.Cookies()) != 0 {
				t.Errorf("%s: status %d, cookies %v", tc.name, resp.StatusCode, resp.Cookies())
			}
		} else {
			resp := visit(t, m, id.Text(), func(s *session.Session) {
				if s.Handle() != (session.Handle{}) {
					t.Errorf("%s: the request has a session", tc.name)
				}
			})
			if resp.StatusCode != http.StatusOK || len(resp.Cookies()) != 0 {
				t.Errorf("%s: status %d, cookies %v", tc.name, resp.StatusCode, resp.Cookies())
			}
			if next := idOf(t, visit(t, m, id.Text(), func(s *session.Session) { must(t, notices.Add(s, "x")) })); next == id {
				t.Errorf("%s: the ID was adopted", tc.name)
			}
		}
		left, err := st.Get(t.Context(), id.Key())
		if err != nil || left.Version != rec.Version || !bytes.Equal(left.Data, rec.Data) {
			t.Errorf("%s: the record was not left alone: %v", tc.name, err)
		}
	}
}
