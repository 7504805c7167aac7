package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/stop"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/storeurl"
)

// schemaCommand is for who keeps the rights to make tables to people, and gives
// servers fewer.
type schemaCommand struct {
	Print  schemaPrintCommand  `cmd:"" help:"Print the SQL that makes the tables, to read or to run by hand. No server is asked."`
	Grants schemaGrantsCommand `cmd:"" help:"Print the rights that a role needs to serve, and no others, as SQL to run. No server is asked."`
	Apply  schemaApplyCommand  `cmd:"" help:"Make the tables, or bring them up to date; nothing if they are. Any number of these may run at once."`
	Verify schemaVerifyCommand `cmd:"" help:"Compare the tables with what servers need. The status is 1 if they differ; nothing is changed."`
}

// schemaStore is the store whose schema it is.
type schemaStore struct {
	Store string `help:"Where sessions are kept: postgres://USER:PASSWORD@HOST[:PORT]/DATABASE, mysql:// or mariadb:// likewise, mongodb://USER:PASSWORD@HOST/DATABASE, dynamodb://TABLE, or sqlite:PATH. Their parameters are in docs/operations.md. The default is a SQLite file in the user's cache folder." placeholder:"URL" env:"COATCHECK_STORE"`

	url storeurl.URL
}

// Validate is called by kong; its errors are errors of usage.
func (s *schemaStore) Validate() (err error) {
	if s.url, err = storeurl.Parse(s.Store); err == nil {
		err = s.url.CheckSchema()
	}
	if err != nil {
		return fmt.Errorf("--store: %w", err)
	}
	return nil
}

// open connects, and ends with the process's signals.
func (s *schemaStore) open(create bool, logger *slog.Logger, do func(context.Context, *storeurl.Opened) error) error {
	polite, now, release := stop.Notify(context.Background())
	defer release()
	defer endSurely(now)()
	o, err := s.url.Open(polite, storeurl.Options{Create: create, Logger: logger})
	if err != nil {
		return err
	}
	defer o.Close()
	if err := do(polite, o); err != nil {
		if polite.Err() != nil {
			return context.Cause(polite)
		}
		return fmt.Errorf("%v: %w", s.url, err)
	}
	return nil
}

type schemaPrintCommand struct {
	schemaStore `embed:""`
	Role        string `help:"Add the rights that servers need and no others, for this role or user as the server writes it, in its quotes: app, or 'app'@'%' in MySQL." placeholder:"ROLE"`
}

// Run is called by kong.
func (c *schemaPrintCommand) Run(p *printer) error {
	s, err := c.url.Schema(c.Role)
	if err != nil {
		return err
	}
	text := "-- For " + c.url.Kind() + "\n" + strings.TrimSpace(s.SQL)
	if len(s.Grants) > 0 {
		text += "\n\n-- Rights of " + c.Role + "\n" + strings.Join(s.Grants, ";\n") + ";"
	}
	return p.result(struct {
		SQL    string   `json:"sql"`
		Grants []string `json:"grants,omitempty"`
	}{s.SQL, s.Grants}, text)
}

type schemaGrantsCommand struct {
	schemaStore `embed:""`
	Role        string `help:"The role or user as the server writes it, in its quotes: app, or 'app'@'%' in MySQL." placeholder:"ROLE" required:""`
}

// Run is called by kong.
func (c *schemaGrantsCommand) Run(p *printer) error {
	if c.Role == "" {
		return errors.New("--role is empty: name the role that is to have the rights")
	}
	s, err := c.url.Schema(c.Role)
	if err != nil {
		return err
	}
	if len(s.Grants) == 0 {
		return fmt.Errorf("%s has no roles in SQL: docs/operations.md tells the rights that it needs", c.url.Kind())
	}
	return p.result(struct {
		Grants []string `json:"grants"`
	}{s.Grants}, strings.Join(s.Grants, ";\n")+";")
}

type schemaApplyCommand struct {
	schemaStore `embed:""`
}

// Run is called by kong.
func (c *schemaApplyCommand) Run(p *printer) error {
	return c.open(true, p.logger, func(ctx context.Context, o *storeurl.Opened) error {
		changed, err := o.SetUp(ctx)
		if err != nil {
			return err
		}
		text := "was up to date"
		if changed {
			text = "was set up"
		}
		return p.result(struct {
			Store   string `json:"store"`
			Changed bool   `json:"changed"`
		}{c.url.String(), changed}, c.url.String()+" "+text)
	})
}

type schemaVerifyCommand struct {
	schemaStore `embed:""`
}

// Run is called by kong.
func (c *schemaVerifyCommand) Run(p *printer) error {
	return c.open(false, p.logger, func(ctx context.Context, o *storeurl.Opened) error {
		if err := o.Verify(ctx); err != nil {
			return err
		}
		return p.result(struct {
			Store string `json:"store"`
			OK    bool   `json:"ok"`
		}{c.url.String(), true}, c.url.String()+" is as servers need it")
	})
}
