package balancer

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestShutdownDoesNotWaitForConnectionsWithoutARequest(t *testing.T) {
	for _, sent := range []string{"", "GET / HTT", "GET / HTTP/1.1\r\nHost: a\r\nX-"} {
		synctest.Test(t, func(t *testing.T) {
			var n pipeNet
			srv := n.serve(t, "a", NewServer(says("a"), quiet()))
			c, err := n.dial(t.Context(), "tcp", "a")
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := io.WriteString(c, sent); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			began := time.Now()
			if err := srv.Shutdown(t.Context()); err != nil {
				t.Fatal(err)
			}
			// net/http looks again after at most half a second.
			if took := time.Since(began); took > time.Second {
				t.Errorf("after %q the shutdown took %v of the bubble's time", sent, took)
			}
		})
	}
}

// A connection that came just before the shutdown may carry a change already.
func TestShutdownAnswersWhatHasJustCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n pipeNet
		ln := n.listen("a")
		srv := NewServer(says("a"), quiet())
		served := make(chan error, 1)
		go func() { served <- srv.Serve(ln) }()
		c, err := n.dial(t.Context(), "tcp", "a")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		synctest.Wait()
		stopped := make(chan error, 1)
		go func() { stopped <- Shutdown(t.Context(), srv, ln) }()
		time.Sleep(shutdownGrace / 2)
		if err := <-served; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Serve returned %v", err)
		}
		if _, err := n.dial(t.Context(), "tcp", "a"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("a new connection: %v", err)
		}
		if _, err := io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatalf("no answer: %v", err)
		}
		if resp.StatusCode != http.StatusOK {
			t.Errorf("answered %s", resp.Status)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
}
