package session_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/store/memstore"
)

// serve serves the app at ln until ctx ends, and then drains: balancers are told, requests
// go on to be answered until nobody sends any, and those in flight finish. main has
//
//	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
//	context.AfterFunc(ctx, stop) // so that a second signal ends the process
//
// and, with a balancer that looks every second and believes three answers,
//
//	noticed := func() { time.Sleep(5 * time.Second) }
func serve(ctx context.Context, ln net.Listener, sessions *session.Manager, app http.Handler, noticed func()) error {
	mux := http.NewServeMux()
	mux.Handle("GET /readyz", sessions.Readiness(&session.ReadinessOptions{
		Draining: func() bool { return ctx.Err() != nil },
	}))
	mux.Handle("/", sessions.Handler(app))
	closing := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if ctx.Err() != nil { // the next request of this connection is for another server
			w.Header().Set("Connection", "close")
		}
		mux.ServeHTTP(w, r)
	})
	srv := &http.Server{Handler: closing, ReadHeaderTimeout: 10 * time.Second}

	// Expired sessions are removed until the last request is answered.
	tending, stop := context.WithCancel(context.Background())
	var tended sync.WaitGroup
	tended.Go(func() { _ = sessions.Run(tending) })
	defer tended.Wait()
	defer stop()

	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	noticed()
	patience, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return srv.Shutdown(patience)
}

// Stop on SIGTERM without failing a request.
func Example_drain() {
	sessions, err := session.New(memstore.New(), nil)
	if err != nil {
		log.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	arrived, release, looked := make(chan struct{}), make(chan struct{}), make(chan struct{})
	app := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(arrived)
		<-release
		_, _ = fmt.Fprint(w, "your order is placed")
	})
	ctx, terminate := context.WithCancel(context.Background()) // as SIGTERM does
	ended := make(chan error)
	go func() { ended <- serve(ctx, ln, sessions, app, func() { <-looked }) }()

	url := "http://" + ln.Addr().String()
	fmt.Println(fetch(url + "/readyz"))
	order := make(chan string)
	go func() { order <- fetch(url + "/order") }()
	<-arrived
	terminate()
	fmt.Println(fetch(url + "/readyz")) // the balancer sends nobody here any more
	close(looked)
	close(release)
	fmt.Println(<-order)
	fmt.Println("ended:", <-ended)
	// Output:
	// 200 {"status":"ready","store":"ok"}
	// 503 {"status":"draining","store":"ok"}
	// 200 your order is placed
	// ended: <nil>
}

// fetch returns the status and the body of an answer.
func fetch(url string) string {
	resp, err := http.Get(url)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d %s", resp.StatusCode, bytes.TrimSpace(body))
}
