package integration

import (
	"context"
	"database/sql"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"

	_ "github.com/ncruces/go-sqlite3/driver"

	"github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/store/sqlstore"
)

var visits = session.NewAttr[int]("visits")

func hello(w http.ResponseWriter, r *http.Request) {
	s := session.From(r.Context())
	if err := visits.Update(s, func(n int) (int, error) { return n + 1, nil }); err != nil {
		log.Print(err)
	}
	n, _ := visits.Get(s)
	_, _ = fmt.Fprintf(w, "visit number %d\n", n)
}

// newApp is a whole app whose sessions are in a SQLite file that any number of
// its processes on this machine open. stop releases what it holds.
func newApp(ctx context.Context, file string) (app http.Handler, stop func(), err error) {
	db, err := sql.Open("sqlite3", sqlstore.SQLiteDSN(file))
	if err != nil {
		return nil, nil, err
	}
	db.SetMaxOpenConns(4)
	db.SetMaxIdleConns(4) // else the pool opens and closes the file all the time
	st, err := sqlstore.New(db, sqlstore.SQLite, nil)
	if err != nil {
		return nil, nil, err
	}
	if err := st.Migrate(ctx); err != nil {
		return nil, nil, err
	}
	sessions, err := session.New(st, nil)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	swept := make(chan struct{})
	go func() { // removes expired sessions
		defer close(swept)
		_ = sessions.Run(ctx)
	}()
	stop = func() {
		cancel()
		<-swept
		_ = st.Close()
		_ = db.Close()
	}
	return sessions.Handler(http.HandlerFunc(hello)), stop, nil
}

// Two servers of an app share the sessions of a SQLite file.
func Example_sqlite() {
	dir, err := os.MkdirTemp("", "coatcheck")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	var cookie []*http.Cookie
	for range 3 {
		app, stop, err := newApp(context.Background(), filepath.Join(dir, "sessions.db"))
		if err != nil {
			log.Fatal(err)
		}
		r := httptest.NewRequest(http.MethodGet, "https://app.example/", nil)
		for _, c := range cookie {
			r.AddCookie(c)
		}
		w := httptest.NewRecorder()
		app.ServeHTTP(w, r)
		fmt.Print(w.Body)
		if set := w.Result().Cookies(); len(set) > 0 {
			cookie = set
		}
		stop() // a server may go at any moment; the next one knows the visitor
	}
	// Output:
	// visit number 1
	// visit number 2
	// visit number 3
}
