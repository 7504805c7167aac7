package up

import (
	"bytes"
	"strings"
	"testing"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/balancer"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/console"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/fleet"
)

func TestStatusLine(t *testing.T) {
	workers := []fleet.Worker{{State: fleet.Ready}, {State: fleet.Ready}, {State: fleet.Draining}, {State: fleet.Starting}}
	b := balancer.Status{Requests: 1234, InFlight: 2}
	got := statusLine(Ready{Cookie: "session-8080", Insecure: true}, workers, 3, b)
	want := "2/3 ready · 1 starting · 1 draining · plain HTTP, insecure development cookie session-8080 · 1234 requests · 2 in flight · Ctrl-C stops"
	if got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	if got := statusLine(Ready{Cookie: "__Host-session"}, workers, 3, b); strings.Contains(got, "insecure") {
		t.Errorf("HTTPS is called insecure: %s", got)
	}
}

func TestPlainHTTPIsSaidWithoutATerminalToo(t *testing.T) {
	for _, insecure := range []bool{true, false} {
		var b bytes.Buffer
		showStatus(console.New(&b, false), Ready{Cookie: "session-8080", Insecure: insecure}, nil, nil)()
		if got := strings.Contains(b.String(), "insecure development one, session-8080"); got != insecure {
			t.Errorf("insecure %v: it says %q", insecure, b.String())
		}
	}
}

func TestStatusFollowsTheFleetAndGoes(t *testing.T) {
	var b bytes.Buffer
	workers := fleet.New(balancer.New(nil), nil, nil)
	stop := showStatus(console.New(&b, true), Ready{}, workers, balancer.New(nil))
	stop()
	stop() // it may be called twice
	if !strings.HasSuffix(b.String(), "\r\x1b[K") {
		t.Errorf("the status line was left behind: %q", b.String())
	}
}
