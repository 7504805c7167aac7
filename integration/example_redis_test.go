package integration

import (
	"context"
	"log"
	"log/slog"
	"net/http"

	"github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/store/breaker"
	"github.com/coatcheck/coatcheck/store/nearcache"
	"github.com/coatcheck/coatcheck/store/redisstore"
)

// A whole app on Redis. Breaker and near cache are optional; this is their order,
// from the inside out.
func Example_redis() {
	ctx := context.Background()

	redis, err := redisstore.OpenURL(ctx, "rediss://app:secret@redis.example.com/0", nil)
	if err != nil { // also while Redis is away: let what supervises the app start it again
		log.Fatal(err)
	}
	defer redis.Close()

	// A slow Redis holds up nobody for longer than a second.
	guarded, err := breaker.New(redis, &breaker.Options{OnStateChange: func(c breaker.Change) {
		slog.Warn("session store", "circuit", c.To, "error", c.Err)
	}})
	if err != nil {
		log.Fatal(err)
	}

	// Most reads ask no server. Run has changes pushed; without it they are seen
	// within a second.
	near, err := nearcache.New(guarded, nil)
	if err != nil {
		log.Fatal(err)
	}
	go func() { _ = near.Run(ctx) }()

	sessions, err := session.New(near, nil)
	if err != nil {
		log.Fatal(err)
	}
	app := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := session.From(r.Context())
		_, _ = w.Write([]byte("Hello " + s.Owner()))
	})
	log.Fatal(http.ListenAndServeTLS(":8443", "cert.pem", "key.pem", sessions.Handler(app)))
}
