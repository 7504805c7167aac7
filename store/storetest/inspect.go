package storetest

import (
	"context"
	"regexp"
	"slices"

	"github.com/coatcheck/coatcheck/store"
)

var inspectRules = []rule{
	{
		name: "findings-are-complete",
		says: "Each finding has a check of its own, in lower case words, a known severity and evidence; a warning or worse has a fix.",
		why:  "A warning that does not say what to do is noise; scripts and dashboards go by the check.",
		look: "the finding that is named here.",
		run: func(x *script) {
			seen := make(map[string]bool)
			for _, f := range x.inspect() {
				if !checkWord.MatchString(f.Check) {
					x.Errorf("check %q is no word of lower case letters, digits and hyphens", f.Check)
				}
				if seen[f.Check] {
					x.Errorf("two findings are named %q", f.Check)
				}
				seen[f.Check] = true
				if f.Severity < store.SeverityOK || f.Severity > store.SeverityCritical {
					x.Errorf("%s: there is no %v", f.Check, f.Severity)
				}
				if f.Evidence == "" {
					x.Errorf("%s: no evidence", f.Check)
				}
				if f.Severity >= store.SeverityWarning && f.Fix == "" {
					x.Errorf("%s: a %v without a fix", f.Check, f.Severity)
				}
			}
			if len(seen) == 0 {
				x.Errorf("Inspect found nothing, good or bad")
			}
		},
	},
	{
		name: "order-is-fixed",
		says: "Two inspections return the same checks in the same order.",
		why:  "Reports are compared from one day to the next.",
		look: "findings collected by ranging over a map, or as answers come in; a check that is left out when all is well.",
		run: func(x *script) {
			checks := func() (names []string) {
				for _, f := range x.inspect() {
					names = append(names, f.Check)
				}
				return names
			}
			first := checks()
			for range 5 {
				if again := checks(); !slices.Equal(first, again) {
					x.Fatalf("the first inspection looked at %q, a later one at %q", first, again)
				}
			}
		},
	},
	{
		name: "shows-no-secret",
		says: "No finding holds a key, an owner, a label, data, or a URL with a password.",
		why:  "Reports are pasted into tickets and chats.",
		look: "evidence made of samples, slow logs or the connection's own URL.",
		run: func(x *script) {
			r := x.session("needle-owner")
			r.Label, r.Data = []byte("needle-label"), []byte("needle-data")
			k := x.created(r)
			secrets := map[string][]byte{"a key": k[:], "an owner": []byte(r.Owner), "a label": r.Label, "data": r.Data}
			for _, f := range x.inspect() {
				for _, text := range []string{f.Evidence, f.Fix} {
					for what, secret := range secrets {
						if how := shows(text, secret); how != "" {
							x.Errorf("%s: the finding holds %s, %s", f.Check, what, how)
						}
					}
					if passwordURL.MatchString(text) {
						x.Errorf("%s: the finding holds a URL with a password", f.Check)
					}
				}
			}
		},
	},
	{
		name: "changes-nothing",
		says: "Inspect changes nothing, and fails with its context's error if that has ended.",
		why:  "It is run on the day that something is wrong, on the server that has it.",
		look: "checks that try a write, or set what they find unset.",
		run: func(x *script) {
			r := x.session("alice")
			k := x.created(r)
			before := -1
			if x.c.Count != nil {
				before = x.c.Count(x.t, x.store)
			}
			x.inspect()
			x.holds("after Inspect", k, r)
			if x.c.Count != nil {
				if n := x.c.Count(x.t, x.store); n != before {
					x.Errorf("the store held %d entries, and %d after Inspect", before, n)
				}
			}
			ended, cancel := context.WithCancel(x.ctx)
			cancel()
			_, err := need[store.Inspector](x).Inspect(ended)
			x.want("Inspect with an ended context", err, context.Canceled)
		},
	},
}

var (
	checkWord   = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	passwordURL = regexp.MustCompile(`://[^/@\s]*:[^/@\s]+@`)
)

func (x *script) inspect() []store.Finding {
	x.Helper()
	list, err := need[store.Inspector](x).Inspect(x.ctx)
	if err != nil {
		x.Fatalf("Inspect: %v; want findings", err)
	}
	return list
}
