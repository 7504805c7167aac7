package integration

import (
	"database/sql"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	coat "github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/sqlstore"
)

// loosen replaces the table by one that takes any value, such as a program that
// copies databases may leave behind.
func loosen(t *testing.T, db *sql.DB) {
	t.Helper()
	mustExec(t, db, `DROP TABLE coatcheck_sessions`)
	mustExec(t, db, `CREATE TABLE coatcheck_sessions (key PRIMARY KEY, version, handle, owner, created, deadline, expires, next, label, data)`)
}

func mustExec(t *testing.T, db *sql.DB, query string, args ...any) {
	t.Helper()
	if _, err := db.Exec(query, args...); err != nil {
		t.Fatal(err)
	}
}

// TestSQLiteDamagedRow: what is under a key and is no record is reported as
// that, hides no other record, and can be removed by every way that removes
// records.
func TestSQLiteDamagedRow(t *testing.T) {
	for _, c := range []struct {
		name  string
		set   string // the damage
		loose bool   // only a table without constraints can have it
	}{
		{"a handle too short", `handle = x'00'`, false},
		{"a handle too long", `handle = zeroblob(17)`, false},
		{"no handle", `handle = x''`, false},
		{"a next key too short", `next = x'0102'`, false},
		{"an empty next key", `next = x''`, false},
		{"an owner too long", `owner = zeroblob(256)`, false},
		{"a label too long", `label = zeroblob(1025)`, false},
		{"version NULL", `version = NULL`, true},
		{"version a text", `version = 'needle'`, true},
		{"version a fraction", `version = 1.5`, true},
		{"handle NULL", `handle = NULL`, true},
		{"handle a text", `handle = 'needle0123456789'`, true},
		{"owner a text", `owner = 'needle'`, true},
		{"created NULL", `created = NULL`, true},
		{"created a text", `created = 'needle'`, true},
		{"deadline a text", `deadline = 'needle'`, true},
		{"expires a text", `expires = 'needle'`, true},
		{"expires a BLOB", `expires = x'00'`, true},
		{"next a number", `next = 7`, true},
		{"label NULL", `label = NULL`, true},
		{"label a text", `label = 'needle'`, true},
		{"data NULL", `data = NULL`, true},
		{"data a text", `data = 'needle'`, true},
		{"data a number", `data = 7`, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			db, s := sqliteStore(t, filepath.Join(t.TempDir(), "sessions.db"))
			if c.loose {
				loosen(t, db)
			}
			records := map[store.Key]store.Record{}
			for i := range 3 {
				r := numberedSession(i)
				r.Owner = "alice"
				records[numberedKey(i)] = r
				if err := s.Create(t.Context(), numberedKey(i), r); err != nil {
					t.Fatal(err)
				}
			}
			bad := numberedKey(1)
			mustExec(t, db, `UPDATE coatcheck_sessions SET `+c.set+` WHERE key = ?`, bad[:])

			_, err := s.Get(t.Context(), bad)
			if !errors.Is(err, store.ErrCorrupt) {
				t.Errorf("Get: error %v; want store.ErrCorrupt", err)
			} else if strings.Contains(err.Error(), "needle") {
				t.Errorf("Get: error %v shows what is stored", err)
			}
			if err := s.Create(t.Context(), bad, records[bad]); !errors.Is(err, store.ErrConflict) {
				t.Errorf("Create over it: error %v; want store.ErrConflict", err)
			}
			if err := s.Replace(t.Context(), bad, 99, records[bad]); !errors.Is(err, store.ErrConflict) {
				t.Errorf("Replace of another version: error %v; want store.ErrConflict", err)
			}
			listedWithout(t, s, bad, numberedKey(0), numberedKey(2))

			mustExec(t, db, `CREATE TEMP TABLE kept AS SELECT * FROM coatcheck_sessions WHERE key = ?`, bad[:])
			for name, remove := range map[string]func(){
				"Delete": func() {
					if existed, err := s.Delete(t.Context(), bad); !existed || err != nil {
						t.Errorf("Delete: %v, %v; want true, nil", existed, err)
					}
				},
				"DeleteOwner": func() {
					mustExec(t, db, `UPDATE coatcheck_sessions SET owner = CAST('alice' AS BLOB) WHERE key = ?`, bad[:])
					keep := []store.Handle{records[numberedKey(0)].Handle, records[numberedKey(2)].Handle}
					if _, err := s.DeleteOwner(t.Context(), "alice", keep...); err != nil {
						t.Errorf("DeleteOwner: %v", err)
					}
				},
				"Sweep": func() {
					mustExec(t, db, `UPDATE coatcheck_sessions SET expires = 1 WHERE key = ?`, bad[:])
					if n, err := s.Sweep(t.Context(), 10); n != 1 || err != nil {
						t.Errorf("Sweep: %d, %v; want 1, nil", n, err)
					}
				},
			} {
				mustExec(t, db, `INSERT OR REPLACE INTO coatcheck_sessions SELECT * FROM kept`)
				remove()
				if _, err := s.Get(t.Context(), bad); !errors.Is(err, store.ErrNotFound) {
					t.Errorf("after %s: error %v; want store.ErrNotFound", name, err)
				}
				listedWithout(t, s, bad, numberedKey(0), numberedKey(2))
			}
		})
	}
}

// listedWithout checks that everything that returns many records returns the
// good ones and not the bad one.
func listedWithout(t *testing.T, s *sqlstore.Store, bad store.Key, good ...store.Key) {
	t.Helper()
	found, err := s.GetMany(t.Context(), append([]store.Key{bad}, good...))
	if err != nil {
		t.Errorf("GetMany: %v", err)
	}
	owned := map[store.Key]bool{}
	list, err := s.ListOwner(t.Context(), "alice")
	if err != nil {
		t.Errorf("ListOwner: %v", err)
	}
	for _, r := range list {
		owned[r.Key] = true
	}
	all := map[store.Key]bool{}
	for r, err := range s.List(t.Context()) {
		if err != nil {
			t.Errorf("List: %v", err)
		}
		all[r.Key] = true
	}
	for _, k := range good {
		if _, ok := found[k]; !ok || !owned[k] || !all[k] {
			t.Errorf("a good record is in GetMany, ListOwner and List: %v, %v, %v; want it in all", ok, owned[k], all[k])
		}
	}
	if len(found) != len(good) || len(owned) != len(good) || len(all) != len(good) {
		t.Errorf("GetMany, ListOwner and List have %d, %d and %d records; want %d", len(found), len(owned), len(all), len(good))
	}
}

// TestSQLiteListPassesDamage: pages full of damage end no listing.
func TestSQLiteListPassesDamage(t *testing.T) {
	db, s := sqliteStore(t, filepath.Join(t.TempDir(), "sessions.db"))
	const records = 350
	for i := range records {
		if err := s.Create(t.Context(), numberedKey(i), numberedSession(i)); err != nil {
			t.Fatal(err)
		}
	}
	mustExec(t, db, `UPDATE coatcheck_sessions SET handle = x''`)
	mustExec(t, db, `UPDATE coatcheck_sessions SET key = substr(key, 1, 31) WHERE rowid % 3 = 0`)
	mustExec(t, db, `UPDATE coatcheck_sessions SET handle = zeroblob(16) WHERE key = (SELECT max(key) FROM coatcheck_sessions WHERE length(key) = 32)`)
	n := 0
	for _, err := range s.List(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != 1 {
		t.Errorf("List yields %d records; want the one that is not damaged", n)
	}
}

// TestSQLiteNoTimes: what is past its deadline is dead, whatever its expiry,
// and so is what has no times at all.
func TestSQLiteNoTimes(t *testing.T) {
	for _, c := range []struct {
		name, set string
		loose     bool
	}{
		{"a deadline that is past", `deadline = 1`, false},
		{"expires NULL", `expires = NULL`, true},
		{"deadline NULL", `deadline = NULL`, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			db, s := sqliteStore(t, filepath.Join(t.TempDir(), "sessions.db"))
			if c.loose {
				loosen(t, db)
			}
			k, r := numberedKey(1), numberedSession(1)
			for name, dead := range map[string]func() error{
				"Get": func() error { _, err := s.Get(t.Context(), k); return err },
				"Replace": func() error {
					return s.Replace(t.Context(), k, r.Version, r)
				},
				"Touch": func() error { return s.Touch(t.Context(), k, time.Now().Add(2*time.Hour)) },
				"GetMany": func() error {
					if found, err := s.GetMany(t.Context(), []store.Key{k}); err != nil || len(found) > 0 {
						t.Errorf("GetMany returns %d records, %v; want none", len(found), err)
					}
					return store.ErrNotFound
				},
				"ListOwner": func() error {
					if list, err := s.ListOwner(t.Context(), r.Owner); err != nil || len(list) > 0 {
						t.Errorf("ListOwner returns %d records, %v; want none", len(list), err)
					}
					return store.ErrNotFound
				},
				"DeleteOwner": func() error {
					if n, err := s.DeleteOwner(t.Context(), r.Owner); err != nil || n > 0 {
						t.Errorf("DeleteOwner: %d, %v; want 0", n, err)
					}
					return store.ErrNotFound
				},
				"Delete": func() error {
					if existed, err := s.Delete(t.Context(), k); existed || err != nil {
						t.Errorf("Delete: %v, %v; want false", existed, err)
					}
					return store.ErrNotFound
				},
				"Sweep": func() error {
					if n, err := s.Sweep(t.Context(), 10); n != 1 || err != nil {
						t.Errorf("Sweep: %d, %v; want 1", n, err)
					}
					return store.ErrNotFound
				},
			} {
				// Over what the last one left, or over nothing: Create succeeds.
				if err := s.Create(t.Context(), k, r); err != nil {
					t.Fatalf("Create before %s: %v", name, err)
				}
				mustExec(t, db, `UPDATE coatcheck_sessions SET `+c.set)
				if err := dead(); !errors.Is(err, store.ErrNotFound) {
					t.Errorf("%s: error %v; want store.ErrNotFound", name, err)
				}
			}
		})
	}
}

// TestSQLiteExpiryBeyondDeadline: the deadline bounds what a record says of its
// own end.
func TestSQLiteExpiryBeyondDeadline(t *testing.T) {
	db, s := sqliteStore(t, filepath.Join(t.TempDir(), "sessions.db"))
	k, r := numberedKey(1), numberedSession(1)
	if err := s.Create(t.Context(), k, r); err != nil {
		t.Fatal(err)
	}
	mustExec(t, db, `UPDATE coatcheck_sessions SET expires = deadline + 1000`)
	for range 2 { // the second time after a touch
		if got, err := s.Get(t.Context(), k); err != nil || !got.Expires.Equal(got.Deadline) {
			t.Errorf("Get: expires %v, deadline %v, %v; want them equal", got.Expires, got.Deadline, err)
		}
		if err := s.Touch(t.Context(), k, r.Expires.Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSQLiteDamagedRowIsNoOutage: whose session is damaged is anonymous and can
// begin another one, instead of being told for ever to try again.
func TestSQLiteDamagedRowIsNoOutage(t *testing.T) {
	db, s := sqliteStore(t, filepath.Join(t.TempDir(), "sessions.db"))
	m, err := coat.New(s, &coat.Options{InsecureCookie: true, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	visits := coat.NewAttr[int]("visits")
	h := m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if err := visits.Update(m.From(r.Context()), func(n int) (int, error) { return n + 1, nil }); err != nil {
			t.Error(err)
		}
	}))
	visit := func(c *http.Cookie) *http.Cookie {
		t.Helper()
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		if c != nil {
			r.AddCookie(c)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != http.StatusOK {
			t.Fatalf("status %d; want 200", w.Code)
		}
		for _, set := range w.Result().Cookies() {
			c = set
		}
		return c
	}
	first := visit(nil)
	mustExec(t, db, `UPDATE coatcheck_sessions SET handle = x''`)
	if again := visit(first); again.Value == first.Value {
		t.Error("the visitor has no new session")
	}
}
