package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"github.com/coatcheck/coatcheck/store"
)

// MySQL is the dialect of MySQL 8.0 and later and of MariaDB 10.6 and later,
// with any driver.
var MySQL = Dialect{
	name:   "MySQL",
	misses: true,
	// A packet is 16 MiB at most by default, and MariaDB refuses a value of more
	// than a tenth of its log, which has 96 MiB.
	maxData: 4 << 20,
	quote:   "`",
	queries: queries{
		get: "SELECT " + mysqlColumns + " FROM {schema}`{table}` WHERE `key` = ? AND " + mysqlEnds + " > ?",

		getMany: "SELECT " + mysqlColumns + " FROM {schema}`{table}` WHERE " + mysqlEnds + " > ? AND `key` IN ({keys})",

		// ON DUPLICATE KEY UPDATE has no condition, and tells an insert from a row
		// that it left alone only where clientFoundRows is off. INSERT IGNORE cuts
		// what is too long.
		create: "INSERT INTO {schema}`{table}` (" + mysqlColumns + ", `sweep_after`) VALUES (" + questions(10) + ", `expires`)",

		recreate: "UPDATE {schema}`{table}` SET `version` = ?, `handle` = ?, `owner` = ?, `created` = ?, `deadline` = ?, `expires` = ?, " +
			"`next` = ?, `label` = ?, `data` = ?, `sweep_after` = `expires`, " + mysqlCount + "\nWHERE `key` = ? AND " + mysqlEnds + " <= ?",

		// MySQL goes from left to right, and so sees the new deadline and expires;
		// MariaDB does not in its mode SIMULTANEOUS_ASSIGNMENT, where an expiry that
		// was brought forward is swept late, and nothing else is different.
		replace: "UPDATE {schema}`{table}` SET `version` = ?, `deadline` = LEAST(`deadline`, ?), `expires` = LEAST(`deadline`, ?), " +
			"`next` = ?, `label` = ?, `data` = ?, `sweep_after` = LEAST(`sweep_after`, `expires`), " + mysqlCount +
			"\nWHERE `key` = ? AND `version` = ? AND " + mysqlEnds + " > ?",

		touch: "UPDATE {schema}`{table}` SET `expires` = LEAST(`deadline`, GREATEST(`expires`, ?)), " + mysqlCount +
			"\nWHERE `key` = ? AND " + mysqlEnds + " > ? AND `next` IS NULL",

		deleteLive: "DELETE FROM {schema}`{table}` WHERE `key` = ? AND " + mysqlEnds + " > ?",
		deleteDead: "DELETE FROM {schema}`{table}` WHERE `key` = ? AND " + mysqlEnds + " <= ?",

		listOwner: "SELECT " + mysqlColumns + " FROM {schema}`{table}` WHERE `owner` = ? AND " + mysqlEnds + " > ? AND `next` IS NULL",

		deleteOwner: "DELETE FROM {schema}`{table}` WHERE `owner` = ? AND (`handle` IN ({keep})) IS NOT TRUE " +
			"AND `next` IS NULL AND " + mysqlEnds + " > {now}",
		deleteOwnerRest: "DELETE FROM {schema}`{table}` WHERE `owner` = ? AND (`handle` IN ({keep})) IS NOT TRUE",

		list: "SELECT " + mysqlColumns + " FROM {schema}`{table}` WHERE `key` > ? AND " + mysqlEnds + " > ? ORDER BY `key` LIMIT ?",

		// By key, as a DELETE along the index would lock the gaps in it, into which
		// others are moving their rows. The locks of sweepDue end with it: they are
		// there to pass over rows that somebody holds. In a small table the others
		// would rather read, and lock, every row. An alias would need a current database,
		// whatever {schema} says.
		sweepDue:   "SELECT `key` FROM {schema}`{table}` WHERE `sweep_after` <= ? ORDER BY `sweep_after` LIMIT ? FOR UPDATE SKIP LOCKED",
		sweep:      "DELETE FROM {schema}`{table}` USING {schema}`{table}` FORCE INDEX (PRIMARY) WHERE " + mysqlEnds + " <= ? AND `key` IN ({keys})",
		sweepLater: "UPDATE {schema}`{table}` FORCE INDEX (PRIMARY) SET `sweep_after` = " + mysqlEnds + " WHERE " + mysqlEnds + " > ? AND `key` IN ({keys})",
	},
	schema: schema{
		steps: [][]string{{
			"CREATE TABLE IF NOT EXISTS {schema}`{table}` (\n" +
				"	`key`         BINARY(32)      NOT NULL PRIMARY KEY, -- SHA-256 of the session ID\n" +
				"	`version`     BIGINT          NOT NULL, -- the 64 bits of an unsigned integer\n" +
				"	`handle`      BINARY(16)      NOT NULL, -- the public name\n" +
				"	`owner`       VARBINARY(255),           -- NULL: anonymous\n" +
				"	`created`     BIGINT          NOT NULL, -- this and the next three: Unix milliseconds\n" +
				"	`deadline`    BIGINT          NOT NULL,\n" +
				"	`expires`     BIGINT          NOT NULL,\n" +
				"	`sweep_after` BIGINT          NOT NULL, -- never after the row's end; the sweeper moves it on\n" +
				"	`updates`     BIGINT          NOT NULL DEFAULT 0, -- so that each of them changes the row, and counts\n" +
				"	`next`        BINARY(32),               -- not NULL: a marker, no session\n" +
				"	`label`       VARBINARY(1024) NOT NULL,\n" +
				"	`data`        MEDIUMBLOB      NOT NULL,\n" +
				"	INDEX `owner` (`owner`),\n" +
				"	INDEX `sweep` (`sweep_after`)\n" +
				") ENGINE=InnoDB ROW_FORMAT=DYNAMIC",
		}},
		repeatable: true,
		begin:      mysqlBegin,
		exists:     "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = " + mysqlSchema + " AND table_name = '{table}'",
		history: "CREATE TABLE IF NOT EXISTS {schema}`{table}_schema` (\n" +
			"	`version` INTEGER NOT NULL PRIMARY KEY,\n" +
			"	`applied` BIGINT  NOT NULL -- Unix milliseconds\n" +
			") ENGINE=InnoDB",
		record:  "INSERT INTO {schema}`{table}_schema` (`version`, `applied`) VALUES ({version}, {time})",
		version: "SELECT COALESCE(MAX(`version`), 0) FROM {schema}`{table}_schema`",
		verify:  mysqlVerify,
	},
	grants: []string{
		"GRANT SELECT, INSERT, UPDATE, DELETE ON {schema}`{table}` TO {role}",
		"GRANT SELECT ON {schema}`{table}_schema` TO {role}",
	},
	diagnose: mysqlDiagnose,
	inspect:  mysqlInspect,
}

const (
	mysqlColumns = "`key`, `version`, `handle`, `owner`, `created`, `deadline`, `expires`, `next`, `label`, `data`"

	// mysqlEnds is when a record ends, as in postgresEnds.
	mysqlEnds = "LEAST(`expires`, `deadline`)"

	// mysqlCount makes every update change its row: unless the application has set
	// clientFoundRows, the server counts rows that changed, not those that matched,
	// and a Replace by the same record would pass for a conflict.
	mysqlCount = "`updates` = `updates` + 1"

	mysqlSchema = "COALESCE(NULLIF('{schemaname}', ''), DATABASE())"
)

func mysqlIn(n names, query string) string { return Dialect{quote: "`"}.in(n, query) }

// mysqlBegin takes a lock that is the connection's, as each statement that
// changes a schema is a transaction of its own.
func mysqlBegin(ctx context.Context, c *sql.Conn, n names) (end func(error) error, err error) {
	var database sql.NullString
	if err := c.QueryRowContext(ctx, "SELECT DATABASE()").Scan(&database); err != nil {
		return nil, err
	} else if !database.Valid && n.schema == "" {
		return nil, errors.New(mysqlNoDatabase)
	}
	lock := mysqlIn(n, "CONCAT('coatcheck ', LEFT(SHA2(CONCAT("+mysqlSchema+", '.{table}'), 256), 40))")
	for {
		var got sql.NullInt64
		if err := c.QueryRowContext(ctx, "SELECT GET_LOCK("+lock+", 5)").Scan(&got); err != nil {
			return nil, err
		}
		if !got.Valid {
			return nil, errors.New("GET_LOCK answered NULL, as when the server runs out of memory")
		}
		if got.Int64 == 1 {
			break
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	return func(err error) error {
		// A connection that cannot do it is broken, and has lost the lock.
		_, _ = c.ExecContext(context.WithoutCancel(ctx), "DO RELEASE_LOCK("+lock+")")
		return err
	}, nil
}

// mysqlTypes is how the columns are declared, without the widths that MariaDB
// shows and MySQL does not.
var mysqlTypes = map[string]string{
	"key": "binary(32) NOT NULL", "version": "bigint NOT NULL", "handle": "binary(16) NOT NULL", "owner": "varbinary(255)",
	"created": "bigint NOT NULL", "deadline": "bigint NOT NULL", "expires": "bigint NOT NULL", "sweep_after": "bigint NOT NULL",
	"updates": "bigint NOT NULL", "next": "binary(32)", "label": "varbinary(1024) NOT NULL", "data": "mediumblob NOT NULL",
}

func mysqlVerify(ctx context.Context, c *sql.Conn, n names) error {
	if on, err := mysqlReadOnly(ctx, c); err != nil {
		return err
	} else if on {
		return errors.New(mysqlReadOnlyServer)
	}
	where := mysqlIn(n, " WHERE table_schema = "+mysqlSchema+" AND table_name = '{table}'")
	var engine string
	if err := c.QueryRowContext(ctx, "SELECT COALESCE(engine, '') FROM information_schema.tables"+where).Scan(&engine); err != nil {
		return err
	}
	if !strings.EqualFold(engine, "InnoDB") {
		return fmt.Errorf("table %q is of the engine %q, which has no transactions: ALTER TABLE … ENGINE=InnoDB", n.table, engine)
	}
	have, err := pairs(ctx, c, "SELECT column_name, CONCAT(column_type, IF(is_nullable = 'NO', ' NOT NULL', '')) FROM information_schema.columns"+where)
	if err != nil {
		return err
	}
	for name, kind := range have {
		have[name] = strings.Replace(kind, "bigint(20)", "bigint", 1)
	}
	if err := sameColumns(n.table, mysqlTypes, have); err != nil {
		return err
	}
	indexes, err := pairs(ctx, c, "SELECT index_name, CONCAT(IF(MIN(non_unique) = 0, 'unique ', ''), "+
		"GROUP_CONCAT(CONCAT(COALESCE(column_name, '(expression)'), COALESCE(CONCAT('(', sub_part, ')'), '')) ORDER BY seq_in_index)) FROM information_schema.statistics"+
		where+" GROUP BY index_name")
	if err != nil {
		return err
	}
	for _, probe := range []struct{ right, query string }{
		{"SELECT", "SELECT `key` FROM {schema}`{table}` WHERE `key` = ''"},
		{"INSERT", "INSERT INTO {schema}`{table}` SELECT * FROM {schema}`{table}` WHERE `key` = ''"},
		{"UPDATE", "UPDATE {schema}`{table}` SET `version` = `version` WHERE `key` = ''"},
		{"DELETE", "DELETE FROM {schema}`{table}` WHERE `key` = ''"},
	} { // of nothing, for no key is empty
		if _, err := c.ExecContext(ctx, mysqlIn(n, probe.query)); err != nil {
			return fmt.Errorf("the right of %s on table %q: %w", probe.right, n.table, err)
		}
	}
	for _, want := range []string{"unique key", "owner", "sweep_after"} {
		found := false
		for _, columns := range indexes {
			found = found || columns == want
		}
		if !found {
			return fmt.Errorf("table %q has no index that is of %s alone: it was changed by hand; create it, as Schema shows", n.table, want)
		}
	}
	return nil
}

// mysqlReadOnly reports whether the server takes no writes: a replica that
// does is another matter, which only its administrator knows.
func mysqlReadOnly(ctx context.Context, c *sql.Conn) (bool, error) {
	var on, transactions bool
	err := c.QueryRowContext(ctx, "SELECT @@GLOBAL.read_only, "+mysqlTransactionReadOnly).Scan(&on, &transactions)
	if number, _ := mysqlNumber(err); number == 1193 { // MariaDB before 11.1 has the older name
		err = c.QueryRowContext(ctx, "SELECT @@GLOBAL.read_only, @@tx_read_only").Scan(&on, &transactions)
	}
	return on || transactions, err
}

const mysqlTransactionReadOnly = "@@transaction_read_only"

const (
	mysqlNoDatabase     = "no database is chosen: name it in the data source name or in Options.Schema"
	mysqlLogin          = "the server refuses this user or password, or wants TLS"
	mysqlUserLimit      = "the user has no connection left: raise max_user_connections, or lower SetMaxOpenConns of the app's servers"
	mysqlRights         = "the user lacks a right: run what Grants returns, or Migrate as a user who may create tables"
	mysqlReadOnlyServer = "this server is a replica or read only, and sessions need the primary: connect to it; after a failover, idle connections to the old one are closed by themselves"
)

// Error numbers, https://dev.mysql.com/doc/mysql-errors/en/server-error-reference.html
// and https://mariadb.com/kb/en/mariadb-error-code-reference/.
var mysqlAdvice = map[int]string{
	1021: "the server's disk is full, and nothing was changed; free some space",
	1040: "the server has no connection left: lower SetMaxOpenConns of the app's servers together below max_connections",
	1044: "the user may not use this database",
	1045: mysqlLogin,
	1046: mysqlNoDatabase,
	3057: mysqlNoDatabase, // of MySQL, to a lock without a name
	1049: "there is no such database: create it, or name another one",
	1053: "the server is shutting down",
	1054: "the table is not as Migrate made it: run Verify",
	1114: "the server's disk or the tablespace is full, and nothing was changed; free some space",
	1142: mysqlRights,
	1146: "the table is not there: run Migrate, or look at the database or Options.Schema",
	1153: "the record is over the server's max_allowed_packet",
	1180: "the commit failed, and may have happened on some servers",
	1203: mysqlUserLimit,
	1226: mysqlUserLimit,
	1205: "another transaction held the row's lock for longer than innodb_lock_wait_timeout, and nothing was changed",
	1213: "it was in a deadlock each time, and nothing was changed",
	1143: mysqlRights,
	1290: mysqlReadOnlyServer, // --read-only, and the next two: a read-only transaction, innodb_read_only
	1792: mysqlReadOnlyServer,
	1836: mysqlReadOnlyServer,
	1317: "the statement was ended by an administrator, and nothing was changed",
	1406: "a value is longer than its column, and nothing was changed: run Verify",
	1461: "the server has no room for more prepared statements: raise max_prepared_stmt_count, or set Options.Unprepared",
	1698: mysqlLogin,
	3159: mysqlLogin,
	1927: "an administrator ended the connection",
	1969: "the statement took longer than max_statement_time, and nothing was changed",
	3024: "the statement took longer than max_execution_time, and nothing was changed",
}

// mysqlOpen are the numbers after which the statement may have been carried out.
var mysqlOpen = map[int]bool{1053: true, 1152: true, 1158: true, 1159: true, 1160: true, 1161: true, 1180: true, 1184: true, 1927: true, 4031: true}

// mysqlUndone reports whether the server that answers with this number has undone the
// statement. Proxies pass off as the server's what became of their own connection to
// it (2000 and more), and others have numbers for all kinds of failures; so only those
// count that are known here.
func mysqlUndone(number int) bool {
	return !mysqlOpen[number] && (mysqlAdvice[number] != "" || mysqlStatement[number])
}

// mysqlStatement are the numbers of statements that are wrong, or whose values are, and of
// others that the server has undone or not begun.
var mysqlStatement = map[int]bool{
	1020: true, 1047: true, 1048: true, 1062: true, 1064: true, 1149: true, 1206: true, 1207: true, 1210: true, 1235: true, 1242: true, 1243: true, 1264: true, 1265: true,
	1292: true, 1364: true, 1366: true, 1390: true, 1411: true, 1586: true, 1614: true, 1615: true, 3101: true, 3572: true, 3819: true, 4025: true,
}

// mysqlRefused are the numbers of what is the same until somebody changes the server:
// a full disk or table, or a right, a database, a table or a column that is missing.
var mysqlRefused = map[int]bool{1021: true, 1044: true, 1046: true, 1049: true, 1054: true, 1114: true, 1142: true, 1143: true, 1146: true}

// mysqlPlain are the numbers whose messages name users, tables and settings,
// and hold no value of a statement.
var mysqlPlain = map[int]bool{
	1021: true, 1040: true, 1044: true, 1045: true, 1046: true, 1049: true, 1053: true, 1054: true, 1114: true, 1142: true, 1143: true,
	1146: true, 1180: true, 1203: true, 1226: true, 1205: true, 1213: true, 1290: true, 1317: true, 1461: true, 1698: true, 1792: true, 1836: true,
	1927: true, 1969: true, 3024: true, 3159: true,
}

// mysqlNumber finds the number in an error of go-sql-driver, or of another
// driver that has a field of that name.
func mysqlNumber(err error) (int, bool) {
	switch e := err.(type) {
	case nil:
		return 0, false
	case interface{ Unwrap() []error }:
		for _, err := range e.Unwrap() {
			if number, ok := mysqlNumber(err); ok {
				return number, true
			}
		}
		return 0, false
	}
	if v := reflect.Indirect(reflect.ValueOf(err)); v.Kind() == reflect.Struct {
		switch number := v.FieldByName("Number"); {
		case !number.IsValid():
		case number.CanUint():
			return int(number.Uint()), true
		case number.CanInt():
			return int(number.Int()), true
		}
	}
	return mysqlNumber(errors.Unwrap(err))
}

// mysqlDiagnose relies on a statement that the server refuses being undone: it
// is its own transaction.
func mysqlDiagnose(err error) diagnosis {
	number, ok := mysqlNumber(err)
	if !ok {
		return diagnosis{unapplied: errors.Is(err, sql.ErrConnDone)}
	}
	return diagnosis{
		answered:  !mysqlOpen[number],
		unapplied: mysqlUndone(number),
		again:     number == 1213,
		refused:   mysqlRefused[number],
		readOnly:  number == 1290 || number == 1792 || number == 1836,
		duplicate: number == 1062 || number == 1586,
		tooLarge:  number == 1153,
		advice:    mysqlAdvice[number],
		instead:   instead(err, "MySQL error "+strconv.Itoa(number), mysqlPlain[number]),
	}
}

func mysqlInspect(x *inspection) []store.Finding {
	return []store.Finding{
		x.mysqlTLS(), x.mysqlPrivileges(), x.mysqlPrimary(), x.mysqlDurability(), x.mysqlMode(),
		x.sweeping("SELECT MIN(`sweep_after`) FROM {schema}`{table}`"),
		x.clock(`SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) DIV 1000`),
		x.mysqlVersion(),
	}
}

func (x *inspection) mysqlTLS() store.Finding {
	var name, cipher, user string
	if err := x.scan("SHOW STATUS LIKE 'Ssl_cipher'", &name, &cipher); err != nil {
		return unknown("tls", "SHOW STATUS")
	}
	if err := x.scan("SELECT USER()", &user); err != nil {
		return unknown("tls", "USER()")
	}
	host := user[strings.LastIndex(user, "@")+1:]
	return tls(cipher != "", cipher, host == "localhost" || loopback(host), "set tls=true (or a configuration that is registered with the driver) in the data source name, and ssl_cert and ssl_key on the server")
}

func (x *inspection) mysqlPrivileges() store.Finding {
	rows, err := x.c.QueryContext(x.ctx, "SHOW GRANTS")
	if err != nil {
		return unknown("privileges", "SHOW GRANTS")
	}
	defer rows.Close()
	wide := ""
	for rows.Next() {
		var grant string
		if err := rows.Scan(&grant); err != nil {
			return unknown("privileges", "SHOW GRANTS")
		}
		rights, on, ok := strings.Cut(strings.TrimPrefix(grant, "GRANT "), " ON ") // a role has none
		if !ok || rights == "USAGE" || rights == "PROXY" || wide != "" {
			continue
		}
		on, _, _ = strings.Cut(on, " TO ")
		switch {
		case on == "*.*":
			wide = "has rights on every database"
		case strings.HasSuffix(on, ".*"):
			wide = "has rights on every table of the database"
		case strings.Contains(rights, "ALL PRIVILEGES"), strings.Contains(rights, "DROP"), strings.Contains(rights, "ALTER"):
			wide = "may drop or change the table"
		}
	}
	if rows.Err() != nil {
		return unknown("privileges", "SHOW GRANTS")
	}
	if wide != "" {
		return store.Finding{
			Check: "privileges", Severity: store.SeverityWarning,
			Evidence: "the user " + wide + ": whoever takes over one web server can do the same",
			Fix:      "run Migrate with this user, and the app with another one that has the rights that Grants returns, and no others",
		}
	}
	return store.Finding{Check: "privileges", Severity: store.SeverityOK, Evidence: "the user may do little more than sessions need"}
}

func (x *inspection) mysqlPrimary() store.Finding {
	on, err := mysqlReadOnly(x.ctx, x.c)
	switch {
	case err != nil:
		return unknown("read-only", "@@read_only")
	case on:
		return store.Finding{
			Check: "read-only", Severity: store.SeverityCritical, Evidence: "this server is read only, as replicas are",
			Fix: "connect to the primary, or SET GLOBAL read_only = OFF if this is it",
		}
	}
	return store.Finding{Check: "read-only", Severity: store.SeverityOK, Evidence: "this server takes writes"}
}

func (x *inspection) mysqlDurability() store.Finding {
	var flush int
	var doublewrite string
	if err := x.scan("SELECT @@innodb_flush_log_at_trx_commit, @@innodb_doublewrite", &flush, &doublewrite); err != nil {
		return unknown("durability", "@@innodb_flush_log_at_trx_commit")
	}
	f := store.Finding{
		Check: "durability", Severity: store.SeverityOK,
		Evidence: fmt.Sprintf("innodb_flush_log_at_trx_commit is %d, innodb_doublewrite %s", flush, doublewrite),
	}
	switch {
	case doublewrite == "0" || strings.EqualFold(doublewrite, "OFF"):
		f.Severity = store.SeverityWarning
		f.Evidence += ": a crash of the machine can damage the database, unless its file system writes pages whole"
		f.Fix = "set innodb_doublewrite = ON"
	case flush != 1:
		f.Severity = store.SeverityWarning
		f.Evidence += ": a crash loses the writes of the last second, and can bring back a session that was logged out in it"
		f.Fix = "SET GLOBAL innodb_flush_log_at_trx_commit = 1"
	}
	return f
}

func (x *inspection) mysqlMode() store.Finding {
	var mode string
	if err := x.scan("SELECT @@sql_mode", &mode); err != nil {
		return unknown("sql-mode", "@@sql_mode")
	}
	if !strings.Contains(mode, "STRICT_") {
		return store.Finding{
			Check: "sql-mode", Severity: store.SeverityWarning,
			Evidence: "sql_mode is not strict: other programs' values are cut without a word; sessions are safe, as their sizes are tested before",
			Fix:      "SET GLOBAL sql_mode = CONCAT(@@sql_mode, ',STRICT_TRANS_TABLES')",
		}
	}
	return store.Finding{Check: "sql-mode", Severity: store.SeverityOK, Evidence: "sql_mode is strict"}
}

func (x *inspection) mysqlVersion() store.Finding {
	var text string
	if err := x.scan("SELECT VERSION()", &text); err != nil {
		return unknown("version", "VERSION()")
	}
	name, least, floor := "MySQL", "8.0", [2]int{8, 0}
	number := text
	if strings.Contains(strings.ToLower(text), "mariadb") {
		name, least, floor = "MariaDB", "10.6", [2]int{10, 6}
		number = strings.TrimPrefix(text, "5.5.5-") // which MariaDB once put before it
	}
	number, _, _ = strings.Cut(number, "-")
	f := store.Finding{Check: "version", Severity: store.SeverityOK, Evidence: name + " " + number}
	parts := strings.SplitN(number, ".", 3)
	if len(parts) < 2 {
		return f
	}
	major, _ := strconv.Atoi(parts[0])
	minor, _ := strconv.Atoi(parts[1])
	if major < floor[0] || major == floor[0] && minor < floor[1] {
		f.Severity, f.Fix = store.SeverityWarning, "use "+name+" "+least+" at least: older ones are not tested and get no corrections any more"
	}
	return f
}
