package integration

import (
	"context"
	"database/sql"
	"log"
	"net/http"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/store/sqlstore"
)

// A whole app on PostgreSQL. The role app has the rights that Store.Grants
// returns; a deployment runs Migrate before, as the owner of the tables.
func Example_postgreSQL() {
	ctx := context.Background()

	// Of several servers the one that takes writes, also after a failover.
	db, err := sql.Open("pgx", "postgres://app:secret@db1.example.com,db2.example.com/app?sslmode=verify-full&sslrootcert=ca.pem&target_session_attrs=read-write")
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(20)                  // of all web servers together, less than max_connections
	db.SetMaxIdleConns(20)                  // else the pool opens and closes them all the time
	db.SetConnMaxLifetime(30 * time.Minute) // so that none stays with a server that was replaced

	st, err := sqlstore.New(db, sqlstore.PostgreSQL, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer st.Close()
	if err := st.Verify(ctx); err != nil {
		log.Fatal(err)
	}
	sessions, err := session.New(st, nil)
	if err != nil {
		log.Fatal(err)
	}
	go func() { _ = sessions.Run(ctx) }() // removes expired sessions
	log.Fatal(http.ListenAndServeTLS(":8443", "cert.pem", "key.pem", sessions.Handler(http.HandlerFunc(hello))))
}
