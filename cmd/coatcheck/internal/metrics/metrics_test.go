package metrics_test

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/balancer"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/metrics"
	"github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/memstore"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// figures are metrics by name and labels, as `name{a="x",b="y"}`. Of a histogram it is the
// number of what was observed, and with _sum after its name their sum.
type figures map[string]float64

func gather(t *testing.T, g prometheus.Gatherer) figures {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := figures{}
	for _, f := range families {
		for _, m := range f.Metric {
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			in := ""
			if len(labels) > 0 {
				in = "{" + strings.Join(labels, ",") + "}"
			}
			switch f.GetType() {
			case dto.MetricType_HISTOGRAM:
				out[f.GetName()+in] = float64(m.Histogram.GetSampleCount())
				out[f.GetName()+"_sum"+in] = m.Histogram.GetSampleSum()
			case dto.MetricType_GAUGE:
				out[f.GetName()+in] = m.Gauge.GetValue()
			default:
				out[f.GetName()+in] = m.Counter.GetValue()
			}
		}
	}
	return out
}

func (f figures) want(t *testing.T, name string, v float64) {
	t.Helper()
	if got, ok := f[name]; !ok || got != v {
		t.Errorf("%s is %v (there: %v), want %v", name, got, ok, v)
	}
}

var (
	cart = session.NewAttr[int]("cart")
	note = session.NewAttr[string]("note")
)

// What real sessions do is what is counted, neither more nor less.
func TestSessionsAreCounted(t *testing.T) {
	reg := prometheus.NewRegistry()
	counted := metrics.NewSessions(reg)
	counted.Serves()
	st := memstore.New()
	m, err := session.New(st, &session.Options{
		InsecureCookie: true, MaxSize: 5000, Observer: counted.Observe, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		s := m.From(r.Context())
		switch r.URL.Path {
		case "/in":
			_ = s.SignIn(r.Context(), "alice", nil)
		case "/add":
			_ = cart.Update(s, func(n int) (int, error) { return n + 1, nil })
		case "/large":
			_ = note.Set(s, strings.Repeat("x", 4500))
		case "/huge":
			_ = note.Set(s, strings.Repeat("x", 6000))
		case "/out":
			_ = s.Destroy(r.Context())
		}
	})))
	defer srv.Close()
	jar, _ := cookiejar.New(nil)
	visitor := &http.Client{Jar: jar}
	for _, path := range []string{"/in", "/add", "/add", "/", "/large", "/huge", "/out"} {
		resp, err := visitor.Get(srv.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	got := gather(t, reg)
	for name, v := range map[string]float64{
		`coatcheck_session_operations_total{op="sign_in",outcome="ok"}`:       1,
		`coatcheck_session_operations_total{op="commit",outcome="ok"}`:        3,
		`coatcheck_session_operations_total{op="commit",outcome="too_large"}`: 1,
		`coatcheck_session_operations_total{op="destroy",outcome="ok"}`:       1,
		`coatcheck_session_operations_total{op="revoke",outcome="ok"}`:        0,
		`coatcheck_session_operation_duration_seconds{op="commit"}`:           4,
		`coatcheck_store_calls_total{op="create",outcome="ok"}`:               1,
		`coatcheck_store_calls_total{op="replace",outcome="ok"}`:              4, // the last one ends it
		`coatcheck_store_calls_total{op="get",outcome="ok"}`:                  7,
		`coatcheck_store_calls_total{op="get",outcome="timeout"}`:             0,
		`coatcheck_store_call_duration_seconds{op="get"}`:                     7,
		`coatcheck_session_size_bytes`:                                        4,
		`coatcheck_session_events_total{kind="touch_saved"}`:                  1,
		`coatcheck_session_events_total{kind="large"}`:                        1,
		`coatcheck_session_events_total{kind="conflict"}`:                     0,
		`coatcheck_session_events_total{kind="revoked"}`:                      0,
	} {
		got.want(t, name, v)
	}
	if sum := got["coatcheck_session_size_bytes_sum"]; sum < 4500 || sum > 5500 {
		t.Errorf("four sessions were written with %v bytes in all", sum)
	}
	if _, err := visitor.Get(srv.URL + "/in"); err != nil {
		t.Fatal(err)
	}
	if n, err := m.RevokeAll(context.Background(), "alice"); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	gather(t, reg).want(t, `coatcheck_session_events_total{kind="revoked"}`, 1)
}

// No kind of event is forgotten: a new one must be counted.
func TestEveryKindOfEventIsCounted(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "../../../../session/event.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	kinds := 0
	ast.Inspect(file, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok || fmt.Sprint(v.Type) != "EventKind" {
			return true
		}
		kind, err := strconv.Unquote(v.Values[0].(*ast.BasicLit).Value)
		if err != nil {
			t.Fatal(err)
		}
		kinds++
		reg := prometheus.NewRegistry()
		counted := metrics.NewSessions(reg)
		counted.Serves()
		before := gather(t, reg)
		counted.Observe(t.Context(), session.Event{Kind: session.EventKind(kind), Op: "get", N: 3})
		changed := 0
		for name, v := range gather(t, reg) {
			if v != before[name] {
				changed++
			}
		}
		if changed == 0 {
			t.Errorf("an event of the kind %q is counted nowhere", kind)
		}
		return true
	})
	if kinds < 15 {
		t.Errorf("found %d kinds of events: the test has lost its reach", kinds)
	}
}

// Whatever an event holds, only numbers and words of ours come out.
func TestNothingOfAnErrorIsExported(t *testing.T) {
	const secret = "alice-3f9a"
	reg := metrics.New()
	counted := metrics.NewSessions(reg)
	for _, kind := range []session.EventKind{session.EventCall, session.EventCommit, session.EventUnavailable, session.EventStaleSet, "new_kind"} {
		counted.Observe(t.Context(), session.Event{Kind: kind, Op: "get", Attr: secret, Err: errors.New("redis://user:" + secret + "@10.1.2.3")})
	}
	w := httptest.NewRecorder()
	metrics.Handler(reg, slog.New(slog.DiscardHandler)).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK || strings.Contains(w.Body.String(), secret) || strings.Contains(w.Body.String(), "10.1.2.3") {
		t.Errorf("status %d; what an error says is exported, or nothing:\n%s", w.Code, w.Body)
	}
}

func TestStore(t *testing.T) {
	var down error
	state := ""
	reg := prometheus.NewRegistry()
	reg.MustRegister(&metrics.Store{
		Ping:    func(context.Context) error { return down },
		Breaker: func() string { return state },
	})
	got := gather(t, reg)
	got.want(t, "coatcheck_store_up", 1)
	if len(got) != 2 {
		t.Errorf("a store without a breaker tells %v", got)
	}
	down, state = store.ErrNotAsked, "open"
	got = gather(t, reg)
	got.want(t, "coatcheck_store_up", 0)
	got.want(t, `coatcheck_store_breaker_state{state="open"}`, 1)
	got.want(t, `coatcheck_store_breaker_state{state="closed"}`, 0)

	reg = prometheus.NewRegistry()
	reg.MustRegister(&metrics.Store{Breaker: func() string { return "closed" }})
	got = gather(t, reg)
	if _, ok := got["coatcheck_store_up"]; ok || got[`coatcheck_store_breaker_state{state="closed"}`] != 1 {
		t.Errorf("a store that is not asked tells %v", got)
	}
}

// worker is a server that tells its metrics to who knows the secret.
func worker(t *testing.T, add float64) string {
	t.Helper()
	reg := prometheus.NewRegistry()
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "things_total", Help: "x"}, []string{"zone"})
	reg.MustRegister(c)
	c.WithLabelValues("a").Add(add)
	srv := httptest.NewServer(balancer.OnSecret("secret", metrics.Handler(reg, slog.New(slog.DiscardHandler)), http.NotFoundHandler()))
	t.Cleanup(srv.Close)
	return srv.URL
}

// A worker that gives no answer, or a wrong one, is left out and counted; the others, and
// the parent, are told of all the same.
func TestWorkersThatDoNotAnswerAreLeftOut(t *testing.T) {
	hang := make(chan struct{})
	silent := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hang }))
	defer silent.Close()
	defer close(hang)
	stranger := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }))
	defer stranger.Close()
	garbled := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited")
		_, _ = io.WriteString(w, "things are well")
	}))
	defer garbled.Close()
	dead := httptest.NewServer(http.NotFoundHandler())
	dead.Close()

	own := prometheus.NewRegistry()
	urls := map[string]string{"worker-1": worker(t, 3), "worker-2": worker(t, 5)}
	all := prometheus.Gatherers{metrics.NewWorkers(func() map[string]string { return urls }, "secret", own), own}
	got := gather(t, all)
	got.want(t, `things_total{worker="worker-1",zone="a"}`, 3)
	got.want(t, `things_total{worker="worker-2",zone="a"}`, 5)
	got.want(t, "coatcheck_fleet_scrapes_missed_total", 0)

	urls["worker-3"], urls["worker-4"], urls["worker-5"], urls["worker-6"] = silent.URL, stranger.URL, garbled.URL, dead.URL
	got = gather(t, all)
	got.want(t, `things_total{worker="worker-1",zone="a"}`, 3)
	got.want(t, `things_total{worker="worker-2",zone="a"}`, 5)
	got.want(t, "coatcheck_fleet_scrapes_missed_total", 4)
	if len(got) != 3 {
		t.Errorf("what does not answer tells something: %v", got)
	}
}

// deaf is a client that never reads: what is written to it waits.
type deaf struct {
	*httptest.ResponseRecorder
	waits, released chan struct{}
}

func (d *deaf) Write(b []byte) (int, error) {
	d.waits <- struct{}{}
	<-d.released
	return len(b), nil
}

// Clients that ask and never read keep nobody else from scraping.
func TestClientsThatNeverReadAreNoHindrance(t *testing.T) {
	h := metrics.Handler(metrics.New(), slog.New(slog.DiscardHandler))
	waits, released := make(chan struct{}), make(chan struct{})
	var clients sync.WaitGroup
	for range 10 {
		clients.Go(func() {
			h.ServeHTTP(&deaf{httptest.NewRecorder(), waits, released}, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		})
		<-waits
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "go_goroutines") {
		t.Errorf("a scrape beside ten of them was answered %d: %.100q", w.Code, w.Body)
	}
	close(released)
	clients.Wait()
}

func TestAddress(t *testing.T) {
	for flag, want := range map[string]string{
		"127.0.0.1:8082": "127.0.0.1:8082",
		":8082":          "127.0.0.1:8082", // never all of the machine's by mistake
		":0":             "127.0.0.1:0",
		"0.0.0.0:8082":   "0.0.0.0:8082",
		"[::1]:8082":     "[::1]:8082",
		"10.0.0.1:http":  "10.0.0.1:http",
	} {
		if got, err := metrics.Address(flag); got != want || err != nil {
			t.Errorf("Address(%q) = %q, %v; want %q", flag, got, err, want)
		}
	}
	for _, flag := range []string{"8082", "", "localhost", "localhost:", "::1:8082"} {
		if got, err := metrics.Address(flag); err == nil || !strings.Contains(err.Error(), "is not host:port, as 127.0.0.1:8082") {
			t.Errorf("Address(%q) = %q, %v; want an error that says what to write", flag, got, err)
		}
	}
}

func TestServer(t *testing.T) {
	s, err := metrics.Listen(":0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(metrics.New(), slog.New(slog.DiscardHandler)) }()
	get := func(url string) (int, string) {
		resp, err := http.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b)
	}
	if status, body := get(s.URL); status != 200 || !strings.Contains(body, "go_goroutines ") || !strings.HasPrefix(s.URL, "http://127.0.0.1:") {
		t.Errorf("GET %s: %d %s", s.URL, status, body)
	}
	if status, _ := get(strings.TrimSuffix(s.URL, "metrics") + "debug/pprof/"); status != 404 {
		t.Errorf("another path is answered %d", status)
	}
	if _, err := metrics.Listen(strings.TrimSuffix(strings.TrimPrefix(s.URL, "http://"), "/metrics")); err == nil || !strings.Contains(err.Error(), "choose another address") {
		t.Errorf("a second server at the same address: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("Serve returns %v after Close", err)
		}
	case <-time.After(time.Minute):
		t.Error("Serve does not end by Close")
	}
	unserved, err := metrics.Listen(":0")
	if err != nil {
		t.Fatal(err)
	}
	if err := unserved.Close(); err != nil {
		t.Errorf("Close without Serve: %v", err)
	}
}
