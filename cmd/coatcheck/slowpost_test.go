//go:build unix

package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/uptest"
)

// slowPost is an addition of one apple that is in flight at one worker until its
// last byte is sent.
type slowPost struct {
	t    *testing.T
	conn net.Conn
	rest string
}

// startSlowPost starts one of a visitor without a session.
func startSlowPost(t *testing.T, u *uptest.Up) *slowPost {
	t.Helper()
	return startSlowPostAs(t, u, nil)
}

// startSlowPostAs sends the head and most of the body of a form, more than the
// buffers on the way hold back.
func startSlowPostAs(t *testing.T, u *uptest.Up, cookie *http.Cookie) *slowPost {
	t.Helper()
	shop, err := url.Parse(u.Shop)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", shop.Host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	body := "sku=apple&qty=1&pad=" + strings.Repeat("x", 12<<10)
	p := &slowPost{t: t, conn: conn, rest: body[len(body)-1:]}
	head := "POST /cart HTTP/1.1\r\nHost: " + shop.Host + "\r\nAccept: application/json\r\n" +
		"Content-Type: application/x-www-form-urlencoded\r\n"
	if cookie != nil {
		head += "Cookie: " + cookie.Name + "=" + cookie.Value + "\r\n"
	}
	_, err = fmt.Fprintf(conn, "%sContent-Length: %d\r\n\r\n%s", head, len(body), body[:len(body)-1])
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// finish sends the rest and returns the status of the answer.
func (p *slowPost) finish() int {
	p.t.Helper()
	resp, err := p.complete()
	if err != nil {
		p.t.Fatalf("a request in flight was lost: %v", err)
	}
	return resp.StatusCode
}

// complete sends the rest and returns the answer. Any goroutine may call it.
func (p *slowPost) complete() (*http.Response, error) {
	if _, err := io.WriteString(p.conn, p.rest); err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(p.conn), nil)
	if err != nil {
		return nil, err
	}
	return resp, resp.Body.Close()
}
