package balancer

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A healthNet is a balancer over in-memory servers whose health the test sets, within a synctest bubble.
type healthNet struct {
	*Balancer
	net pipeNet
}

func newHealthNet(t *testing.T, opts Options) *healthNet {
	opts.Logger = quiet()
	n := &healthNet{Balancer: New(&opts)}
	n.dial = n.net.dial
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		for _, s := range n.Status().Upstreams {
			_ = n.Remove(s.Name) // closes idle connections, whose goroutines are in the bubble
		}
	})
	return n
}

// worker serves status on the health path and the name elsewhere.
func (n *healthNet) worker(t *testing.T, name string, status *atomic.Int64) *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get(SecretHeader) != n.opts.Secret {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		w.WriteHeader(int(status.Load()))
	})
	mux.HandleFunc("/", says(name))
	return n.net.serve(t, name, &http.Server{Handler: mux})
}

func (n *healthNet) ask(t *testing.T) string {
	t.Helper()
	w := httptest.NewRecorder()
	n.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", strings.NewReader("x")))
	if w.Code != http.StatusOK {
		return http.StatusText(w.Code)
	}
	return w.Body.String()
}

func (n *healthNet) state(t *testing.T, name string) State {
	t.Helper()
	return upstreamStatus(t, n.Balancer, name).State
}

func status(code int64) *atomic.Int64 {
	v := new(atomic.Int64)
	v.Store(code)
	return v
}

func TestUpstreamComesInOnlyWhenReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newHealthNet(t, Options{Secret: "s", Rise: 3})
		ready := status(http.StatusServiceUnavailable)
		n.worker(t, "a", ready)
		add(t, n.Balancer, "a", "http://a")
		time.Sleep(time.Minute)
		if got := n.ask(t); got != "Service Unavailable" || n.state(t, "a") != Starting {
			t.Errorf("an upstream that was never ready answered: %q, state %s", got, n.state(t, "a"))
		}
		before := time.Now()
		ready.Store(http.StatusNoContent)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := n.WaitReady(ctx, "a"); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(before); took > 3*eagerInterval || took < 2*eagerInterval {
			t.Errorf("came in after %v, want three probes at %v", took, eagerInterval)
		}
		if got := n.ask(t); got != "a" {
			t.Errorf("a ready upstream must be in the rotation: %q", got)
		}
	})
}

func TestHealthChecksTakeAnUpstreamOutAndBringItBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newHealthNet(t, Options{Rise: 2, Fall: 3})
		a, b := status(200), status(200)
		n.worker(t, "a", a)
		n.worker(t, "b", b)
		add(t, n.Balancer, "a", "http://a")
		add(t, n.Balancer, "b", "http://b")
		time.Sleep(10*time.Second + time.Millisecond)

		a.Store(500)
		time.Sleep(2 * time.Second)
		if s := n.state(t, "a"); s != Ready {
			t.Errorf("%s after two failed probes, want ready: it falls with the third", s)
		}
		a.Store(200)
		time.Sleep(time.Second)
		a.Store(302) // a redirect is no pass
		time.Sleep(2 * time.Second)
		if s := n.state(t, "a"); s != Ready {
			t.Errorf("%s, but the failed probes were not consecutive", s)
		}
		time.Sleep(time.Second)
		if s := n.state(t, "a"); s != Down {
			t.Errorf("%s after three failed probes, want down", s)
		}
		if got := n.ask(t) + n.ask(t) + n.ask(t); got != "bbb" {
			t.Errorf("requests went to %q, want only to the healthy one", got)
		}
		b.Store(500)
		time.Sleep(4 * time.Second)
		if got := n.ask(t) + n.ask(t); got != "ab" && got != "ba" {
			t.Errorf("with all upstreams down, all must be used: %q", got)
		}
		a.Store(200)
		time.Sleep(3 * eagerInterval)
		if s := n.state(t, "a"); s != Ready {
			t.Errorf("%s after passing again, want ready", s)
		}
	})
}

func TestPassesMustBeConsecutive(t *testing.T) {
	b := New(&Options{Logger: quiet(), Rise: 2})
	add(t, b, "a", "http://a")
	for _, err := range []error{nil, io.EOF, nil, io.EOF, nil} {
		b.observe(b.ring[0], time.Now(), err)
		if s := upstreamStatus(t, b, "a").State; s != Starting {
			t.Fatalf("%s: it never passed twice in a row", s)
		}
	}
	b.observe(b.ring[0], time.Now(), nil)
	if s := upstreamStatus(t, b, "a").State; s != Ready {
		t.Errorf("%s after two passes, want ready", s)
	}
}

func TestProbeThatHangsIsAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newHealthNet(t, Options{Fall: 1, HealthTimeout: time.Second})
		var hang atomic.Bool
		n.net.serve(t, "a", &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if hang.Load() {
				<-r.Context().Done()
			}
		})})
		add(t, n.Balancer, "a", "http://a")
		time.Sleep(5 * time.Second)
		hang.Store(true)
		time.Sleep(5 * time.Second)
		if s := n.state(t, "a"); s != Down {
			t.Errorf("an upstream that does not answer its probe is %s, want down", s)
		}
	})
}

func TestEjectionEndsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newHealthNet(t, Options{NoHealthChecks: true, EjectFor: 5 * time.Second})
		a := n.worker(t, "a", status(200))
		n.worker(t, "b", status(200))
		add(t, n.Balancer, "a", "http://a")
		add(t, n.Balancer, "b", "http://b")
		a.Close()
		if got := n.ask(t) + n.ask(t); got != "bb" {
			t.Errorf("got %q: the dead upstream's turn must be taken by the other", got)
		}
		if s := upstreamStatus(t, n.Balancer, "a"); !s.Ejected || s.Failures != 1 || s.Requests != 1 {
			t.Errorf("after a failed dial: %+v, want it ejected and not asked again", s)
		}
		n.worker(t, "a", status(200))
		time.Sleep(5*time.Second - time.Nanosecond)
		if got := n.ask(t) + n.ask(t); got != "bb" {
			t.Errorf("got %q: the ejection is not over yet", got)
		}
		time.Sleep(time.Nanosecond)
		if got := n.ask(t) + n.ask(t); got != "ab" {
			t.Errorf("got %q: the ejection must end after its time", got)
		}
	})
}

func TestProbeEndsAnEjection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newHealthNet(t, Options{EjectFor: time.Hour, Fall: 1000})
		a := n.worker(t, "a", status(200))
		n.worker(t, "b", status(200))
		add(t, n.Balancer, "a", "http://a")
		add(t, n.Balancer, "b", "http://b")
		time.Sleep(time.Minute + 700*time.Millisecond)
		a.Close()
		n.ask(t)
		n.ask(t)
		synctest.Wait()
		if s := upstreamStatus(t, n.Balancer, "a"); !s.Ejected {
			t.Fatalf("%+v, want it ejected", s)
		}
		n.worker(t, "a", status(200))
		time.Sleep(2 * eagerInterval) // an ejection asks for probes at once and not only in its turn
		if s := upstreamStatus(t, n.Balancer, "a"); s.Ejected {
			t.Errorf("%+v: a probe that passed after the ejection must end it", s)
		}
	})
}

func TestAllEjectedMeansAllUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newHealthNet(t, Options{NoHealthChecks: true, EjectFor: time.Hour})
		for _, name := range []string{"a", "b", "c"} {
			add(t, n.Balancer, name, "http://"+name)
		}
		if got := n.ask(t); got != "Service Unavailable" {
			t.Errorf("got %q from servers that do not exist", got)
		}
		for _, up := range n.Status().Upstreams {
			if !up.Ejected {
				t.Errorf("%+v: want it ejected", up)
			}
			n.worker(t, up.Name, status(200))
		}
		if got := n.ask(t) + n.ask(t) + n.ask(t); got != "abc" {
			t.Errorf("with all upstreams ejected, all must be used in rotation: %q", got)
		}
	})
}

func TestAppErrorsDoNotEject(t *testing.T) {
	b := newBalancer(Options{MaxFails: 1})
	worker(t, b, "a", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	base := front(t, b)
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		for range 5 {
			if a := do(t, request(t, method, base, nil)); a.status != http.StatusInternalServerError {
				t.Fatalf("status %d, want the app's own 500", a.status)
			}
		}
	}
	if s := upstreamStatus(t, b, "a"); s.Ejected || s.Failures != 0 || s.Requests != 10 {
		t.Errorf("an app's own 5xx is an answer: it is neither retried nor held against the upstream: %+v", s)
	}
}

func TestBrokenConnectionsEjectOnlyInARow(t *testing.T) {
	b := newBalancer(Options{MaxFails: 3})
	worker(t, b, "a", func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/crash" {
			panic(http.ErrAbortHandler)
		}
	})
	base := front(t, b)
	post := func(path string) { do(t, request(t, http.MethodPost, base+path, nil)) }
	post("/crash")
	post("/crash")
	post("/")
	post("/crash")
	post("/crash")
	if s := upstreamStatus(t, b, "a"); s.Ejected || s.Failures != 4 {
		t.Errorf("%+v: a page that crashes is no dead upstream", s)
	}
	post("/crash")
	if s := upstreamStatus(t, b, "a"); !s.Ejected {
		t.Errorf("%+v: three broken connections in a row must eject", s)
	}
}

func TestResponseThatBreaksOffCounts(t *testing.T) {
	b := newBalancer(Options{MaxFails: 1})
	worker(t, b, "a", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "half")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	resp, err := http.Get(front(t, b))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("the client must see that the response is incomplete, and got %q as if it were whole", body)
	}
	eventually(t, "the upstream that broke off is ejected", func() bool { return upstreamStatus(t, b, "a").Ejected })
}

func TestClientThatHangsUpIsNoFailure(t *testing.T) {
	b := newBalancer(Options{MaxFails: 1})
	started, ended := make(chan struct{}), make(chan struct{})
	worker(t, b, "a", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/stream" {
			_ = http.NewResponseController(w).Flush()
		}
		started <- struct{}{}
		<-r.Context().Done()
		ended <- struct{}{}
	})
	base := front(t, b)
	for _, path := range []string{"/wait", "/stream"} {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			resp, err := http.DefaultTransport.RoundTrip(request(t, http.MethodGet, base+path, nil).WithContext(ctx))
			if err == nil { // the stream has begun
				cancel()
				resp.Body.Close()
			}
		}()
		<-started
		if path == "/wait" {
			cancel()
		}
		<-ended // the hang-up reached the worker
		<-done
	}
	eventually(t, "nothing is in flight", func() bool { return b.Status().InFlight == 0 })
	s := b.Status()
	if up := s.Upstreams[0]; up.Ejected || up.Failures != 0 || up.Requests != 2 {
		t.Errorf("a client's abort must not be held against the upstream nor retried: %+v", up)
	}
	if s.ClientGone != 1 {
		t.Errorf("client_gone is %d, want 1: one hung up before the answer, one during it", s.ClientGone)
	}
}
