package balancer

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// The servers that the tests run against.

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// newBalancer returns a balancer whose upstreams are ready when they are added.
func newBalancer(opts Options) *Balancer {
	opts.NoHealthChecks = true
	opts.Logger = quiet()
	return New(&opts)
}

func add(tb testing.TB, b *Balancer, name, base string) {
	tb.Helper()
	u, err := url.Parse(base)
	if err != nil {
		tb.Fatal(err)
	}
	if err := b.Add(name, u); err != nil {
		tb.Fatal(err)
	}
}

// worker starts a server and adds it.
func worker(tb testing.TB, b *Balancer, name string, h http.HandlerFunc) *httptest.Server {
	tb.Helper()
	s := httptest.NewServer(h)
	tb.Cleanup(s.Close)
	add(tb, b, name, s.URL)
	return s
}

func says(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, name)
	}
}

// front serves h the way the fleet does, and returns its URL.
func front(tb testing.TB, h http.Handler) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	srv := NewServer(h, quiet())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(Listener(l))
	}()
	tb.Cleanup(func() {
		srv.Close()
		<-done
	})
	return "http://" + l.Addr().String()
}

// closedAddr is the URL of a port that nobody listens on.
func closedAddr(tb testing.TB) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	return "http://" + l.Addr().String()
}

// rawWorker serves each request with handle on the bare connection, which is closed when handle returns false. It counts the requests that
// arrived.
func rawWorker(tb testing.TB, handle func(n int64, r *http.Request, c net.Conn) bool) (base string, delivered *atomic.Int64) {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	delivered = new(atomic.Int64)
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				defer context.AfterFunc(ctx, func() { c.Close() })()
				br := bufio.NewReader(c)
				for {
					r, err := http.ReadRequest(br)
					if err != nil {
						return
					}
					_, _ = io.Copy(io.Discard, r.Body)
					if !handle(delivered.Add(1), r, c) {
						return
					}
				}
			})
		}
	})
	tb.Cleanup(func() {
		cancel()
		l.Close()
		wg.Wait()
	})
	return "http://" + l.Addr().String(), delivered
}

// reset ends a connection with RST instead of FIN.
func reset(c net.Conn) {
	_ = c.(*net.TCPConn).SetLinger(0)
	c.Close()
}

const okResponse = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

type answer struct {
	status int
	header http.Header
	body   string
}

// roundTrip is for goroutines other than the test's, which must not call Fatal.
func roundTrip(req *http.Request) (answer, error) {
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(body)}, err
}

func do(tb testing.TB, req *http.Request) answer {
	tb.Helper()
	a, err := roundTrip(req)
	if err != nil {
		tb.Fatalf("%s: %v", req.Method, err)
	}
	return a
}

func request(tb testing.TB, method, url string, body io.Reader) *http.Request {
	tb.Helper()
	req, err := http.NewRequestWithContext(tb.Context(), method, url, body)
	if err != nil {
		tb.Fatal(err)
	}
	return req
}

func get(tb testing.TB, url string) answer {
	tb.Helper()
	return do(tb, request(tb, http.MethodGet, url, nil))
}

// eventually polls, for what only a real kernel or server decides.
func eventually(tb testing.TB, what string, cond func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if cond() {
			return
		}
		if time.Now().After(deadline) {
			tb.Fatalf("never happened: %s", what)
		}
	}
}

func upstreamStatus(tb testing.TB, b *Balancer, name string) UpstreamStatus {
	tb.Helper()
	for _, up := range b.Status().Upstreams {
		if up.Name == name {
			return up
		}
	}
	tb.Fatalf("no upstream %q in the status", name)
	return UpstreamStatus{}
}

// A pipeNet is a network without a kernel, for tests whose time is testing/synctest's.
type pipeNet struct {
	mu        sync.Mutex
	listeners map[string]*pipeListener
}

func (n *pipeNet) listen(addr string) *pipeListener {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := &pipeListener{net: n, addr: addr, conns: make(chan net.Conn), closed: make(chan struct{})}
	if n.listeners == nil {
		n.listeners = map[string]*pipeListener{}
	}
	n.listeners[addr] = l
	return l
}

func (n *pipeNet) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	addr = strings.TrimSuffix(addr, ":80")
	n.mu.Lock()
	l := n.listeners[addr]
	n.mu.Unlock()
	refused := &net.OpError{Op: "dial", Net: "pipe", Err: syscall.ECONNREFUSED}
	if l == nil {
		return nil, refused
	}
	client, server := net.Pipe()
	select {
	case l.conns <- server:
		return client, nil
	case <-l.closed:
		return nil, refused
	case <-ctx.Done():
		return nil, &net.OpError{Op: "dial", Net: "pipe", Err: context.Cause(ctx)}
	}
}

// serve runs h at addr; the server's Close makes dialing fail.
func (n *pipeNet) serve(tb testing.TB, addr string, srv *http.Server) *http.Server {
	l := n.listen(addr)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := srv.Serve(Listener(l)); !errors.Is(err, http.ErrServerClosed) {
			tb.Error(err)
		}
	}()
	tb.Cleanup(func() {
		srv.Close()
		<-done
	})
	return srv
}

type pipeListener struct {
	net    *pipeNet
	addr   string
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() {
		close(l.closed)
		l.net.mu.Lock()
		defer l.net.mu.Unlock()
		if l.net.listeners[l.addr] == l {
			delete(l.net.listeners, l.addr)
		}
	})
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: l.addr, Net: "pipe"} }
