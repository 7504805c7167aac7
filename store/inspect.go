package store

import (
	"context"
	"fmt"
	"time"
)

// Inspector is implemented by stores that can tell how well their server is set
// up for sessions.
type Inspector interface {
	// Inspect asks the server and returns a finding for each thing that it looked
	// at, good or bad, in a fixed order. It changes nothing. What the server
	// refuses to tell is a finding of SeverityUnknown; an error means that the
	// server could not be asked at all.
	Inspect(ctx context.Context) ([]Finding, error)
}

// Finding is one thing that an [Inspector] looked at. It holds no secret.
type Finding struct {
	Check    string   // what was looked at: a word in lower case, such as "tls" or "eviction"
	Severity Severity // how bad it is
	Evidence string   // what was seen, for people
	Fix      string   // what to do about it; "" if nothing is to be done
}

// Severity says how bad a [Finding] is. Worse ones compare greater.
type Severity int

// Severities.
const (
	SeverityOK       Severity = iota // as it should be
	SeverityUnknown                  // the server does not say
	SeverityWarning                  // it works, but not on the day that something goes wrong
	SeverityCritical                 // users lose sessions, or strangers can read or change them
)

var severities = [...]string{"ok", "unknown", "warning", "critical"}

// String returns the severity as a word in lower case.
func (s Severity) String() string {
	if s < 0 || int(s) >= len(severities) {
		return fmt.Sprintf("severity(%d)", int(s))
	}
	return severities[s]
}

// MarshalText implements [encoding.TextMarshaler].
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// maxSkew is by how much clocks may differ: web servers judge expiry by their own, and
// no session should be alive on one and dead on another for longer than that.
const maxSkew = 2 * time.Second

// InspectClock returns the finding about the clock of a server that said what time it was
// when it was asked, between before and after by the clock of this process.
func InspectClock(server, before, after time.Time) Finding {
	f := Finding{Check: "clock", Severity: SeverityOK, Evidence: "the server's clock and this machine's agree"}
	skew, word := server.Sub(after), "ahead of"
	if behind := before.Sub(server); behind > skew {
		skew, word = behind, "behind"
	}
	if skew > maxSkew {
		f.Severity = SeverityWarning
		f.Evidence = fmt.Sprintf("the server's clock is %v %s this machine's: if web servers differ as much, a session is alive on one and expired on another", skew.Round(time.Millisecond), word)
		f.Fix = "keep the clocks of all machines right, by NTP (chronyd, systemd-timesyncd)"
	}
	return f
}
