//go:build unix

package main

import (
	"bufio"
	"context"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/load"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/uptest"
)

// TestLoad: shoppers of the admin interface shop at a shop whose certificate nobody need
// trust, notice nothing while servers are killed, and neither they nor an open stream
// keep the command from ending well.
func TestLoad(t *testing.T) {
	cert, key, _ := certificate(t)
	u := uptest.Start(t, "--workers", "3", "--tls-cert", cert, "--tls-key", key)
	u.SetLoad(30)
	shopped := func(requests int) {
		t.Helper()
		uptest.Await(t, "the shoppers shop", func() bool { return u.Load().Requests >= requests })
	}
	shopped(100)
	u.Kill("worker-1")
	u.AwaitWorkers(3)
	shopped(u.Load().Requests + 100)

	u.SetLoad(0)
	uptest.Await(t, "the shoppers leave", func() bool { return u.Load().State == load.Stopped })
	s := u.Load()
	if s.Shoppers != 30 || s.Journeys < 30 || s.SignOuts+s.LostItems+s.SurplusItems+s.WrongUsers+s.FailedRequests != 0 {
		t.Errorf("%+v; want that 30 shoppers noticed nothing", s)
	}
	if b := u.Fleet().Balancer; uint64(s.Requests) != b.Requests {
		t.Errorf("the shoppers count %d requests, the balancer %d", s.Requests, b.Requests)
	}

	// Shoppers are there and a stream is open when it is told to end. Only that ends them.
	u.SetLoad(30)
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, u.Admin+"/api/stream", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+u.AdminToken)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	stream := bufio.NewScanner(resp.Body)
	stream.Buffer(nil, 1<<20)
	for stream.Scan() && !strings.HasPrefix(stream.Text(), "event: snapshot") {
	}
	shopped(30)
	u.Signal(os.Interrupt)
	if code := u.Wait(); code != 0 {
		t.Errorf("it ended with status %d and said:\n%s", code, u.Stderr())
	}
	drained := false
	for stream.Scan() {
		drained = drained || strings.Contains(stream.Text(), `"drained"`)
	}
	if err := stream.Err(); err != nil || !drained {
		t.Errorf("the stream's end: %v, and it told that a server drained: %v; want an orderly one, that tells", err, drained)
	}
}
