package balancer

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Upstreams come, drain, and die under load; no request may fail but those whose server died while it answered one that cannot be repeated, and
// none may be carried out twice.
func TestChurnUnderLoad(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	defer func() {
		if t.Failed() {
			t.Logf("seed %d", seed)
		}
	}()
	rnd := rand.New(rand.NewPCG(seed, 0))

	b := New(&Options{Logger: quiet(), QueueTimeout: time.Minute, HealthInterval: 100 * time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	running := make(chan struct{})
	go func() {
		defer close(running)
		b.Run(ctx)
	}()
	defer func() {
		cancel()
		<-running
	}()

	var carriedOut sync.Map // request ID → *atomic.Int64
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		if r.Method == http.MethodPost {
			n, _ := carriedOut.LoadOrStore(r.Header.Get("X-Id"), new(atomic.Int64))
			n.(*atomic.Int64).Add(1)
		}
		_, _ = w.Write(body)
	})
	type server struct {
		name string
		*httptest.Server
	}
	var servers []server
	names := 0
	start := func() {
		names++
		s := server{fmt.Sprintf("worker-%d", names), httptest.NewServer(handler)}
		add(t, b, s.name, s.URL)
		servers = append(servers, s)
	}
	for range 3 {
		start()
	}
	defer func() {
		for _, s := range servers {
			s.Close()
		}
	}()
	base := front(t, b)

	const shoppers = 8
	var (
		wg                      sync.WaitGroup
		stop                    atomic.Bool
		asked, unrepeatable, id atomic.Int64
	)
	for range shoppers {
		wg.Go(func() {
			for !stop.Load() {
				asked.Add(1)
				key, want := fmt.Sprint(id.Add(1)), ""
				req := request(t, http.MethodGet, base, nil)
				if id.Load()%2 == 0 {
					want = strings.Repeat(key+" ", 50)
					req = request(t, http.MethodPost, base, io.NopCloser(bytes.NewReader([]byte(want))))
					req.ContentLength = int64(len(want))
					req.Header.Set("X-Id", key)
				}
				a, err := roundTrip(req)
				switch {
				case err != nil:
					t.Errorf("%s: %v", req.Method, err)
				case a.header.Get(UnrepeatableHeader) != "" && req.Method == http.MethodPost:
					unrepeatable.Add(1)
				case a.status != http.StatusOK || a.body != want:
					t.Errorf("%s failed: %d %q", req.Method, a.status, a.body)
				}
			}
		})
	}

	// Each step waits for load to have passed, so that the steps do not outrun the requests.
	for range 40 {
		target := asked.Load() + 25
		eventually(t, "requests go on", func() bool { return asked.Load() >= target })
		i := rnd.IntN(len(servers))
		s := servers[i]
		switch step := rnd.IntN(4); {
		case step == 0 && len(servers) < 6:
			start()
			continue
		case step == 1: // drain, then end: nothing may be lost
			before := unrepeatable.Load()
			if err := b.Drain(t.Context(), s.name); err != nil {
				t.Error(err)
			}
			s.CloseClientConnections()
			s.Close()
			if err := b.Remove(s.name); err != nil {
				t.Error(err)
			}
			if n := unrepeatable.Load() - before; n != 0 {
				t.Errorf("%d requests lost by a drained upstream", n)
			}
		case step == 2: // killed; the fleet notices
			_ = s.Listener.Close()
			s.CloseClientConnections()
			if err := b.MarkDead(s.name); err != nil {
				t.Error(err)
			}
			if err := b.Remove(s.name); err != nil {
				t.Error(err)
			}
			s.Close()
		default: // killed; nobody notices until the next step
			_ = s.Listener.Close()
			s.CloseClientConnections()
			target := asked.Load() + 25
			eventually(t, "requests go on past a dead upstream", func() bool { return asked.Load() >= target })
			if err := b.Remove(s.name); err != nil {
				t.Error(err)
			}
			s.Close()
		}
		servers = append(servers[:i], servers[i+1:]...)
		for len(servers) < 2 {
			start()
		}
	}
	stop.Store(true)
	wg.Wait()
	carriedOut.Range(func(key, n any) bool {
		if got := n.(*atomic.Int64).Load(); got != 1 {
			t.Errorf("request %v was carried out %d times", key, got)
		}
		return true
	})
	eventually(t, "nothing is in flight", func() bool { return b.Status().InFlight == 0 })
	s := b.Status()
	if s.Unrepeatable != uint64(unrepeatable.Load()) {
		t.Errorf("counted %d unrepeatable requests, clients saw %d", s.Unrepeatable, unrepeatable.Load())
	}
	t.Logf("%d requests, %d retries, %d unrepeatable, %d upstreams over time", s.Requests, s.Retries, s.Unrepeatable, names)
}
