package balancer

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// freezer serves the name until it is frozen; then it answers nothing, its health check included, as a process after SIGSTOP.
func (n *healthNet) freezer(t *testing.T, name string) (frozen *atomic.Bool) {
	frozen = new(atomic.Bool)
	n.net.serve(t, name, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if frozen.Load() {
			_, _ = io.Copy(io.Discard, r.Body) // what a kernel would buffer
			<-r.Context().Done()
			return
		}
		says(name)(w, r)
	})})
	add(t, n.Balancer, name, "http://"+name)
	return frozen
}

// start sends a request and returns where its answer will come.
func (n *healthNet) start(t *testing.T, method string) <-chan *httptest.ResponseRecorder {
	var body io.Reader
	if method == http.MethodPost {
		body = strings.NewReader("x")
	}
	answers := make(chan *httptest.ResponseRecorder, 1)
	go func() {
		w := httptest.NewRecorder()
		n.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, "/", body))
		answers <- w
	}()
	return answers
}

func TestRequestsDoNotWaitForAnUpstreamThatFellSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newHealthNet(t, Options{Fall: 3})
		a := n.freezer(t, "a")
		n.freezer(t, "b")
		time.Sleep(10 * time.Second)
		a.Store(true)
		get := n.start(t, http.MethodGet) // to a
		synctest.Wait()
		n.ask(t) // to b
		post := n.start(t, http.MethodPost)
		synctest.Wait()
		if s := upstreamStatus(t, n.Balancer, "a"); s.InFlight != 2 {
			t.Fatalf("%+v, want two requests that wait for it", s)
		}

		// Three probes, each a second after the end of the one before.
		time.Sleep(7 * time.Second)
		synctest.Wait()
		if s := upstreamStatus(t, n.Balancer, "a"); s.State != Down || s.InFlight != 0 {
			t.Errorf("%+v, want it down and nobody waiting for it", s)
		}
		if w := <-get; w.Code != http.StatusOK || w.Body.String() != "b" {
			t.Errorf("the GET was answered %d %q, want by the other upstream", w.Code, w.Body)
		}
		if w := <-post; w.Code != http.StatusGatewayTimeout || w.Header().Get(UnrepeatableHeader) != "1" {
			t.Errorf("the POST was answered %d, %v; want 504 and that it must not be repeated", w.Code, w.Header())
		}
		if s := n.Status(); s.Unrepeatable != 1 || s.Retries != 1 {
			t.Errorf("%d unrepeatable and %d retries, want one of each", s.Unrepeatable, s.Retries)
		}

		a.Store(false)
		time.Sleep(5 * time.Second)
		if got := n.ask(t) + n.ask(t); got != "ab" && got != "ba" {
			t.Errorf("after it recovered, requests are answered by %q, want by both", got)
		}
	})
}

func TestAnAnswerThatStopsHalfWayIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newHealthNet(t, Options{Fall: 3})
		var frozen atomic.Bool
		n.net.serve(t, "a", &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/readyz" && !frozen.Load() {
				return
			}
			if r.URL.Path != "/readyz" {
				frozen.Store(true)
				w.Header().Set("Content-Length", "4")
				_, _ = io.WriteString(w, "ha")
				_ = http.NewResponseController(w).Flush()
			}
			<-r.Context().Done()
		})})
		add(t, n.Balancer, "a", "http://a")
		n.freezer(t, "b")
		time.Sleep(10 * time.Second)
		get := n.start(t, http.MethodGet)
		time.Sleep(10 * time.Second)
		if w := <-get; w.Code != http.StatusOK || w.Body.String() != "b" {
			t.Errorf("the GET was answered %d %q, want by the other upstream", w.Code, w.Body)
		}
	})
}

func TestAnUpstreamThatRefusesItsProbesMayFinishItsRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newHealthNet(t, Options{Fall: 3})
		ready, release := status(http.StatusOK), make(chan struct{})
		mux := http.NewServeMux()
		mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(int(ready.Load())) })
		mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
			<-release
			says("a")(w, r)
		})
		n.net.serve(t, "a", &http.Server{Handler: mux})
		add(t, n.Balancer, "a", "http://a")
		time.Sleep(10 * time.Second)
		post := n.start(t, http.MethodPost)
		synctest.Wait()
		ready.Store(http.StatusServiceUnavailable) // as a server that somebody else has told to end
		time.Sleep(10 * time.Second)
		if s := n.state(t, "a"); s != Down {
			t.Fatalf("%s, want down", s)
		}
		close(release)
		if w := <-post; w.Code != http.StatusOK {
			t.Errorf("the request in flight was answered %d: who refuses new ones may finish old ones", w.Code)
		}
	})
}

func TestRequestsWaitForAReplacementOfASilentUpstream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newHealthNet(t, Options{Fall: 3, QueueTimeout: time.Minute})
		frozen := n.freezer(t, "only")
		time.Sleep(10 * time.Second)
		frozen.Store(true)
		time.Sleep(10 * time.Second)
		post := n.start(t, http.MethodPost)
		time.Sleep(10 * time.Second)
		if s := upstreamStatus(t, n.Balancer, "only"); s.InFlight != 0 || s.State != Down {
			t.Errorf("%+v, want it down and the request in the queue", s)
		}
		n.freezer(t, "new")
		time.Sleep(time.Second)
		if w := <-post; w.Code != http.StatusOK || w.Body.String() != "new" {
			t.Errorf("the request was answered %d %q, want by the new upstream", w.Code, w.Body)
		}
	})
}

func TestWaitDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newHealthNet(t, Options{})
		frozen := n.freezer(t, "a")
		if err := n.WaitReady(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		down := make(chan error, 1)
		go func() { down <- n.WaitDown(t.Context(), "a") }()
		time.Sleep(10 * time.Second)
		select {
		case err := <-down:
			t.Fatalf("WaitDown = %v while the upstream was ready", err)
		default:
		}
		frozen.Store(true)
		if err := <-down; err != nil {
			t.Errorf("WaitDown = %v", err)
		}
		go func() { down <- n.WaitDown(t.Context(), "b") }()
		if err := <-down; err == nil {
			t.Error("WaitDown for an unknown upstream has no error")
		}
	})
}

// TestLatencyIsWithoutASlowUpload: the wait for the client's body does not count, and what
// follows does; of one that breaks off nothing counts.
func TestLatencyIsWithoutASlowUpload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newHealthNet(t, Options{})
		n.net.serve(t, "a", &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if _, err := io.Copy(io.Discard, r.Body); err == nil && r.Method == http.MethodPost {
				time.Sleep(2 * time.Second)
			}
		})})
		add(t, n.Balancer, "a", "http://a")
		time.Sleep(10 * time.Second)
		upload := func(end error) {
			pr, pw := io.Pipe()
			go func() {
				for range 10 {
					_, _ = pw.Write(make([]byte, 4<<10))
					time.Sleep(time.Minute)
				}
				pw.CloseWithError(end)
			}()
			n.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", pr))
		}
		upload(nil)
		c := n.Latency()
		if q := c.Quantile(1); c.Total() != 1 || q < 2*time.Second || q > 2*time.Second*33/32 {
			t.Errorf("%d uploads took %v; want one, and the 2 s after its 10 minutes", c.Total(), q)
		}
		upload(io.ErrUnexpectedEOF)
		if more := n.Latency().Since(c).Total(); more != 0 {
			t.Errorf("%d uploads count that broke off; want none", more)
		}
	})
}
