package main

import (
	"context"
	"fmt"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/console"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/doctor"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/stop"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/storeurl"
	"github.com/coatcheck/coatcheck/store"
)

type doctorCommand struct {
	Store  string `help:"The store to examine: ${stores}. Their parameters are in docs/operations.md. The default is a SQLite file in the user's cache folder." placeholder:"URL" env:"COATCHECK_STORE"`
	All    bool   `help:"Show what is as it should be, too."`
	Rounds int    `help:"How often to measure each operation. Default: ${default}." default:"200" placeholder:"N"`

	url storeurl.URL
}

// Validate is called by kong; its errors are errors of usage.
func (c *doctorCommand) Validate() (err error) {
	if c.url, err = storeurl.Parse(c.Store); err != nil {
		return fmt.Errorf("--store: %w", err)
	}
	if !c.url.Shared() {
		return fmt.Errorf("--store: %v is the memory of a server that runs: nobody else can look into it", c.url)
	}
	if c.Rounds < 1 || c.Rounds > maxRounds {
		return fmt.Errorf("--rounds must be between 1 and %d", maxRounds)
	}
	return nil
}

const maxRounds = 100_000

// Run is called by kong.
func (c *doctorCommand) Run(p *printer) error {
	polite, now, release := stop.Notify(context.Background())
	defer release()
	defer endSurely(now)()
	o, err := c.url.Open(polite, storeurl.Options{Logger: p.logger})
	if err != nil {
		return err
	}
	defer o.Close()
	opts := &doctor.Options{Rounds: c.Rounds, Inspect: o.Inspect}
	if c.url.CheckSchema() == nil {
		opts.Verify = o.Verify
	}
	if p.stderr.Live() {
		opts.Progress = func(what string) { p.stderr.SetStatus("looking at "+what, console.Width()) }
	}
	r, err := doctor.Examine(polite, o.Store, opts)
	p.stderr.SetStatus("", 0)
	if err != nil {
		if polite.Err() != nil {
			return context.Cause(polite)
		}
		return fmt.Errorf("%v: %w", c.url, err)
	}
	err = p.result(struct {
		Store    string         `json:"store"`
		Topology string         `json:"topology"`
		Worst    store.Severity `json:"worst"`
		*doctor.Report
	}{c.url.String(), o.State().Topology, r.Worst(), r}, fmt.Sprintf("%v (%s)\n\n%s", c.url, o.State().Topology, r.Text(c.All)))
	if err != nil {
		return err
	}
	switch r.Worst() {
	case store.SeverityWarning:
		return statusError(exitWarning)
	case store.SeverityCritical:
		return statusError(exitCritical)
	}
	return nil
}

// statusError ends the command with a status of its own, after it has said all.
type statusError int

func (e statusError) Error() string { return fmt.Sprintf("status %d", int(e)) }
