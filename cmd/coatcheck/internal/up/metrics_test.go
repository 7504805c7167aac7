package up

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/balancer"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// Each answer is counted once, by its last status, however it is written.
func TestAnswersAreCountedByTheirStatus(t *testing.T) {
	m, err := measure(Config{Metrics: ":0"})
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	srv := httptest.NewServer(m.around(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		switch r.URL.Path {
		case "/hints":
			w.WriteHeader(http.StatusEarlyHints)
			w.WriteHeader(http.StatusOK)
		case "/plain":
			_, _ = w.Write([]byte("a"))
			_, _ = w.Write([]byte("b"))
		case "/stream":
			_, _ = w.Write([]byte("a"))
			if err := rc.Flush(); err != nil {
				t.Errorf("what is timed cannot be flushed: %v", err)
			}
		case "/missing":
			http.NotFound(w, r)
		case "/moved":
			http.Redirect(w, r, "/plain", http.StatusSeeOther)
		case "/down":
			w.WriteHeader(http.StatusServiceUnavailable)
		case "/hijacked":
			conn, _, err := rc.Hijack()
			if err != nil {
				t.Errorf("what is timed cannot be hijacked: %v", err)
				return
			}
			_, _ = conn.Write([]byte("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"))
			conn.Close()
		}
	})))
	defer srv.Close()
	for _, path := range []string{"/hints", "/plain", "/stream", "/missing", "/moved", "/down", "/hijacked"} { // /moved leads to /plain
		resp, err := http.Get(srv.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	for class, want := range map[string]uint64{"1xx": 1, "2xx": 4, "3xx": 1, "4xx": 1, "5xx": 1} {
		if n := answersOf(t, m, class); n != want {
			t.Errorf("%d answers of %s are counted, want %d", n, class, want)
		}
	}
}

// answersOf returns how many answers of that class were counted.
func answersOf(t *testing.T, m *measurement, class string) uint64 {
	t.Helper()
	var got dto.Metric
	if err := m.answers.WithLabelValues(class).(prometheus.Metric).Write(&got); err != nil {
		t.Fatal(err)
	}
	return got.Histogram.GetSampleCount()
}

// The balancer writes the answer to a WebSocket's handshake on the connection itself.
func TestWebSocketsThroughTheBalancerAreCounted(t *testing.T) {
	m, err := measure(Config{Metrics: ":0"})
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	worker := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Errorf("hijack: %v", err)
			return
		}
		defer conn.Close()
		_, _ = conn.Write([]byte("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello"))
	}))
	defer worker.Close()
	u, err := url.Parse(worker.URL)
	if err != nil {
		t.Fatal(err)
	}
	bal := balancer.New(&balancer.Options{NoHealthChecks: true})
	if err := bal.Add("worker-1", u); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(m.around(bal))
	defer srv.Close()
	req, err := http.NewRequest(http.MethodGet, srv.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "websocket")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if said, err := io.ReadAll(resp.Body); resp.StatusCode != http.StatusSwitchingProtocols || string(said) != "hello" || err != nil {
		t.Errorf("the handshake was answered %s, and then came %q, %v", resp.Status, said, err)
	}
	if n := answersOf(t, m, "1xx"); n != 1 {
		t.Errorf("%d WebSockets are counted, want 1", n)
	}
}
