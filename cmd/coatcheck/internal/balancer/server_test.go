package balancer

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// slowNet serves h at the balancer's front, in a synctest bubble, and dials it.
func slowNet(t *testing.T, h http.Handler) (net.Conn, *bufio.Reader) {
	t.Helper()
	var n pipeNet
	n.serve(t, "front", NewServer(h, quiet()))
	c, err := n.dial(t.Context(), "pipe", "front")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, bufio.NewReader(c)
}

func TestSlowHeadersAreCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, br := slowNet(t, says("unreachable"))
		began := time.Now()
		fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: h\r\n")
		done := make(chan struct{})
		go func() { // a header now and then, as slowloris does
			defer close(done)
			for i := range 1000 {
				time.Sleep(3 * time.Second)
				if _, err := fmt.Fprintf(c, "X-%d: y\r\n", i); err != nil {
					return
				}
			}
		}()
		_, _ = io.Copy(io.Discard, br)
		if took := time.Since(began); took != 10*time.Second {
			t.Errorf("the connection was cut after %v, want 10s", took)
		}
		<-done
	})
}

func TestIdleConnectionsAreClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, br := slowNet(t, says("hello"))
		fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		if _, err := readResponse(br); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		_, _ = io.Copy(io.Discard, br)
		if took := time.Since(began); took != 2*time.Minute {
			t.Errorf("an idle connection was closed after %v, want 2m", took)
		}
	})
}

func TestLargeHeadersAreRefused(t *testing.T) {
	base := front(t, says("hello"))
	req := request(t, http.MethodGet, base, nil)
	req.Header.Set("X-Large", strings.Repeat("x", 60<<10))
	if a := do(t, req); a.status != http.StatusOK {
		t.Errorf("60 KiB of headers: status %d", a.status)
	}
	req.Header.Set("X-Large", strings.Repeat("x", 80<<10))
	if a := do(t, req); a.status != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("80 KiB of headers: status %d, want 431", a.status)
	}
}

func TestLongEventStreamIsNotCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // a stream may be asked for with a POST, whose body had a deadline
			w.Header().Set("Content-Type", "text/event-stream")
			for i := range 4 {
				fmt.Fprintf(w, "%d\n", i)
				_ = http.NewResponseController(w).Flush()
				select {
				case <-time.After(time.Hour):
				case <-r.Context().Done():
					return
				}
			}
		})
		for _, head := range []string{"GET / HTTP/1.1\r\nHost: h\r\n\r\n", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\ncoat"} {
			c, br := slowNet(t, h)
			fmt.Fprint(c, head)
			body, err := readResponse(br)
			if err != nil || body != "0\n1\n2\n3\n" {
				t.Errorf("%.4s: a stream that is silent for hours must live: got %q, %v", head, body, err)
			}
			c.Close()
		}
	})
}

func TestSlowUploads(t *testing.T) {
	for name, c := range map[string]struct {
		chunk int
		every time.Duration
		want  error
	}{
		"a slow line":          {4 << 10, 10 * time.Second, nil},
		"a pause, then more":   {16 << 10, 29 * time.Second, nil},
		"a byte now and then":  {1, 10 * time.Second, errCut},
		"nothing after a part": {1 << 20, time.Hour, errCut},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				got := make(chan error, 1)
				conn, _ := slowNet(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					_, err := io.Copy(io.Discard, r.Body)
					got <- err
				}))
				const chunks = 60
				fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n", chunks*c.chunk)
				done := make(chan struct{})
				go func() {
					defer close(done)
					for range chunks {
						if _, err := conn.Write(make([]byte, c.chunk)); err != nil {
							return
						}
						time.Sleep(c.every)
					}
				}()
				if err := <-got; (err == nil) != (c.want == nil) {
					t.Errorf("the upload ended with %v, want %v", err, c.want)
				}
				conn.Close()
				<-done
			})
		})
	}
}

var errCut = errors.New("a cut")

func TestSlowUpstreamIsNotTheClientsFault(t *testing.T) {
	for name, set := range map[string]func(*http.Protocols){
		"HTTP/1": func(p *http.Protocols) { p.SetHTTP1(true) },
		"HTTP/2": func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var n pipeNet
				protocols := new(http.Protocols)
				set(protocols)
				pr, pw := io.Pipe()
				srv := NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					defer pw.Close()
					var one [1]byte
					for range 5 {
						go func() { _, _ = pw.Write([]byte("x")) }()
						if _, err := io.ReadFull(r.Body, one[:]); err != nil {
							w.WriteHeader(http.StatusRequestTimeout)
							return
						}
						time.Sleep(time.Minute) // the worker takes its time
					}
				}), quiet())
				srv.Protocols = protocols
				n.serve(t, "front", srv)
				tr := &http.Transport{DialContext: n.dial, Protocols: protocols}
				defer tr.CloseIdleConnections()
				req := request(t, http.MethodPost, "http://front/", pr)
				resp, err := tr.RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				if resp.StatusCode != http.StatusOK {
					t.Errorf("the time that a worker takes between two reads was held against the client: status %d", resp.StatusCode)
				}
			})
		})
	}
}

func TestSlowReaders(t *testing.T) {
	const size = 1 << 20
	for name, c := range map[string]struct {
		chunk int
		every time.Duration
		whole bool
	}{
		"a slow line":      {16 << 10, 10 * time.Second, true},
		"does not read":    {0, time.Minute, false},
		"a byte at a time": {1, 10 * time.Second, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ended := make(chan error, 1)
				conn, _ := slowNet(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					_, err := w.Write(make([]byte, size))
					ended <- err
				}))
				fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
				done, stop := make(chan struct{}), make(chan struct{})
				go func() {
					defer close(done)
					if c.chunk == 0 {
						return
					}
					buf := make([]byte, c.chunk)
					for {
						if _, err := conn.Read(buf); err != nil { // without a buffer that reads ahead
							return
						}
						select {
						case <-time.After(c.every):
						case <-stop:
							return
						}
					}
				}()
				select {
				case err := <-ended:
					if (err == nil) != c.whole {
						t.Errorf("the write of the response ended with %v; want it whole: %v", err, c.whole)
					}
				case <-time.After(10 * time.Hour):
					t.Error("a client that does not read holds its connection for ever")
				}
				close(stop)
				conn.Close()
				<-done
			})
		})
	}
}

func TestSlowConnKeepsDeadlinesOfItsUsers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, server := net.Pipe()
		c := &slowConn{Conn: server}
		began := time.Now()
		if err := c.SetWriteDeadline(began.Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write([]byte("nobody reads"))
		if took := time.Since(began); took != time.Second {
			t.Errorf("the write ended after %v, want the user's deadline of 1s", took)
		}
		if err := c.SetDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		began = time.Now()
		_, _ = c.Write([]byte("nobody reads"))
		if took := time.Since(began); took != slowGrace {
			t.Errorf("the write ended after %v, want %v", took, slowGrace)
		}
	})
}

func readResponse(br *bufio.Reader) (string, error) {
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}
