package main

import (
	"context"
	"database/sql"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
)

// An admin sees and changes sessions without the libraries. Its keys are names of
// its own for them.
type admin interface {
	keys(t *testing.T) []string // of sessions, not of indexes
	ttl(t *testing.T, key string) time.Duration
	expire(t *testing.T, key string, d time.Duration)
	remove(t *testing.T, key string)
	size(t *testing.T, key string) int64 // of the data
}

func adminOf(t *testing.T, f *family) admin {
	t.Helper()
	url := serverOf(t, f).url
	switch f {
	case &redisFamily:
		c, err := newClient(url, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		return redisAdmin{c}
	case &postgresFamily:
		return sqlAdmin{
			db:     openSQL(t, &postgres, url),
			quote:  `"`,
			left:   "(extract(epoch FROM expiry - now()) * 1000)::bigint",
			lasts:  "now() + %d * interval '1 millisecond'",
			equals: "decode('%s', 'hex')",
			token:  "convert_from(decode('%s', 'hex'), 'UTF8')",
		}
	case &mongoFamily:
		return newMongoAdmin(t, url)
	case &dynamoFamily:
		return newDynamoAdmin(t, url)
	}
	return sqlAdmin{
		db:     openSQL(t, &mariadb, url),
		quote:  "`",
		left:   "TIMESTAMPDIFF(MICROSECOND, UTC_TIMESTAMP(6), expiry) DIV 1000",
		lasts:  "UTC_TIMESTAMP(6) + INTERVAL %d * 1000 MICROSECOND",
		equals: "UNHEX('%s')",
		token:  "UNHEX('%s')",
	}
}

// newest returns a key that is there since before.
func newest(t *testing.T, a admin, before []string) string {
	t.Helper()
	for _, k := range a.keys(t) {
		if !slices.Contains(before, k) {
			return k
		}
	}
	return ""
}

type redisAdmin struct{ c rueidis.Client }

func (a redisAdmin) keys(t *testing.T) []string {
	t.Helper()
	all, err := a.c.Do(t.Context(), a.c.B().Keys().Pattern("*").Build()).AsStrSlice()
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(all, func(k string) bool {
		kind, err := a.c.Do(t.Context(), a.c.B().Type().Key(k).Build()).ToString()
		return err != nil || kind != "string" // it is an index
	})
}

func (a redisAdmin) int(t *testing.T, cmd rueidis.Completed) int64 {
	t.Helper()
	n, err := a.c.Do(t.Context(), cmd).AsInt64()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (a redisAdmin) ttl(t *testing.T, key string) time.Duration {
	t.Helper()
	return time.Duration(a.int(t, a.c.B().Pttl().Key(key).Build())) * time.Millisecond
}

func (a redisAdmin) expire(t *testing.T, key string, d time.Duration) {
	t.Helper()
	a.int(t, a.c.B().Pexpire().Key(key).Milliseconds(d.Milliseconds()).Build())
}

func (a redisAdmin) remove(t *testing.T, key string) {
	t.Helper()
	a.int(t, a.c.B().Del().Key(key).Build())
}

func (a redisAdmin) size(t *testing.T, key string) int64 {
	t.Helper()
	return a.int(t, a.c.B().Strlen().Key(key).Build())
}

func openSQL(t *testing.T, s *sqlServer, url string) *sql.DB {
	t.Helper()
	dsn, err := s.dsn(url, "")
	if err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open(s.driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// sqlAdmin has a key of three words: the space, the table, and the row's key in
// hexadecimal digits. The tables are Coatcheck's and those of scs.
type sqlAdmin struct {
	db    *sql.DB
	quote string
	// Of a session of scs: the milliseconds that are left of it, the expiry in so
	// many, and its token.
	left, lasts, token string
	equals             string // the key of one of Coatcheck's
}

func (a sqlAdmin) keys(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, table := range a.strings(t, "SELECT CONCAT(table_schema, ' ', table_name) FROM information_schema.tables WHERE table_name IN ('sessions', 'coatcheck_sessions')") {
		space, name, _ := strings.Cut(table, " ")
		key := "token"
		if name == "coatcheck_sessions" {
			key = a.quote + "key" + a.quote
		}
		for _, k := range a.strings(t, "SELECT "+key+" FROM "+a.table(space, name)) {
			all = append(all, table+" "+hex.EncodeToString([]byte(k)))
		}
	}
	return all
}

func (a sqlAdmin) strings(t *testing.T, query string) []string {
	t.Helper()
	rows, err := a.db.QueryContext(t.Context(), query)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var all []string
	for rows.Next() {
		var b []byte
		if err := rows.Scan(&b); err != nil {
			t.Fatal(err)
		}
		all = append(all, string(b))
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

func (a sqlAdmin) table(space, name string) string {
	return a.quote + space + a.quote + "." + a.quote + name + a.quote
}

// row returns the table of a key and the condition for its row.
func (a sqlAdmin) row(key string) (table, where string, ours bool) {
	f := strings.Fields(key)
	if f[1] == "coatcheck_sessions" {
		return a.table(f[0], f[1]), " WHERE " + a.quote + "key" + a.quote + " = " + fmt.Sprintf(a.equals, f[2]), true
	}
	return a.table(f[0], f[1]), " WHERE token = " + fmt.Sprintf(a.token, f[2]), false
}

func (a sqlAdmin) int(t *testing.T, query string) int64 {
	t.Helper()
	var n int64
	if err := a.db.QueryRowContext(t.Context(), query).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func (a sqlAdmin) exec(t *testing.T, query string) {
	t.Helper()
	res, err := a.db.ExecContext(context.Background(), query)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := res.RowsAffected(); err != nil || n != 1 {
		t.Fatalf("%d rows are changed; want 1: %v", n, err)
	}
}

func (a sqlAdmin) ttl(t *testing.T, key string) time.Duration {
	t.Helper()
	table, where, ours := a.row(key)
	if ours {
		return time.Until(time.UnixMilli(a.int(t, "SELECT expires FROM "+table+where)))
	}
	return time.Duration(a.int(t, "SELECT "+a.left+" FROM "+table+where)) * time.Millisecond
}

func (a sqlAdmin) expire(t *testing.T, key string, d time.Duration) {
	t.Helper()
	table, where, ours := a.row(key)
	if ours {
		a.exec(t, fmt.Sprintf("UPDATE %s SET expires = %d", table, time.Now().Add(d).UnixMilli())+where)
		return
	}
	a.exec(t, "UPDATE "+table+" SET expiry = "+fmt.Sprintf(a.lasts, d.Milliseconds())+where)
}

func (a sqlAdmin) remove(t *testing.T, key string) {
	t.Helper()
	table, where, _ := a.row(key)
	a.exec(t, "DELETE FROM "+table+where)
}

func (a sqlAdmin) size(t *testing.T, key string) int64 {
	t.Helper()
	table, where, _ := a.row(key)
	return a.int(t, "SELECT octet_length(data) FROM "+table+where)
}
