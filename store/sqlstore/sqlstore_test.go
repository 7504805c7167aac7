package sqlstore

import (
	"database/sql"
	"database/sql/driver"
	"errors"
	"net/url"
	"strings"
	"syscall"
	"testing"
)

// noDriver is enough for what needs no connection.
type noDriver struct{ driver.Connector }

func TestNewRefusesBadConfiguration(t *testing.T) {
	db := sql.OpenDB(noDriver{})
	for _, c := range []struct {
		name string
		db   *sql.DB
		d    Dialect
		opts *Options
		want string // part of the error, "" for none
	}{
		{"defaults", db, SQLite, nil, ""},
		{"a table", db, SQLite, &Options{Table: "Sessions_2"}, ""},
		{"the longest table", db, SQLite, &Options{Table: strings.Repeat("t", 40)}, ""},
		{"no database", nil, SQLite, nil, "sql.Open"},
		{"no dialect", db, Dialect{}, nil, "sqlstore.SQLite"},
		{"a table too long", db, SQLite, &Options{Table: strings.Repeat("t", 41)}, "at most 40"},
		{"a digit first", db, SQLite, &Options{Table: "2sessions"}, "no digit"},
		{"a quote", db, SQLite, &Options{Table: `x" (a); DROP TABLE users; --`}, "letters, digits and _"},
		{"a schema", db, SQLite, &Options{Table: "main.sessions"}, "letters, digits and _"},
		{"a line's end", db, SQLite, &Options{Table: "sessions\n"}, "letters, digits and _"},
		{"a letter of Unicode", db, SQLite, &Options{Table: "sitzungén"}, "letters, digits and _"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := New(c.db, c.d, c.opts)
			switch {
			case c.want == "" && err != nil:
				t.Errorf("New: %v; want a store", err)
			case c.want != "" && (s != nil || err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("New returned %v, %v; want no store and an error that says %q", s, err, c.want)
			}
		})
	}
}

func TestQueriesNameTheTable(t *testing.T) {
	s, err := New(sql.OpenDB(noDriver{}), SQLite, &Options{Table: "mine"})
	if err != nil {
		t.Fatal(err)
	}
	for _, query := range []string{
		s.q.get, s.q.getMany, s.q.create, s.q.replace, s.q.touch, s.q.deleteLive, s.q.deleteDead,
		s.q.listOwner, s.q.deleteOwner, s.q.list, s.q.sweep, s.Schema(),
	} {
		if !strings.Contains(query, `"mine"`) || strings.Contains(query, "{table}") {
			t.Errorf("this does not name the table:\n%s", query)
		}
	}
}

func TestSQLiteDSN(t *testing.T) {
	for _, path := range []string{
		"/var/lib/app/sessions.db", "sessions.db", "/a b/100%/what?/#1.db", "/%2f.db", "/ü&x=y.db",
	} {
		u, err := url.Parse(SQLiteDSN(path))
		if err != nil {
			t.Errorf("%q: %v", path, err)
			continue
		}
		got := u.Path
		if u.Opaque != "" { // a relative path
			if got, err = url.PathUnescape(u.Opaque); err != nil {
				t.Errorf("%q: %v", path, err)
			}
		}
		if got != path {
			t.Errorf("%q comes back as %q", path, got)
		}
		if pragmas := u.Query()["_pragma"]; len(pragmas) != 2 {
			t.Errorf("%q: the parameters are %v; want two pragmas", path, u.Query())
		}
	}
}

// The shapes that drivers give their errors.
type (
	ncrucesCode  uint16
	ncrucesError struct{ code ncrucesCode }
	ncrucesBare  uint16 // of a driver that has no more to say
	moderncError struct{ code int }
	mattnCode    int
	mattnError   struct{ Code, ExtendedCode mattnCode }
	otherError   struct{ ExtendedCode string }
)

func (e *ncrucesError) Error() string             { return "ncruces" }
func (e *ncrucesError) ExtendedCode() ncrucesCode { return e.code }
func (e *ncrucesError) Unwrap() error             { return errors.New("of the system") }
func (ncrucesBare) Error() string                 { return "ncruces" }
func (e ncrucesBare) Code() uint8                 { return uint8(e) }
func (e *moderncError) Error() string             { return "modernc" }
func (e *moderncError) Code() int                 { return e.code }
func (mattnError) Error() string                  { return "mattn" }
func (otherError) Error() string                  { return "other" }

func TestSQLiteCode(t *testing.T) {
	const snapshot = sqliteBusy | 2<<8 // an extended code
	for _, c := range []struct {
		name string
		err  error
		code int
		ok   bool
	}{
		{"ncruces", &ncrucesError{snapshot}, snapshot, true},
		{"ncruces, a bare code", sent{ncrucesBare(snapshot)}, snapshot, true},
		{"of the system", sent{syscall.ENOSPC}, 0, false},
		{"modernc", &moderncError{sqliteTooBig}, sqliteTooBig, true},
		{"mattn", mattnError{sqliteBusy, snapshot}, snapshot, true},
		{"wrapped", sent{&moderncError{snapshot}}, snapshot, true},
		{"joined", errors.Join(errors.New("first"), &ncrucesError{sqliteFull}), sqliteFull, true},
		{"a code that is none", otherError{"5"}, 0, false},
		{"of database/sql", sql.ErrConnDone, 0, false},
		{"none", nil, 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if code, ok := sqliteCode(c.err); code != c.code || ok != c.ok {
				t.Errorf("sqliteCode is %d, %v; want %d, %v", code, ok, c.code, c.ok)
			}
		})
	}
}

// TestDiagnosis: only what proves that nothing was written may say so; from
// the rest follows ErrAmbiguous.
func TestDiagnosis(t *testing.T) {
	for code, want := range map[int]bool{
		sqliteBusy: true, sqliteFull: true, sqliteReadOnly: true, sqliteTooBig: true,
		sqliteBusy | 2<<8: true, sqliteIOErrWrite: true,
		sqliteIOErr: false, sqliteInterrupt: false,
		sqliteIOErr | 4<<8:  false, // of fsync: the commit may be on the disk
		sqliteIOErr | 19<<8: false, // of the log's index, which follows the log
	} {
		if got := sqliteDiagnose(&moderncError{code}).unapplied; got != want {
			t.Errorf("result code %d: unapplied is %v; want %v", code, got, want)
		}
	}
	if sqliteDiagnose(errors.New("of the driver")).unapplied {
		t.Error("an error without a result code passes for a proof that nothing was written")
	}
}
