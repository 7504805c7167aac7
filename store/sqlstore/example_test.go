package sqlstore_test

import (
	"context"
	"database/sql"
	"fmt"
	"log"

	"github.com/coatcheck/coatcheck/store/sqlstore"
)

func ExampleSQLiteDSN() {
	fmt.Println(sqlstore.SQLiteDSN("sessions.db"))
	// Output:
	// file:sessions.db?_pragma=busy_timeout%2810000%29&_pragma=synchronous%28normal%29&_txlock=immediate
}

// At the start of a program, which imports a driver:
//
//	import _ "github.com/ncruces/go-sqlite3/driver"
func ExampleNew() {
	ctx := context.Background()
	db, err := sql.Open("sqlite3", sqlstore.SQLiteDSN("sessions.db"))
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(4)
	db.SetMaxIdleConns(4)

	sessions, err := sqlstore.New(db, sqlstore.SQLite, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer sessions.Close()
	if err := sessions.Migrate(ctx); err != nil {
		log.Fatal(err)
	}
	// sessions goes to session.New.
}
