package up

import (
	"net/http"
	"net/http/httptest"
	"testing"

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
			_, _ = conn.Write([]byte("HTTP/1.1 204 No Content\r\n\r\n"))
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
	for class, want := range map[string]uint64{"1xx": 0, "2xx": 4, "3xx": 1, "4xx": 1, "5xx": 1} {
		var got dto.Metric
		if err := m.answers.WithLabelValues(class).(interface{ Write(*dto.Metric) error }).Write(&got); err != nil {
			t.Fatal(err)
		}
		if n := got.Histogram.GetSampleCount(); n != want {
			t.Errorf("%d answers of %s are counted, want %d", n, class, want)
		}
	}
}
