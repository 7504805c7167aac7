package shopper

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/balancer"
)

const (
	// patience is how long a shopper waits for an answer.
	patience = 30 * time.Second

	maxAnswer = 1 << 20 // bytes
	maxTrace  = 16      // requests
)

// answer is what a shopper learns from a request.
type answer struct {
	outcome
	state  state // what the shop holds now, if it was answered
	server string
}

// send sends a request of the shopper's browser and reports what came of it.
func (s *shopper) send(method, path string, form url.Values) answer {
	r := Request{Shopper: s.name, Method: method, Path: path, Start: time.Now()}
	a := answer{outcome: open}
	header, body, err := s.exchange(&r, form)
	r.Took = time.Since(r.Start)
	r.Server = header.Get("X-Served-By")
	a.server = r.Server
	switch {
	case err != nil:
		r.Fault = FailedRequest
		a.outcome = late
		if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.EADDRNOTAVAIL) {
			s.tally.ranOut(err)
		}
	case r.Status != http.StatusOK:
		r.Fault = FailedRequest
		err = fmt.Errorf("answered %d", r.Status)
		if method == http.MethodPost && header.Get(balancer.UnrepeatableHeader) == "1" {
			r.Fault = Unrepeatable
			a.outcome = late
		}
	case path == "/":
		if kind := header.Get("Content-Type"); !strings.HasPrefix(kind, "text/html") {
			r.Fault, err = FailedRequest, fmt.Errorf("answered with %q, not with a page", kind)
		}
	default:
		if err = json.Unmarshal(body, &a.state); err != nil {
			r.Fault, err = FailedRequest, fmt.Errorf("answered with what is no JSON of a session: %w", err)
		}
		if err == nil {
			a.outcome = answered
		}
	}

	line := fmt.Sprintf("%s %s %s → %d by %s in %s", method, path, tell(form), r.Status, orNobody(r.Server), r.Took.Round(10*time.Microsecond))
	if err != nil {
		line += ": " + err.Error()
	}
	s.mu.Lock()
	s.trace = append(s.trace, line)
	if len(s.trace) > maxTrace {
		s.trace = s.trace[1:]
	}
	s.mu.Unlock()

	var ex Example
	switch {
	case r.Fault != "":
		ex = s.example(line)
	case r.Took >= slow:
		ex = s.told(line)
	}
	s.tally.request(r, ex)
	return a
}

// exchange returns the header, never nil, and the whole body.
func (s *shopper) exchange(r *Request, form url.Values) (http.Header, []byte, error) {
	req, err := http.NewRequest(r.Method, s.shop+r.Path, strings.NewReader(form.Encode()))
	if err != nil {
		return http.Header{}, nil, err
	}
	req.Header.Set("Accept", "text/html")
	if r.Path != "/" {
		req.Header.Set("Accept", "application/json")
	}
	if r.Method == http.MethodPost {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Origin", s.shop) // as browsers do
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return http.Header{}, nil, err
	}
	defer resp.Body.Close()
	r.Status = resp.StatusCode
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	return resp.Header, body, err
}

// tell returns what a form says, without the password.
func tell(form url.Values) string {
	switch {
	case form.Has("sku"):
		return form.Get("qty") + "×" + form.Get("sku")
	case form.Has("user"):
		return "as " + form.Get("user")
	}
	return "-"
}

func orNobody(server string) string {
	if server == "" {
		return "no server"
	}
	return server
}
