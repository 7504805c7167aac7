package balancer

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"sync"
	"syscall"
	"testing"
)

// lateListener accepts nothing before the kernel was told to queue no more for it.
type lateListener struct {
	*net.TCPListener
	told chan struct{}
	once sync.Once
}

func (l *lateListener) Accept() (net.Conn, error) {
	<-l.told
	return l.TCPListener.Accept()
}

func (l *lateListener) SyscallConn() (syscall.RawConn, error) {
	defer l.once.Do(func() { close(l.told) })
	return l.TCPListener.SyscallConn()
}

func (l *lateListener) Close() error {
	err := l.TCPListener.Close()
	l.once.Do(func() { close(l.told) })
	return err
}

// A server that is too busy to accept has changes in the kernel's queue when it stops.
func TestShutdownAnswersWhatTheKernelHasTaken(t *testing.T) {
	// There are 30 ms for it, which a busy machine may take longer than.
	for range 20 {
		if answersWhatWaits(t) {
			return
		}
	}
	t.Error("of 20 servers that stopped none has answered what the kernel had taken")
}

func answersWhatWaits(t *testing.T) bool {
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln := &lateListener{TCPListener: tcp.(*net.TCPListener), told: make(chan struct{})}
	srv := NewServer(says("a"), quiet())
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	var conns []net.Conn
	for range 5 {
		conn, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
	}
	if err := Shutdown(t.Context(), srv, ln); err != nil {
		t.Error(err)
	}
	<-served
	for _, conn := range conns {
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || resp.StatusCode != http.StatusOK {
			return false
		}
		resp.Body.Close()
	}
	return true
}
