package integration

import (
	"context"
	"log"
	"log/slog"
	"net/http"
	"time"

	"github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/store/breaker"
	"github.com/coatcheck/coatcheck/store/mongostore"
)

// A whole app on MongoDB. The breaker is optional.
func Example_mongo() {
	ctx := context.Background()

	mongo, err := mongostore.OpenURL(ctx, "mongodb+srv://app:secret@cluster.example.com/shop", nil)
	if err != nil { // also while MongoDB is away: let what supervises the app start it again
		log.Fatal(err)
	}
	defer mongo.Close()

	// Best done by the deployment, which has the rights; servers then call Verify.
	setUp, cancel := context.WithTimeout(ctx, time.Minute)
	err = mongo.Migrate(setUp)
	cancel()
	if err != nil {
		log.Fatal(err)
	}

	// A slow server holds up nobody for longer than a second.
	guarded, err := breaker.New(mongo, &breaker.Options{OnStateChange: func(c breaker.Change) {
		slog.Warn("session store", "circuit", c.To, "error", c.Err)
	}})
	if err != nil {
		log.Fatal(err)
	}

	sessions, err := session.New(guarded, nil)
	if err != nil {
		log.Fatal(err)
	}
	app := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := session.From(r.Context())
		_, _ = w.Write([]byte("Hello " + s.Owner()))
	})
	log.Fatal(http.ListenAndServeTLS(":8443", "cert.pem", "key.pem", sessions.Handler(app)))
}
