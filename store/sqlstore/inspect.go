package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"time"

	"github.com/coatcheck/coatcheck/store"
)

// Inspect implements [store.Inspector]. It looks at encryption, the user's
// rights, whether the server takes writes, what it loses in a crash, and its
// version; in SQLite at what there is of that.
func (s *Store) Inspect(ctx context.Context) ([]store.Finding, error) {
	var found []store.Finding
	err := s.reads.conn(ctx, func(c *sql.Conn) error {
		if err := c.PingContext(ctx); err != nil {
			return err
		}
		found = s.dialect.inspect(&inspection{s: s, ctx: ctx, c: c})
		return ctx.Err()
	})
	if err != nil {
		return nil, s.readError(ctx, "inspect", err)
	}
	return found, nil
}

// inspection is one call of Inspect.
type inspection struct {
	s   *Store
	ctx context.Context
	c   *sql.Conn
}

func (x *inspection) in(query string) string { return x.s.in(query) }

func (x *inspection) scan(query string, into ...any) error {
	return x.c.QueryRowContext(x.ctx, query).Scan(into...)
}

func unknown(check, source string) store.Finding {
	return store.Finding{Check: check, Severity: store.SeverityUnknown, Evidence: "this user may not ask the server (" + source + ")"}
}

// tls judges a connection, of which the version or the cipher may be known.
func tls(on bool, how string, local bool, fix string) store.Finding {
	switch {
	case on:
		return store.Finding{
			Check: "tls", Severity: store.SeverityOK,
			Evidence: strings.TrimSuffix("the connection is encrypted, by "+how, ", by ") + "; whether the server's certificate is verified is the driver's setting",
		}
	case local:
		return store.Finding{Check: "tls", Severity: store.SeverityWarning, Evidence: "the connection is not encrypted; it stays on this machine", Fix: fix}
	}
	return store.Finding{Check: "tls", Severity: store.SeverityCritical, Evidence: "the connection is not encrypted and may leave this machine", Fix: fix}
}

func loopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}

// pairs reads rows of two texts.
func pairs(ctx context.Context, c *sql.Conn, query string) (map[string]string, error) {
	rows, err := c.QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	m := map[string]string{}
	for rows.Next() {
		var k, v string
		if err := rows.Scan(&k, &v); err != nil {
			return nil, err
		}
		m[k] = v
	}
	return m, rows.Err()
}

// sameColumns reports a column that is missing or of another type. Others do no
// harm if rows can be made without them.
func sameColumns(table string, want, have map[string]string) error {
	for name, kind := range want {
		switch got, ok := have[name]; {
		case !ok:
			return fmt.Errorf("table %q has no column %q: it was changed by hand or is another program's; restore it, or choose another Options.Table and run Migrate", table, name)
		case got != kind:
			return fmt.Errorf("column %q of table %q is %q and must be %q: it was changed by hand; restore it, or choose another Options.Table and run Migrate", name, table, got, kind)
		}
	}
	return nil
}

// serverError is shown in place of a driver's error, which may hold values: of
// keys that are there already, or of what does not fit.
type serverError string

func (e serverError) Error() string { return string(e) }

// instead is the error to show for one with that code, with the server's own
// message if that is known to hold no value.
func instead(err error, code string, plain bool) error {
	text := ""
	for err != nil && plain && text == "" {
		if many, ok := err.(interface{ Unwrap() []error }); ok {
			for _, err := range many.Unwrap() {
				if e := instead(err, code, plain); e.Error() != code {
					return e
				}
			}
			break
		}
		if v := reflect.Indirect(reflect.ValueOf(err)); v.Kind() == reflect.Struct {
			if message := v.FieldByName("Message"); message.IsValid() && message.Kind() == reflect.String {
				text = ": " + message.String()
			}
		}
		if one, ok := err.(interface{ Unwrap() error }); ok {
			err = one.Unwrap()
		} else {
			err = nil
		}
	}
	return serverError(code + text)
}

// clock asks for the server's time, by a query for Unix milliseconds.
func (x *inspection) clock(query string) store.Finding {
	var at int64
	before := time.Now()
	if err := x.scan(query, &at); err != nil {
		return unknown("clock", "the time")
	}
	return store.InspectClock(time.UnixMilli(at), before, time.Now())
}

// sweepLag is how long ago the first record may have been due that is still there. Managers
// sweep at least once a minute.
const sweepLag = 15 * time.Minute

// sweeping looks at how long what has expired stays, by a query for the first time in
// Unix milliseconds at which something is due; there is none in an empty table.
func (x *inspection) sweeping(query string) store.Finding {
	f := store.Finding{Check: "sweep", Severity: store.SeverityOK, Evidence: "what has expired is removed"}
	var first sql.NullInt64
	if err := x.scan(x.in(query), &first); err != nil && !errors.Is(err, sql.ErrNoRows) {
		return unknown("sweep", x.s.names.table)
	}
	if lag := time.Since(time.UnixMilli(first.Int64)); first.Valid && lag > sweepLag {
		f.Severity = store.SeverityWarning
		f.Evidence = fmt.Sprintf("sessions have been due for removal, or a look, for up to %v: nobody sweeps, and the table grows", lag.Round(time.Minute))
		f.Fix = "run Manager.Run on every web server, or `coatcheck up`; any number of them may"
	}
	return f
}
