// Bench compares Coatcheck with its peers, side by side in one run, on the same
// Redis, which it starts itself:
//
//	go run ./bench --store redis --rounds 5
//
// It writes RESULTS.md and results.svg. RESULTS.md says what is measured, and how.
// Some of the rows are Go benchmarks as well, for benchstat and profiles:
//
//	go test -run '^$' -bench 'Write/Coatcheck$' -count 6 ./bench
//
// The Node peer needs npm ci --prefix bench/node once.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

func main() {
	if what := os.Getenv(serveVariable); what != "" {
		exit(serve(what))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	exit(command(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func exit(err error) {
	switch {
	case err == nil:
		os.Exit(0)
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	}
	fmt.Fprintln(os.Stderr, "bench:", err)
	os.Exit(1)
}

func command(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var set settings
	var only, out string
	var asJSON bool
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&set.kind, "store", "redis", "what to run on: a `kind` of scripts/server, redis or valkey")
	f.IntVar(&set.rounds, "rounds", 5, "how often everything is measured, one after the other")
	f.IntVar(&set.sessions, "sessions", 10_000, "sessions that are there, of each peer")
	f.IntVar(&set.stored, "stored", 50_000, "sessions for the memory on the server; 0 leaves that out")
	f.DurationVar(&set.each, "each", time.Second, "how long a measurement takes")
	f.StringVar(&only, "only", "", "only these `sections`, comma-separated: memory, "+strings.Join(sectionNames(), ", "))
	f.StringVar(&out, "out", "", "folder for RESULTS.md and results.svg (default: bench, if everything is measured in 5 rounds or more)")
	f.BoolVar(&asJSON, "json", false, "print the results as JSON")
	if err := f.Parse(args); err != nil {
		return flag.ErrHelp // the flag set has said why
	}
	if only != "" {
		set.only = strings.Split(only, ",")
	}
	for _, name := range set.only {
		if name != "memory" && !slices.Contains(sectionNames(), name) {
			return fmt.Errorf("--only: there is no section %q; there are memory, %s", name, strings.Join(sectionNames(), ", "))
		}
	}
	switch {
	case f.NArg() > 0:
		return fmt.Errorf("unknown argument %q", f.Arg(0))
	case set.rounds < 1 || set.each <= 0:
		return errors.New("--rounds and --each must be positive")
	case set.sessions < concurrency || set.sessions > maxSessions || set.stored < 0 || set.stored > maxSessions:
		return fmt.Errorf("--sessions must be between %d and %d, and --stored not more", concurrency, maxSessions)
	}
	if out == "" && set.rounds >= 5 && only == "" && set.stored > 0 {
		root, err := repository()
		if err != nil {
			return err
		}
		out = filepath.Join(root, "bench")
	}
	res, err := run(ctx, set, stderr)
	if err != nil {
		return err
	}
	if out != "" {
		if err := writeFiles(out, res); err != nil {
			return err
		}
	}
	if asJSON {
		e := json.NewEncoder(stdout)
		e.SetIndent("", "  ")
		return e.Encode(res)
	}
	return writeTables(stdout, res)
}

func sectionNames() []string {
	var names []string
	for _, s := range sections {
		names = append(names, s.name)
	}
	return names
}

func writeFiles(dir string, res *results) error {
	var text strings.Builder
	if err := writeReport(&text, res); err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "RESULTS.md"), []byte(text.String()), 0o644),
		os.WriteFile(filepath.Join(dir, "results.svg"), []byte(plot(res)), 0o644),
	)
}
