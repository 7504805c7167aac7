package integration

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/internal/testserver"
	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/sqlstore"
)

// recorder is a driver that keeps what is sent through it.
type recorder struct {
	inner driver.Driver
	dsn   string

	mu   sync.Mutex
	sent []recorded
}

type recorded struct {
	query string
	args  []any
}

func (r *recorder) Driver() driver.Driver { return r.inner }

func (r *recorder) Connect(context.Context) (driver.Conn, error) {
	c, err := r.inner.Open(r.dsn)
	return recordedConn{c, r}, err
}

func (r *recorder) add(query string, args []driver.NamedValue) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var values []any
	for _, a := range args {
		values = append(values, a.Value)
	}
	r.sent = append(r.sent, recorded{query, values})
}

// recordedConn has nothing but what prepares, so that everything is.
type recordedConn struct {
	driver.Conn
	r *recorder
}

func (c recordedConn) Ping(ctx context.Context) error { return c.Conn.(driver.Pinger).Ping(ctx) }

func (c recordedConn) Prepare(query string) (driver.Stmt, error) {
	st, err := c.Conn.Prepare(query)
	return recordedStmt{st, query, c.r}, err
}

type recordedStmt struct {
	driver.Stmt
	query string
	r     *recorder
}

func (s recordedStmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	s.r.add(s.query, args)
	return s.Stmt.(driver.StmtExecContext).ExecContext(ctx, args)
}

func (s recordedStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	s.r.add(s.query, args)
	return s.Stmt.(driver.StmtQueryContext).QueryContext(ctx, args)
}

// sqlFill makes n sessions, every tenth anonymous and every hundredth expired.
func (srv sqlServer) fill(t *testing.T, db *sql.DB, table string, n int) {
	t.Helper()
	now := time.Now().UnixMilli()
	if srv.driver == "pgx" {
		mustExec(t, db, fmt.Sprintf(`INSERT INTO %s (key, version, handle, owner, created, deadline, expires, sweep_after, label, data)
SELECT sha256(int4send(i)), i, substr(sha256(int4send(i)), 1, 16), CASE WHEN i %% 10 > 0 THEN convert_to('owner ' || i / 3, 'UTF8') END,
	%d, %[3]d, e, e, '', decode(repeat(md5(i::text), 10), 'hex')
FROM (SELECT i, %[2]d + CASE WHEN i %% 100 = 0 THEN -i ELSE 60000 + i END AS e FROM generate_series(1, %[4]d) AS i) AS x`, table, now, now+1e9, n))
		mustExec(t, db, `VACUUM ANALYZE `+table)
		return
	}
	row := func(from string) string {
		return fmt.Sprintf("SELECT UNHEX(SHA2(i, 256)), i, UNHEX(LEFT(SHA2(i, 256), 32)), IF(i %% 10 > 0, CONCAT('owner ', i DIV 3), NULL), "+
			"%d, %d, %[1]d + IF(i %% 100 = 0, -i, 60000 + i), %[1]d + IF(i %% 100 = 0, -i, 60000 + i), '', UNHEX(REPEAT(SHA2(i, 256), 5)) FROM (%[3]s) AS x", now, now+1_000_000_000, from)
	}
	digits := "(SELECT 0 d UNION SELECT 1 UNION SELECT 2 UNION SELECT 3 UNION SELECT 4 UNION SELECT 5 UNION SELECT 6 UNION SELECT 7 UNION SELECT 8 UNION SELECT 9)"
	thousand := "SELECT %d + a.d + 10 * b.d + 100 * c.d + 1000 * e.d AS i FROM " + digits + " a, " + digits + " b, " + digits + " c, " + digits + " e"
	for from := 1; from <= n; from += 10000 {
		mustExec(t, db, "INSERT INTO "+table+" (`key`, version, handle, owner, created, deadline, expires, sweep_after, label, data) "+row(fmt.Sprintf(thousand, from)))
	}
	mustExec(t, db, "ANALYZE TABLE "+table)
}

// TestSQLPlans: on a large table every statement takes the index that is meant
// for it, by the server's own word, and none reads the table from end to end.
func TestSQLPlans(t *testing.T) {
	rows := 100_000
	if testing.Short() {
		t.Skip("fills a table with 100,000 rows: run it without -short")
	}
	sqlPlans(t, rows)
}

func TestSoakSQLPlans(t *testing.T) {
	soak(t)
	sqlPlans(t, 2_000_000)
}

func sqlPlans(t *testing.T, rows int) {
	sqlEach(t, func(t *testing.T, srv sqlServer) {
		_, table, plain := srv.store(t)
		srv.fill(t, plain, table, rows)
		rec := &recorder{inner: plain.Driver(), dsn: srv.dsn(t, srv.URL, nil)}
		db := sql.OpenDB(rec)
		t.Cleanup(func() { db.Close() })
		s := sqlNew(t, db, srv.dialect, sqlstore.Options{Table: table})
		primary, owner, sweep := table+"_pkey", table+"_owner", table+"_sweep"
		if srv.driver == "mysql" {
			primary, owner, sweep = "PRIMARY", "owner", "sweep"
		}
		ctx := t.Context()
		k, r := numberedKey(1), numberedSession(1)
		for _, c := range []struct {
			name string
			call func() error
			want []string // an index for each statement; those after it may take the primary key
		}{
			{"Create", func() error { return s.Create(ctx, k, r) }, nil},
			{"Get", func() error { _, err := s.Get(ctx, k); return err }, []string{primary}},
			{"GetMany", func() error { _, err := s.GetMany(ctx, sqlKeys(100)); return err }, []string{primary}},
			{"Replace", func() error { return s.Replace(ctx, k, r.Version, r) }, []string{primary}},
			{"Touch", func() error { return s.Touch(ctx, k, r.Expires) }, []string{primary}},
			{"ListOwner", func() error { _, err := s.ListOwner(ctx, "owner 7"); return err }, []string{owner}},
			{"DeleteOwner", func() error { _, err := s.DeleteOwner(ctx, "owner 7", r.Handle); return err }, []string{owner}},
			{"Delete", func() error { _, err := s.Delete(ctx, k); return err }, []string{primary}},
			{"Delete of nothing", func() error { _, err := s.Delete(ctx, k); return err }, []string{primary}},
			{"List", func() error {
				for _, err := range s.List(ctx) {
					return err
				}
				return nil
			}, []string{primary}},
			{"Sweep", func() error { _, err := s.Sweep(ctx, 50); return err }, []string{sweep, primary}},
			{"Ping", func() error { return s.Ping(ctx) }, []string{primary}},
		} {
			rec.sent = nil
			for range 7 { // PostgreSQL plans anew five times, and then decides
				if err := c.call(); err != nil && !strings.Contains(err.Error(), "conflict") && !strings.Contains(err.Error(), "not found") {
					t.Fatalf("%s: %v", c.name, err)
				}
			}
			if len(rec.sent) == 0 {
				t.Fatalf("%s sent nothing", c.name)
			}
			plans := ""
			for _, sent := range rec.sent {
				plan := sqlExplain(t, srv, plain, sent)
				// By the primary key it has found while planning that there is no such row.
				plans += strings.ReplaceAll(plan, "const table", "PRIMARY")
				if c.want == nil {
					continue
				}
				if bad := srv.scans(plan, table); bad != "" {
					t.Errorf("%s reads more than it should (%s):\n%s\n%s", c.name, bad, sent.query, plan)
				}
			}
			for _, want := range c.want {
				if !strings.Contains(plans, want) {
					t.Errorf("%s does not take %s:\n%s", c.name, want, plans)
				}
			}
			if t.Failed() {
				return
			}
		}
	})
}

func sqlKeys(n int) (ks []store.Key) {
	for i := range n {
		ks = append(ks, numberedKey(i))
	}
	return ks
}

// sqlExplain returns the plan of a statement as lines of text.
func sqlExplain(t *testing.T, srv sqlServer, db *sql.DB, sent recorded) string {
	t.Helper()
	explain := `EXPLAIN `
	if srv.Kind == "mysql" {
		explain = `EXPLAIN FORMAT=TRADITIONAL `
	}
	rows, err := db.Query(explain+sent.query, sent.args...)
	if err != nil {
		t.Fatalf("EXPLAIN %s: %v", sent.query, err)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for rows.Next() {
		values := make([]sql.NullString, len(columns))
		into := make([]any, len(columns))
		for i := range values {
			into[i] = &values[i]
		}
		if err := rows.Scan(into...); err != nil {
			t.Fatal(err)
		}
		for i, v := range values {
			if len(columns) > 1 {
				fmt.Fprintf(&b, "%s=%s ", columns[i], v.String)
			} else {
				b.WriteString(v.String)
			}
		}
		b.WriteByte('\n')
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// scans returns the part of a plan that reads the whole table or index, or sorts.
func (srv sqlServer) scans(plan, table string) string {
	for line := range strings.Lines(plan) {
		if srv.driver == "pgx" {
			if strings.Contains(line, "Seq Scan on "+table) || strings.Contains(line, "Sort Key") {
				return strings.TrimSpace(line)
			}
			continue
		}
		if strings.Contains(line, "type=ALL ") || strings.Contains(line, "type=index ") || strings.Contains(line, "filesort") || strings.Contains(line, "temporary") {
			return strings.TrimSpace(line)
		}
	}
	return ""
}

// TestPostgreSQLTouchesStayInThePage: a touch changes no indexed column, so that
// PostgreSQL writes no index and cleans up within the page (HOT). An index over the
// expiry makes that none of them.
func TestPostgreSQLTouchesStayInThePage(t *testing.T) {
	notShort(t)
	t.Parallel()
	// Nobody else's transactions, which keep it from cleaning up.
	srv := sqlFrom(testserver.Start(t, "postgres", nil))
	s, table, db := srv.store(t)
	db.SetMaxOpenConns(1) // which counts
	const sessions, touches = 500, 3
	for i := range sessions {
		if err := s.Create(t.Context(), numberedKey(i), numberedSession(i)); err != nil {
			t.Fatal(err)
		}
	}
	for n := range touches {
		for i := range sessions {
			if err := s.Touch(t.Context(), numberedKey(i), time.Now().Add(time.Duration(n+2)*time.Hour)); err != nil {
				t.Fatal(err)
			}
		}
	}
	mustExec(t, db, `SELECT pg_stat_force_next_flush()`)
	var all, hot int
	if err := db.QueryRow(`SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = $1`, table).Scan(&all, &hot); err != nil {
		t.Fatal(err)
	}
	if all != sessions*touches || hot < all*9/10 {
		t.Errorf("of %d touches (want %d) %d wrote no index; want 9 in 10", all, sessions*touches, hot)
	}
}

// TestSQLSweepMovesOn: rows of sessions that were touched are passed over once,
// not by every sweep, and end when their time has come.
func TestSQLSweepMovesOn(t *testing.T) {
	sqlEach(t, func(t *testing.T, srv sqlServer) {
		s, table, db := srv.store(t)
		const sessions = 1200 // more than a statement takes
		for i := range sessions {
			if err := s.Create(t.Context(), numberedKey(i), numberedSession(i)); err != nil {
				t.Fatal(err)
			}
		}
		due := func() (n int) {
			t.Helper()
			if err := db.QueryRow(fmt.Sprintf(`SELECT COUNT(*) FROM %s WHERE sweep_after <= %d`, table, time.Now().UnixMilli())).Scan(&n); err != nil {
				t.Fatal(err)
			}
			return n
		}
		mustExec(t, db, `UPDATE `+table+` SET sweep_after = 1`) // touched since
		mustExec(t, db, `UPDATE `+table+` SET sweep_after = 2, expires = 2 WHERE owner = 'owner 7'`)
		n, err := s.Sweep(t.Context(), 1000)
		if err != nil || n != 1 {
			t.Errorf("Sweep: %d, %v; want the one that has expired, behind all that were touched", n, err)
		}
		if left := due(); left != 0 {
			t.Errorf("%d rows are due after a sweep; want none", left)
		}
		if n, err := s.Sweep(t.Context(), 1000); n != 0 || err != nil {
			t.Errorf("a second Sweep: %d, %v; want 0", n, err)
		}
		// What is made to end sooner is due sooner.
		k, r := numberedKey(1), numberedSession(1)
		r.Expires = time.Now().Add(time.Minute)
		if err := s.Replace(t.Context(), k, 0, r); err != nil {
			t.Fatal(err)
		}
		var wrong int
		if err := db.QueryRow(`SELECT COUNT(*) FROM ` + table + ` WHERE sweep_after > LEAST(expires, deadline)`).Scan(&wrong); err != nil {
			t.Fatal(err)
		}
		if wrong != 0 {
			t.Errorf("%d rows are due after their end; want none, or a sweep leaves them behind", wrong)
		}
	})
}

// TestSQLSweepWaitsForNobody: a sweep passes over what somebody holds, and others
// are not in its way, nor it in theirs.
func TestSQLSweepWaitsForNobody(t *testing.T) {
	sqlEach(t, func(t *testing.T, srv sqlServer) {
		s, table, db := srv.store(t)
		const dead = 300
		for i := range dead {
			if err := s.Create(t.Context(), numberedKey(i), numberedSession(i)); err != nil {
				t.Fatal(err)
			}
		}
		mustExec(t, db, `UPDATE `+table+` SET sweep_after = 1, expires = 1`)
		release := srv.hold(t, srv.admin(t), table, numberedKey(7))
		removed := make(chan int)
		for range 4 {
			go func() {
				n, err := s.Sweep(t.Context(), dead)
				if err != nil {
					t.Error(err)
				}
				removed <- n
			}()
		}
		total := 0
		for range 4 {
			total += <-removed
		}
		if total != dead-1 {
			t.Errorf("four sweeps at once of %d records, of which one is held, removed %d", dead, total)
		}
		release()
		if n, err := s.Sweep(t.Context(), dead); n != 1 || err != nil {
			t.Errorf("Sweep when nobody holds it: %d, %v; want 1", n, err)
		}
	})
}
