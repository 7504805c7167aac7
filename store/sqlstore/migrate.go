package sqlstore

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"
	"strings"
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
		end, err := sc.begin(ctx, c, s.names)
		if err != nil {
			return err
		}
		return end(s.migrate(ctx, c))
	})
	if err != nil {
		return fmt.Errorf("sqlstore: migrate: %w", s.advise(ctx, err))
	}
	return nil
}

func (s *Store) migrate(ctx context.Context, c *sql.Conn) error {
	sc := s.dialect.schema
	tables, have, err := s.look(ctx, c)
	switch {
	case err != nil:
		return err
	case have > len(sc.steps):
		return s.newer(have)
	case tables && have == 0:
		if !sc.repeatable || sc.verify(ctx, c, s.names) != nil {
			return s.foreign()
		}
	case !tables && have > 0:
		return fmt.Errorf("table %q is gone, but its history is in table %q: drop that too, or restore both", s.names.table, s.names.table+"_schema")
	case have == len(sc.steps):
		return nil // without the right to change anything
	}
	if _, err := c.ExecContext(ctx, s.in(sc.history)); err != nil {
		return err
	}
	for i, step := range sc.steps[have:] {
		version := have + i + 1
		for _, statement := range step {
			if _, err := c.ExecContext(ctx, s.in(statement)); err != nil {
				return fmt.Errorf("step %d: %w", version, err)
			}
		}
		if _, err := c.ExecContext(ctx, s.record(version, now())); err != nil {
			return fmt.Errorf("step %d: %w", version, err)
		}
	}
	return nil
}

// look tells whether the table is there, and its version, 0 without a history.
func (s *Store) look(ctx context.Context, c *sql.Conn) (table bool, have int, err error) {
	sc := s.dialect.schema
	if table, err = s.exists(ctx, c, s.names.table); err != nil {
		return false, 0, err
	}
	history, err := s.exists(ctx, c, s.names.table+"_schema")
	if err == nil && history {
		err = c.QueryRowContext(ctx, s.in(sc.version)).Scan(&have)
	}
	return table, have, err
}

func (s *Store) exists(ctx context.Context, c *sql.Conn, table string) (bool, error) {
	var n int
	err := c.QueryRowContext(ctx, s.dialect.in(names{s.names.schema, table}, s.dialect.schema.exists)).Scan(&n)
	return n > 0, err
}

func (s *Store) in(query string) string { return s.dialect.in(s.names, query) }

// record is the SQL that adds a step to the history.
func (s *Store) record(version int, time int64) string {
	return strings.NewReplacer("{version}", strconv.Itoa(version), "{time}", strconv.FormatInt(time, 10)).Replace(s.in(s.dialect.schema.record))
}

// Verify explains how the database differs from what the store needs, and what
// to do about it. It changes nothing.
func (s *Store) Verify(ctx context.Context) error {
	if err := s.verify(ctx); err != nil {
		return fmt.Errorf("sqlstore: verify: %w", s.advise(ctx, err))
	}
	return nil
}

func (s *Store) verify(ctx context.Context) error {
	sc := s.dialect.schema
	return s.reads.conn(ctx, func(c *sql.Conn) error {
		table, have, err := s.look(ctx, c)
		switch {
		case err != nil:
			return err
		case table && have == 0:
			return s.foreign()
		case !table:
			return fmt.Errorf("there is no table %q%s: run Migrate", s.names.table, s.names.where())
		case have > len(sc.steps):
			return s.newer(have)
		case have < len(sc.steps):
			return fmt.Errorf("table %q has schema version %d and needs %d: run Migrate", s.names.table, have, len(sc.steps))
		}
		return sc.verify(ctx, c, s.names)
	})
}

func (s *Store) foreign() error {
	return fmt.Errorf("table %q was not made by Migrate: choose another Options.Table, or rename that table", s.names.table)
}

func (s *Store) newer(have int) error {
	return fmt.Errorf("table %q has schema version %d, newer than the %d of this program: update the program", s.names.table, have, len(s.dialect.schema.steps))
}

// Schema is the SQL of all steps of [Store.Migrate], for reading and for those
// who run it by hand: then with the rows of the history that it ends with.
func (s *Store) Schema() string {
	var b strings.Builder
	add := func(sql string) { b.WriteString(s.in(sql) + ";\n") }
	sc := s.dialect.schema
	add(sc.history)
	for i, step := range sc.steps {
		fmt.Fprintf(&b, "\n-- Version %d\n", i+1)
		for _, statement := range step {
			add(statement)
		}
		add(s.record(i+1, 0))
	}
	return b.String()
}

// Grants returns the statements that give role the rights that a store needs
// after [Store.Migrate], and no others: to the rows of its table, and to read
// the history for [Store.Verify]. role is as the database writes it, with
// quotes where it needs them: app, or 'app'@'%' in MySQL. In PostgreSQL, with
// Options.Schema, that is USAGE of the schema, too; without, the role needs it of
// the schema in its search_path, and everybody has it of public. SQLite has no
// rights, and there are no statements.
func (s *Store) Grants(role string) []string {
	grants := s.dialect.grants
	if s.dialect.grantSchema != "" && s.names.schema != "" {
		grants = append([]string{s.dialect.grantSchema}, grants...)
	}
	var list []string
	for _, grant := range grants {
		list = append(list, strings.ReplaceAll(s.in(grant), "{role}", role))
	}
	return list
}
