package sqlstore

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"time"
)

// Migrate brings the schema to the version that this package needs, in one
// transaction. It does nothing if it is there already, and any number of
// processes may call it at once. It refuses a schema that is newer, and a table
// of the same name that it has not made.
func (s *Store) Migrate(ctx context.Context) error {
	sc := s.dialect.schema
	err := s.writes.conn(ctx, func(c *sql.Conn) error {
		if sc.prepare != nil {
			if err := sc.prepare(ctx, c); err != nil {
				return err
			}
		}
		end, err := sc.begin(ctx, c)
		if err != nil {
			return err
		}
		return end(s.migrate(ctx, c))
	})
	if err != nil {
		return fmt.Errorf("sqlstore: migrate: %w", s.explain(ctx, err))
	}
	return nil
}

func (s *Store) migrate(ctx context.Context, c *sql.Conn) error {
	sc := s.dialect.schema
	if _, err := c.ExecContext(ctx, expand(sc.history, s.table)); err != nil {
		return err
	}
	var have int
	if err := c.QueryRowContext(ctx, expand(sc.version, s.table)).Scan(&have); err != nil {
		return err
	}
	if have > len(sc.steps) {
		return s.newer(have)
	}
	var tables int
	if err := c.QueryRowContext(ctx, sc.exists, s.table).Scan(&tables); err != nil {
		return err
	}
	if have == 0 && tables > 0 {
		return s.foreign()
	}
	for i, step := range sc.steps[have:] {
		version := have + i + 1
		for _, statement := range step {
			if _, err := c.ExecContext(ctx, expand(statement, s.table)); err != nil {
				return fmt.Errorf("step %d: %w", version, err)
			}
		}
		if _, err := c.ExecContext(ctx, expand(sc.record, s.table), version, time.Now().UnixMilli()); err != nil {
			return fmt.Errorf("step %d: %w", version, err)
		}
	}
	return nil
}

// Verify explains how the database differs from what the store needs, and what
// to do about it. It changes nothing.
func (s *Store) Verify(ctx context.Context) error {
	if err := s.verify(ctx); err != nil {
		return fmt.Errorf("sqlstore: verify: %w", s.explain(ctx, err))
	}
	return nil
}

func (s *Store) verify(ctx context.Context) error {
	sc := s.dialect.schema
	var tables, history, have int
	return s.reads.conn(ctx, func(c *sql.Conn) error {
		if err := c.QueryRowContext(ctx, sc.exists, s.table).Scan(&tables); err != nil {
			return err
		}
		if err := c.QueryRowContext(ctx, sc.exists, s.table+"_schema").Scan(&history); err != nil {
			return err
		}
		if history > 0 {
			if err := c.QueryRowContext(ctx, expand(sc.version, s.table)).Scan(&have); err != nil {
				return err
			}
		}
		switch {
		case tables > 0 && have == 0:
			return s.foreign()
		case tables == 0:
			return fmt.Errorf("there is no table %q: run Migrate", s.table)
		case have > len(sc.steps):
			return s.newer(have)
		case have < len(sc.steps):
			return fmt.Errorf("table %q has schema version %d and needs %d: run Migrate", s.table, have, len(sc.steps))
		}
		return sc.verify(ctx, c, s.table)
	})
}

func (s *Store) foreign() error {
	return fmt.Errorf("table %q was not made by Migrate: choose another Options.Table, or rename that table", s.table)
}

func (s *Store) newer(have int) error {
	return fmt.Errorf("table %q has schema version %d, newer than the %d of this program: update the program", s.table, have, len(s.dialect.schema.steps))
}

// Schema is the SQL of all steps of [Store.Migrate], for reading and for those
// who run it by hand: then with the rows of the history that it ends with.
func (s *Store) Schema() string {
	var b strings.Builder
	add := func(sql string) { b.WriteString(expand(sql, s.table) + ";\n") }
	sc := s.dialect.schema
	add(sc.history)
	for i, step := range sc.steps {
		fmt.Fprintf(&b, "\n-- Version %d\n", i+1)
		for _, statement := range step {
			add(statement)
		}
		add(strings.Replace(sc.record, "?, ?", fmt.Sprintf("%d, 0", i+1), 1))
	}
	return b.String()
}
