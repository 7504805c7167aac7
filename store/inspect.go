package store

import (
	"context"
	"fmt"
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
