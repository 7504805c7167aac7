package worker_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/balancer"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/worker"
	"github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/store"
)

var visits = session.NewAttr[int]("visits")

// app is a small web app. GET /slow reports on arrived and answers when released.
type app struct {
	arrived, release chan struct{}
}

func newApp() *app { return &app{arrived: make(chan struct{}), release: make(chan struct{})} }

func (a *app) make(st store.Store, s worker.Site) (http.Handler, error) {
	m, err := session.New(st, &session.Options{
		Cookie: session.Cookie{Name: s.CookieName}, InsecureCookie: s.InsecureCookie, Logger: s.Logger, Observer: s.Observer,
	})
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("POST /visit", m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := visits.Update(m.From(r.Context()), func(n int) (int, error) { return n + 1, nil }); err != nil {
			m.HandleError(w, r, err)
		}
	})))
	mux.HandleFunc("GET /slow", func(w http.ResponseWriter, _ *http.Request) {
		close(a.arrived)
		<-a.release
		_, _ = io.WriteString(w, s.Name)
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if s.Draining() {
			http.Error(w, "draining", http.StatusServiceUnavailable)
		}
	})
	return mux, nil
}

// running is a worker that runs in the test's process.
type running struct {
	worker.Ready
	stop, kill context.CancelFunc
	result     chan error
}

func run(t *testing.T, c worker.Config, a *app) *running {
	t.Helper()
	if c.Listen == "" {
		c.Listen = "127.0.0.1:0"
	}
	if c.Store == "" {
		c.Store = "memory:"
	}
	if c.DrainTimeout == 0 {
		c.DrainTimeout = time.Minute
	}
	now, kill := context.WithCancel(t.Context())
	polite, stop := context.WithCancel(now)
	r := &running{stop: stop, kill: kill, result: make(chan error, 1)}
	ready := make(chan worker.Ready, 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.result <- worker.Run(polite, now, c, a.make, slog.New(slog.DiscardHandler), func(x worker.Ready) error {
			ready <- x
			return nil
		})
	}()
	t.Cleanup(func() { kill(); <-ended })
	select {
	case r.Ready = <-ready:
	case err := <-r.result:
		t.Fatalf("Run = %v before it was ready", err)
	}
	return r
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

type answer struct {
	status int
	body   string
	err    error
}

// slow sends GET /slow and returns when it is in flight.
func slow(t *testing.T, r *running, a *app) <-chan answer {
	t.Helper()
	answers := make(chan answer, 1)
	go func() {
		resp, err := http.Get(r.URL + "/slow")
		if err != nil {
			answers <- answer{err: err}
			return
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		answers <- answer{resp.StatusCode, string(b), err}
	}()
	<-a.arrived
	return answers
}

func TestStopFinishesRequestsInFlight(t *testing.T) {
	a := newApp()
	r := run(t, worker.Config{Name: "web-1"}, a)
	answers := slow(t, r, a)
	r.stop()
	// The listener is closed once the drain has begun.
	for {
		conn, err := net.Dial("tcp", strings.TrimPrefix(r.URL, "http://"))
		if err != nil {
			break
		}
		conn.Close()
	}
	select {
	case err := <-r.result:
		t.Fatalf("Run = %v with a request in flight", err)
	default:
	}
	close(a.release)
	if got := <-answers; got.status != 200 || got.body != "web-1" {
		t.Errorf("the request in flight got %+v", got)
	}
	if err := <-r.result; err != nil {
		t.Errorf("Run = %v after a drain", err)
	}
}

func TestReadinessEndsBeforeTheListenerDoes(t *testing.T) {
	a := newApp()
	r := run(t, worker.Config{DrainDelay: time.Hour}, a)
	if status, _ := get(t, r.URL+"/readyz"); status != 200 {
		t.Errorf("a worker that is ready says %d", status)
	}
	r.stop()
	for {
		if status, _ := get(t, r.URL+"/readyz"); status == http.StatusServiceUnavailable {
			break
		}
	}
	r.kill()
	if err := <-r.result; !errors.Is(err, context.Canceled) {
		t.Errorf("Run = %v, want the cause of the end", err)
	}
}

// A balancer that keeps connections must not have one left when the worker closes them:
// it could just be sending on it.
func TestDrainClosesConnectionsAfterTheirAnswers(t *testing.T) {
	r := run(t, worker.Config{DrainDelay: time.Hour}, newApp())
	ready := func() *http.Response {
		t.Helper()
		resp, err := http.Get(r.URL + "/readyz")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		return resp
	}
	if ready().Close {
		t.Error("a worker that is ready closes a connection after its answer")
	}
	r.stop()
	for {
		resp := ready()
		if resp.StatusCode == http.StatusOK {
			continue
		}
		if !resp.Close {
			t.Error("a worker that drains keeps a connection open after its answer")
		}
		break
	}
	r.kill()
	<-r.result
}

// A balancer that does not know yet may have sent a change on a connection that it has just
// opened.
func TestWhatComesAsTheWorkerStopsIsAnswered(t *testing.T) {
	// There is a quarter of a second for it, which a busy machine may take longer than.
	for range 20 {
		if answeredAsItStops(t) {
			return
		}
	}
	t.Error("20 workers that stopped answered nothing that came on a connection they had accepted")
}

func answeredAsItStops(t *testing.T) bool {
	r := run(t, worker.Config{}, newApp())
	addr := strings.TrimPrefix(r.URL, "http://")
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	get(t, r.URL+"/readyz") // so it has accepted the one before
	r.stop()
	for {
		another, err := net.DialTimeout("tcp", addr, 20*time.Millisecond)
		if err != nil { // refused, or not even that
			break
		}
		another.Close()
	}
	_, _ = io.WriteString(conn, "POST /visit HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 0\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err == nil {
		resp.Body.Close()
	}
	if err := <-r.result; err != nil {
		t.Errorf("Run = %v", err)
	}
	return err == nil && resp.StatusCode == http.StatusOK && resp.Close
}

func TestDrainIsBoundedAndSaysWhatItCut(t *testing.T) {
	a := newApp()
	r := run(t, worker.Config{DrainTimeout: 10 * time.Millisecond}, a)
	answers := slow(t, r, a)
	r.stop()
	if err := <-r.result; err == nil || !strings.Contains(err.Error(), "cut off") {
		t.Errorf("Run = %v, want that a request was cut off", err)
	}
	if got := <-answers; got.err == nil {
		t.Errorf("the request got %+v", got)
	}
	close(a.release)
}

func TestKillDoesNotWait(t *testing.T) {
	a := newApp()
	r := run(t, worker.Config{}, a)
	answers := slow(t, r, a)
	r.kill()
	if err := <-r.result; !errors.Is(err, context.Canceled) {
		t.Errorf("Run = %v, want the cause of the end", err)
	}
	<-answers
	close(a.release)
}

func TestSecretIsRequired(t *testing.T) {
	r := run(t, worker.Config{Secret: "s3cret"}, newApp())
	if status, body := get(t, r.URL+"/readyz"); status != http.StatusForbidden {
		t.Errorf("without the secret: %d %s, want 403", status, body)
	}
	req, err := http.NewRequest(http.MethodGet, r.URL+"/readyz", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set(balancer.SecretHeader, "s3cret")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("with the secret: %s, want 200", resp.Status)
	}
}

func TestCookies(t *testing.T) {
	for _, tt := range []struct {
		config worker.Config
		want   string
		secure bool
	}{
		{worker.Config{}, "__Host-session", true},
		{worker.Config{InsecureName: "ignored"}, "__Host-session", true},
		{worker.Config{InsecureCookie: true}, "session", false},
		{worker.Config{InsecureCookie: true, InsecureName: "session-8080"}, "session-8080", false},
	} {
		r := run(t, tt.config, newApp())
		resp, err := http.Post(r.URL+"/visit", "", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		cookies := resp.Cookies()
		if len(cookies) != 1 || cookies[0].Name != tt.want || cookies[0].Secure != tt.secure || r.Cookie != tt.want {
			t.Errorf("%+v: cookies %v, said to be %s; want %s, secure %v", tt.config, cookies, r.Cookie, tt.want, tt.secure)
		}
	}
}

func TestServersShareTheFile(t *testing.T) {
	store := "sqlite:" + filepath.Join(t.TempDir(), "s.db")
	first := run(t, worker.Config{Store: store, InsecureCookie: true, Sweep: true}, newApp())
	second := run(t, worker.Config{Store: store, InsecureCookie: true, VerifyOnly: true}, newApp())
	if !first.Migrated || second.Migrated {
		t.Errorf("set up by the first: %v, by the second: %v; want the first alone", first.Migrated, second.Migrated)
	}
	if first.Name == second.Name {
		t.Errorf("two servers without a name are both %q", first.Name)
	}
}

func TestRunFailsWithoutItsAddressOrStore(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, tt := range []struct {
		config worker.Config
		want   string
	}{
		{worker.Config{Listen: taken.Addr().String(), Store: "memory:"}, "listen on " + taken.Addr().String()},
		{worker.Config{Listen: "127.0.0.1:0", Store: "oracle:"}, "not supported"},
		{worker.Config{Listen: "127.0.0.1:0", Store: "sqlite:" + filepath.Join(t.TempDir(), "s.db"), VerifyOnly: true}, "does not exist"},
	} {
		err := worker.Run(t.Context(), t.Context(), tt.config, newApp().make, slog.New(slog.DiscardHandler), func(worker.Ready) error {
			t.Error("ready without an address or a store")
			return nil
		})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Run = %v, want %q", err, tt.want)
		}
	}
}

func ExampleRun() {
	polite, stop := context.WithCancel(context.Background())
	hello := func(_ store.Store, s worker.Site) (http.Handler, error) {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, "hello from %s", s.Name)
		}), nil
	}
	err := worker.Run(polite, context.Background(), worker.Config{
		Name: "web-1", Listen: "127.0.0.1:0", Store: "memory:", DrainTimeout: time.Minute,
	}, hello, slog.New(slog.DiscardHandler), func(r worker.Ready) error {
		resp, err := http.Get(r.URL)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		fmt.Println(string(b))
		stop()
		return err
	})
	fmt.Println(err)
	// Output:
	// hello from web-1
	// <nil>
}

func TestMetrics(t *testing.T) {
	r := run(t, worker.Config{Metrics: ":0", InsecureCookie: true, Sweep: true}, newApp())
	resp, err := http.Post(r.URL+"/visit", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	status, body := get(t, r.Metrics)
	for _, line := range []string{
		"coatcheck_store_up 1",
		`coatcheck_session_operations_total{op="commit",outcome="ok"} 1`,
		`coatcheck_store_calls_total{op="create",outcome="ok"} 1`,
	} {
		if !strings.Contains(body, "\n"+line+"\n") {
			t.Errorf("GET %s is %d and lacks %s", r.Metrics, status, line)
		}
	}
	if status, _ := get(t, r.URL+"/metrics"); status != http.StatusNotFound {
		t.Errorf("visitors get %d for /metrics, which is the app's to answer", status)
	}
	r.stop()
	if err := <-r.result; err != nil {
		t.Errorf("Run = %v", err)
	}
	if resp, err := http.Get(r.Metrics); err == nil {
		resp.Body.Close()
		t.Error("the metrics outlive the worker")
	}
}

// Kubernetes scales by a figure of this server, whose name its file must have.
func TestRequestsInFlightAreCounted(t *testing.T) {
	b, err := os.ReadFile("../../../../deploy/kubernetes/autoscaler.yaml")
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile(`coatcheck_[a-z_]+`).FindAllString(string(b), -1)
	if len(names) < 2 || len(slices.Compact(slices.Clone(names))) != 1 {
		t.Fatalf("the autoscaler and the rule of its adapter name %q, want one metric", names)
	}
	a := newApp()
	r := run(t, worker.Config{Metrics: ":0"}, a)
	want := func(n int) bool {
		_, body := get(t, r.Metrics)
		return strings.Contains(body, fmt.Sprintf("\n%s %d\n", names[0], n))
	}
	if !want(0) {
		t.Errorf("%s is not 0 before there is a request", names[0])
	}
	answers := slow(t, r, a)
	if !want(1) {
		t.Errorf("%s is not 1 with a request in flight", names[0])
	}
	close(a.release)
	<-answers
	for end := time.Now().Add(time.Minute); !want(0); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s is not 0 after the answer", names[0])
		}
	}
}

// The parent asks by a secret of its own: the balancer sends the other one along with
// each visitor's request.
func TestMetricsAreForTheParent(t *testing.T) {
	r := run(t, worker.Config{Secret: "visitors", MetricsSecret: "parent"}, newApp())
	if r.Metrics != "" {
		t.Errorf("the metrics have an address of their own, %s", r.Metrics)
	}
	for secret, want := range map[string]int{"": 403, "visitors": 404, "parent": 200, "else": 403} {
		req, err := http.NewRequest(http.MethodGet, r.URL+"/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set(balancer.SecretHeader, secret)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != want || strings.Contains(string(b), "go_goroutines") != (want == 200) {
			t.Errorf("with the secret %q the answer is %d, want %d", secret, resp.StatusCode, want)
		}
	}
}
