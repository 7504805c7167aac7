package storeurl_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/storeurl"
	"github.com/coatcheck/coatcheck/internal/testserver"
	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/storetest"
)

func parse(t *testing.T, s string) storeurl.URL {
	t.Helper()
	u, err := storeurl.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestRedisURLIsShownWithoutSecrets(t *testing.T) {
	for _, tt := range []struct{ in, want, kind string }{
		{"redis://localhost", "redis://localhost", "redis"},
		{"redis://hunter2:hunter2@127.0.0.1:7000/3?prefix=hunter2:", "redis://127.0.0.1:7000/3", "redis"},
		{"rediss://:hunter2@example.com/", "rediss://example.com", "redis"},
		{"valkeys://u:hunter2%40%2F@example.com?servername=hunter2", "valkeys://example.com", "valkey"},
		{"redis+sentinel://u:hunter2@localhost,[::1]:26380/main/2?sentinel-password=hunter2", "redis+sentinel://localhost,[::1]:26380/main/2", "redis"},
		{"rediss+cluster://u:hunter2@a.example,b.example:7001", "rediss+cluster://a.example,b.example:7001", "redis"},
		{"valkey+cluster://10.0.0.1?insecure-plaintext=true", "valkey+cluster://10.0.0.1", "valkey"},
	} {
		u, err := storeurl.Parse(tt.in)
		if err != nil {
			t.Errorf("Parse(%q): %v", tt.in, err)
			continue
		}
		if u.String() != tt.want || u.Kind() != tt.kind || !u.Shared() {
			t.Errorf("Parse(%q) = %v, kind %s, shared %t; want %s, %s, true", tt.in, u, u.Kind(), u.Shared(), tt.want, tt.kind)
		}
		for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
			if s := fmt.Sprintf(format, struct{ Store storeurl.URL }{u}); strings.Contains(s, "hunter2") {
				t.Errorf("%s shows a secret: %s", format, s)
			}
		}
		if again, err := storeurl.Parse(u.Raw()); err != nil || again != u {
			t.Errorf("a worker that is given %v opens another store: %v", u, err)
		}
	}
}

func TestRedisURLThatMakesNoSenseIsRefusedWithoutSecrets(t *testing.T) {
	for in, want := range map[string]string{
		"redis://u:hunter2@example.com":                     "begin the URL with rediss",
		"redis+sentinel://u:hunter2@10.0.0.1/main":          "begin the URL with rediss",
		"redis+cluster://localhost,10.0.0.1?prefix=hunter2": "10.0.0.1",
		"redis:hunter2":                                         "redis://",
		"redis://u:hunter2/x@localhost":                         "host:port",
		"redis://u:1/hunter2@localhost":                         "number of a database",
		"redis+sentinel://u:1/hunter2@localhost/main":           "%2F",
		"redis://u:1?hunter2@localhost":                         "not known",
		"redis://u:1#hunter2@localhost":                         "%XX",
		"redis://u:hunter2@localhost/%zz":                       "%XX",
		"redis+other://u:hunter2@localhost":                     "redis+cluster://",
		"redis+cluster://u:hunter2@localhost/1":                 "database 0",
		"redis+sentinel://u:hunter2@localhost":                  "mymaster",
		"redis://u:hunter2@localhost?prefix={a}":                "brace",
		"redis://u:hunter2@localhost?min-replicas=x":            "min-replicas",
		"redis://u:hunter2@localhost?ca=ca.pem":                 "rediss",
		"rediss://u:hunter2@localhost?ca=no/such/file":          "no/such/file",
		"rediss://u:hunter2@localhost?cert=a.pem":               "cert and key",
		"redis://u:hunter2@localhost,localhost?prefix=hunter2:": "several hosts",
	} {
		u, err := storeurl.Parse(in)
		if err == nil {
			t.Errorf("Parse(%q) = %v, want an error", in, u)
			continue
		}
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("Parse(%q) repeats a secret: %v", in, err)
		}
		if !strings.Contains(err.Error(), want) {
			t.Errorf("Parse(%q) = %v, want %q in it", in, err, want)
		}
	}
}

func TestNearCacheOfMemoryIsRefused(t *testing.T) {
	for in, want := range map[string]bool{"memory:": false, "sqlite:a.db": true, "redis://localhost": true} {
		if err := parse(t, in).CheckNearCache(); (err == nil) != want {
			t.Errorf("CheckNearCache of %s = %v", in, err)
		}
	}
}

// spaces is how many prefixes have been given out on the shared server.
var spaces atomic.Int64

// A store behind a breaker that may not be connected is a store still.
func TestConformanceOnRedis(t *testing.T) {
	s := testserver.Shared(t, "redis")
	var mu sync.Mutex
	prefixes := make(map[store.Store]string)
	another := func(t *testing.T, prefix string) store.Store {
		u := parse(t, s.URL+"?prefix="+prefix)
		o, err := u.Open(t.Context(), storeurl.Options{Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { o.Close() })
		mu.Lock()
		defer mu.Unlock()
		prefixes[o.Store] = prefix
		return o.Store
	}
	storetest.Run(t, storetest.Config{
		New: func(t *testing.T) store.Store {
			return another(t, fmt.Sprintf("storeurl-%d:", spaces.Add(1)))
		},
		Second: func(t *testing.T, st store.Store) store.Store {
			mu.Lock()
			prefix := prefixes[st]
			mu.Unlock()
			return another(t, prefix)
		},
	})
}

// lines is a log that a test reads.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), text)
}

// patience is never measured.
const patience = time.Minute

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

func TestPatientServerWaitsForItsStore(t *testing.T) {
	s := testserver.Start(t, "redis", nil)
	u := parse(t, s.URL)
	s.Kill(t, "node-1")
	if o, err := u.Open(t.Context(), storeurl.Options{}); err == nil {
		o.Close()
		t.Error("a store that is away was opened by somebody without patience")
	} else if !strings.Contains(err.Error(), u.String()) {
		t.Errorf("Open = %v, and does not say which store", err)
	}
	log := new(lines)
	o, err := u.Open(t.Context(), storeurl.Options{Patient: true, NearCache: true, Logger: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	if _, err := o.Prepare(t.Context(), true); err != nil {
		t.Errorf("Prepare = %v: a worker that starts during an outage must serve", err)
	}
	for name, call := range calls(o.Store) {
		err := call(t.Context())
		if !errors.Is(err, store.ErrNotAsked) || errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrAmbiguous) {
			t.Errorf("%s = %v without a connection: the store was not asked, nothing is absent, and nothing was done", name, err)
		}
	}
	if got, want := o.State(), (storeurl.State{Topology: "redis standalone", Breaker: "connecting", NearCache: "timed"}); got != want {
		t.Errorf("State = %+v, want %+v", got, want)
	}
	if n := log.count("cannot be reached"); n != 1 {
		t.Errorf("the outage was told %d times", n)
	}
	s.Restart(t, "node-1")
	await(t, "a read after the store came back", func() bool {
		_, err := o.Store.Get(t.Context(), store.Key{1})
		return errors.Is(err, store.ErrNotFound)
	})
	if got := o.State().Breaker; got != "closed" {
		t.Errorf("the breaker of a store that answers is %s", got)
	}
	if n := log.count("is connected"); n != 1 {
		t.Errorf("the connection was told %d times:\n%s", n, log.b.String())
	}
}

// A server that comes back and wants something else than before is told, too.
func TestAnotherReasonNotToConnectIsTold(t *testing.T) {
	s := testserver.Start(t, "redis", &testserver.Options{Password: "hunter2"})
	s.Kill(t, "node-1")
	log := new(lines)
	o, err := parse(t, "redis://"+s.Nodes[0].Addr).Open(t.Context(), storeurl.Options{Patient: true, Logger: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	if log.count("connection refused") != 1 || log.count("NOAUTH") != 0 {
		t.Errorf("want that a server that is away is told once:\n%s", log.b.String())
	}
	s.Restart(t, "node-1")
	await(t, "the server that wants a password is told", func() bool { return log.count("NOAUTH") > 0 })
}

// That writes wait for replicas reaches the session manager, which then takes
// nothing for kept that it only finds.
func TestMinReplicasAreTold(t *testing.T) {
	s := testserver.Shared(t, "redis")
	for query, want := range map[string]bool{"": false, "?min-replicas=1&replica-timeout=1ms": true} {
		o, err := parse(t, s.URL+query).Open(t.Context(), storeurl.Options{Patient: true, NearCache: true, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		c, ok := store.As[store.Confirmer](o.Store)
		if got := ok && c.Confirms(); got != want {
			t.Errorf("with %q the store confirms writes: %t, want %t", query, got, want)
		}
		if err := o.Close(); err != nil {
			t.Error(err)
		}
	}
}

// The end of a process does not wait for a store that never comes.
func TestPatienceEndsWithClose(t *testing.T) {
	o, err := parse(t, "redis://127.0.0.1:1").Open(t.Context(), storeurl.Options{Patient: true, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Close(); err != nil {
		t.Error(err)
	}
}

func TestOutageIsToldOnceAndSoIsItsEnd(t *testing.T) {
	s := testserver.Start(t, "redis", nil)
	log := new(lines)
	o, err := parse(t, s.URL).Open(t.Context(), storeurl.Options{Logger: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	get := func() error { _, err := o.Store.Get(t.Context(), store.Key{1}); return err }
	s.Kill(t, "node-1")
	await(t, "the circuit opens", func() bool { _ = get(); return o.State().Breaker == "open" })
	await(t, "a probe", func() bool { return o.State().Breaker == "half-open" })
	await(t, "its failure", func() bool { _ = get(); return o.State().Breaker == "open" })
	if n := log.count("the circuit is open"); n != 1 {
		t.Errorf("the outage was told %d times:\n%s", n, log.b.String())
	}
	s.Restart(t, "node-1")
	await(t, "the circuit closes", func() bool { _ = get(); return o.State().Breaker == "closed" })
	if n := log.count("the circuit is closed"); n != 1 {
		t.Errorf("the end of the outage was told %d times:\n%s", n, log.b.String())
	}
}

func TestServerThatCannotBeUsedIsFoundAtTheStart(t *testing.T) {
	s := testserver.Start(t, "redis", &testserver.Options{
		Password: "hunter2",
		Config: []string{
			"maxmemory-policy allkeys-lru",
			"user reader on >hunter2 ~* +get +ping +hello +auth +client +select +info",
		},
	})
	host := s.Nodes[0].Addr
	for _, tt := range []struct{ url, want string }{
		{"redis://" + host, "NOAUTH"},
		{"redis://:hunter3@" + host, "WRONGPASS"},
		{"redis://reader:hunter2@" + host, "NOPERM"},
	} {
		u := parse(t, tt.url)
		o, err := u.Open(t.Context(), storeurl.Options{})
		if err == nil {
			_, err = o.Prepare(t.Context(), false)
			o.Close()
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v: %v, want %s", u, err, tt.want)
		} else if strings.Contains(err.Error(), "hunter") {
			t.Errorf("%v: the error shows a password: %v", u, err)
		}
	}

	log := new(lines)
	o, err := parse(t, s.URL).Open(t.Context(), storeurl.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	if migrated, err := o.Prepare(t.Context(), true); err != nil || migrated {
		t.Errorf("Prepare of a good server = %t, %v", migrated, err)
	}
	o.Advise(t.Context(), slog.New(slog.NewTextHandler(log, nil)))
	if log.count("allkeys-lru") != 1 {
		t.Errorf("a server that evicts sessions is not warned of:\n%s", log.b.String())
	}
}

func TestTooFewReplicasAreFoundAtTheStart(t *testing.T) {
	s := testserver.Shared(t, "redis")
	o, err := parse(t, s.URL+"?min-replicas=1&replica-timeout=1ms").Open(t.Context(), storeurl.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	_, err = o.Prepare(t.Context(), false)
	if err == nil || !strings.Contains(err.Error(), "0 of 1 within 1ms") || !strings.Contains(err.Error(), "min-replicas in the store URL") {
		t.Errorf("Prepare of a server without replicas: %v; want what is missing and what to do", err)
	}
}

func TestServerTakenForAnotherKindIsToldHow(t *testing.T) {
	s := testserver.Shared(t, "redis")
	_, err := parse(t, "redis+sentinel://"+s.Nodes[0].Addr+"/main").Open(t.Context(), storeurl.Options{})
	if err == nil || !strings.Contains(err.Error(), "this is no Sentinel") {
		t.Errorf("a server that is taken for a Sentinel: %v; want that it is none", err)
	}
}
