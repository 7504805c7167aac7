package main

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
)

// writeReport writes the page of a store.
func writeReport(w io.Writer, f *family, res *results) error {
	text, err := f.text()
	if err != nil {
		return err
	}
	parts := []string{
		"{{command}}", repeat(f, res),
		"{{plot}}", "![Requests per second of each library](" + res.Settings.Kind + ".svg)",
		"{{machine}}", machineTable(res),
		"{{bars}}", barTable(res),
		"{{memory}}", memoryTable(res),
		"{{missing}}", missing(res),
		"{{others}}", others(res),
		"{{bytes}}", strconv.Itoa(len(user(0)) + len(userName) + len(cartJSON)),
		"{{record}}", strconv.Itoa(dataSize),
		"{{conns}}", strconv.Itoa(sqlConns),
		"{{peer conns}}", strconv.Itoa(peerConns),
		"{{sessions}}", thousands(float64(res.Settings.Sessions)),
		"{{stored}}", thousands(float64(res.Settings.Stored)),
		"{{rounds}}", strconv.Itoa(res.Settings.Rounds),
		"{{each}}", res.Settings.Each.String(),
	}
	for _, s := range res.Sections {
		parts = append(parts, "{{"+s.Name+"}}", table(s))
	}
	_, err = strings.NewReplacer(parts...).WriteString(w, text)
	return err
}

// writeTables writes the figures alone.
func writeTables(w io.Writer, res *results) error {
	var b strings.Builder
	for _, s := range res.Sections {
		b.WriteString("\n" + s.Title + "\n\n" + table(s))
	}
	if len(res.Memory) > 0 {
		b.WriteString("\n" + memoryTable(res))
	}
	if len(res.Bars) > 0 {
		b.WriteString("\n" + barTable(res))
	}
	_, err := io.WriteString(w, b.String()+missing(res)+"\n"+others(res)+"\n")
	return err
}

// repeat is the command that does the same again.
func repeat(f *family, res *results) string {
	s := res.Settings
	command := fmt.Sprintf("go run ./bench --store %s --rounds %d --sessions %d --each %v", s.Kind, s.Rounds, s.Sessions, s.Each)
	if f.memory != nil {
		command += fmt.Sprintf(" --stored %d", s.Stored)
	}
	return command
}

func machineTable(res *results) string {
	var b strings.Builder
	m := res.Machine
	fmt.Fprintf(&b, "%s, %d processors (%s), %s.\n\n| | version |\n|---|---|\n", m.OS, m.CPUs, cmp.Or(m.CPU, "of a kind that is not known"), m.Go)
	for _, v := range res.Versions {
		fmt.Fprintf(&b, "| %s | %s |\n", v.Name, v.Version)
	}
	return b.String()
}

func barTable(res *results) string {
	var b strings.Builder
	b.WriteString("| what | wanted | measured | |\n|---|---|--:|---|\n")
	for _, x := range res.Bars {
		met := "met"
		switch {
		case x.Busy:
			met = "the machine was too busy to tell"
		case !x.Met:
			met = "**not met**"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", x.What, x.Want, x.Got, met)
	}
	return b.String()
}

func memoryTable(res *results) string {
	var b strings.Builder
	b.WriteString("| | bytes per session | of which the owner index |\n|---|--:|--:|\n")
	for _, m := range res.Memory {
		index := ""
		if m.Index > 0 {
			index = fmt.Sprintf("%.0f", m.Index)
		}
		fmt.Fprintf(&b, "| %s | %.0f | %s |\n", m.Peer, m.Bytes, index)
	}
	return b.String()
}

// quiet is how much of the machine others may have before it matters.
const quiet = 0.05

func others(res *results) string {
	share := fmt.Sprintf("%.0f %%", 100*res.Others)
	if res.Others > quiet {
		return "**Other programs had " + share + " of the machine's processors meanwhile** (median\n" +
			"over all measurements): rates are too low, latencies and the ranges too large, and\n" +
			"ratios are rough. Repeat it on a quiet machine."
	}
	return "Other programs had " + share + " of the machine's processors meanwhile (median over\nall measurements)."
}

func missing(res *results) string {
	if len(res.Missing) == 0 {
		return ""
	}
	return "\nNot measured: " + strings.Join(res.Missing, "; ") + ".\n"
}

func table(s sectionResult) string {
	var b strings.Builder
	fmt.Fprintf(&b, "| | requests/s | lowest … highest | × %s | p50 | p99 | allocations | processor | … of the server |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|\n", s.Base)
	for _, r := range s.Rows {
		allocs := fmt.Sprintf("%.0f", r.Allocs)
		if r.apart {
			allocs = "" // those of the client are nobody's concern
		}
		fmt.Fprintf(&b, "| %s | %s | %s … %s | %s | %s | %s | %s | %s | %s |\n",
			r.Peer, thousands(r.Rate), thousands(r.Low), thousands(r.High), digits(r.Ratio), brief(r.P50), brief(r.P99), allocs, brief(r.CPU), brief(r.Server))
	}
	return b.String()
}

// thousands writes three digits of f, and commas.
func thousands(f float64) string {
	if f >= 1000 {
		unit := math.Pow(10, math.Floor(math.Log10(f))-2)
		f = math.Round(f/unit) * unit
	}
	s := strconv.FormatFloat(f, 'f', 0, 64)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// digits writes a ratio.
func digits(f float64) string {
	switch {
	case f >= 100:
		return fmt.Sprintf("%.0f", f)
	case f >= 10:
		return fmt.Sprintf("%.1f", f)
	}
	return fmt.Sprintf("%.2f", f)
}

// brief writes a duration with three digits at most.
func brief(d time.Duration) string {
	n, unit := float64(d), "ns"
	switch {
	case d >= time.Second:
		n, unit = n/1e9, "s"
	case d >= time.Millisecond:
		n, unit = n/1e6, "ms"
	case d >= time.Microsecond:
		n, unit = n/1e3, "µs"
	}
	switch {
	case unit == "ns" || n >= 100:
		return fmt.Sprintf("%.0f %s", n, unit)
	case n >= 10:
		return fmt.Sprintf("%.1f %s", n, unit)
	}
	return fmt.Sprintf("%.2f %s", n, unit)
}
