// Package doctor examines a session store: what its server says of itself, whether it
// keeps what it is given, how long each operation takes, and how large its sessions are.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/coatcheck/coatcheck/store"
)

// Options of [Examine].
type Options struct {
	// Verify returns what is wrong with the store's schema. If nil, it has none.
	Verify func(context.Context) error
	// Inspect returns what the server says of itself. If nil, it is the store's own
	// [store.Inspector], if that is one.
	Inspect func(context.Context) ([]store.Finding, error)
	// Rounds is how often each operation is measured. If zero, 200.
	Rounds int
	// Sample bounds how many sessions are looked at. If zero, 10,000.
	Sample int
	// Progress is told what is looked at next. If nil, nobody is.
	Progress func(what string)
}

// Report is what there is to say of a store.
type Report struct {
	Findings   []Finding   `json:"findings"`
	Operations []Operation `json:"operations"`         // empty if they do not work
	Sessions   *Sessions   `json:"sessions,omitempty"` // nil if the store does not list them
}

// Finding is a [store.Finding].
type Finding struct {
	Check    string         `json:"check"`
	Severity store.Severity `json:"severity"`
	Evidence string         `json:"evidence"`
	Fix      string         `json:"fix,omitempty"`
}

// Worst returns the highest severity of a finding.
func (r *Report) Worst() store.Severity {
	worst := store.SeverityOK
	for _, f := range r.Findings {
		worst = max(worst, f.Severity)
	}
	return worst
}

// Examine looks at a store. What it writes to measure it removes again, and it would
// expire within two minutes; sessions are read and not changed. An error means that the store
// could not be looked at.
func Examine(ctx context.Context, st store.Store, opts *Options) (*Report, error) {
	var o Options
	if opts != nil {
		o = *opts
	}
	if o.Rounds == 0 {
		o.Rounds = 200
	}
	if o.Sample == 0 {
		o.Sample = 10_000
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	r := &Report{Findings: []Finding{}, Operations: []Operation{}}

	o.Progress("settings of the server")
	if in, ok := store.As[store.Inspector](st); ok && o.Inspect == nil {
		o.Inspect = in.Inspect
	}
	if o.Inspect != nil {
		found, err := o.Inspect(ctx)
		if err != nil && !errors.Is(err, errors.ErrUnsupported) {
			return nil, err
		}
		for _, f := range found {
			r.Findings = append(r.Findings, Finding(f))
		}
	}
	if o.Verify != nil {
		o.Progress("schema")
		r.Findings = append(r.Findings, schema(o.Verify(ctx)))
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}

	o.Progress("operations")
	operations, err := measure(ctx, st, o.Rounds)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	r.Findings = append(r.Findings, works(operations, err)...)
	if err == nil {
		r.Operations = operations
	}

	if l, ok := store.As[store.Lister](st); ok {
		o.Progress("sizes of sessions")
		sessions, err := sizes(ctx, l, o.Sample)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		r.Findings = append(r.Findings, lean(sessions, err))
		if err == nil {
			r.Sessions = &sessions
		}
	}
	slices.SortStableFunc(r.Findings, func(a, b Finding) int { return int(b.Severity - a.Severity) })
	return r, nil
}

func schema(err error) Finding {
	if err != nil {
		return Finding{"schema", store.SeverityCritical, err.Error(), "run `coatcheck schema apply`, or as a DBA what `coatcheck schema print` shows"}
	}
	return Finding{"schema", store.SeverityOK, "tables and indexes are as servers need them", ""}
}

// Limits of what is called slow: a visitor begins to notice a tenth of a second, and a
// page waits for one read and, if it changes something, one write.
const (
	slowMedian = 10 * time.Millisecond
	slowTail   = 100 * time.Millisecond
)

// works judges what was measured.
func works(ops []Operation, err error) []Finding {
	if err != nil {
		return []Finding{{"operations", store.SeverityCritical, "a session cannot be kept: " + err.Error(), ""}}
	}
	f := Finding{"operations", store.SeverityOK, "a session was created, read, changed, extended and deleted as it must be", ""}
	slow := Finding{"latency", store.SeverityOK, fmt.Sprintf("half of the calls took less than %v, all but one in a hundred less than %v", slowMedian, slowTail), ""}
	for _, op := range ops {
		if op.P50 >= slowMedian || op.Count >= 100 && op.P99 >= slowTail { // of fewer the tail is one
			slow.Severity = store.SeverityWarning
			slow.Evidence = fmt.Sprintf("from this machine, %s takes %v, and one in a hundred over %v: a page of a visitor with a session waits for a get, and one that changes something for a replace", op.Name, round(op.P50), round(op.P99))
			slow.Fix = "put the web servers near the store; look at what else its machine does; a near cache spares most reads"
			break
		}
	}
	return []Finding{f, slow}
}
