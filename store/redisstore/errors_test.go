package redisstore

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"

	"github.com/coatcheck/coatcheck/store"
	"github.com/redis/rueidis"
)

// reply returns the error that a client makes of text as a server's answer to a
// GET. The server is a line of protocol: which answers a real one gives is tested
// in module integration.
func reply(t *testing.T, text string) error {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go refuse(c, text)
		}
	}()
	client, err := rueidis.NewClient(rueidis.ClientOption{
		InitAddress: []string{l.Addr().String()}, ForceSingleClient: true, DisableCache: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	err = client.Do(t.Context(), client.B().Get().Key("k").Build()).Error()
	if _, ok := rueidis.IsRedisErr(err); !ok {
		t.Fatalf("the client says %v; want the answer %q", err, text)
	}
	return err
}

func refuse(c net.Conn, text string) {
	defer c.Close()
	for lines := bufio.NewScanner(c); lines.Scan(); {
		// How many words, the length of the first, the first.
		if !strings.HasPrefix(lines.Text(), "*") || !lines.Scan() || !lines.Scan() {
			continue
		}
		answer := "+OK\r\n"
		switch lines.Text() {
		case "HELLO":
			answer = "%1\r\n+proto\r\n:3\r\n"
		case "GET":
			answer = "-" + text + "\r\n"
		}
		if _, err := io.WriteString(c, answer); err != nil {
			return
		}
	}
}

// TestAnswersAreExplained: what the server says is passed on with what to do about
// it, and without what it quotes of our arguments, which may be keys.
func TestAnswersAreExplained(t *testing.T) {
	for _, c := range []struct {
		answer string
		want   string
		never  string
	}{
		{"NOAUTH Authentication required.", "put it into the URL", "\x00"},
		{"WRONGPASS invalid username-password pair or user is disabled.", "the user or the password is wrong", "\x00"},
		{"ERR invalid password", "the user or the password is wrong", "\x00"},
		{"NOPERM this user has no permissions to run the 'get' command", "documentation of redisstore", "\x00"},
		{"OOM command not allowed when used memory > 'maxmemory'.", "more memory", "\x00"},
		{"READONLY You can't write against a read only replica.", "connect to the primary", "\x00"},
		{"MISCONF Redis is configured to save RDB snapshots", "see its log", "\x00"},
		{"ERR unknown command 'EVALSHA', with args beginning with: 'hash' '1' 'coatcheck:s:SECRET' ", "unknown command 'EVALSHA'", "SECRET"},
		{"ERR unknown command `EVALSHA`, with args beginning with: `hash`, `1`, `coatcheck:s:SECRET`, ", "unknown command `EVALSHA`", "SECRET"},
		{"ERR Error running script (call to f_0a1b): @user_script:28: @user_script: 28: -READONLY You can't write against a read only replica.", "connect to the primary", "\x00"},
		{"ERR Error running script (call to f_0a1b): @user_script:28: @user_script: 28: -OOM command not allowed when used memory > 'maxmemory'.", "more memory", "\x00"},
		{"ERR Error running script (call to f_0a1b): @user_script:28: @user_script: 28: The user executing the script can't run this command or subcommand", "documentation of redisstore", "\x00"},
		{"ERR The user executing the script can't run this command or subcommand script: 0a1b, on @user_script:1.", "documentation of redisstore", "\x00"},
		{"ERR ACL failure in script: User app has no permissions to run the 'set' command script: 0a1b, on @user_script:4.", "documentation of redisstore", "\x00"},
		{"ERR unknown command 'SENTINEL', with args beginning with: 'GET-MASTER-ADDR-BY-NAME' 'SECRET' ", "this is no Sentinel", "SECRET"},
		{"ERR unknown command `SENTINEL`, with args beginning with: `GET-MASTER-ADDR-BY-NAME`, `SECRET`, ", "this is no Sentinel", "SECRET"},
		{"ERR unknown command 'EVALSHA', with args beginning with: 'hash' ", "redis+sentinel://", "hash"},
		{"ERR No such master with that name", "the path of the URL", "\x00"},
		{"ERR unknown subcommand 'x' with args beginning with: 'SECRET'", "unknown subcommand", "SECRET"},
		{"SOMETHING new", "SOMETHING new", "\x00"},
	} {
		t.Run(c.answer[:8], func(t *testing.T) {
			got := readError(t.Context(), "get", reply(t, c.answer))
			if text := got.Error(); !strings.HasPrefix(text, "redisstore: get: ") || !strings.Contains(text, c.want) || strings.Contains(text, c.never) {
				t.Errorf("%q is passed on as %q; want something with %q and without %q", c.answer, text, c.want, c.never)
			}
			if err := offline(t, nil).writeError(t.Context(), "replace", reply(t, c.answer)); errors.Is(err, store.ErrAmbiguous) {
				t.Errorf("%v; want no ErrAmbiguous, for the server has refused", err)
			}
		})
	}
}

// TestRefusals: what the server has not begun to do is not applied, and what waiting
// does not change is refused.
func TestRefusals(t *testing.T) {
	for answer, want := range map[string]error{
		"OOM command not allowed when used memory > 'maxmemory'.":                                                store.ErrRejected,
		"ERR Error running script (call to f_0a1b): @user_script:28: @user_script: 28: -OOM command not allowed": store.ErrRejected,
		"MISCONF Redis is configured to save RDB snapshots":                                                      store.ErrRejected,
		"NOPERM User app has no permissions to run the 'evalsha' command":                                        store.ErrRejected,
		"READONLY You can't write against a read only replica.":                                                  store.ErrUnapplied,
		"NOREPLICAS Not enough good replicas to write.":                                                          store.ErrUnapplied,
		"NOAUTH Authentication required.":                                                                        store.ErrUnapplied,
		"ERR ACL failure in script: User app has no permissions to run the 'set' command":                        nil,
		"ERR Error running script: of its own":                                                                   nil,
		"SOMETHING new":                                                                                          nil,
	} {
		err := offline(t, nil).writeError(t.Context(), "replace", reply(t, answer))
		if half := offline(t, nil).writeError(t.Context(), "touch", halfDone{reply(t, answer)}); !errors.Is(half, store.ErrAmbiguous) || errors.Is(half, store.ErrUnapplied) {
			t.Errorf("%q to the second of two steps becomes %v; want ErrAmbiguous", answer, half)
		}
		if errors.Is(err, store.ErrUnapplied) != (want != nil) || errors.Is(err, store.ErrRejected) != (want == store.ErrRejected) {
			t.Errorf("%q becomes %v; want %v", answer, err, want)
		}
	}
}

func TestWrongTypeIsDamage(t *testing.T) {
	err := reply(t, "WRONGTYPE Operation against a key holding the wrong kind of value script: 1234, on @user_script:10.")
	s := offline(t, nil)
	for _, got := range []error{readError(t.Context(), "get", err), s.writeError(t.Context(), "touch", err), s.writeError(t.Context(), "touch", halfDone{err})} {
		if !errors.Is(got, store.ErrCorrupt) || errors.Is(got, store.ErrAmbiguous) {
			t.Errorf("a key of another type is %v; want ErrCorrupt", got)
		}
	}
}

// TestOpenOutcomes: only a write that has certainly not reached the server is not
// ambiguous.
func TestOpenOutcomes(t *testing.T) {
	dial := &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	reset := &net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}
	for _, c := range []struct {
		err  error
		open bool
	}{
		{dial, false},
		{fmt.Errorf("wrapped: %w", dial), false},
		{handshakeError{context.DeadlineExceeded}, false},
		{notBegun{context.Canceled}, false},
		{plaintextError("redis.example.com:6379"), false},
		{store.ErrNotFound, false},
		{store.ErrConflict, false},
		{store.ErrCorrupt, false},
		{reset, true},
		{io.EOF, true},
		{context.DeadlineExceeded, true},
		{context.Canceled, true},
		{errAnswer, true},
		{store.ErrUnconfirmed, true},
	} {
		plain := offline(t, nil).writeError(t.Context(), "replace", c.err)
		if got := errors.Is(plain, store.ErrAmbiguous); got != c.open {
			t.Errorf("%v becomes %v: ambiguous %v; want %v", c.err, plain, got, c.open)
		}
		if !errors.Is(plain, c.err) {
			t.Errorf("%v is lost in %v", c.err, plain)
		}
		if got, want := errors.Is(plain, store.ErrUnapplied), !c.open && !isContract(c.err); got != want {
			t.Errorf("%v becomes %v: not applied %v; want %v", c.err, plain, got, want)
		}
		waits := offline(t, &Options{MinReplicas: 1}).writeError(t.Context(), "replace", c.err)
		if got := errors.Is(waits, store.ErrUnconfirmed); got != c.open {
			t.Errorf("with MinReplicas, %v becomes %v: unconfirmed %v; want %v", c.err, waits, got, c.open)
		}
	}
	if offline(t, nil).writeError(t.Context(), "replace", nil) != nil || readError(t.Context(), "get", nil) != nil {
		t.Error("success became an error")
	}
}

func TestAdviceOnConnections(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	seen := map[string]bool{}
	for _, c := range []struct {
		err  error
		want string
	}{
		{x509.UnknownAuthorityError{}, "ca=FILE"},
		{x509.HostnameError{Certificate: &x509.Certificate{}, Host: "redis.example.com"}, "servername=NAME"},
		{x509.CertificateInvalidError{Cert: &x509.Certificate{}, Reason: x509.Expired}, "expired"},
		{tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"}, "does not speak TLS"},
		{&net.OpError{Op: "remote error", Err: tls.AlertError(116)}, "client certificate"},
		{handshakeError{context.DeadlineExceeded}, "has not answered in TLS"},
	} {
		err := readError(t.Context(), "get", fmt.Errorf("client: %w", c.err))
		if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v; want something about %s", err, c.want)
		}
		if seen[err.Error()] {
			t.Errorf("two causes have the same error %v", err)
		}
		seen[err.Error()] = true
	}
	for _, closed := range []error{io.EOF, &net.OpError{Op: "read", Err: syscall.ECONNRESET}, &net.OpError{Op: "write", Err: syscall.EPIPE}} {
		if err := connectError(t.Context(), closed, false); !errors.Is(err, closed) || !strings.Contains(err.Error(), "rediss") {
			t.Errorf("a plaintext connection that is closed at once: %v; want something about TLS", err)
		}
		if err := connectError(t.Context(), closed, true); !errors.Is(err, closed) || !strings.Contains(err.Error(), "client certificate") {
			t.Errorf("a TLS connection that is closed at once: %v; want something about certificates", err)
		}
		if err := readError(t.Context(), "get", closed); strings.Contains(err.Error(), "TLS") {
			t.Errorf("a connection that breaks later: %v; want no advice about TLS, which it had", err)
		}
	}
	if err := readError(ended, "get", io.ErrUnexpectedEOF); !errors.Is(err, context.Canceled) || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%v; want the context's error and the connection's", err)
	}
}
