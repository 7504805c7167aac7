package integration

import (
	"context"
	"log"
	"log/slog"
	"net/http"

	"github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/store/breaker"
	"github.com/coatcheck/coatcheck/store/dynamostore"
)

// A whole app on DynamoDB, with the credentials that the machine or container has. A
// deployment creates the table before, by Migrate or by coatcheck schema apply. The breaker
// is optional.
func Example_dynamoDB() {
	ctx := context.Background()

	dynamo, err := dynamostore.OpenURL(ctx, "dynamodb://coatcheck?region=eu-central-1", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer dynamo.Close()
	if err := dynamo.Verify(ctx); err != nil { // also while DynamoDB is away: let what supervises the app start it again
		log.Fatal(err)
	}

	// A slow server holds up nobody for longer than a second.
	guarded, err := breaker.New(dynamo, &breaker.Options{OnStateChange: func(c breaker.Change) {
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
