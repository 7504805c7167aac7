//go:build unix

package main

import (
	"net/http"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/admin"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/uptest"
)

// Of two requests that read, change and write one session, the later write used
// to undo the earlier. Here 200 do it on three servers, and all of them are
// there before the first may go on.
func TestParallelAddsAllCount(t *testing.T) {
	const adds = 200
	u := uptest.Start(t, "--workers", "3")
	v := newVisitor(t, u, nil)
	v.post("/login", url.Values{"user": {"alice"}, "password": {"demo"}})
	cookie := v.cookie(u)

	var posts []*slowPost
	for range adds {
		posts = append(posts, startSlowPostAs(t, u, cookie))
	}
	u.AwaitFleet("all requests in flight at once", func(s admin.Status) bool { return s.Balancer.InFlight == adds })

	release := make(chan struct{})
	took := make([]time.Duration, adds)
	var wg sync.WaitGroup
	for i, p := range posts {
		wg.Go(func() {
			<-release
			start := time.Now()
			resp, err := p.complete()
			took[i] = time.Since(start)
			switch {
			case err != nil:
				t.Errorf("an addition had no answer: %v", err)
			case resp.StatusCode != http.StatusOK:
				t.Errorf("an addition was answered %s by %s", resp.Status, resp.Header.Get("X-Served-By"))
			}
		})
	}
	close(release)
	wg.Wait()
	for range 3 {
		v.mustHave("alice", adds)
	}
	slices.Sort(took)
	t.Logf("%d additions in flight at once on one session over three servers: p50 %v, p99 %v, max %v from the last byte sent to the answer",
		adds, took[adds/2], took[adds*99/100], took[adds-1])
}
