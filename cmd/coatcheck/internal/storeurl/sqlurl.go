package storeurl

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/coatcheck/coatcheck/store/sqlstore"
)

// sqlURL is what the URL of a SQL server says.
type sqlURL struct {
	kind           kind
	user, password string
	hosts          []string // host:port; more than one in PostgreSQL alone
	database       string
	tls            *tls.Config // nil without; its ServerName may be empty
	pool           int         // connections of a process
	pooler         bool        // what is at the other end lends connections for a statement
	options        sqlstore.Options
}

const (
	// defaultPool is how many connections a process may have. A connection serves
	// some thousand requests a second, and the server has a hundred or so.
	defaultPool = 16
	maxPool     = 1000
)

var errSQLForm = errors.New("the store URL is not of the form postgres://USER:PASSWORD@HOST[:PORT]/DATABASE, or the same with mysql or mariadb; special characters in a password are written as %XX")

// parseSQL reads the URL of a SQL server. Its errors hold nothing of it but names
// of hosts and files.
func parseSQL(raw string) (*sqlURL, error) {
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok {
		return nil, errSQLForm
	}
	c := &sqlURL{kind: sqls[scheme], pool: defaultPool}
	// net/url takes one host; what is before the path is cut off by hand.
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	if strings.Contains(rest[end:], "@") {
		// Of a password with such a character in it the part behind an @ would look
		// like a host, and be shown.
		return nil, errors.New("the store URL has an @ behind its host, or a slash, ? or # in the password; an @ is written as %40, a slash as %2F, ? as %3F and # as %23")
	}
	u, err := url.Parse("sql://host" + rest[end:])
	if err != nil || u.Fragment != "" {
		return nil, errSQLForm
	}
	at := strings.LastIndex(rest[:end], "@")
	if at < 0 {
		return nil, errors.New("the store URL of a SQL server names a user, as postgres://USER:PASSWORD@HOST/DATABASE; a slash in a password is written as %2F")
	}
	user, password, _ := strings.Cut(rest[:at], ":")
	c.user, err = url.PathUnescape(user)
	if err == nil {
		c.password, err = url.PathUnescape(password)
	}
	if err != nil || c.user == "" {
		return nil, errSQLForm
	}
	if c.hosts, err = parseSQLHosts(rest[at+1:end], c.kind); err != nil {
		return nil, err
	}
	c.database = strings.Trim(u.Path, "/")
	switch {
	case c.database == "":
		return nil, errors.New("the store URL of a SQL server names a database behind the host, as postgres://USER:PASSWORD@HOST/DATABASE")
	case strings.Contains(c.database, "/"):
		return nil, errors.New("the name of the database in the store URL has a slash in it; a slash in a password is written as %2F")
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, errSQLForm
	}
	q := &params{values: query}
	insecure := q.yes("insecure-plaintext")
	if c.kind == postgres {
		c.postgresTLS(q, insecure)
		c.pooler = q.yes("pooler")
		c.options.Unprepared = c.pooler
	} else {
		c.mysqlTLS(q, insecure)
	}
	if n := q.number("pool", maxPool); n > 0 {
		c.pool = n
	}
	c.options.Table, c.options.Schema = q.take("table"), q.take("schema")
	if err := q.rest(c.kind); err != nil {
		return nil, err
	}
	db, st, err := c.unconnected()
	if err != nil {
		return nil, err
	}
	return c, errors.Join(st.Close(), db.Close())
}

func parseSQLHosts(text string, k kind) ([]string, error) {
	port := "5432"
	if k != postgres {
		port = "3306"
	}
	var addrs []string
	for h := range strings.SplitSeq(text, ",") {
		if h == "" {
			return nil, errors.New("the store URL has no host, or a comma too many between them")
		}
		if strings.ContainsAny(h, " @\\<>\"'=") {
			return nil, errSQLForm
		}
		if _, _, err := net.SplitHostPort(h); err != nil {
			h = net.JoinHostPort(strings.Trim(h, "[]"), port)
		}
		host, p, err := net.SplitHostPort(h)
		if n, nErr := strconv.Atoi(p); err != nil || host == "" || nErr != nil || n < 1 || n > 65535 {
			return nil, errors.New("the store URL has a host that is not of the form host:port; special characters in a password are written as %XX")
		}
		addrs = append(addrs, h)
	}
	if len(addrs) > 1 && k != postgres {
		return nil, errors.New("the store URL has several hosts, of which only PostgreSQL's driver finds the primary; name the primary, or what leads to it")
	}
	return addrs, nil
}

// remote returns a host that is not this machine, or "".
func (c *sqlURL) remote() string {
	for _, addr := range c.hosts {
		if !loopback(addr) {
			return addr
		}
	}
	return ""
}

// loopback reports whether addr cannot leave this machine.
func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

// postgresTLS reads what libpq knows, but for what leaves it to the server, or to
// whoever is in between, whether the connection is encrypted.
func (c *sqlURL) postgresTLS(q *params, insecure bool) {
	mode := q.take("sslmode")
	remote := c.remote()
	const write = "write sslmode=verify-full, with sslrootcert=FILE if its authority is not one of the system's"
	switch mode {
	case "verify-full":
		c.tls = &tls.Config{MinVersion: tls.VersionTLS12}
	case "verify-ca", "require":
		if remote != "" && !insecure {
			q.fail("with sslmode=%s anybody on the way to %s can pass for it; %s, or, where the network itself is safe, add insecure-plaintext=true", mode, remote, write)
		}
		// With an authority's file, require asks for it, as in libpq.
		c.tls = unverified(mode == "verify-ca" || q.values.Has("sslrootcert"))
	case "disable", "":
		if remote != "" && !insecure {
			q.fail("%s is not on this machine, and the connection would be readable on the way; %s, or, where the network itself is encrypted, sslmode=disable&insecure-plaintext=true", remote, write)
		}
	case "allow", "prefer":
		q.fail("sslmode=%s leaves it to whoever answers whether the connection is encrypted; %s, or sslmode=disable", mode, write)
	default:
		q.fail("sslmode in the store URL is not known; %s", write)
	}
	q.certificates(c.tls, "sslrootcert", "sslcert", "sslkey", "sslmode=verify-full")
}

// mysqlTLS reads what go-sql-driver calls tls, and files as in the URLs of Redis.
func (c *sqlURL) mysqlTLS(q *params, insecure bool) {
	mode := q.take("tls")
	remote := c.remote()
	const write = "write tls=true, with ca=FILE if its authority is not one of the system's"
	switch mode {
	case "true":
		c.tls = &tls.Config{MinVersion: tls.VersionTLS12}
	case "skip-verify":
		if remote != "" && !insecure {
			q.fail("with tls=skip-verify anybody on the way to %s can pass for it; %s, or, where the network itself is safe, add insecure-plaintext=true", remote, write)
		}
		if q.values.Has("ca") {
			q.fail("with tls=skip-verify nobody asks for the authority that ca names: write tls=true, or leave ca out")
		}
		c.tls = unverified(false)
	case "false", "":
		if remote != "" && !insecure {
			q.fail("%s is not on this machine, and the connection would be readable on the way; %s, or, where the network itself is encrypted, tls=false&insecure-plaintext=true", remote, write)
		}
	case "preferred":
		q.fail("tls=preferred leaves it to whoever answers whether the connection is encrypted; %s, or tls=false", write)
	default:
		q.fail("tls in the store URL can be true, false or skip-verify; %s", write)
	}
	name := q.take("servername")
	if name != "" && c.tls == nil {
		q.fail("servername in the store URL is for TLS: add tls=true")
	}
	if c.tls != nil {
		c.tls.ServerName = name
	}
	q.certificates(c.tls, "ca", "cert", "key", "tls=true")
}

// unverified does not ask for the server's name, and, unless chain, not even for
// who has signed its certificate.
func unverified(chain bool) *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true}
	if chain {
		c.VerifyConnection = func(s tls.ConnectionState) error {
			o := x509.VerifyOptions{Roots: c.RootCAs, Intermediates: x509.NewCertPool()}
			for _, cert := range s.PeerCertificates[1:] {
				o.Intermediates.AddCert(cert)
			}
			_, err := s.PeerCertificates[0].Verify(o)
			return err
		}
	}
	return c
}

// params are the parameters of a URL. The first error stays.
type params struct {
	values url.Values
	err    error
}

func (q *params) fail(format string, args ...any) {
	if q.err == nil {
		q.err = fmt.Errorf(format, args...)
	}
}

func (q *params) take(name string) string {
	v := q.values[name]
	delete(q.values, name)
	switch {
	case len(v) == 0:
		return ""
	case len(v) > 1:
		q.fail("the store URL has %s twice", name)
	case v[0] == "":
		q.fail("the store URL has %s without a value", name)
	}
	return v[0]
}

func (q *params) yes(name string) bool {
	v := q.take(name)
	if v != "" && v != "true" {
		q.fail("%s in the store URL can only be true", name)
	}
	return v == "true"
}

func (q *params) number(name string, most int) int {
	v := q.take(name)
	if v == "" {
		return 0
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 || n > most {
		q.fail("%s in the store URL is not a number from 1 to %d", name, most)
	}
	return n
}

// certificates reads the files that the parameters of these names lead to. c is
// nil if there is no TLS, which with turns on.
func (q *params) certificates(c *tls.Config, ca, cert, key, with string) {
	caFile, certFile, keyFile := q.take(ca), q.take(cert), q.take(key)
	if c == nil {
		if caFile != "" || certFile != "" || keyFile != "" {
			q.fail("%s, %s and %s in the store URL are for TLS: add %s", ca, cert, key, with)
		}
		return
	}
	if caFile != "" && caFile != "system" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			q.fail("%s in the store URL: %w", ca, err)
		}
		c.RootCAs = x509.NewCertPool()
		if err == nil && !c.RootCAs.AppendCertsFromPEM(pem) {
			q.fail("%s in the store URL: %s holds no certificate in PEM", ca, caFile)
		}
	}
	if (certFile == "") != (keyFile == "") {
		q.fail("%s and %s in the store URL go together: give both or none", cert, key)
	} else if certFile != "" {
		pair, err := tls.LoadX509KeyPair(certFile, keyFile)
		if err != nil {
			q.fail("%s and %s in the store URL: %w", cert, key, err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
}

// rest complains of what is left over. It names only what it knows: anything else
// may be a part of a password that was not written as %XX.
func (q *params) rest(k kind) error {
	if q.err != nil || len(q.values) == 0 {
		return q.err
	}
	if k == postgres {
		return errors.New("the store URL has a parameter that is not known; known are sslmode, sslrootcert, sslcert, sslkey, insecure-plaintext, pool, pooler, table and schema")
	}
	return errors.New("the store URL has a parameter that is not known; known are tls, ca, cert, key, servername, insecure-plaintext, pool, table and schema")
}
