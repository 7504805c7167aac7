// Coatcheck runs a fleet of stateless web servers over a shared session store.
//
//	coatcheck up       a whole fleet on this machine: store, servers, balancer
//	coatcheck serve    one server, for use behind any other balancer
//	coatcheck prove    an experiment: what visitors notice while servers die and multiply
//	coatcheck doctor   what is set up badly for sessions in a store, and how fast it is
//	coatcheck schema   the tables of a store in SQL: print, apply, verify
//
// Its exit status is 0 if all went well, 1 if something failed, and 2 if the
// command line makes no sense; that of doctor is 3 for a warning, and 4 for what is
// critical.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"time"

	"github.com/alecthomas/kong"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/console"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/storeurl"
	"golang.org/x/term"
)

// The exit statuses that scripts may rely on.
const (
	exitOK       = 0
	exitFailed   = 1
	exitUsage    = 2
	exitWarning  = 3
	exitCritical = 4
)

type commandLine struct {
	JSON    bool             `help:"Print results and errors as JSON, one object a line."`
	Version kong.VersionFlag `help:"Print the version and exit."`

	Up     upCommand     `cmd:"" help:"Run a fleet on this machine: session store, web servers, balancer and admin interface."`
	Serve  serveCommand  `cmd:"" help:"Run one web server alone, for use behind any other balancer."`
	Prove  proveCommand  `cmd:"" help:"Run the experiment: shoppers on real HTTP while servers are killed, added and drained, and what they noticed."`
	Doctor doctorCommand `cmd:"" help:"Examine a store: what is set up badly for sessions and how to mend it, how long its operations take, how large its sessions are."`
	Schema schemaCommand `cmd:"" help:"Print, apply or verify the tables of a store in SQL."`
}

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	privateFiles()
	keepBrokenPipes()
	out := console.New(os.Stderr, term.IsTerminal(int(os.Stderr.Fd())))
	defer out.Flush(flushTimeout)
	var cl commandLine
	parser, err := kong.New(
		&cl,
		kong.Name("coatcheck"),
		kong.Description("A fleet of stateless web servers whose visitors never notice when one dies."),
		kong.Vars{"version": version(), "stores": storeurl.Supported},
		kong.UsageOnError(),
	)
	if err != nil {
		panic(err) // the definition above is wrong
	}
	kctx, err := parser.Parse(args)
	if err != nil {
		complain(out, cl.JSON, fmt.Errorf("%w (see %s --help)", err, wrongCommand(err)))
		return exitUsage
	}
	p := &printer{
		json:   cl.JSON,
		stdout: os.Stdout,
		stderr: out,
		logger: slog.New(console.Limit(slog.NewTextHandler(out, nil))),
	}
	if err := kctx.Run(p); err != nil {
		if s, ok := errors.AsType[statusError](err); ok {
			return int(s)
		}
		if _, reported := errors.AsType[reportedError](err); !reported {
			complain(out, cl.JSON, err)
		}
		return exitFailed
	}
	return exitOK
}

// wrongCommand returns the command whose line makes no sense.
func wrongCommand(err error) string {
	if e, ok := errors.AsType[*kong.ParseError](err); ok {
		if sub := e.Context.Selected(); sub != nil {
			return sub.FullPath()
		}
	}
	return "coatcheck"
}

// flushTimeout bounds the wait for whoever reads standard error, at the end.
const flushTimeout = time.Second

// insistGrace is how long a process that was told twice to end may take: far more
// than it needs, but nothing that hangs may outlast it. The workers of a parent
// that ends so end with it.
const insistGrace = 2 * time.Second

// endSurely ends the process if it is still there insistGrace after now ended.
func endSurely(now context.Context) (stop func() bool) {
	return context.AfterFunc(now, func() {
		time.AfterFunc(insistGrace, func() { os.Exit(exitFailed) })
	})
}

// printer is where the commands write to: results to standard output, all else
// to standard error.
type printer struct {
	json   bool
	stdout io.Writer
	stderr *console.Console
	logger *slog.Logger
}

// result prints what a command was asked for, in one line: v if it is to be
// JSON, else text.
func (p *printer) result(v any, text string) error {
	if !p.json {
		return p.print(text)
	}
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return p.print(string(b))
}

func (p *printer) print(line string) error {
	if _, err := fmt.Fprintln(p.stdout, line); err != nil {
		return fmt.Errorf("standard output takes no result: %w; keep it open, or redirect it to a file", err)
	}
	return nil
}

// complain says on standard error why the command failed.
func complain(stderr io.Writer, asJSON bool, err error) {
	if asJSON {
		b, _ := json.Marshal(map[string]string{"error": err.Error()}) // strings always marshal
		fmt.Fprintf(stderr, "%s\n", b)
		return
	}
	fmt.Fprintf(stderr, "coatcheck: %v\n", err)
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}
