package balancer

import (
	"errors"
	"io"
	"sync"
	"time"
)

// maxReplay is how much of a request body is remembered for another attempt. http.Transport has read a part of the body into its 4 KiB
// write buffer before it finds that the connection is dead. This is enough for the usual form, and no large body is held in memory.
const maxReplay = 8 << 10

// A replayBody shields the body of an inbound request from the attempts to send it: http.Transport closes the body of a request that
// failed, and ReverseProxy's body cannot be read after that.
type replayBody struct {
	src io.Reader

	mu      sync.Mutex
	head    []byte // what was read so far, if not overrun
	overrun bool
	reading bool
	err     error         // of the client's side
	waited  time.Duration // for the client
}

// attempt returns a view of the body from its start.
func (b *replayBody) attempt() *attemptBody { return &attemptBody{b: b} }

// fresh reports whether another attempt would see the whole body.
func (b *replayBody) fresh() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.overrun && !b.reading && b.err == nil
}

// clientErr is the error that reading from the client met, if any.
func (b *replayBody) clientErr() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

// slowness is how long the client was waited for, in the reads that are over.
func (b *replayBody) slowness() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.waited
}

var errBodyClosed = errors.New("balancer: read of a request body after its attempt ended")

type attemptBody struct {
	b      *replayBody
	off    int
	closed bool // guarded by b.mu
}

// Close ends this view only. It does not wait for a Read: that one waits for the client.
func (a *attemptBody) Close() error {
	a.b.mu.Lock()
	defer a.b.mu.Unlock()
	a.closed = true
	return nil
}

func (a *attemptBody) Read(p []byte) (int, error) {
	b := a.b
	b.mu.Lock()
	if a.closed || b.reading {
		b.mu.Unlock()
		return 0, errBodyClosed
	}
	if a.off < len(b.head) {
		n := copy(p, b.head[a.off:])
		a.off += n
		b.mu.Unlock()
		return n, nil
	}
	b.reading = true
	b.mu.Unlock()

	began := time.Now()
	n, err := b.src.Read(p)

	b.mu.Lock()
	defer b.mu.Unlock()
	b.reading = false
	b.waited += time.Since(began)
	if err != nil && err != io.EOF {
		b.err = err
	}
	switch {
	case b.overrun:
	case len(b.head)+n <= maxReplay:
		b.head = append(b.head, p[:n]...)
		a.off += n
	default:
		b.overrun, b.head, a.off = true, nil, 0
	}
	return n, err
}
