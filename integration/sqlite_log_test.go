package integration

import (
	"bytes"
	"database/sql"
	"os"
	"path/filepath"
	"testing"
)

// TestSQLiteLogIsReused: a reader that hangs on to an old state of the file
// stops no writer, and once it is gone the log begins anew instead of growing,
// and gives back the space that it had taken only because of that reader.
func TestSQLiteLogIsReused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sessions.db")
	db, s := sqliteStore(t, path)
	k, r := numberedKey(1), numberedSession(1)
	if err := s.Create(t.Context(), k, r); err != nil {
		t.Fatal(err)
	}
	write := func(times int) {
		t.Helper()
		for range times {
			next := r
			next.Version++
			next.Data = bytes.Repeat([]byte{byte(next.Version)}, 16<<10) // SQLite skips pages that stay the same
			if err := s.Replace(t.Context(), k, r.Version, next); err != nil {
				t.Fatal(err)
			}
			r = next
		}
	}
	size := func() int64 {
		t.Helper()
		info, err := os.Stat(path + "-wal")
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}

	reader, err := db.BeginTx(t.Context(), &sql.TxOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	var n int
	if err := reader.QueryRow(`SELECT count(*) FROM coatcheck_sessions`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	write(1200) // of at least four pages each: more than the log should hold
	grown := size()
	if least := int64(1200 * 16 << 10); grown < least {
		t.Fatalf("the log has %d bytes with a reader of its beginning; want at least %d", grown, least)
	}
	if err := reader.Rollback(); err != nil {
		t.Fatal(err)
	}
	write(600) // by then the store has looked after the log
	before := size()
	if most := int64(17 << 20); before > most {
		t.Errorf("the log keeps %d bytes of %d when nothing needs them; want at most %d", before, grown, most)
	}
	write(300)
	if after := size(); after != before {
		t.Errorf("the log has grown from %d to %d bytes with no reader in the way", before, after)
	}
}
