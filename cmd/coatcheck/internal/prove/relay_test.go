package prove

import (
	"bufio"
	"fmt"
	"net"
	"testing"
	"time"
)

// echo answers each line with itself.
func echo(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for s := bufio.NewScanner(c); s.Scan(); {
					fmt.Fprintln(c, s.Text())
				}
			}()
		}
	}()
	return ln.Addr().String()
}

// TestRelay: what goes through arrives whole and in order, late while it is to be late;
// nothing goes through while the store is down, and nothing that was on its way then.
func TestRelay(t *testing.T) {
	r, err := newRelay(echo(t))
	if err != nil {
		t.Fatal(err)
	}
	dial := func() (net.Conn, *bufio.Scanner) {
		t.Helper()
		c, err := net.Dial("tcp", r.addr())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		return c, bufio.NewScanner(c)
	}
	c, answers := dial()
	ask := func(n int) time.Duration {
		t.Helper()
		began := time.Now()
		for i := range n {
			fmt.Fprintf(c, "%d\n", i)
		}
		for i := range n {
			if !answers.Scan() || answers.Text() != fmt.Sprint(i) {
				t.Fatalf("answer %d is %q, %v", i, answers.Text(), answers.Err())
			}
		}
		return time.Since(began)
	}
	ask(1000)
	const late = 200 * time.Millisecond
	r.setLate(late)
	if took := ask(1000); took < late {
		t.Errorf("answers that are late by %v took %v", late, took)
	}
	r.setLate(0)
	ask(1000)

	r.setDown(true)
	if answers.Scan() {
		t.Errorf("%q came over a connection that the store has broken", answers.Text())
	}
	if d, err := net.Dial("tcp", r.addr()); err == nil { // which may be broken already
		refused := bufio.NewScanner(d)
		fmt.Fprintln(d, "anybody?")
		if refused.Scan() {
			t.Errorf("a store that is down answered %q", refused.Text())
		}
		_ = d.Close()
	}
	r.setDown(false)
	c, answers = dial()
	ask(10)

	r.close()
	if answers.Scan() {
		t.Error("the relay goes on after its end")
	}
	if _, err := net.Dial("tcp", r.addr()); err == nil {
		t.Error("the relay listens after its end")
	}
}
