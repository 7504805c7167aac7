package doctor

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/coatcheck/coatcheck/store"
)

// Text writes the report for people: what is wrong first, with what to do about it, and
// with all the rest, too, if all is set.
func (r *Report) Text(all bool) string {
	var b strings.Builder
	fine, silent := 0, 0
	for _, f := range r.Findings {
		switch {
		case all || f.Severity >= store.SeverityWarning:
			fmt.Fprintf(&b, "%-9s %-15s %s\n", f.Severity, f.Check, f.Evidence)
			if f.Fix != "" {
				fmt.Fprintf(&b, "%26s→ %s\n", "", f.Fix)
			}
		case f.Severity == store.SeverityUnknown:
			silent++
		default:
			fine++
		}
	}
	if !all {
		fmt.Fprintf(&b, "%d checks found nothing wrong", fine)
		if silent > 0 {
			fmt.Fprintf(&b, ", and %d learned nothing", silent)
		}
		b.WriteString("; --all shows them\n")
	}
	if len(r.Operations) > 0 {
		b.WriteByte('\n')
		w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprint(w, "operation\tp50\tp99\t\n")
		for _, op := range r.Operations {
			fmt.Fprintf(w, "%s\t%v\t%v\t\n", op.Name, round(op.P50), round(op.P99))
		}
		_ = w.Flush() // a Builder takes everything
	}
	if s := r.Sessions; s != nil && s.Count > 0 {
		more := ""
		if s.More {
			more = ", of more"
		}
		fmt.Fprintf(&b, "\n%d sessions%s: half up to %s, 99 of 100 up to %s, the largest %s\n", s.Count, more, bytes(s.P50), bytes(s.P99), bytes(s.Max))
	}
	return strings.TrimSuffix(b.String(), "\n")
}
