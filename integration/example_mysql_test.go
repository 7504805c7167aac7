package integration

import (
	"context"
	"database/sql"
	"log"
	"net/http"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/store/sqlstore"
)

// A whole app on MySQL or MariaDB. The user app has the rights that Store.Grants
// returns; a deployment runs Migrate before, as a user who may create tables.
func Example_mySQL() {
	ctx := context.Background()

	config := mysql.NewConfig()
	config.User, config.Passwd, config.DBName = "app", "secret", "app"
	config.Net, config.Addr = "tcp", "db.example.com:3306"
	config.TLSConfig = "true"    // encrypted, and the server's certificate is verified
	config.Timeout = time.Second // to connect; every statement has the deadline of its request
	connector, err := mysql.NewConnector(config)
	if err != nil {
		log.Fatal(err)
	}
	db := sql.OpenDB(connector)
	defer db.Close()
	db.SetMaxOpenConns(20)                 // of all web servers together, less than max_connections
	db.SetMaxIdleConns(20)                 // else the pool opens and closes them all the time
	db.SetConnMaxLifetime(5 * time.Minute) // less than the server's wait_timeout

	st, err := sqlstore.New(db, sqlstore.MySQL, nil)
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
