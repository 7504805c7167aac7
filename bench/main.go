// Bench compares Coatcheck with its peers, side by side in one run, on the same
// server, which it starts itself:
//
//	go run ./bench --store redis --rounds 5
//	go run ./bench --store postgres --rounds 5
//	go run ./bench --store mariadb --rounds 5
//	go run ./bench --store mongo --rounds 5
//	go run ./bench --store dynamo --rounds 5
//
// Each writes a page and a plot of its own into the folder results; RESULTS.md
// says what is measured, and how. Some of the rows are Go benchmarks as well, for
// benchstat and profiles:
//
//	go test -run '^$' -bench 'Write/redis/Coatcheck$' -count 6 ./bench
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
	f.StringVar(&set.kind, "store", "redis", "what to run on: a `kind` of scripts/server, redis, valkey, postgres, mariadb, mysql, mongo or dynamo")
	f.IntVar(&set.rounds, "rounds", 5, "how often everything is measured, one after the other")
	f.IntVar(&set.sessions, "sessions", 10_000, "sessions that are there, of each peer")
	f.IntVar(&set.stored, "stored", 50_000, "sessions for the memory on the server, where that is measured; 0 leaves that out")
	f.DurationVar(&set.each, "each", time.Second, "how long a measurement takes")
	f.StringVar(&only, "only", "", "only these `sections`, comma-separated; another word lists them")
	f.StringVar(&out, "out", "", "folder for the page and the plot (default: bench/results, if everything is measured in 5 rounds or more)")
	f.BoolVar(&asJSON, "json", false, "print the results as JSON")
	if err := f.Parse(args); err != nil {
		return flag.ErrHelp // the flag set has said why
	}
	var err error
	if set.family, err = familyOf(set.kind); err != nil {
		return fmt.Errorf("--store: %w", err)
	}
	if only != "" {
		set.only = strings.Split(only, ",")
	}
	for _, name := range set.only {
		if parts := set.family.parts(); !slices.Contains(parts, name) {
			return fmt.Errorf("--only: there is no section %q; there are %s", name, strings.Join(parts, ", "))
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
		out = filepath.Join(root, "bench", "results")
	}
	res, err := run(ctx, set, stderr)
	if err != nil {
		return err
	}
	if out != "" {
		if err := writeFiles(out, set.family, res); err != nil {
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

// writeFiles writes the page of a store and its plot, which have the server's name.
func writeFiles(dir string, f *family, res *results) error {
	var text strings.Builder
	if err := writeReport(&text, f, res); err != nil {
		return err
	}
	name := filepath.Join(dir, res.Settings.Kind)
	return errors.Join(
		os.WriteFile(name+".md", []byte(text.String()), 0o644),
		os.WriteFile(name+".svg", []byte(plot(f.panels, res)), 0o644),
	)
}
