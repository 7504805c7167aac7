package up

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/balancer"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/console"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/fleet"
)

// statusInterval is short enough to look alive.
const statusInterval = 500 * time.Millisecond

// showStatus keeps the status line of a terminal up to date until the function
// that it returns is called. Without a terminal the one thing that must be known
// is said once.
func showStatus(out *console.Console, r Ready, topology string, workers *fleet.Fleet, bal *balancer.Balancer) (stop func()) {
	if !out.Live() {
		if r.Insecure {
			_, _ = fmt.Fprintf(out, "coatcheck: plain HTTP: the session cookie is the insecure development one, %s; for the strict one use --tls-cert and --tls-key\n", r.Cookie)
		}
		return func() {}
	}
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(statusInterval)
		defer tick.Stop()
		for {
			changed := workers.Changed()
			out.SetStatus(statusLine(r, topology, workers.Workers(), workers.Target(), bal.Status()), console.Width())
			select {
			case <-tick.C:
			case <-changed:
			case <-end:
				out.SetStatus("", 0)
				return
			}
		}
	}()
	return sync.OnceFunc(func() {
		close(end)
		<-ended
	})
}

// statusLine says what is going on, the most important first: it may be cut.
func statusLine(r Ready, topology string, workers []fleet.Worker, target int, b balancer.Status) string {
	states := make(map[fleet.State]int)
	for _, w := range workers {
		states[w.State]++
	}
	parts := []string{fmt.Sprintf("%d/%d ready", states[fleet.Ready], target)}
	for _, s := range []fleet.State{fleet.Starting, fleet.Draining} {
		if n := states[s]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, s))
		}
	}
	if r.Insecure {
		parts = append(parts, "plain HTTP, insecure development cookie "+r.Cookie)
	}
	parts = append(parts, fmt.Sprintf("%d requests", b.Requests), fmt.Sprintf("%d in flight", b.InFlight), "sessions in "+topology, "Ctrl-C stops")
	return strings.Join(parts, " · ")
}
