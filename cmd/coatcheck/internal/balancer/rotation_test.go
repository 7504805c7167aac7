package balancer

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestRotationIsStrict(t *testing.T) {
	b := newBalancer(Options{})
	for i := range 3 {
		worker(t, b, strconv.Itoa(i+1), says(strconv.Itoa(i+1)))
	}
	base := front(t, b)
	var got strings.Builder
	for range 30 {
		got.WriteString(get(t, base).body)
	}
	if want := strings.Repeat("123", 10); got.String() != want {
		t.Errorf("sequential requests must be answered in strict rotation:\n got %s\nwant %s", got.String(), want)
	}
}

func TestRotationIsFairUnderConcurrency(t *testing.T) {
	b := newBalancer(Options{})
	for i := range 3 {
		worker(t, b, strconv.Itoa(i), says("x"))
	}
	base := front(t, b)
	var wg sync.WaitGroup
	for range 30 {
		wg.Go(func() {
			for range 10 {
				if _, err := roundTrip(request(t, http.MethodGet, base, nil)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for _, up := range b.Status().Upstreams {
		if up.Requests != 100 {
			t.Errorf("upstream %s got %d of 300 requests, want exactly a third", up.Name, up.Requests)
		}
	}
}

func TestRotationGoesOnWhenAnUpstreamIsRemoved(t *testing.T) {
	b := newBalancer(Options{})
	for _, name := range []string{"a", "b", "c", "d"} {
		worker(t, b, name, says(name))
	}
	base := front(t, b)
	got := get(t, base).body + get(t, base).body
	if err := b.Remove("a"); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		got += get(t, base).body
	}
	if got != "abcdbc" {
		t.Errorf("removing an upstream that had its turn must not skip or repeat another: got %s, want abcdbc", got)
	}
}

func TestNoUpstream(t *testing.T) {
	b := newBalancer(Options{})
	base := front(t, b)
	a := get(t, base)
	if a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" {
		t.Errorf("without an upstream: status %d, Retry-After %q; want 503 and a value", a.status, a.header.Get("Retry-After"))
	}
	if n := b.Status().NoUpstream; n != 1 {
		t.Errorf("no_upstream is %d, want 1", n)
	}
}

func TestRequestWaitsForAnUpstream(t *testing.T) {
	b := newBalancer(Options{QueueTimeout: time.Minute})
	add(t, b, "dead", closedAddr(t))
	base := front(t, b)
	answers := make(chan answer, 1)
	go func() {
		a, err := roundTrip(request(t, http.MethodPost, base, strings.NewReader("form")))
		if err != nil {
			t.Error(err)
		}
		answers <- a
	}()
	eventually(t, "the request waits", func() bool { return b.waiting.Load() == 1 })
	worker(t, b, "new", says("new"))
	if a := <-answers; a.body != "new" {
		t.Errorf("a request that reached no upstream must wait for the next one: got %d %q", a.status, a.body)
	}
}

func TestMarkDeadAndRemoveStopRouting(t *testing.T) {
	b := newBalancer(Options{})
	worker(t, b, "a", says("a"))
	worker(t, b, "b", says("b"))
	worker(t, b, "c", says("c"))
	base := front(t, b)
	if err := b.MarkDead("a"); err != nil {
		t.Fatal(err)
	}
	if err := b.Remove("b"); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if a := get(t, base); a.body != "c" {
			t.Errorf("a request went to %q, which is dead or removed", a.body)
		}
	}
	if s := upstreamStatus(t, b, "a"); s.State != Dead || s.Requests != 0 {
		t.Errorf("status of the dead: %+v", s)
	}
	// Dead ones are no last resort.
	if err := b.MarkDead("c"); err != nil {
		t.Fatal(err)
	}
	if a := get(t, base); a.status != http.StatusServiceUnavailable {
		t.Errorf("status %d with all upstreams dead, want 503", a.status)
	}
}

func TestNamesAndURLs(t *testing.T) {
	b := newBalancer(Options{})
	add(t, b, "a", "http://127.0.0.1:1")
	for _, raw := range []string{"https://127.0.0.1:1", "http://", "http://h/path", "http://h/?q=1", "http://u:p@h"} {
		u, err := url.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Add("x", u); err == nil {
			t.Errorf("Add accepted %s", raw)
		}
	}
	if err := b.Add("n", nil); err == nil {
		t.Error("Add accepted a nil URL")
	}
	u := &url.URL{Scheme: "http", Host: "127.0.0.1:2"}
	if err := b.Add("a", u); err == nil {
		t.Error("Add accepted a name twice")
	}
	for what, err := range map[string]error{
		"Remove":    b.Remove("nobody"),
		"MarkDead":  b.MarkDead("nobody"),
		"Drain":     b.Drain(t.Context(), "nobody"),
		"WaitReady": b.WaitReady(t.Context(), "nobody"),
	} {
		if !errors.Is(err, ErrUnknownUpstream) {
			t.Errorf("%s of an unknown name: %v, want ErrUnknownUpstream", what, err)
		}
	}
}

func TestStatusIsJSON(t *testing.T) {
	b := newBalancer(Options{})
	worker(t, b, "a", says("a"))
	get(t, front(t, b))
	// The response is here before the handler has returned.
	eventually(t, "nothing is in flight", func() bool { return b.Status().InFlight == 0 })
	raw, err := json.Marshal(b.Status())
	if err != nil {
		t.Fatal(err)
	}
	s := b.Status().Upstreams[0]
	want := `{"requests":1,"in_flight":0,"retries":0,"no_upstream":0,"unrepeatable":0,"client_gone":0,"upstreams":[` +
		`{"name":"a","url":"` + s.URL + `","state":"ready","ejected":false,"requests":1,"in_flight":0,"failures":0}]}`
	if string(raw) != want {
		t.Errorf("status:\n got %s\nwant %s", raw, want)
	}
	empty, _ := json.Marshal(New(nil).Status())
	if !strings.Contains(string(empty), `"upstreams":[]`) {
		t.Errorf("without upstreams the list must be empty and not null: %s", empty)
	}
}

func TestWaitReadyEndsWithItsContext(t *testing.T) {
	b := New(&Options{Logger: quiet()})
	add(t, b, "a", "http://127.0.0.1:1")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.WaitReady(ctx, "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the context's error", err)
	}
	if err := b.MarkDead("a"); err != nil {
		t.Fatal(err)
	}
	if err := b.WaitReady(t.Context(), "a"); err == nil {
		t.Error("waiting for a dead upstream must fail and not hang")
	}
}
