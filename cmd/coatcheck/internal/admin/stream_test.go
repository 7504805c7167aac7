package admin_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/admin"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/balancer"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/fleet"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/latency"
)

// message is one of a stream.
type message struct{ kind, data string }

// messages reads a stream until it ends.
func messages(r io.Reader) (all []message) {
	for s := bufio.NewScanner(r); s.Scan(); {
		name, value, _ := strings.Cut(s.Text(), ": ")
		switch name {
		case "event":
			all = append(all, message{kind: value})
		case "data":
			all[len(all)-1].data = value
		}
	}
	return all
}

func decode[T any](t *testing.T, m message) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(m.data), &v); err != nil {
		t.Fatalf("%s: %v", m.data, err)
	}
	return v
}

// TestStream: a page learns first what was, and then at each interval what is; events at
// once. The store is asked only while somebody looks on.
func TestStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &idle{changed: make(chan struct{})}
		var waits latency.Histogram
		began := time.Now()
		var asked atomic.Int64
		h := admin.New(admin.Options{
			Token: token, Fleet: f, Load: crowd{f},
			Balancer: func() balancer.Status { // 20 requests a second
				s := balancer.Status{Requests: uint64(20 * time.Since(began).Seconds())}
				if time.Since(began) < time.Hour+16*time.Second { // then their server is killed
					s.Upstreams = []balancer.UpstreamStatus{{Name: "worker-1", Requests: s.Requests}}
				}
				return s
			},
			Latency: func() latency.Counts {
				waits.Add(5 * time.Millisecond)
				return waits.Counts()
			},
			Store: func(context.Context) admin.Store {
				asked.Add(1)
				return admin.Store{State: "ok", Ping: 1.25}
			},
			Interval: 2 * time.Second,
		})
		running, stop := context.WithCancel(t.Context())
		go h.Run(running)
		time.Sleep(time.Hour + time.Second) // between two measurements
		if n := asked.Load(); n != 1 {
			t.Errorf("the store was asked %d times with nobody looking on; want once, at the start", n)
		}

		w := httptest.NewRecorder()
		closed := make(chan struct{})
		go func() {
			defer close(closed)
			r := httptest.NewRequestWithContext(t.Context(), "GET", "http://127.0.0.1/api/stream", nil)
			r.Header = authorized()
			h.ServeHTTP(w, r)
		}()
		time.Sleep(20 * time.Second)
		f.happen(fleet.Event{Kind: fleet.Killed, Worker: "worker-1"})
		synctest.Wait()
		unnoticed := func(k fleet.Kind) { // nobody was told yet
			f.mu.Lock()
			defer f.mu.Unlock()
			f.happened = append(f.happened, fleet.Event{Kind: k})
		}
		unnoticed(fleet.Died)
		time.Sleep(2 * time.Second)
		unnoticed(fleet.Drained)
		stop()
		<-closed
		if n := asked.Load(); n != 13 {
			t.Errorf("the store was asked %d times; want 12 times, when a page comes and once an interval while it looks on", n-1)
		}
		if got := w.Header().Get("Content-Type"); got != "text/event-stream" {
			t.Errorf("the stream is %q", got)
		}

		all := messages(w.Body)
		var kinds []string
		for _, m := range all {
			kinds = append(kinds, m.kind)
		}
		if want := "hello" + strings.Repeat(" snapshot", 10) + " event event snapshot event"; strings.Join(kinds, " ") != want {
			t.Fatalf("the stream says %v; want %s", kinds, want)
		}
		hello := decode[admin.Hello](t, all[0])
		if len(hello.Points) != 61 || len(hello.Steps) != 16 || len(hello.Events) != 1 {
			t.Errorf("%d points, %d steps and %d events at first; want 61, those of half a minute, and what was", len(hello.Points), len(hello.Steps), len(hello.Events))
		}
		for i, m := range all {
			if m.kind != "snapshot" {
				continue
			}
			if p := decode[admin.Snapshot](t, m).Point; p.Rate != 20 {
				t.Errorf("message %d tells of %v requests a second; want 20, though the server that had some is no more", i, p.Rate)
			}
		}
		if p := hello.Points[0]; p.Ping != nil {
			t.Errorf("a point while nobody looked on says that the store took %v ms", *p.Ping)
		}
		s := decode[admin.Snapshot](t, all[5])
		p := s.Point
		if p.Requests["worker-1"] != 20 || p.Ping == nil || *p.Ping != 1.25 || p.P50 == nil || *p.P50 < 5 || *p.P50 > 5.2 || *p.P99 != *p.P50 {
			t.Errorf("a point is %s; want 20 requests a second, 5 ms, and 1.25 ms to the store", all[5].data)
		}
		if s.Load.Shoppers != 7 || len(s.Steps) != 1 || len(s.Workers) != 2 || s.Target != 2 || s.Store.Ping != 1.25 {
			t.Errorf("a snapshot is %s", all[5].data)
		}
		if e := decode[fleet.Event](t, all[11]); e.Kind != fleet.Killed || e.Worker != "worker-1" {
			t.Errorf("the event is %s", all[11].data)
		}
	})
}

// TestStoreThatDoesNotAnswer: what a stream says of the store is an answer since the last
// snapshot, and neither of hours ago, when somebody looked on last, nor of before it hung.
func TestStoreThatDoesNotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &idle{changed: make(chan struct{})}
		var hangs atomic.Bool
		began := time.Now()
		h := admin.New(admin.Options{
			Token: token, Fleet: f, Load: crowd{f},
			Balancer: func() balancer.Status { return balancer.Status{} },
			Latency:  func() latency.Counts { return nil },
			Store: func(context.Context) admin.Store {
				asked := time.Now()
				for hangs.Load() {
					time.Sleep(time.Millisecond)
				}
				return admin.Store{URL: "redis://a", State: "ok", Breaker: "closed", Ping: 1 + asked.Sub(began).Seconds()}
			},
		})
		running, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			h.Run(running)
		}()
		time.Sleep(time.Hour + time.Second/2) // between two measurements
		w := httptest.NewRecorder()
		closed := make(chan struct{})
		hangs.Store(true)
		go func() {
			defer close(closed)
			r := httptest.NewRequestWithContext(t.Context(), "GET", "http://127.0.0.1/api/stream", nil)
			r.Header = authorized()
			h.ServeHTTP(w, r)
		}()
		time.Sleep(1200 * time.Millisecond)
		hangs.Store(false)
		time.Sleep(2 * time.Second)
		hangs.Store(true)
		time.Sleep(2 * time.Second)
		hangs.Store(false)
		stop()
		<-closed
		<-ended

		var got []string
		for _, m := range messages(w.Body)[1:] {
			s := decode[admin.Snapshot](t, m)
			if s.Store.URL != "redis://a" || (s.Point.Ping != nil) != (s.Store.State == "ok") || s.Point.Ping != nil && *s.Point.Ping != s.Store.Ping {
				t.Errorf("a snapshot says %s", m.data)
			}
			got = append(got, fmt.Sprintf("%s %s %.1f", s.Store.State, s.Store.Breaker, s.Store.Ping))
		}
		// Each second it is asked, and what it says to that is told the next second.
		if want := []string{"unknown  0.0", "ok closed 3602.7", "ok closed 3603.0", "ok closed 3604.0", "unknown  0.0"}; !slices.Equal(got, want) {
			t.Errorf("the store is said to be %q; want %q", got, want)
		}
	})
}

// TestStreamsAreFew: one more than there may be is refused, until another ends.
func TestStreamsAreFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, h := newHandler()
		open := func(ctx context.Context) *httptest.ResponseRecorder {
			w := httptest.NewRecorder()
			r := httptest.NewRequestWithContext(ctx, "GET", "http://127.0.0.1/api/stream", nil)
			r.Header = authorized()
			h.ServeHTTP(w, r)
			return w
		}
		var leave context.CancelFunc
		for range 16 {
			var ctx context.Context
			ctx, leave = context.WithCancel(t.Context())
			defer leave()
			go open(ctx)
		}
		synctest.Wait()
		if w := open(t.Context()); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
			t.Errorf("the 17th stream: %d %s; want 503", w.Code, w.Body)
		} else {
			mustBeJSONError(t, w.Result(), w.Body.String())
		}
		leave()
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			time.Sleep(time.Second)
			cancel()
		}()
		if w := open(ctx); w.Code != http.StatusOK {
			t.Errorf("a stream in place of another: %d %s; want 200", w.Code, w.Body)
		}
	})
}

// odd is a fleet whose load, once, no number tells.
type odd struct {
	*idle
	asked atomic.Int64
}

func (o *odd) Autoscaling() *admin.Autoscaling {
	a := o.idle.Autoscaling()
	if o.asked.Add(1) == 3 {
		a.Burst = math.NaN()
	}
	return a
}

// TestMeasurementThatHasNoJSON: it is skipped and told of, and the next ones are not.
func TestMeasurementThatHasNoJSON(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &idle{changed: make(chan struct{})}
		var logged strings.Builder
		h := admin.New(admin.Options{
			Token: token, Fleet: &odd{idle: f}, Load: crowd{f},
			Balancer: func() balancer.Status { return balancer.Status{} },
			Latency:  func() latency.Counts { return nil },
			Store:    func(context.Context) admin.Store { return admin.Store{} },
			Logger:   slog.New(slog.NewTextHandler(&logged, nil)),
		})
		ctx, cancel := context.WithTimeout(t.Context(), 5500*time.Millisecond)
		defer cancel()
		h.Run(ctx)
		w := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(ctx, "GET", "http://127.0.0.1/api/stream", nil)
		r.Header = authorized()
		h.ServeHTTP(w, r)
		if hello := decode[admin.Hello](t, messages(w.Body)[0]); len(hello.Points) != 4 || strings.Count(logged.String(), "skipped") != 1 {
			t.Errorf("of five measurements %d are kept, and the log says %q; want that it tells of the other", len(hello.Points), logged.String())
		}
	})
}

// TestHeadOfAStream: there is nothing to wait for in it, so it holds none.
func TestHeadOfAStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, h := newHandler()
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		began := time.Now()
		r := httptest.NewRequestWithContext(ctx, "HEAD", "http://127.0.0.1/api/stream", nil)
		r.Header = authorized()
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if took := time.Since(began); took != 0 || w.Code != http.StatusOK || w.Header().Get("Content-Type") != "text/event-stream" || w.Body.Len() != 0 {
			t.Errorf("HEAD is answered %d after %v, with %v; want 200 at once, with what the stream has", w.Code, took, w.Header())
		}
	})
}

// TestStreamOutlivesTheServersLimits: those are for requests that end soon. And it does
// not keep the server from ending.
func TestStreamOutlivesTheServersLimits(t *testing.T) {
	_, h := newHandler()
	s := admin.NewServer(h, slog.New(slog.DiscardHandler))
	s.ReadTimeout, s.WriteTimeout = 50*time.Millisecond, 50*time.Millisecond
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	running, stop := context.WithCancel(t.Context())
	defer stop()
	go h.Run(running)

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // a stream that should end, and does not
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", "http://"+ln.Addr().String()+"/api/stream", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = authorized()
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	began := time.Now()
	lines := bufio.NewScanner(resp.Body)
	for time.Since(began) < 10*s.WriteTimeout {
		if !lines.Scan() {
			t.Fatalf("the stream ended after %v: %v", time.Since(began), lines.Err())
		}
	}
	stop()
	for lines.Scan() {
	}
	if err := lines.Err(); err != nil {
		t.Errorf("the stream's end: %v; want an orderly one", err)
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-served; err != http.ErrServerClosed {
		t.Error(err)
	}
}
