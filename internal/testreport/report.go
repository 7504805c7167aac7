package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// event is a line of go test -json; see `go doc test2json` and, for builds, `go
// help buildjson`.
type event struct {
	Action     string
	Package    string
	ImportPath string // of a build, in place of Package
	Test       string
	Output     string
}

type report struct {
	w                       io.Writer
	packages                map[string]*packageRun
	passed, skipped, failed int
}

// packageRun is what a package has written and not yet shown. Output is kept in
// order of arrival; a test's is dropped when it passes.
type packageRun struct {
	output []line
	skips  []string
	failed int // tests
}

type line struct{ test, text string }

func newReport(w io.Writer) *report {
	return &report{w: w, packages: map[string]*packageRun{}}
}

// read consumes the stream. Lines that are not JSON, such as go's own
// complaints, are passed on.
func (r *report) read(in io.Reader) error {
	br := bufio.NewReader(in)
	for {
		text, err := br.ReadString('\n')
		if text != "" {
			var e event
			if json.Unmarshal([]byte(text), &e) != nil || e.Action == "" {
				_, _ = io.WriteString(r.w, text)
			} else {
				r.add(e)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// close prints what never ended and the totals, and reports whether all is well.
// A stream without a single test is a failure: nothing was proved.
func (r *report) close() bool {
	for name, p := range r.packages {
		r.failed++
		fmt.Fprintf(r.w, "FAIL\t%s\tended without a result\n", name)
		p.show(r.w)
	}
	fmt.Fprintf(r.w, "%d tests passed, %d skipped, %d failed\n", r.passed, r.skipped, r.failed)
	return r.failed == 0 && r.passed > 0
}

func (r *report) add(e event) {
	if e.Package == "" { // build-output, build-fail
		_, _ = io.WriteString(r.w, e.Output) // the package fails after it
		return
	}
	p := r.packages[e.Package]
	if p == nil {
		p = &packageRun{}
		r.packages[e.Package] = p
	}
	switch {
	case e.Action == "output":
		p.output = append(p.output, line{e.Test, e.Output})
	case e.Test != "":
		r.endTest(p, e)
	case e.Action == "fail":
		if p.failed == 0 { // a build, a panic, an exit
			r.failed++
		}
		p.show(r.w)
		delete(r.packages, e.Package)
	case e.Action == "pass", e.Action == "skip":
		p.showClosing(r.w)
		delete(r.packages, e.Package)
	}
}

func (r *report) endTest(p *packageRun, e event) {
	switch e.Action {
	case "pass", "bench":
		r.passed++
		p.drop(e.Test)
	case "skip":
		r.skipped++
		p.skips = append(p.skips, fmt.Sprintf("    skipped %s: %s", e.Test, p.reason(e.Test)))
		p.drop(e.Test)
	case "fail":
		r.failed++
		p.failed++
	}
}

func (p *packageRun) drop(test string) {
	kept := p.output[:0]
	for _, l := range p.output {
		if l.test != test {
			kept = append(kept, l)
		}
	}
	p.output = kept
}

// reason is what a test said before it was skipped, on one line.
func (p *packageRun) reason(test string) string {
	var said []string
	for _, l := range p.output {
		text := strings.TrimSpace(l.text)
		if l.test == test && !strings.HasPrefix(text, "=== ") && !strings.HasPrefix(text, "--- ") {
			said = append(said, text)
		}
	}
	if len(said) == 0 {
		return "no reason given"
	}
	return strings.Join(said, " ")
}

// show prints everything but the noise of -v.
func (p *packageRun) show(w io.Writer) {
	for _, l := range p.output {
		if !strings.HasPrefix(l.text, "=== ") {
			_, _ = io.WriteString(w, l.text)
		}
	}
	p.showSkips(w)
}

// showClosing prints the line by which go test ends a package.
func (p *packageRun) showClosing(w io.Writer) {
	for _, l := range p.output {
		if l.test == "" && (strings.HasPrefix(l.text, "ok ") || strings.HasPrefix(l.text, "?")) {
			_, _ = io.WriteString(w, l.text)
		}
	}
	p.showSkips(w)
}

func (p *packageRun) showSkips(w io.Writer) {
	for _, s := range p.skips {
		fmt.Fprintln(w, s)
	}
}
