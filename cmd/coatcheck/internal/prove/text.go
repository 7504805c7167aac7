package prove

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"
)

// Text writes the result for people.
func (r *Result) Text() string {
	return fmt.Sprintf("sessions in %s: %.0f s, %d of %d kills, %d requests repeated on another server\n\n%s",
		r.Store, r.Seconds, r.Kills, r.Settings.Kills, r.Repeated, strings.TrimSuffix(r.Result.String(), "\n")) + r.outagesText()
}

// outagesText tells of the store's own trouble.
func (r *Result) outagesText() string {
	if len(r.Outages) == 0 {
		return ""
	}
	return fmt.Sprintf("\n\noutages of the store: %d, for which %d requests were refused, and are not among the failed", len(r.Outages), r.Unavailable)
}

// notes are what to know of the figures.
const notes = `Unrepeatable are changes that were with a server when it was killed, and may have been carried
out: nobody can repeat those, so they are counted apart. Slow requests took over a second.
Who is signed out signs in again at once, which makes more requests; items are lost by the
piece, and with each sign-out that takes a cart.`

// short leaves three digits or so.
func short(d time.Duration) string {
	unit := 10 * time.Microsecond
	for d >= 1000*unit {
		unit *= 10
	}
	return d.Round(unit).String()
}

// names of the modes, for people.
var names = map[Mode]string{External: "shared store", Sticky: "memory, sticky", Local: "memory"}

// Compare writes the results of the same experiment, by where sessions were kept, side by
// side.
func Compare(results []*Result) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	row := func(what string, value func(*Result) any) {
		fmt.Fprintf(w, "%s\t", what)
		for _, r := range results {
			fmt.Fprintf(w, "%v\t", value(r))
		}
		fmt.Fprintln(w)
	}
	row("sessions in", func(r *Result) any { return names[r.Sessions] })
	row("journeys", func(r *Result) any { return r.Journeys })
	row("of them interrupted", func(r *Result) any { return r.Interrupted })
	row("requests", func(r *Result) any { return r.Requests })
	row("servers killed", func(r *Result) any { return r.Kills })
	row("sign-outs", func(r *Result) any { return r.SignOuts })
	row("lost items", func(r *Result) any { return r.LostItems })
	row("surplus items", func(r *Result) any { return r.SurplusItems })
	row("wrong users", func(r *Result) any { return r.WrongUsers })
	row("failed requests", func(r *Result) any { return r.FailedRequests })
	row("slow requests", func(r *Result) any { return r.SlowRequests })
	row("unrepeatable", func(r *Result) any { return r.UnrepeatableLost })
	row("p50", func(r *Result) any { return short(r.Latency.P50) })
	row("p99", func(r *Result) any { return short(r.Latency.P99) })
	_ = w.Flush() // to memory
	b.WriteString("\n" + notes)
	return b.String()
}
