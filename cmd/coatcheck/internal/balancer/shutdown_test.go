package balancer

import (
	"io"
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
