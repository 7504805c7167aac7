package session_test

import (
	"context"
	"expvar"
	"fmt"
	"log"
	"net/http"

	"github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/store/memstore"
)

// metrics counts what the sessions of an app do. Published as "sessions" it is in
// GET /debug/vars; a client of Prometheus, OpenTelemetry or StatsD takes its place.
type metrics struct{ expvar.Map }

func (m *metrics) observe(_ context.Context, e session.Event) {
	switch e.Kind {
	case session.EventCall:
		call := "store_" + e.Op
		m.Add(call+"_"+e.Outcome(), 1)
		m.AddFloat(call+"_seconds", e.Duration.Seconds())
		if e.Size > 0 {
			m.Add(call+"_bytes", int64(e.Size))
		}
	case session.EventCommit, session.EventSignIn, session.EventRenew, session.EventDestroy:
		m.Add(string(e.Kind)+"_"+e.Outcome(), 1)
		m.AddFloat(string(e.Kind)+"_seconds", e.Duration.Seconds())
	case session.EventRevoke:
		m.Add("revoked", int64(e.N))
	case session.EventSwept:
		m.Add("swept", int64(e.N))
	default: // conflicts, retries, touches saved and what is wrong
		m.Add(string(e.Kind), 1)
	}
}

// Export counts and latencies of each operation of the store, conflicts, retries and
// touches saved.
func Example_metrics() {
	counted := new(metrics)
	// expvar.Publish("sessions", counted)
	sessions, err := session.New(memstore.New(), &session.Options{Observer: counted.observe})
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /cart", func(_ http.ResponseWriter, r *http.Request) {
		if err := visits.Update(session.From(r.Context()), func(n int) (int, error) { return n + 1, nil }); err != nil {
			log.Print(err)
		}
	})
	mux.HandleFunc("GET /cart", func(http.ResponseWriter, *http.Request) {})
	visitor := newGuest(sessions.Handler(mux))
	visitor.visit("POST /cart")
	visitor.visit("POST /cart")
	visitor.visit("GET /cart")
	for _, name := range []string{"store_get_ok", "store_create_ok", "store_replace_ok", "commit_ok", "touch_saved"} {
		fmt.Println(name, counted.Get(name))
	}
	// Output:
	// POST /cart: 200
	// POST /cart: 200
	// GET /cart: 200
	// store_get_ok 2
	// store_create_ok 1
	// store_replace_ok 1
	// commit_ok 2
	// touch_saved 1
}
