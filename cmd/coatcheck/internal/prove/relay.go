package prove

import (
	"io"
	"net"
	"strconv"
	"sync"
	"time"
)

// A relay is between the servers and their store, and does to it what a store may do
// itself: it breaks all connections and takes none for a while, as one that restarts, or
// answers late. Its methods are safe for concurrent use.
type relay struct {
	ln     net.Listener
	target string
	wg     sync.WaitGroup

	mu     sync.Mutex
	conns  map[*net.TCPConn]struct{} // of both sides
	down   bool
	late   time.Duration
	closed bool
}

// newRelay returns a relay to the target, of which close must be called.
func newRelay(target string) (*relay, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &relay{ln: ln, target: target, conns: map[*net.TCPConn]struct{}{}}
	r.wg.Go(r.accept)
	return r, nil
}

func (r *relay) addr() string { return r.ln.Addr().String() }

func (r *relay) port() string { return strconv.Itoa(r.ln.Addr().(*net.TCPAddr).Port) }

// close breaks everything and waits for its end.
func (r *relay) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	_ = r.ln.Close()
	r.setDown(true)
	r.wg.Wait()
}

// setDown breaks all connections and from then on each new one at once, or ends that.
func (r *relay) setDown(down bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down = down
	if down {
		for c := range r.conns {
			reset(c)
		}
	}
}

// setLate makes each answer arrive later by so much.
func (r *relay) setLate(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.late = d
}

func (r *relay) lateness() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.late
}

// reset ends a connection as one whose other side is gone.
func reset(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}

func (r *relay) accept() {
	for {
		c, err := r.ln.Accept()
		r.mu.Lock()
		closed := r.closed
		r.mu.Unlock()
		switch {
		case closed:
			if err == nil {
				reset(c.(*net.TCPConn))
			}
			return
		case err != nil: // out of files, perhaps: the servers try again, too
			time.Sleep(10 * time.Millisecond)
		default:
			r.wg.Go(func() { r.serve(c.(*net.TCPConn)) })
		}
	}
}

// keep notes a connection; false if it is broken instead.
func (r *relay) keep(c *net.TCPConn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down {
		reset(c)
		return false
	}
	r.conns[c] = struct{}{}
	return true
}

func (r *relay) forget(c *net.TCPConn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, c)
	_ = c.Close() // again, where it was reset
}

func (r *relay) serve(server *net.TCPConn) {
	if !r.keep(server) {
		return
	}
	defer r.forget(server)
	dialed, err := net.DialTimeout("tcp", r.target, time.Second)
	if err != nil {
		reset(server)
		return
	}
	store := dialed.(*net.TCPConn)
	if !r.keep(store) {
		return
	}
	defer r.forget(store)
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = io.Copy(store, server)
		_ = store.CloseWrite()
	})
	r.answer(server, store)
	_ = server.CloseWrite()
	wg.Wait()
}

// A piece is a part of an answer and when it is due.
type piece struct {
	data []byte
	due  time.Time
}

// answer copies what the store says. Each piece waits by itself, so that those on their way
// may be many.
func (r *relay) answer(server, store *net.TCPConn) {
	pieces := make(chan piece, 64)
	var wg sync.WaitGroup
	wg.Go(func() {
		for p := range pieces {
			time.Sleep(time.Until(p.due))
			if _, err := server.Write(p.data); err != nil {
				reset(store) // which ends the reading, too
			}
		}
	})
	for {
		buf := make([]byte, 16<<10)
		n, err := store.Read(buf)
		if n > 0 {
			pieces <- piece{buf[:n], time.Now().Add(r.lateness())}
		}
		if err != nil {
			break
		}
	}
	close(pieces)
	wg.Wait()
}
