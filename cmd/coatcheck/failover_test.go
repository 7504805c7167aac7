//go:build unix

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/shopper"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/uptest"
	"github.com/coatcheck/coatcheck/internal/testserver"
)

// A primary is killed under shoppers. What they may notice is 503 while nobody can
// write, and with MinReplicas nothing else: no sign-out, nothing lost. How long
// that was is printed beside what a plain client saw of the same failover.
func TestFailoverOfRedis(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a quarter of a minute for each set-up: run it without -short")
	}
	for _, kind := range []string{"redis-cluster-tls", "redis-sentinel-tls"} {
		t.Run(kind, func(t *testing.T) { testFailover(t, kind, true) })
	}
}

// Without TLS the timing is another; and without MinReplicas, what the primary had
// not passed on is lost with it: that is counted and printed.
func TestSoakFailoverOfRedis(t *testing.T) {
	if os.Getenv("COATCHECK_SOAK") != "1" {
		t.Skip("takes minutes: run it with COATCHECK_SOAK=1")
	}
	for _, kind := range []string{"redis-cluster", "redis-sentinel"} {
		t.Run(kind, func(t *testing.T) { testFailover(t, kind, true) })
		t.Run(kind+" without MinReplicas", func(t *testing.T) { testFailover(t, kind, false) })
	}
}

func testFailover(t *testing.T, kind string, confirmed bool) {
	server := testserver.Start(t, kind, nil)
	url := server.URL
	if confirmed {
		url += query(url) + "min-replicas=1"
	}
	u := uptest.Start(t, "--workers", "3", "--store", url)
	plain := newPlainClient(t, server, confirmed)

	var seen outage
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	shopped := make(chan *shopper.Result, 1)
	go func() {
		r, err := shopper.Run(ctx, u.Shop, 30, &shopper.Options{Think: 100 * time.Millisecond, Observe: seen.observe})
		if err != nil {
			t.Error(err)
		}
		shopped <- r
	}()
	uptest.Await(t, "the shoppers to be at it", func() bool { return seen.requests() > 500 })

	victim := plain.primary(t, server)
	killed := time.Now()
	seen.begin(killed)
	plain.begin(killed)
	server.Kill(t, victim)

	uptest.Await(t, "the plain client to be served again", plain.served)
	// What supervises the servers starts it again, now as a replica. Not earlier: it
	// has kept nothing on disk, and would come back as an empty primary. A cluster
	// with one replica each has none to confirm anything until it is back.
	server.Restart(t, victim)
	back := time.Since(killed)
	uptest.Await(t, "the plain client's writes to be confirmed again", plain.recovered)
	uptest.Await(t, "shoppers to be served again", func() bool { return seen.quietFor(3 * time.Second) })
	cancel()
	r := <-shopped

	first, last, n := seen.span()
	t.Logf("a plain client failed from %v to %v after the kill", plain.first.Round(time.Millisecond), plain.last.Round(time.Millisecond))
	t.Logf("the killed server was back after %v", back.Round(time.Millisecond))
	t.Logf("%d of %d requests were answered 503, from %v to %v after the kill", n, seen.requests(), first.Round(time.Millisecond), last.Round(time.Millisecond))
	t.Logf("the last 503 came %v after the plain client's last failure", (last - plain.last).Round(time.Millisecond))
	t.Logf("the shoppers say:\n%s", r)
	if n == 0 {
		t.Error("nobody noticed: the primary that was killed had nothing to do, so this shows nothing")
	}
	if confirmed && r.FailedRequests != n {
		t.Errorf("%d requests failed, of which %d by a 503 (by status: %v): the others are none of an outage's", r.FailedRequests, n, seen.answers)
	}
	lost := r.SignOuts + r.LostItems + r.SurplusItems + r.WrongUsers
	switch {
	case confirmed && lost > 0:
		t.Errorf("with MinReplicas 1, the failover cost %d sign-outs, %d lost and %d surplus items, %d wrong users; want none",
			r.SignOuts, r.LostItems, r.SurplusItems, r.WrongUsers)
	case !confirmed:
		t.Logf("without MinReplicas the failover cost %d sign-outs, %d lost and %d surplus items, %d wrong users",
			r.SignOuts, r.LostItems, r.SurplusItems, r.WrongUsers)
	}
}

func query(url string) string {
	if strings.Contains(url, "?") {
		return "&"
	}
	return "?"
}

// outage is what shoppers saw of one.
type outage struct {
	mu          sync.Mutex
	n           int
	answers     map[int]int // failed requests, by status
	killed      time.Time
	unavailable []time.Time // when answers of 503 came
}

func (o *outage) observe(r shopper.Request) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.n++
	if r.Fault == shopper.FailedRequest {
		if o.answers == nil {
			o.answers = make(map[int]int)
		}
		o.answers[r.Status]++
	}
	if r.Status == http.StatusServiceUnavailable {
		o.unavailable = append(o.unavailable, r.Start.Add(r.Took))
	}
}

func (o *outage) requests() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.n
}

func (o *outage) begin(killed time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.killed = killed
}

// quietFor reports whether nothing failed for that long.
func (o *outage) quietFor(d time.Duration) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	last := o.killed
	if n := len(o.unavailable); n > 0 {
		last = o.unavailable[n-1]
	}
	return time.Since(last) > d
}

// span returns when 503s came, counted from the kill, and how many.
func (o *outage) span() (first, last time.Duration, n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i, at := range o.unavailable {
		d := at.Sub(o.killed)
		if i == 0 || d < first {
			first = d
		}
		last = max(last, d)
	}
	return first, last, len(o.unavailable)
}

// plainClient writes one key again and again, as an app that knows nothing of
// sessions would. If it is to be confirmed, it fails as long as no replica has the
// write.
type plainClient struct {
	client    rueidis.Client
	confirmed bool

	mu          sync.Mutex
	killed      time.Time
	first, last time.Duration // of the failures, after the kill
	failed      bool          // since the kill,
	written, ok bool          // and written since then, and confirmed
}

const plainKey = "plain"

func newPlainClient(t *testing.T, server *testserver.Server, confirmed bool) *plainClient {
	t.Helper()
	client, err := rueidis.NewClient(plainOptions(t, server))
	if err != nil {
		t.Fatal(err)
	}
	p := &plainClient{client: client, confirmed: confirmed}
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			p.try(ctx)
		}
	})
	t.Cleanup(func() {
		cancel()
		done.Wait()
		client.Close()
	})
	return p
}

func (p *plainClient) try(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	written, ok := p.write(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.killed.IsZero() {
		return
	}
	p.written = written && p.failed
	p.ok = ok && p.failed
	if !ok {
		p.last = time.Since(p.killed)
		if !p.failed {
			p.first = p.last
		}
		p.failed = true
	}
}

func (p *plainClient) write(ctx context.Context) (written, ok bool) {
	set := p.client.B().Set().Key(plainKey).Value("x").ExSeconds(60).Build()
	if !p.confirmed {
		err := p.client.Do(ctx, set).Error()
		return err == nil, err == nil
	}
	_ = p.client.Dedicated(func(c rueidis.DedicatedClient) error {
		both := c.DoMulti(ctx, set, c.B().Wait().Numreplicas(1).Timeout(100).Build())
		written = both[0].Error() == nil
		n, err := both[1].AsInt64()
		ok = written && err == nil && n >= 1
		return nil
	})
	return written, ok
}

func (p *plainClient) begin(killed time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.killed = killed
}

// served reports whether a write got through after one that did not.
func (p *plainClient) served() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.written
}

func (p *plainClient) recovered() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ok
}

// primary returns the name of the node that holds the client's key.
func (p *plainClient) primary(t *testing.T, server *testserver.Server) string {
	t.Helper()
	// The server itself says where it listens: CLIENT INFO on the connection that
	// the key leads to.
	var info string
	err := p.client.Dedicated(func(c rueidis.DedicatedClient) error {
		for _, res := range c.DoMulti(t.Context(), c.B().Get().Key(plainKey).Build(), c.B().ClientInfo().Build()) {
			if err := res.Error(); err != nil && !rueidis.IsRedisNil(err) {
				return err
			}
			info, _ = res.ToString()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for field := range strings.FieldsSeq(info) {
		if addr, ok := strings.CutPrefix(field, "laddr="); ok {
			return server.NodeAt(t, addr).Name
		}
	}
	t.Fatalf("the server did not say where it listens: %q", info)
	return ""
}

// plainOptions are the client's own defaults, but for where the server is.
func plainOptions(t *testing.T, server *testserver.Server) rueidis.ClientOption {
	t.Helper()
	o := rueidis.ClientOption{DisableCache: true}
	role := "primary"
	if strings.Contains(server.Kind, "sentinel") {
		role, o.Sentinel.MasterSet = "sentinel", primaryName(t, server.URL)
	}
	for _, n := range server.Nodes {
		if n.Role == role {
			o.InitAddress = append(o.InitAddress, n.Addr)
		}
	}
	if server.TLS != nil {
		ca, err := os.ReadFile(server.TLS.CA)
		if err != nil {
			t.Fatal(err)
		}
		pair, err := tls.LoadX509KeyPair(server.TLS.Cert, server.TLS.Key)
		if err != nil {
			t.Fatal(err)
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(ca)
		o.TLSConfig = &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}}
		o.Sentinel.TLSConfig = o.TLSConfig
	}
	return o
}

// primaryName returns what Sentinels call their primary: the path of the URL.
func primaryName(t *testing.T, url string) string {
	t.Helper()
	_, rest, _ := strings.Cut(url, "://")
	_, path, _ := strings.Cut(rest, "/")
	name, _, _ := strings.Cut(path, "?")
	if name == "" {
		t.Fatal("the URL of the server names no primary")
	}
	return name
}
