package storetest

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// recorder stands in for a *testing.T and keeps what is reported to it.
type recorder struct {
	mu      sync.Mutex
	failed  bool
	skipped bool
	text    strings.Builder
}

func (r *recorder) Helper() {}

func (r *recorder) Logf(string, ...any) {}

func (r *recorder) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed = true
	fmt.Fprintf(&r.text, format+"\n", args...)
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	runtime.Goexit()
}

func (r *recorder) Skipf(format string, args ...any) {
	r.mu.Lock()
	r.skipped = true
	fmt.Fprintf(&r.text, format+"\n", args...)
	r.mu.Unlock()
	runtime.Goexit()
}

func (r *recorder) Failed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed
}

// verdict is what came of one rule.
type verdict struct {
	failed  bool
	skipped bool
	text    string
}

// verdicts judges the stores of c by every rule that pick names, on the record.
func verdicts(t *testing.T, c Config, pick func(name string) bool) map[string]verdict {
	t.Helper()
	vs := make(map[string]verdict)
	for _, g := range groups {
		for _, r := range g.rules {
			name := g.name + "/" + r.name
			if !pick(name) {
				continue
			}
			// Fatalf and Skipf end the goroutine: that of a rule, never the test's.
			inner, rec := r.run, &recorder{}
			r.run = func(x *script) {
				done := make(chan struct{})
				go func() {
					defer close(done)
					inner(x)
				}()
				<-done
			}
			r.judge(t, c, rec)
			vs[name] = verdict{rec.failed, rec.skipped, rec.text.String()}
		}
	}
	return vs
}
