package store_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/store"
)

func TestInspectClock(t *testing.T) {
	before := time.Unix(1_000_000, 0)
	after := before.Add(3 * time.Second) // it took so long
	for _, c := range []struct {
		server time.Time
		want   store.Severity
		says   string
	}{
		{before, store.SeverityOK, "agree"},
		{before.Add(-2 * time.Second), store.SeverityOK, "agree"},
		{after.Add(2 * time.Second), store.SeverityOK, "agree"},
		{before.Add(-2001 * time.Millisecond), store.SeverityWarning, "2.001s behind"},
		{after.Add(time.Hour), store.SeverityWarning, "1h0m0s ahead of"},
	} {
		f := store.InspectClock(c.server, before, after)
		if f.Check != "clock" || f.Severity != c.want || !strings.Contains(f.Evidence, c.says) || (f.Fix != "") != (c.want != store.SeverityOK) {
			t.Errorf("a server at %v, asked from %v to %v: %+v; want %v, about %q", c.server, before, after, f, c.want, c.says)
		}
	}
}

func ExampleInspectClock() {
	before := time.Now()
	server := time.Now().Add(-time.Minute) // what it answered
	fmt.Println(store.InspectClock(server, before, time.Now()).Severity)
	// Output: warning
}
