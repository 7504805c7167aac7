package integration

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	_ "github.com/ncruces/go-sqlite3/driver"

	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/sqlstore"
)

// Sessions in a SQLite file that any number of processes on this machine may
// open.
func Example_sqlite() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "coatcheck")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	db, err := sql.Open("sqlite3", sqlstore.SQLiteDSN(filepath.Join(dir, "sessions.db")))
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	sessions, err := sqlstore.New(db, sqlstore.SQLite, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer sessions.Close()
	if err := sessions.Migrate(ctx); err != nil {
		log.Fatal(err)
	}

	key, now := store.Key{1}, time.Now() // a session manager derives the key from the session's ID
	err = sessions.Create(ctx, key, store.Record{
		Version:  1,
		Created:  now,
		Deadline: now.Add(24 * time.Hour),
		Expires:  now.Add(time.Hour),
		Data:     []byte("one apple"),
	})
	if err != nil {
		log.Fatal(err)
	}
	r, err := sessions.Get(ctx, key)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("version %d: %s\n", r.Version, r.Data)

	r.Version, r.Data = 2, []byte("two apples")
	if err := sessions.Replace(ctx, key, 1, r); err != nil {
		log.Fatal(err)
	}
	err = sessions.Replace(ctx, key, 1, r)
	fmt.Println("the same again is a conflict:", errors.Is(err, store.ErrConflict))

	// Output:
	// version 1: one apple
	// the same again is a conflict: true
}
