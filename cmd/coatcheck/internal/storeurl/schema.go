package storeurl

import (
	"database/sql"
	"errors"
	"fmt"

	"github.com/coatcheck/coatcheck/store/sqlstore"
)

// Schema is the SQL of a store's tables. MongoDB and DynamoDB have none.
type Schema struct {
	SQL string
	// Grants are the statements that give a role the rights that servers need.
	// SQLite has none.
	Grants []string
}

// CheckSchema returns an error that says what to do if the store has no schema.
func (u URL) CheckSchema() error {
	if u.kind != sqlite && !u.sql() && u.kind != mongoDB && u.kind != dynamoDB {
		return fmt.Errorf("%s has no schema: there is nothing to set up", u.Kind())
	}
	return nil
}

// Schema returns the SQL that [Opened.SetUp] runs, without asking a server. role
// is who is granted the rights, as the server writes it.
func (u URL) Schema(role string) (s Schema, err error) {
	if err := u.CheckSchema(); err != nil {
		return Schema{}, err
	}
	if u.kind == mongoDB || u.kind == dynamoDB {
		return Schema{}, fmt.Errorf("%s has no SQL: `coatcheck schema apply` makes what servers need, and docs/operations.md tells of the rights", u.Kind())
	}
	var db *sql.DB
	var st *sqlstore.Store
	if u.sql() {
		c, err := parseSQL(u.raw)
		if err != nil {
			return Schema{}, err
		}
		if db, st, err = c.unconnected(); err != nil {
			return Schema{}, err
		}
	} else {
		if db, err = sql.Open("sqlite3", ":memory:"); err != nil { // it is never connected
			return Schema{}, err
		}
		if st, err = sqlstore.New(db, sqlstore.SQLite, nil); err != nil {
			return Schema{}, errors.Join(err, db.Close())
		}
	}
	s.SQL = st.Schema()
	if role != "" {
		s.Grants = st.Grants(role)
	}
	return s, errors.Join(st.Close(), db.Close())
}
