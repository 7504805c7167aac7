package up

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/balancer"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/console"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/fleet"
)

func TestStatusLine(t *testing.T) {
	workers := []fleet.Worker{{State: fleet.Ready}, {State: fleet.Ready}, {State: fleet.Draining}, {State: fleet.Starting}}
	b := balancer.Status{Requests: 1234, InFlight: 2}
	got := statusLine(Ready{Cookie: "session-8080", Insecure: true}, "redis cluster", workers, 3, b)
	want := "2/3 ready · 1 starting · 1 draining · plain HTTP, insecure development cookie session-8080 · 1234 requests · 2 in flight · sessions in redis cluster · Ctrl-C stops"
	if got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	if got := statusLine(Ready{Cookie: "__Host-session"}, "sqlite", workers, 3, b); strings.Contains(got, "insecure") {
		t.Errorf("HTTPS is called insecure: %s", got)
	}
}

func TestPlainHTTPIsSaidWithoutATerminalToo(t *testing.T) {
	for _, insecure := range []bool{true, false} {
		var b bytes.Buffer
		out := console.New(&b, false)
		showStatus(out, Ready{Cookie: "session-8080", Insecure: insecure}, "sqlite", nil, nil)()
		out.Flush(time.Hour)
		if got := strings.Contains(b.String(), "insecure development one, session-8080"); got != insecure {
			t.Errorf("insecure %v: it says %q", insecure, b.String())
		}
	}
}

// screen is a terminal.
type screen struct {
	bytes.Buffer
	written chan struct{} // closed by the first Write
}

func (s *screen) Write(b []byte) (int, error) {
	if s.Len() == 0 {
		defer close(s.written)
	}
	return s.Buffer.Write(b)
}

func TestStatusFollowsTheFleetAndGoes(t *testing.T) {
	s := &screen{written: make(chan struct{})}
	out := console.New(s, true)
	workers := fleet.New(balancer.New(nil), nil, nil)
	stop := showStatus(out, Ready{}, "sqlite", workers, balancer.New(nil))
	<-s.written
	stop()
	stop() // it may be called twice
	out.Flush(time.Hour)
	if got := s.String(); !strings.Contains(got, "0/0 ready") || !strings.HasSuffix(got, "\r\x1b[K") {
		t.Errorf("the status line was not shown or was left behind: %q", got)
	}
}
