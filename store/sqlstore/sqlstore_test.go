package sqlstore

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net/url"
	"os"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/store"
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
		{"PostgreSQL", db, PostgreSQL, &Options{Schema: "web", Unprepared: true}, ""},
		{"MySQL", db, MySQL, &Options{Schema: "web"}, ""},
		{"a schema with a quote", db, PostgreSQL, &Options{Schema: `web"; DROP TABLE users; --`}, "letters, digits and _"},
		{"a schema of MySQL with a quote", db, MySQL, &Options{Schema: "web`"}, "letters, digits and _"},
		{"a schema of SQLite", db, SQLite, &Options{Schema: "main"}, "SQLite has none"},
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
	for _, c := range []struct {
		d            Dialect
		schema, want string
	}{
		{SQLite, "", `"mine"`}, {PostgreSQL, "", ` "mine"`}, {PostgreSQL, "web", `"web"."mine"`}, {MySQL, "", " `mine`"}, {MySQL, "web", "`web`.`mine`"},
	} {
		s, err := New(sql.OpenDB(noDriver{}), c.d, &Options{Table: "mine", Schema: c.schema})
		if err != nil {
			t.Fatal(err)
		}
		queries := reflect.ValueOf(s.q)
		texts := append(s.Grants("app"), s.Schema())
		for i := range queries.NumField() {
			if text := queries.Field(i).String(); text != "" {
				texts = append(texts, text)
			}
		}
		for _, text := range texts {
			if !strings.Contains(text, c.want) && !strings.Contains(text, "mine_schema") && text != `GRANT USAGE ON SCHEMA "web" TO app` {
				t.Errorf("%s: this does not name the table as %s:\n%s", c.d.name, c.want, text)
			}
			for token := range strings.FieldsFuncSeq(text, func(r rune) bool { return r != '{' && r != '}' && (r < 'a' || r > 'z') }) {
				if strings.HasPrefix(token, "{") && token != "{keep}" && token != "{now}" {
					t.Errorf("%s: %s is left in:\n%s", c.d.name, token, text)
				}
			}
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

// The shapes that drivers of servers give their errors.
type (
	pgxError   struct{ Severity, Code, Message, Detail string }
	mysqlError struct {
		Number   uint16
		SQLState [5]byte
		Message  string
	}
)

// localError is of a server that speaks another language.
type localError struct {
	*pgxError
	SeverityUnlocalized string
}

func (e *pgxError) Error() string    { return e.Message + e.Detail }
func (e *pgxError) SQLState() string { return e.Code }
func (e *mysqlError) Error() string  { return e.Message }

// TestServerDiagnosis: only what proves that nothing was written may say so.
func TestServerDiagnosis(t *testing.T) {
	const unapplied, again, open, refused = "unapplied", "again", "open", "refused"
	for code, want := range map[string]string{
		"40001": again, "40P01": again, "40003": open, "57P01": open, "57P02": open, "08006": open, "08P01": open,
		"25006": unapplied, "53100": refused, "53300": unapplied, "42501": refused, "42P01": refused, "57014": unapplied, "57P03": unapplied,
	} {
		d := postgresDiagnose(sent{&pgxError{Code: code}})
		if d.unapplied != (want != open) || d.again != (want == again) || d.refused != (want == refused) || d.answered != (want != open) {
			t.Errorf("SQLSTATE %s: %+v; want %s", code, d, want)
		}
		if d.advice == "" && (want == unapplied || want == refused) {
			t.Errorf("SQLSTATE %s: no advice", code)
		}
	}
	for _, severity := range []string{"FATAL", "PANIC"} { // the commit may be in the log
		for _, code := range []string{"53100", "58030", "XX000", "42501"} {
			for _, err := range []error{&pgxError{Severity: severity, Code: code}, &localError{&pgxError{Severity: "PANIK", Code: code}, severity}} {
				if d := postgresDiagnose(sent{err}); d.unapplied || d.refused {
					t.Errorf("%s %s: %+v; want that it is open", severity, code, d)
				}
			}
		}
	}
	for number, want := range map[uint16]string{
		1213: again, 1205: unapplied, 1053: open, 1180: open, 1927: open, 4031: open,
		1105: open, 1598: open, 2006: open, 2013: open, 3100: open, // of proxies, of a log that could not be written
		1040: unapplied, 1045: unapplied, 1114: refused, 1142: refused, 1146: refused, 1290: unapplied, 1792: unapplied, 1836: unapplied, 1317: unapplied,
	} {
		d := mysqlDiagnose(sent{&mysqlError{Number: number}})
		if d.unapplied != (want != open) || d.again != (want == again) || d.refused != (want == refused) {
			t.Errorf("number %d: %+v; want %s", number, d, want)
		}
		if d.advice == "" && (want == unapplied || want == refused) {
			t.Errorf("number %d: no advice", number)
		}
	}
	for name, d := range map[string]diagnosis{
		"PostgreSQL": postgresDiagnose(errors.New("of the driver")), "MySQL": mysqlDiagnose(errors.New("of the driver")),
	} {
		if d.unapplied || d.answered || d.instead != nil {
			t.Errorf("%s: an error without a code is %+v", name, d)
		}
	}
}

// TestServerErrorsAreRewritten: what may hold a value is not shown, in any form,
// and what cannot is.
func TestServerErrorsAreRewritten(t *testing.T) {
	for _, c := range []struct {
		d           Dialect
		err         error
		shown, code string
	}{
		{PostgreSQL, &pgxError{Code: "23505", Message: "duplicate key: needle", Detail: "Key (key)=(needle)"}, "", "23505"},
		{PostgreSQL, &pgxError{Code: "22P02", Message: "invalid input: needle"}, "", "22P02"},
		{PostgreSQL, &pgxError{Code: "42501", Message: "permission denied for table t", Detail: "needle"}, "for table t", "42501"},
		{PostgreSQL, errors.Join(errors.New("first"), &pgxError{Code: "42501", Message: "permission denied for table t", Detail: "needle"}), "for table t", "42501"},
		{MySQL, &mysqlError{Number: 1062, Message: "Duplicate entry 'needle' for key 'PRIMARY'"}, "", "1062"},
		{MySQL, &mysqlError{Number: 1366, Message: "Incorrect value: 'needle'"}, "", "1366"},
		{MySQL, &mysqlError{Number: 1142, Message: "INSERT command denied to user"}, "denied to user", "1142"},
	} {
		s, err := New(sql.OpenDB(noDriver{}), c.d, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, err := range []error{
			s.writeError(t.Context(), "create", sent{c.err}), s.readError(t.Context(), "get", fmt.Errorf("wrapped: %w", c.err)),
		} {
			text := fmt.Sprintf("%v %+v %#v", err, err, err)
			if strings.Contains(text, "needle") || !strings.Contains(text, c.code) || !strings.Contains(text, c.shown) {
				t.Errorf("%s %s: the error is %q; want the code, %q and no needle", c.d.name, c.code, text, c.shown)
			}
			if errors.Is(err, store.ErrAmbiguous) {
				t.Errorf("%s %s: %v is an ErrAmbiguous, and the server has refused it", c.d.name, c.code, err)
			}
		}
	}
}

func TestMySQLNumber(t *testing.T) {
	for _, c := range []struct {
		err    error
		number int
		ok     bool
	}{
		{&mysqlError{Number: 1062}, 1062, true},
		{sent{fmt.Errorf("step 1: %w", &mysqlError{Number: 1040})}, 1040, true},
		{errors.Join(errors.New("first"), &mysqlError{Number: 1040}), 1040, true},
		{errors.New("none"), 0, false},
		{nil, 0, false},
	} {
		if number, ok := mysqlNumber(c.err); number != c.number || ok != c.ok {
			t.Errorf("mysqlNumber(%v) is %d, %v; want %d, %v", c.err, number, ok, c.number, c.ok)
		}
	}
}

// TestGrantsAreDocumented: the rights that stores are tested with are those that
// the documentation names.
func TestGrantsAreDocumented(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	for role, d := range map[string]Dialect{"app": PostgreSQL, "'app'@'%'": MySQL} {
		s, err := New(sql.OpenDB(noDriver{}), d, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, grant := range s.Grants(role) {
			if !strings.Contains(string(doc), "\t"+grant+"\n") {
				t.Errorf("the documentation lacks %s", grant)
			}
		}
	}
}

// oddDriver is a driver whose statements all do what exec says.
type oddDriver struct {
	noDriver
	exec func() (driver.Result, error)
}

func (d oddDriver) Connect(context.Context) (driver.Conn, error) { return d, nil }
func (d oddDriver) Prepare(string) (driver.Stmt, error)          { return d, nil }
func (oddDriver) Close() error                                   { return nil }
func (oddDriver) Begin() (driver.Tx, error)                      { return nil, errors.ErrUnsupported }
func (oddDriver) NumInput() int                                  { return -1 }
func (d oddDriver) Exec([]driver.Value) (driver.Result, error)   { return d.exec() }
func (oddDriver) Query([]driver.Value) (driver.Rows, error)      { return nil, errors.ErrUnsupported }

// TestDriversThatDoNotTell: a write that was sent is open, unless the server has refused
// it: some drivers call a connection bad that broke after a statement was sent, and
// database/sql sends that again.
func TestDriversThatDoNotTell(t *testing.T) {
	sentTimes := 0
	for name, exec := range map[string]func() (driver.Result, error){
		"no count":         func() (driver.Result, error) { return driver.ResultNoRows, nil },
		"a bad connection": func() (driver.Result, error) { return nil, driver.ErrBadConn },
		"a bad connection, then a miss": func() (driver.Result, error) {
			if sentTimes++; sentTimes == 1 {
				return nil, driver.ErrBadConn
			}
			return driver.RowsAffected(0), nil
		},
	} {
		s, err := New(sql.OpenDB(oddDriver{exec: exec}), PostgreSQL, nil)
		if err != nil {
			t.Fatal(err)
		}
		now := time.Now()
		r := store.Record{Version: 1, Created: now, Deadline: now.Add(time.Hour), Expires: now.Add(time.Hour)}
		if err := s.Create(t.Context(), store.Key{1}, r); !errors.Is(err, store.ErrAmbiguous) {
			t.Errorf("%s: Create: %v; want ErrAmbiguous", name, err)
		}
	}
}
