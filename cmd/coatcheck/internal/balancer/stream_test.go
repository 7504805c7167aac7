package balancer

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"testing"
)

// upgrade is a worker that speaks a protocol of its own after the handshake: it echoes lines.
func upgrade(w http.ResponseWriter, r *http.Request) {
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		http.Error(w, "no upgrade", http.StatusBadRequest)
		return
	}
	c, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	defer c.Close()
	_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	_ = rw.Flush()
	for {
		line, err := rw.ReadString('\n')
		if err != nil {
			_, _ = rw.WriteString("bye\n") // the client's half-close arrived as one
			_ = rw.Flush()
			return
		}
		_, _ = rw.WriteString("echo " + line)
		_ = rw.Flush()
	}
}

func dialUpgrade(t *testing.T, base, protocol string) (net.Conn, *bufio.Reader, *http.Response) {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	fmt.Fprintf(c, "GET /ws HTTP/1.1\r\nHost: shop.test\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", protocol)
	br := bufio.NewReader(c)
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c, br, resp
}

func say(t *testing.T, c net.Conn, br *bufio.Reader, line string) string {
	t.Helper()
	if _, err := io.WriteString(c, line+"\n"); err != nil {
		t.Fatal(err)
	}
	got, err := br.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(got)
}

func TestWebSocketPassesThroughAndHoldsADrain(t *testing.T) {
	b := newBalancer(Options{})
	worker(t, b, "a", upgrade)
	base := front(t, b)
	c, br, resp := dialUpgrade(t, base, "websocket")
	if resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("status %d", resp.StatusCode)
	}
	for _, line := range []string{"one", "two"} {
		if got := say(t, c, br, line); got != "echo "+line {
			t.Errorf("got %q", got)
		}
	}

	drained := make(chan error, 1)
	go func() { drained <- b.Drain(t.Context(), "a") }()
	eventually(t, "it drains", func() bool { return upstreamStatus(t, b, "a").State == Draining })
	if got := say(t, c, br, "still here"); got != "echo still here" {
		t.Errorf("a WebSocket must live on while its upstream drains: %q", got)
	}
	select {
	case err := <-drained:
		t.Fatalf("the drain ended (%v) with a WebSocket open", err)
	default:
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if rest, _ := io.ReadAll(br); string(rest) != "bye\n" {
		t.Errorf("after the client's half-close the other half must go on: got %q", rest)
	}
	if err := <-drained; err != nil {
		t.Error(err)
	}
}

func TestOnlyWebSocketsAreUpgraded(t *testing.T) {
	b := newBalancer(Options{})
	worker(t, b, "a", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%q %q", r.Header.Get("Upgrade"), r.Header.Get("Connection"))
	})
	_, _, resp := dialUpgrade(t, front(t, b), "h2c")
	body, _ := io.ReadAll(resp.Body)
	if string(body) != `"" ""` {
		t.Errorf("an upgrade to h2c would be a tunnel past the balancer; the worker saw %s", body)
	}
}

func TestEventStreamIsFlushedAtOnceAndHoldsADrain(t *testing.T) {
	b := newBalancer(Options{})
	events := make(chan string)
	worker(t, b, "a", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
		_ = http.NewResponseController(w).Flush()
		for e := range events {
			fmt.Fprintf(w, "data: %s\n\n", e)
			_ = http.NewResponseController(w).Flush()
		}
	})
	worker(t, b, "b", says("b"))
	base := front(t, b)
	resp, err := http.Get(base) // returns before the first event: the headers came at once
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	br := bufio.NewReader(resp.Body)
	next := func() string {
		t.Helper()
		line, err := br.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		_, _ = br.ReadString('\n')
		return strings.TrimSpace(line)
	}
	events <- "one"
	if got := next(); got != "data: one" { // hangs if it is not flushed
		t.Errorf("got %q", got)
	}

	expired, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Drain(expired, "a"); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "1 requests") {
		t.Errorf("a drain whose context ends must say so and how many are left: %v", err)
	}
	for range 3 {
		if a := get(t, base); a.body != "b" {
			t.Errorf("a draining upstream got a new request: %d %q", a.status, a.body)
		}
	}
	events <- "two"
	if got := next(); got != "data: two" {
		t.Errorf("got %q", got)
	}
	drained := make(chan error, 1)
	go func() { drained <- b.Drain(t.Context(), "a") }()
	close(events)
	if err := <-drained; err != nil {
		t.Error(err)
	}
	if up := upstreamStatus(t, b, "a"); up.InFlight != 0 || up.State != Draining {
		t.Errorf("after the drain: %+v", up)
	}
}

func TestDrainOfAnIdleUpstreamEndsAtOnce(t *testing.T) {
	b := newBalancer(Options{})
	worker(t, b, "a", says("a"))
	if err := b.Drain(t.Context(), "a"); err != nil {
		t.Error(err)
	}
	if err := b.Drain(t.Context(), "a"); err != nil {
		t.Errorf("a second drain: %v", err)
	}
	if err := b.MarkDead("a"); err != nil {
		t.Errorf("dead after its drain: %v", err)
	}
}

func TestLargeUploadIsStreamed(t *testing.T) {
	b := newBalancer(Options{})
	first := make(chan struct{})
	worker(t, b, "a", func(w http.ResponseWriter, r *http.Request) {
		h := sha256.New()
		var one [1]byte
		_, _ = io.ReadFull(r.Body, one[:])
		_, _ = h.Write(one[:])
		close(first) // the client sends the rest only now
		n, err := io.Copy(h, r.Body)
		fmt.Fprintf(w, "%d %v %x", n+1, err, h.Sum(nil))
	})
	chunk := bytes.Repeat([]byte("coatcheck"), 100_000)
	const chunks = 40
	pr, pw := io.Pipe()
	go func() {
		_, _ = pw.Write(chunk)
		<-first // hangs if the body is collected before it is passed on
		for range chunks - 1 {
			_, _ = pw.Write(chunk)
		}
		pw.Close()
	}()
	a := do(t, request(t, http.MethodPost, front(t, b), pr))
	want := fmt.Sprintf("%d <nil> %x", chunks*len(chunk), sha256.Sum256(bytes.Repeat(chunk, chunks)))
	if a.body != want {
		t.Errorf("got %s, want %s", a.body, want)
	}
}

func TestExpectContinue(t *testing.T) {
	b := newBalancer(Options{})
	add(t, b, "dead", closedAddr(t)) // closing the body after this failed dial would hang for a client that waits
	worker(t, b, "a", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/refuse" {
			w.WriteHeader(http.StatusExpectationFailed)
			return
		}
		_, _ = io.Copy(w, r.Body)
	})
	base := front(t, b)
	c, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	br := bufio.NewReader(c)
	for range 300 { // what comes first is a matter of chance: that the body is read, or that the worker's 100 is heard of
		fmt.Fprint(c, "POST /echo HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
		resp, err := http.ReadResponse(br, nil)
		if err != nil || resp.StatusCode != http.StatusContinue {
			t.Fatalf("got %v, %v; want 100 before the body is sent", resp, err)
		}
		fmt.Fprint(c, "coat")
		resp, err = http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK || string(body) != "coat" {
			t.Fatalf("%d %q; want the answer after a single 100", resp.StatusCode, body)
		}
	}
	fmt.Fprint(c, "POST /refuse HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
	resp, err := http.ReadResponse(br, nil)
	if err == nil && resp.StatusCode == http.StatusContinue { // a worker that has taken a second, on a busy machine, is no longer waited for
		resp, err = http.ReadResponse(br, nil)
	}
	if err != nil || resp.StatusCode != http.StatusExpectationFailed {
		t.Errorf("got %v, %v; want the worker's refusal without the body", resp, err)
	}
}

func TestInterimResponses(t *testing.T) {
	b := newBalancer(Options{})
	worker(t, b, "a", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			t.Error("the worker sees an upgrade in HTTP/1.0")
		}
		w.WriteHeader(http.StatusContinue)
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusEarlyHints)
		_, _ = io.WriteString(w, "coat")
	})
	addr := strings.TrimPrefix(front(t, b), "http://")
	for _, test := range []struct {
		name, request string
		want          []int
	}{
		{"HTTP/1.1", "GET / HTTP/1.1\r\nHost: h\r\n\r\n", []int{103, 200}},
		{"HTTP/1.0", "GET / HTTP/1.0\r\nHost: h\r\n\r\n", []int{200}},
		{"upgrade in HTTP/1.0", "GET / HTTP/1.0\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", []int{200}},
		{"Expect", "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\ncoat", []int{100, 200}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			fmt.Fprint(c, test.request)
			br := bufio.NewReader(c)
			var got []int
			for {
				resp, err := http.ReadResponse(br, nil)
				if err != nil {
					t.Fatalf("after %v: %v", got, err)
				}
				got = append(got, resp.StatusCode)
				if resp.StatusCode < 200 {
					continue
				}
				if body, _ := io.ReadAll(resp.Body); string(body) != "coat" {
					t.Errorf("%q", body)
				}
				break
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

func TestUploadThatTheClientBreaksOffIsNoFailure(t *testing.T) {
	b := newBalancer(Options{MaxFails: 1})
	got := make(chan error, 1)
	worker(t, b, "a", func(_ http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, r.Body)
		got <- err
	})
	c, err := net.Dial("tcp", strings.TrimPrefix(front(t, b), "http://"))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(c, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\nhalf a body")
	eventually(t, "the request is at the worker", func() bool { return b.Status().InFlight == 1 })
	c.Close()
	if err := <-got; err == nil {
		t.Error("the worker must not take half a body for a whole one")
	}
	eventually(t, "the request has ended", func() bool { return b.Status().InFlight == 0 })
	if s := b.Status(); s.Upstreams[0].Failures != 0 || s.Retries != 0 || s.Unrepeatable != 0 || s.ClientGone != 1 {
		t.Errorf("%+v: the client broke off, no one else", s)
	}
}

func TestBodyOverALimitIs413(t *testing.T) {
	b := newBalancer(Options{})
	worker(t, b, "a", says("a"))
	base := front(t, http.MaxBytesHandler(b, 1000))
	a := do(t, request(t, http.MethodPost, base, io.NopCloser(strings.NewReader(strings.Repeat("x", 100_000)))))
	if a.status != http.StatusRequestEntityTooLarge {
		t.Errorf("status %d, want 413", a.status)
	}
	if s := upstreamStatus(t, b, "a"); s.Failures != 0 {
		t.Errorf("%+v: that was not the upstream's fault", s)
	}
}

func TestTrailersAndEarlyHintsPass(t *testing.T) {
	b := newBalancer(Options{})
	worker(t, b, "a", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Set("Trailer", "X-Sum")
		_, _ = io.WriteString(w, "body")
		w.Header().Set("X-Sum", "42")
	})
	var hint string
	trace := &httptrace.ClientTrace{Got1xxResponse: func(_ int, h textproto.MIMEHeader) error {
		hint = h.Get("Link")
		return nil
	}}
	req := request(t, http.MethodGet, front(t, b), nil)
	resp, err := http.DefaultTransport.RoundTrip(req.WithContext(httptrace.WithClientTrace(req.Context(), trace)))
	if err != nil {
		t.Fatal(err)
	}
	if hint == "" {
		t.Error("the early hint did not pass")
	}
	defer resp.Body.Close()
	if _, err := io.ReadAll(resp.Body); err != nil {
		t.Fatal(err)
	}
	if resp.Trailer.Get("X-Sum") != "42" {
		t.Errorf("trailer %v", resp.Trailer)
	}
}

func TestReplayBody(t *testing.T) {
	small, large := strings.Repeat("s", maxReplay), strings.Repeat("l", maxReplay+1)
	b := &replayBody{src: strings.NewReader(small)}
	for i := range 3 {
		a := b.attempt()
		part := make([]byte, 100*i)
		if _, err := io.ReadFull(a, part); err != nil {
			t.Fatal(err)
		}
		a.Close()
		if _, err := a.Read(make([]byte, 1)); err == nil {
			t.Error("an attempt that has ended must not take the next one's bytes")
		}
	}
	if got, err := io.ReadAll(b.attempt()); err != nil || string(got) != small || !b.fresh() {
		t.Errorf("%d bytes, %v, fresh %v; want the whole body again and again", len(got), err, b.fresh())
	}

	b = &replayBody{src: strings.NewReader(large)}
	got, err := io.ReadAll(b.attempt())
	if err != nil || string(got) != large {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if b.fresh() {
		t.Error("a body of which more was read than is remembered must not be sent again, cut")
	}

	src, w := io.Pipe()
	b = &replayBody{src: src}
	a, done := b.attempt(), make(chan struct{})
	go func() {
		defer close(done)
		_, _ = a.Read(make([]byte, 1))
	}()
	eventually(t, "the read blocks", func() bool { b.mu.Lock(); defer b.mu.Unlock(); return b.reading })
	a.Close() // must not wait for the client
	if b.fresh() {
		t.Error("a read under way would take bytes from the next attempt")
	}
	w.Close()
	<-done
}
