package redisstore

import (
	"net"
	"runtime"
	"sync/atomic"
	"testing"
)

// written tells how many of the others had run when the connection was written to.
type written struct {
	net.Conn
	others *atomic.Int64
	seen   int64
}

func (w *written) Write(b []byte) (int, error) {
	w.seen = w.others.Load()
	return len(b), nil
}

// What is ready to send a command when the client begins to write does so first.
func TestWritesYield(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	const tries, ready = 100, 10
	all := 0
	for range tries {
		var others atomic.Int64
		for range ready {
			go others.Add(1)
		}
		under := &written{others: &others}
		if _, err := (yieldingConn{under}).Write([]byte("PING")); err != nil {
			t.Fatal(err)
		}
		if under.seen == ready {
			all++
		}
	}
	// Go's scheduler serves who has yielded out of turn now and then, so that nobody
	// waits for ever.
	if all < tries/2 {
		t.Errorf("the write was before others that were ready in %d of %d tries", tries-all, tries)
	}
}
