package balancer

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

func TestFailedDialGoesToAnotherUpstream(t *testing.T) {
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodDelete, http.MethodPut} {
		t.Run(method, func(t *testing.T) {
			b := newBalancer(Options{})
			add(t, b, "dead-1", closedAddr(t))
			add(t, b, "dead-2", closedAddr(t))
			worker(t, b, "live", func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body) // all of it first: HTTP/1 servers do not write while they read
				_, _ = w.Write(body)
			})
			var body io.Reader
			want := ""
			if method == http.MethodPost || method == http.MethodPut {
				// Larger than what is remembered: nothing of it is read before the connection stands.
				want = strings.Repeat("coat", 100_000)
				body = strings.NewReader(want)
			}
			a := do(t, request(t, method, front(t, b), body))
			if a.status != http.StatusOK || a.body != want {
				t.Errorf("a request that reached no upstream must go to another whole: status %d, %d bytes of %d", a.status, len(a.body), len(want))
			}
			if s := b.Status(); s.Retries != 2 || s.Unrepeatable != 0 {
				t.Errorf("status %+v, want 2 retries", s)
			}
		})
	}
}

func TestBrokenConnectionOfASafeRequestIsRetried(t *testing.T) {
	for name, end := range map[string]func(net.Conn){
		"FIN":       func(net.Conn) {},
		"RST":       reset,
		"truncated": func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Le") },
		"in the body": func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 65536\r\n\r\n"+strings.Repeat("x", 65535))
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBalancer(Options{})
			base, delivered := rawWorker(t, func(_ int64, _ *http.Request, c net.Conn) bool {
				end(c)
				return false
			})
			add(t, b, "breaks", base)
			worker(t, b, "live", says("live"))
			if a := get(t, front(t, b)); a.body != "live" {
				t.Errorf("GET: %d %q, want the answer of the other upstream", a.status, a.body)
			}
			if delivered.Load() != 1 {
				t.Errorf("delivered %d times to the upstream that breaks, want 1", delivered.Load())
			}
		})
	}
}

// A page is more than one write of its worker, which may be killed between two.
func TestAnswerThatBreaksOffIsNotPassedOnInPart(t *testing.T) {
	half := func(head string) func(int64, *http.Request, net.Conn) bool {
		return func(_ int64, _ *http.Request, c net.Conn) bool {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n"+head+"\r\n\r\n4\r\nhalf\r\n")
			return false
		}
	}
	t.Run("of an unsafe request", func(t *testing.T) {
		b := newBalancer(Options{})
		base, delivered := rawWorker(t, half("Content-Length: 20"))
		add(t, b, "breaks", base)
		var reached atomic.Int64
		worker(t, b, "other", func(http.ResponseWriter, *http.Request) { reached.Add(1) })
		a := do(t, request(t, http.MethodPost, front(t, b), strings.NewReader("qty=1")))
		if a.status != http.StatusBadGateway || a.header.Get(UnrepeatableHeader) != "1" {
			t.Errorf("status %d, %s %q; want 502 and 1", a.status, UnrepeatableHeader, a.header.Get(UnrepeatableHeader))
		}
		if delivered.Load() != 1 || reached.Load() != 0 {
			t.Errorf("delivered %d times, and %d times to another", delivered.Load(), reached.Load())
		}
		if s := b.Status(); s.Unrepeatable != 1 {
			t.Errorf("unrepeatable is %d, want 1", s.Unrepeatable)
		}
	})
	// What may be a stream, or is long, has begun: the client must see that the rest is missing.
	for name, head := range map[string]string{
		"of a stream":      "Transfer-Encoding: chunked",
		"of a long answer": "Content-Length: 65537",
	} {
		t.Run(name, func(t *testing.T) {
			b := newBalancer(Options{})
			base, _ := rawWorker(t, half(head))
			add(t, b, "breaks", base)
			a, err := roundTrip(request(t, http.MethodGet, front(t, b), nil))
			if err == nil {
				t.Errorf("a part of an answer was passed on as a whole: %d %q", a.status, a.body)
			}
			eventually(t, "the failure counts", func() bool { return upstreamStatus(t, b, "breaks").Failures == 1 })
		})
	}
}

func TestHeadHasALengthAndNoBody(t *testing.T) {
	b := newBalancer(Options{})
	worker(t, b, "a", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", "7") })
	a := do(t, request(t, http.MethodHead, front(t, b), nil))
	if a.status != http.StatusOK || a.header.Get("Content-Length") != "7" || a.body != "" {
		t.Errorf("%d, Content-Length %q, body %q", a.status, a.header.Get("Content-Length"), a.body)
	}
}

func TestSafeRequestThatCrashesItsServersIsNotShownToAll(t *testing.T) {
	b := newBalancer(Options{})
	var seen atomic.Int64
	for _, name := range []string{"a", "b", "c", "d", "e", "f"} {
		worker(t, b, name, func(http.ResponseWriter, *http.Request) {
			seen.Add(1)
			panic(http.ErrAbortHandler)
		})
	}
	if a := get(t, front(t, b)); a.status != http.StatusBadGateway || a.header.Get(UnrepeatableHeader) != "" {
		t.Errorf("status %d, %s %q; want 502 without it", a.status, UnrepeatableHeader, a.header.Get(UnrepeatableHeader))
	}
	if seen.Load() != maxBroken {
		t.Errorf("%d servers were asked, want %d", seen.Load(), maxBroken)
	}
}

func TestSafeRequestSurvivesAFleetThatIsKilledAtOnce(t *testing.T) {
	b := newBalancer(Options{})
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		base, _ := rawWorker(t, func(_ int64, _ *http.Request, c net.Conn) bool {
			reset(c) // as the kernel does for who dies before it has read
			return false
		})
		add(t, b, name, base)
	}
	worker(t, b, "f", says("f"))
	if a := get(t, front(t, b)); a.status != http.StatusOK || a.body != "f" {
		t.Errorf("%d %q, want the answer of the one that lives", a.status, a.body)
	}
}

func TestUnsafeRequestIsNeverDeliveredTwice(t *testing.T) {
	key := func(r *http.Request) { r.Header.Set("Idempotency-Key", "k") }
	for name, c := range map[string]struct {
		method string
		body   string
		mod    func(*http.Request)
	}{
		"POST":                {http.MethodPost, "qty=1", nil},
		"POST without a body": {http.MethodPost, "", nil},
		"POST without a body and Idempotency-Key":      {http.MethodPost, "", key},
		"DELETE and Idempotency-Key":                   {http.MethodDelete, "", key},
		"POST without a body and X-Idempotency-Key":    {http.MethodPost, "", func(r *http.Request) { r.Header.Set("X-Idempotency-Key", "k") }},
		"PUT, which is idempotent but not known to be": {http.MethodPut, "x", nil},
		"GET with a body":                              {http.MethodGet, "query", nil},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBalancer(Options{})
			// The first request leaves a connection in the pool: http.Transport replays on reused ones only.
			keys := make(chan string, 10)
			base, delivered := rawWorker(t, func(n int64, r *http.Request, c net.Conn) bool {
				if n == 1 {
					_, _ = io.WriteString(c, okResponse)
					return true
				}
				keys <- r.Header.Get("Idempotency-Key") + r.Header.Get("X-Idempotency-Key")
				return false
			})
			add(t, b, "breaks", base)
			other := front(t, b)
			get(t, other)
			var reached atomic.Int64
			worker(t, b, "other", func(http.ResponseWriter, *http.Request) { reached.Add(1) })
			b.mu.Lock()
			b.next = 0 // its turn again
			b.mu.Unlock()

			var body io.Reader
			if c.body != "" {
				body = io.NopCloser(strings.NewReader(c.body)) // the test's own client must not replay either
			}
			req := request(t, c.method, other, body)
			if c.mod != nil {
				c.mod(req)
			}
			// A client without a pool, for the same reason.
			tr := &http.Transport{DisableKeepAlives: true}
			resp, err := tr.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusBadGateway || resp.Header.Get(UnrepeatableHeader) != "1" {
				t.Errorf("status %d, %s %q; want 502 and 1", resp.StatusCode, UnrepeatableHeader, resp.Header.Get(UnrepeatableHeader))
			}
			if n := delivered.Load() - 1 + reached.Load(); n != 1 {
				t.Errorf("the request was delivered %d times", n)
			}
			if key := <-keys; c.mod != nil && key != "k" {
				t.Errorf("the worker must still see the key: %q", key)
			}
			if s := b.Status(); s.Unrepeatable != 1 {
				t.Errorf("unrepeatable is %d, want 1", s.Unrepeatable)
			}
		})
	}
}

// A dyingConn refuses writes once it is told to, as a socket does after a RST: nothing leaves.
type dyingConn struct {
	net.Conn
	dead *atomic.Bool
}

func (c *dyingConn) Write(p []byte) (int, error) {
	if c.dead.Load() {
		return 0, &net.OpError{Op: "write", Net: "tcp", Err: syscall.EPIPE}
	}
	return c.Conn.Write(p)
}

func TestDeadPooledConnectionDoesNotFailARequest(t *testing.T) {
	for _, body := range []string{"", "qty=1&sku=apple"} {
		t.Run("body of "+body, func(t *testing.T) {
			b := newBalancer(Options{})
			var dials atomic.Int64
			dead := new(atomic.Bool)
			direct := b.dial
			b.dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
				c, err := direct(ctx, network, addr)
				if err != nil || dials.Add(1) > 1 {
					return c, err
				}
				return &dyingConn{c, dead}, nil
			}
			worker(t, b, "only", func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
			base := front(t, b)
			get(t, base)
			dead.Store(true)
			var rd io.Reader
			if body != "" {
				rd = strings.NewReader(body)
			}
			if a := do(t, request(t, http.MethodPost, base, rd)); a.status != http.StatusOK || a.body != body {
				t.Errorf("a request of which no byte left must be sent again: status %d, body %q", a.status, a.body)
			}
			if dials.Load() != 2 {
				t.Errorf("%d connections, want the dead one and a new one", dials.Load())
			}
			if s := b.Status(); s.Unrepeatable != 0 || s.Upstreams[0].Ejected {
				t.Errorf("an upstream with an old connection is no failing one: %+v", s)
			}
		})
	}
}

func TestHungUpSeesWhatTheTransportHasNotReadYet(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	c := &conn{Conn: raw}
	if c.hungUp() {
		t.Error("an idle connection is not dead")
	}
	server.Close()
	if !peekSupported {
		t.Skip("this system cannot peek")
	}
	eventually(t, "the end of the connection is seen", c.hungUp)
}

// A deafConn does not hear that the other side has hung up, like http.Transport before its reading goroutine gets its turn.
type deafConn struct {
	*net.TCPConn
	closed chan struct{}
	once   sync.Once
}

func (c *deafConn) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	if err != nil {
		<-c.closed
		return 0, net.ErrClosed
	}
	return n, nil
}

func (c *deafConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.TCPConn.Close()
}

func TestRequestIsNotWrittenToAnUpstreamThatHungUp(t *testing.T) {
	if !peekSupported {
		t.Skip("this system cannot peek")
	}
	b := newBalancer(Options{})
	conns := make(chan net.Conn, 10)
	direct := b.dial
	b.dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := direct(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		deaf := &deafConn{TCPConn: c.(*net.TCPConn), closed: make(chan struct{})}
		conns <- deaf
		return deaf, nil
	}
	base, delivered := rawWorker(t, func(_ int64, _ *http.Request, c net.Conn) bool {
		_, _ = io.WriteString(c, okResponse)
		return false // without having said so
	})
	add(t, b, "a", base)
	visitor := front(t, b)
	for i, body := range []io.Reader{nil, strings.NewReader("form")} {
		get(t, visitor)
		eventually(t, "the pooled connection's end has arrived", (&conn{Conn: <-conns}).hungUp)
		if a := do(t, request(t, http.MethodPost, visitor, body)); a.status != http.StatusOK {
			t.Errorf("a POST on a pooled connection that is known to be dead failed: %d", a.status)
		}
		if n := delivered.Load(); n != int64(2*i+2) {
			t.Errorf("%d requests were delivered, want %d", n, 2*i+2)
		}
		eventually(t, "the second connection's end has arrived", (&conn{Conn: <-conns}).hungUp)
		b.ring[0].transport.CloseIdleConnections()
	}
}

func TestHungUpDoesNotWaitForTheTransportsReader(t *testing.T) {
	b := newBalancer(Options{})
	worker(t, b, "a", says("a"))
	base := front(t, b)
	for range 3 { // the second one peeks at a pooled connection that has a reader
		do(t, request(t, http.MethodPost, base, nil))
	}
}

func TestSlowAnswerIsATimeoutAndNoReasonToRepeat(t *testing.T) {
	b := newBalancer(Options{ResponseHeaderTimeout: 1})
	release := make(chan struct{})
	var seen atomic.Int64
	for _, name := range []string{"a", "b"} {
		worker(t, b, name, func(http.ResponseWriter, *http.Request) {
			seen.Add(1)
			<-release
		})
	}
	defer close(release)
	a := do(t, request(t, http.MethodPost, front(t, b), nil))
	if a.status != http.StatusGatewayTimeout || a.header.Get(UnrepeatableHeader) != "1" {
		t.Errorf("status %d, %s %q; want 504 and 1", a.status, UnrepeatableHeader, a.header.Get(UnrepeatableHeader))
	}
	if s := b.Status(); s.Retries != 0 || s.Upstreams[0].Failures != 0 {
		t.Errorf("a slow answer is no broken connection: %+v", s)
	}
}

func TestWhatIsNoHTTPIsNeitherRetriedNorEjected(t *testing.T) {
	b := newBalancer(Options{})
	hold := make(chan struct{})
	defer close(hold)
	base, _ := rawWorker(t, func(_ int64, _ *http.Request, c net.Conn) bool {
		_, _ = io.WriteString(c, "+OK secret-of-the-worker\r\n\r\n")
		<-hold
		return false
	})
	add(t, b, "pop3", base)
	a := get(t, front(t, b))
	if a.status != http.StatusBadGateway || strings.Contains(a.body, "secret") {
		t.Errorf("%d %q, want a 502 that tells nothing", a.status, a.body)
	}
	if s := upstreamStatus(t, b, "pop3"); s.Failures != 0 {
		t.Errorf("%+v: no connection failed", s)
	}
}
