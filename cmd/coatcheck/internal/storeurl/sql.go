package storeurl

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/coatcheck/coatcheck/store/sqlstore"
	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
)

const (
	// dialLimit bounds one connection's coming to be, TLS and sign-in included: the
	// pool makes them without anybody's deadline.
	dialLimit = 2 * time.Second
	// Connections end after a while, for a fleet to spread over servers that came
	// back, and sooner if nobody needs them.
	connLifetime = 5 * time.Minute
	connIdleTime = time.Minute
	// warmConns is how many connections a server has before its first request.
	warmConns = 4
)

// Settings of a connection that serves sessions. Whoever asked has long given up
// by then (the breaker's deadline is a second), but the server does not know it.
var (
	postgresLimits = map[string]string{
		"statement_timeout":                   "5s",
		"idle_in_transaction_session_timeout": "5s",
	}
	// MariaDB and MySQL each read their own comment.
	mysqlLimits = map[string]string{
		"innodb_lock_wait_timeout": "5 /*M! , max_statement_time = 5 */ /*!80000 , max_execution_time = 5000 */",
	}
)

func (c *sqlURL) dialect() sqlstore.Dialect {
	if c.kind == postgres {
		return sqlstore.PostgreSQL
	}
	return sqlstore.MySQL
}

// unconnected returns a store that is not connected: it has no need of a server to
// tell its SQL, and says what is wrong with its options.
func (c *sqlURL) unconnected() (*sql.DB, *sqlstore.Store, error) {
	db := c.open(c.pool, nil)
	st, err := sqlstore.New(db, c.dialect(), &c.options)
	if err != nil {
		err = fmt.Errorf("table or schema in the store URL: %s", strings.TrimPrefix(err.Error(), "sqlstore: "))
		return nil, nil, errors.Join(err, db.Close())
	}
	return db, st, nil
}

// open returns a pool of at most size connections that have these settings.
func (c *sqlURL) open(size int, limits map[string]string) *sql.DB {
	connect := c.mysqlConnect
	if c.kind == postgres {
		connect = c.postgresConnect
	}
	db := openPool(newConnector(c, connect(limits)), size)
	db.SetConnMaxLifetime(connLifetime)
	db.SetConnMaxIdleTime(connIdleTime)
	return db
}

// limits are the settings of a connection that serves sessions.
func (c *sqlURL) limits() map[string]string {
	switch {
	case c.kind != postgres:
		return mysqlLimits
	case c.pooler: // which refuses them, or has them reach other clients
		return nil
	}
	return postgresLimits
}

type connectFunc func(context.Context) (driver.Conn, error)

func (c *sqlURL) postgresConnect(limits map[string]string) connectFunc {
	var hosts, ports []string
	for _, addr := range c.hosts {
		host, port, _ := net.SplitHostPort(addr) // parseSQL did it
		hosts, ports = append(hosts, host), append(ports, port)
	}
	attrs := "any"
	if len(hosts) > 1 {
		attrs = "read-write"
	}
	// The rest is set below. What the text does not say, the environment would.
	forgetEnvironment()
	cfg, err := pgx.ParseConfig(fmt.Sprintf("host=%s port=%s user=x dbname=x sslmode=disable passfile='' target_session_attrs=%s",
		strings.Join(hosts, ","), strings.Join(ports, ","), attrs))
	if err != nil {
		return func(context.Context) (driver.Conn, error) { return nil, err }
	}
	cfg.User, cfg.Password, cfg.Database = c.user, c.password, c.database
	cfg.ConnectTimeout = dialLimit / time.Duration(len(c.hosts)) // for each, or one that says nothing would take all of it
	cfg.RuntimeParams = map[string]string{"application_name": "coatcheck"}
	for k, v := range limits {
		cfg.RuntimeParams[k] = v
	}
	cfg.TLSConfig = c.tlsFor(cfg.Host)
	for _, f := range cfg.Fallbacks {
		f.TLSConfig = c.tlsFor(f.Host)
	}
	if c.pooler {
		cfg.DefaultQueryExecMode = pgx.QueryExecModeExec
	}
	return stdlib.GetConnector(*cfg).Connect
}

// forgetEnvironment removes what other programs of PostgreSQL are told by the
// environment, and pgx would be: a store URL says all.
func forgetEnvironment() {
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "PG") {
			_ = os.Unsetenv(name) // fails only on what is no name
		}
	}
}

func (c *sqlURL) mysqlConnect(limits map[string]string) connectFunc {
	cfg := mysql.NewConfig()
	cfg.User, cfg.Passwd, cfg.DBName = c.user, c.password, c.database
	cfg.Net, cfg.Addr = "tcp", c.hosts[0]
	cfg.ConnectionAttributes = "program_name:coatcheck"
	cfg.Params = limits
	host, _, _ := net.SplitHostPort(cfg.Addr)
	cfg.TLS = c.tlsFor(host)
	return func(ctx context.Context) (driver.Conn, error) {
		told := new(lastError)
		cfg := cfg.Clone()
		cfg.Logger = told
		conn, err := mysql.NewConnector(cfg)
		if err != nil {
			return nil, err
		}
		dc, err := conn.Connect(ctx)
		if err != nil && told.get() != nil {
			err = fmt.Errorf("%w (%w)", told.get(), err)
		}
		return dc, err
	}
}

// lastError is a log of the MySQL driver, which returns "invalid connection" and
// logs why.
type lastError struct {
	mu  sync.Mutex
	err error
}

func (l *lastError) Print(v ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, arg := range v {
		if err, ok := arg.(error); ok {
			l.err = err
		}
	}
}

func (l *lastError) get() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

func (c *sqlURL) tlsFor(host string) *tls.Config {
	if c.tls == nil {
		return nil
	}
	t := c.tls.Clone()
	if t.ServerName == "" {
		t.ServerName = host
	}
	return t
}

// explained is an error in other words.
type explained struct {
	text string
	error
}

func (e explained) Error() string { return e.text }
func (e explained) Unwrap() error { return e.error }

// unconnectable says why there is no connection. What the server itself answers
// stays as it is.
func (c *sqlURL) unconnectable(err error) error {
	ca, cert, want := "sslrootcert", "sslcert and sslkey", "sslmode=verify-full"
	if c.kind != postgres {
		ca, cert, want = "ca", "cert and key", "tls=true"
	}
	var (
		authority x509.UnknownAuthorityError
		invalid   x509.CertificateInvalidError
		name      x509.HostnameError
		alert     *net.OpError
		server    *pgconn.PgError
		dial      *pgconn.ConnectError
		text      string
	)
	said := err
	if errors.As(err, &dial) { // its text begins with the user
		said = dial.Unwrap()
	}
	switch {
	case errors.As(err, &authority):
		text = fmt.Sprintf("the server's certificate is signed by an authority that is not trusted here (%v): name the right one by %s=FILE", authority, ca)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		text = fmt.Sprintf("the server's certificate has expired, or this machine's clock is wrong (%v)", invalid)
	case errors.As(err, &name):
		text = fmt.Sprintf("the server's certificate is not for the name that the store URL has (%v)", name)
	case errors.As(err, &alert) && alert.Op == "remote error":
		text = fmt.Sprintf("the server refuses the client's certificate, or that there is none (%v): look at %s in the store URL", alert, cert)
	case errors.Is(err, mysql.ErrNoTLS), strings.Contains(err.Error(), "server refused TLS connection"):
		text = fmt.Sprintf("the server does not speak TLS, which %s asks for: turn it on there", want)
	case strings.Contains(err.Error(), "received unexpected message"): // the driver has no value for it
		text = "what answers is no PostgreSQL: of MySQL the store URL begins with mysql://, of MariaDB with mariadb://"
	case errors.As(err, &server):
		text = fmt.Sprintf("%s (SQLSTATE %s)", server.Message, server.Code)
	case c.tls != nil && brokenOff(err): // its last word may be lost with the connection
		text = fmt.Sprintf("the server broke the connection off as TLS began, as it does if it refuses the client's certificate, or ends (%v): look at %s in the store URL", oneLine(said), cert)
	case said != err:
		text = oneLine(said)
	default:
		return err
	}
	return explained{text, err}
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// brokenOff reports whether a connection was there, and then no longer.
func brokenOff(err error) bool {
	for _, end := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE, driver.ErrBadConn, mysql.ErrInvalidConn} {
		if errors.Is(err, end) {
			return true
		}
	}
	return false
}

// connectAdvice is what to do about an answer of the server to a sign-in.
var connectAdvice = map[string]string{
	"28P01": badPassword,
	"28000": "the server refuses this user from here: look at pg_hba.conf, at sslmode, and at sslcert and sslkey in the store URL",
	"3D000": noDatabase,
	"42501": "GRANT CONNECT ON DATABASE … TO the user",
	"53300": noConnection,
	"08P01": "if PgBouncer or the like is at this address, add pooler=true to the store URL",
	"1045":  badPassword + ", and whether the server wants TLS (tls=true) or a client's certificate (cert and key)",
	"1698":  badPassword,
	"1044":  "GRANT the user rights in this database",
	"1049":  noDatabase,
	"1040":  noConnection,
	"1203":  noConnection,
	"1226":  noConnection,
	"1130":  "the server takes no connections from this machine: look at the host part of its users",
	"3159":  "the server wants TLS: add tls=true to the store URL",
}

const (
	badPassword  = "look at the user and the password in the store URL"
	noDatabase   = "create the database, or name another one in the store URL"
	noConnection = "lower pool in the store URL, or raise what the server allows: each process of the fleet may have that many connections"
)

func advised(err error) error {
	code := ""
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		code = e.Code
	} else if e, ok := errors.AsType[*mysql.MySQLError](err); ok {
		code = fmt.Sprint(e.Number)
	}
	if advice := connectAdvice[code]; advice != "" {
		return fmt.Errorf("%w: %s", err, advice)
	}
	return err
}

// dialSQL is one attempt to reach a SQL server. Its pool mends itself from then
// on.
func (n *network) dialSQL(ctx context.Context) (*link, error) {
	c, err := parseSQL(n.url.raw)
	if err != nil {
		return nil, err
	}
	db := c.open(c.pool, c.limits())
	st, err := sqlstore.New(db, c.dialect(), &c.options)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	closeAll := func() error {
		return within(closeLimit, func() error { return errors.Join(st.Close(), db.Close()) })
	}
	if err := db.PingContext(ctx); err != nil {
		return nil, errors.Join(c.silent(advised(err)), closeAll())
	}
	return n.guard(st, link{
		close: closeAll, verify: st.Verify, migrate: c.migrate,
		warm: func(ctx context.Context) { warm(ctx, db, min(c.pool, warmConns)) },
	})
}

// warm has the pool make that many connections, as far as the server lets it. The first
// visitors of a server that was started because all were busy would wait for them, while
// its peers that start with it sign in, too.
func warm(ctx context.Context, db *sql.DB, n int) {
	for range n {
		conn, err := db.Conn(ctx)
		if err != nil {
			return // a request will tell
		}
		defer conn.Close() // then it goes back to the pool
	}
}

// silent tells more of a server that took the connection and said nothing in time.
func (c *sqlURL) silent(err error) error {
	if !errors.Is(err, context.DeadlineExceeded) || len(c.hosts) > 1 { // of several another may be the silent one
		return err
	}
	conn, dialErr := net.DialTimeout("tcp", c.hosts[0], time.Second)
	if dialErr != nil {
		return err
	}
	_ = conn.Close()
	if c.kind == postgres {
		return fmt.Errorf("%w: something at %s takes connections and says nothing: it hangs, or is no PostgreSQL", err, c.hosts[0])
	}
	return fmt.Errorf("%w: something at %s takes connections and says nothing: it hangs, or is no MySQL or MariaDB; PostgreSQL, whose store URL begins with postgres://, waits for its clients to speak", err, c.hosts[0])
}

// closeLimit bounds the good-bye to a server. One that does not answer is waited for by
// pgx for 5 s for each connection, one after the other, and whoever stops a process
// has no use for that.
const closeLimit = 2 * time.Second

// within returns what f does, or nil when that takes too long: it goes on without
// anybody who waits.
func within(limit time.Duration, f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-time.After(limit):
		return nil
	}
}

// migrate waits for locks and works for as long as it takes, on a connection
// without the limits of the others.
func (c *sqlURL) migrate(ctx context.Context) error {
	db, st, err := c.unconnected()
	if err != nil {
		return err
	}
	return errors.Join(st.Migrate(ctx), st.Close(), db.Close())
}
