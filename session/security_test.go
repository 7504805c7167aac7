package session_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/session/internal/format"
	"github.com/coatcheck/coatcheck/store"
)

// The tests of this file hold what docs/security.md says an attacker gets, and
// what it says an attacker is not kept from.

// Whoever reads the store learns who has a session and since when, but gets
// neither a cookie nor a value. The unsealed store shows that the search finds
// what is there.
func TestStolenStoreHoldsNoCredential(t *testing.T) {
	const value, method, label = "4 Privet Drive", "carrier pigeon", "Firefox on Linux"
	for _, unsealed := range []bool{false, true} {
		st := newCalls()
		m := newManager(t, st, &session.Options{Unsealed: unsealed})
		b := newBrowser(t)
		b.do(m, func(s *session.Session) {
			check(t, name.Set(s, value))
			check(t, s.SignIn(t.Context(), "alice", &session.SignInOptions{Methods: []string{method}, Label: label}))
		})
		b.do(m, func(s *session.Session) { check(t, s.Renew(t.Context())) }) // leaves a marker, which is stolen too
		records, opened := 0, 0
		for r, err := range st.List(t.Context()) {
			check(t, err)
			records++
			stored := slices.Concat(r.Key[:], r.Handle[:], []byte(r.Owner), r.Next[:], r.Label, r.Data)
			raw := must(base64.RawURLEncoding.DecodeString(b.id()))(t)
			if bytes.Contains(stored, raw) || bytes.Contains(stored, []byte(b.id())) {
				t.Errorf("unsealed %t: a record holds the session ID", unsealed)
			}
			for _, secret := range []string{value, method, "name"} {
				if got, want := bytes.Contains(r.Data, []byte(secret)), unsealed && !r.IsMarker(); got != want {
					t.Errorf("unsealed %t, marker %t: %q is readable: %t, want %t", unsealed, r.IsMarker(), secret, got, want)
				}
			}
			// Nothing in a record is a cookie, and none of it is the sealing key.
			for _, part := range [][]byte{r.Key[:], r.Next[:], r.Handle[:], slices.Concat(r.Handle[:], r.Handle[:])} {
				if owner, _ := newBrowser(t).with(base64.RawURLEncoding.EncodeToString(part)).look(m); owner != "" {
					t.Errorf("unsealed %t: a part of a record is a valid cookie", unsealed)
				}
			}
			if _, err := new(format.Sealer).Open(format.ID(r.Key), r.Key, r.Record, false); err == nil {
				t.Error("the key of a record opens it")
			}
			if r.IsMarker() {
				continue
			}
			opened++
			// What docs/security.md says is readable.
			if r.Owner != "alice" || string(r.Label) != label || r.Created.IsZero() {
				t.Errorf("owner %q, label %q, created %v: docs/security.md says that they are readable", r.Owner, r.Label, r.Created)
			}
		}
		if records != 2 || opened != 1 {
			t.Errorf("%d records, %d of them sessions: the dump is not what was meant", records, opened)
		}
	}
}

// Against whoever writes to the store nothing protects; only the owner of a
// session that is not theirs is out of reach. A test that fails here because a
// keyring was built calls for a change of docs/security.md.
func TestStoreWriterCan(t *testing.T) {
	t.Run("forge a session", func(t *testing.T) {
		st := newCalls()
		id, now := format.NewID(), time.Now()
		rec := store.Record{
			Version: 1, Handle: store.Handle{1}, Owner: "alice",
			Created: now, Deadline: now.Add(time.Hour), Expires: now.Add(time.Hour),
		}.Truncate()
		rec.Data = new(format.Sealer).Seal(id, id.Key(), rec, format.Payload{SignedInAt: now}.Append(nil))
		check(t, st.Store.Create(t.Context(), id.Key(), rec))
		if owner, _ := newBrowser(t).with(id.Encode()).look(newManager(t, st, nil)); owner != "alice" {
			t.Errorf("the forged session is %q's", owner)
		}
	})
	t.Run("bring back an ended session and its old values", func(t *testing.T) {
		st := newCalls()
		m := newManager(t, st, nil)
		b := newBrowser(t)
		b.signIn(m, "alice")
		old := st.live(t)[0]
		thief := b.same()
		b.do(m, func(s *session.Session) { check(t, count.Set(s, 7)) })
		b.do(m, func(s *session.Session) { check(t, s.Destroy(t.Context())) })
		check(t, st.Store.Create(t.Context(), old.Key, old.Record))
		if owner, n := thief.look(m); owner != "alice" || n != 0 {
			t.Errorf("after the restore the old cookie is %q's with %d", owner, n)
		}
	})
	t.Run("not give a session to another owner", func(t *testing.T) {
		st := newCalls()
		m := newManager(t, st, nil)
		b := newBrowser(t)
		b.signIn(m, "mallory")
		rec := st.live(t)[0]
		_ = must(st.Store.Delete(t.Context(), rec.Key))(t)
		rec.Owner = "alice"
		check(t, st.Store.Create(t.Context(), rec.Key, rec.Record))
		if owner, _ := b.look(m); owner != "" {
			t.Errorf("a record sealed for mallory opens as %q's", owner)
		}
	})
}

// A copied cookie is the session itself: same handle, same list entry. What
// shuts the thief out is a new ID, or the end.
func TestStolenCookie(t *testing.T) {
	steal := func(t *testing.T) (m *session.Manager, victim, thief *browser) {
		m = newManager(t, newCalls(), nil)
		victim = newBrowser(t)
		victim.signIn(m, "alice")
		thief = victim.same()
		if owner, _ := thief.look(m); owner != "alice" {
			t.Fatal("the copied cookie does not work, so nothing is shown")
		}
		return m, victim, thief
	}
	revokeOthers := func(t *testing.T, m *session.Manager, b *browser) {
		t.Helper()
		b.do(m, func(s *session.Session) { _ = must(m.RevokeAll(t.Context(), "alice", s.Handle()))(t) })
	}
	t.Run("signing out everywhere else is not enough", func(t *testing.T) {
		m, victim, thief := steal(t)
		revokeOthers(t, m, victim)
		if owner, _ := thief.look(m); owner != "alice" {
			t.Error("the copy is shut out; docs/security.md asks for a sign-in first, for nothing")
		}
	})
	t.Run("a new sign-in shuts the thief out", func(t *testing.T) {
		m, victim, thief := steal(t)
		victim.signIn(m, "alice")
		revokeOthers(t, m, victim)
		if owner, _ := thief.look(m); owner != "" {
			t.Error("the thief is still alice")
		}
		if owner, _ := victim.look(m); owner != "alice" {
			t.Error("alice is signed out")
		}
	})
	t.Run("a thief who renews first is listed and revoked", func(t *testing.T) {
		m, victim, thief := steal(t)
		thief.do(m, func(s *session.Session) { check(t, s.Renew(t.Context())) })
		if owner, _ := victim.look(m); owner != "" {
			t.Error("the victim is not told by being signed out")
		}
		victim.signIn(m, "alice")
		if n := len(must(m.Sessions(t.Context(), "alice"))(t)); n != 2 {
			t.Errorf("%d sessions are listed, want the victim's and the thief's", n)
		}
		revokeOthers(t, m, victim)
		if owner, _ := thief.look(m); owner != "" {
			t.Error("the thief is still alice")
		}
	})
	t.Run("nothing but a sign-in outlasts the deadline", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m, _, thief := steal(t)
			for range 48 {
				time.Sleep(session.AAL2.Absolute / 48)
				thief.do(m, func(s *session.Session) { check(t, s.Renew(t.Context())) })
			}
			if owner, _ := thief.look(m); owner != "" {
				t.Error("renewing the session moved its absolute timeout")
			}
		})
	})
}

// The ID leaves by Set-Cookie and in no other way (ASVS 3.3.4).
func TestIDLeavesByCookieOnly(t *testing.T) {
	m := newManager(t, newCalls(), nil)
	b := newBrowser(t)
	var encoded bytes.Buffer
	resp := b.serve(m, func(w http.ResponseWriter, r *http.Request) {
		s := m.From(r.Context())
		check(t, s.SignIn(r.Context(), "alice", nil))
		check(t, json.NewEncoder(&encoded).Encode(map[string]any{"session": s}))
		check(t, json.NewEncoder(&encoded).Encode(must(m.Sessions(r.Context(), "alice"))(t)))
		m.HandleError(w, r, s.SignIn(r.Context(), "", nil))
	})
	if b.id() == "" || len(resp.Header["Set-Cookie"]) != 1 {
		t.Fatal("no cookie was set, so nothing is shown")
	}
	resp.Header.Del("Set-Cookie")
	check(t, resp.Header.Write(&encoded))
	encoded.Write(must(io.ReadAll(resp.Body))(t))
	raw := must(base64.RawURLEncoding.DecodeString(b.id()))(t)
	numbers := strings.Trim(string(must(json.Marshal([32]byte(raw)))(t)), "[]")
	for form, id := range map[string]string{
		"text": b.id(), "base64": base64.StdEncoding.EncodeToString(raw), "bytes": string(raw), "JSON numbers": numbers,
	} {
		if strings.Contains(encoded.String(), id) {
			t.Errorf("the ID is in what an app shows, as %s:\n%s", form, encoded.String())
		}
	}
}

// A device list shows what the app gave it. No header of the request gets into
// it by itself: X-Forwarded-For is whatever the client says.
func TestFault15ForwardedAddressIsTrusted(t *testing.T) {
	st := newCalls()
	m := newManager(t, st, nil)
	r := httptest.NewRequest(http.MethodPost, site.String(), nil)
	const address, agent = "203.0.113.7", "Mosaic/1.0"
	for _, h := range []string{"X-Forwarded-For", "X-Real-IP", "Forwarded", "True-Client-IP"} {
		r.Header.Set(h, address)
	}
	r.Header.Set("User-Agent", agent)
	m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		check(t, m.From(r.Context()).SignIn(r.Context(), "alice", nil))
	})).ServeHTTP(httptest.NewRecorder(), r)
	infos := must(m.Sessions(t.Context(), "alice"))(t)
	if len(infos) != 1 || infos[0].Label != "" {
		t.Errorf("the device list is %+v; want one session without a label", infos)
	}
	for _, r := range st.live(t) {
		if len(r.Label) > 0 || strings.Contains(r.Owner, address) {
			t.Errorf("the record has label %q", r.Label)
		}
	}
}
