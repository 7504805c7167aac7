package mongostore

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
)

// OpenURL returns a store with connections of its own; Close it when done. It
// connects before it returns, and ctx bounds that. opts, which may be nil, are what
// the URL does not say:
//
//	mongodb://[USER[:PASSWORD]@]HOST[:PORT][,HOST[:PORT]…][/DATABASE]
//	mongodb+srv://[USER[:PASSWORD]@]NAME[/DATABASE]
//
// The hosts are those of a replica set, some of them or all, or mongos of a sharded
// cluster. With srv they, and more, are found in the DNS under NAME, and connections
// are encrypted. Ports default to 27017. DATABASE is Options.Database, and where the
// user was made, unless authSource says otherwise. Behind a question mark may follow,
// with & in between:
//
//	collection=NAME         Options.Collection
//	tls=true                encrypts connections
//	ca=FILE                 trusts these authorities (PEM) and not the system's
//	cert=FILE&key=FILE      the client's certificate, for mutual TLS
//	servername=NAME         the name that the servers' certificates are for
//	insecure-plaintext=true without TLS to a host that is not this one
//
// and these, as in every connection string of MongoDB: authSource, authMechanism,
// authMechanismProperties, replicaSet, directConnection, loadBalanced, appName,
// compressors, maxPoolSize, minPoolSize, maxConnecting, maxIdleTimeMS,
// connectTimeoutMS, serverSelectionTimeoutMS, heartbeatFrequencyMS, retryReads,
// srvMaxHosts, srvServiceName, tlsCAFile and tlsCertificateKeyFile. w, journal,
// readConcernLevel, readPreference and retryWrites may be there with what holds in any
// case: majority, true, majority, primary; the store repeats no write whatever
// retryWrites says.
//
// Characters of special meaning are written as in every URL: %40 for @ in a
// password. Without TLS, a host that is not loopback is refused, also one that a
// server names: session records are sealed, but who can change what is on the wire
// can sign users out and bring back what they had. Errors hold nothing of the URL but
// the names of hosts and files.
func OpenURL(ctx context.Context, rawURL string, opts *Options) (*Store, error) {
	var o Options
	if opts != nil {
		o = *opts
	}
	p, err := parseURL(rawURL, &o)
	if err != nil {
		return nil, fmt.Errorf("mongostore: %w", err)
	}
	if err := o.complete(); err != nil {
		return nil, err
	}
	client, err := connect(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("mongostore: connect to %s: %w", strings.Join(p.hosts, ", "), err)
	}
	s, err := New(client, &o)
	if err != nil {
		_ = disconnect(client)
		return nil, err
	}
	hello, err := s.hello(ctx)
	if err == nil && !hello.primary { // of a direct connection; reads there would be old
		err = newReply("NotWritablePrimary", 10107)
	}
	if err != nil {
		_ = disconnect(client)
		return nil, fmt.Errorf("mongostore: connect to %s: %w", strings.Join(p.hosts, ", "), connectError(ctx, err, p.tls != nil))
	}
	s.close = func() error {
		if err := disconnect(client); err != nil {
			return fmt.Errorf("mongostore: close: %w", explain(context.Background(), err))
		}
		return nil
	}
	return s, nil
}

// CheckURL returns what is wrong with rawURL and opts, which may be nil, as far as
// can be told without connecting. [OpenURL] returns the same.
func CheckURL(rawURL string, opts *Options) error {
	var o Options
	if opts != nil {
		o = *opts
	}
	p, err := parseURL(rawURL, &o)
	if err == nil && !p.srv { // whose options take the DNS
		_, err = p.options()
	}
	if err != nil {
		return fmt.Errorf("mongostore: %w", err)
	}
	return o.complete()
}

// Settings of a client for sessions, unless the URL has others. Requests wait for
// them, so a server that does not answer must be given up in seconds.
const (
	dialTimeout    = 2 * time.Second // of TCP, and as much again to sign in
	selectionLimit = 3 * time.Second // to wait for a primary
	heartbeat      = 2 * time.Second // between looks at each server
	closeLimit     = 2 * time.Second
)

// connect is mongo.Connect, which takes no context, and before it may ask the DNS.
func connect(ctx context.Context, p parsedURL) (*mongo.Client, error) {
	type made struct {
		client *mongo.Client
		err    error
	}
	done := make(chan made, 1)
	go func() {
		o, err := p.options()
		if err != nil {
			done <- made{err: err}
			return
		}
		c, err := mongo.Connect(o)
		if err != nil {
			err = errRefused
		}
		done <- made{c, err}
	}()
	select {
	case m := <-done:
		return m.client, m.err
	case <-ctx.Done():
		go func() {
			if m := <-done; m.err == nil {
				_ = disconnect(m.client)
			}
		}()
		return nil, ctx.Err()
	}
}

func disconnect(client *mongo.Client) error {
	ctx, cancel := context.WithTimeout(context.Background(), closeLimit)
	defer cancel()
	return client.Disconnect(ctx)
}

// parsedURL is what a URL says of the client.
type parsedURL struct {
	driver    string // the URL for the driver
	hosts     []string
	srv       bool
	tls       *tls.Config // nil without
	plaintext bool        // is allowed
}

var (
	errURL     = errors.New("the URL is not of the form mongodb://[user:password@]host[:port][/database]; special characters in a password are written as %XX")
	errRefused = errors.New("the driver refuses the URL: look at the values of its parameters, and which of them go together")
)

// options returns the settings of the client. Of a URL with srv it asks the DNS.
func (p parsedURL) options() (*options.ClientOptions, error) {
	o := options.Client().ApplyURI(p.driver)
	if err := o.Validate(); err != nil { // which may quote values
		if p.srv {
			if dns, ok := errors.AsType[*net.DNSError](err); ok {
				return nil, fmt.Errorf("%w: the name in a URL of mongodb+srv has SRV records in the DNS; is it the right one?", dns)
			}
		}
		return nil, errRefused
	}
	o.SetTLSConfig(p.tls)
	o.SetDialer(dialer{plaintext: p.tls != nil || p.plaintext})
	if o.ConnectTimeout == nil {
		o.SetConnectTimeout(2 * dialTimeout)
	}
	if o.ServerSelectionTimeout == nil {
		o.SetServerSelectionTimeout(selectionLimit)
	}
	if o.HeartbeatInterval == nil {
		o.SetHeartbeatInterval(heartbeat)
	}
	if o.AppName == nil {
		o.SetAppName("coatcheck")
	}
	return o, nil
}

// parseURL returns what the client is to be, and completes o.
func parseURL(raw string, o *Options) (p parsedURL, err error) {
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok || scheme != "mongodb" && scheme != "mongodb+srv" {
		return p, errors.New("the URL does not begin with mongodb:// or mongodb+srv://")
	}
	p.srv = scheme == "mongodb+srv"
	// net/url takes one host; what is before the path is cut off by hand.
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	authority := rest[:end]
	u, err := url.Parse("mongodb://host" + rest[end:])
	if err != nil || u.Fragment != "" {
		return p, errURL
	}
	login := ""
	if i := strings.LastIndex(authority, "@"); i >= 0 {
		if login, err = parseLogin(authority[:i]); err != nil {
			return p, err
		}
		authority = authority[i+1:]
	}
	if p.hosts, err = parseHosts(authority, p.srv); err != nil {
		return p, err
	}
	database := strings.TrimPrefix(u.Path, "/")
	if strings.Trim(database, nameBytes) != "" {
		return p, errors.New("the path of the URL is not the name of a database, of letters, digits and -_; a slash in a password is written as %2F")
	}
	if database != "" {
		o.Database = database
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return p, errURL
	}
	q := newParams(query)
	if c := q.take("collection"); c != "" {
		o.Collection = c
	}
	p.tls = q.tls(p.srv)
	p.plaintext = q.yes("insecure-plaintext")
	passed := q.rest()
	if q.err != nil {
		return p, q.err
	}
	o.encrypted = encryptionLocal
	if p.tls != nil {
		o.encrypted = encryptionOn
	} else if p.plaintext {
		o.encrypted = encryptionOff // a server may name others
	}
	for _, addr := range p.hosts {
		if o.encrypted == encryptionLocal && !loopback(addr) {
			return p, plaintextError(addr)
		}
	}
	p.driver = scheme + "://" + login + strings.Join(p.hosts, ",") + "/" + database + "?" + passed.Encode()
	return p, nil
}

// parseLogin returns user and password as the driver takes them, with @ at the end.
func parseLogin(text string) (string, error) {
	name, secret, has := strings.Cut(text, ":")
	user, err := url.PathUnescape(name)
	if err != nil || user == "" {
		return "", errURL
	}
	password, err := url.PathUnescape(secret)
	if err != nil {
		return "", errURL
	}
	if !has {
		return escape(user) + "@", nil
	}
	return escape(user) + ":" + escape(password) + "@", nil
}

// escape is what [url.PathUnescape] undoes, of every byte that has a meaning anywhere.
func escape(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }

func parseHosts(text string, srv bool) ([]string, error) {
	var addrs []string
	for h := range strings.SplitSeq(text, ",") {
		switch {
		case h == "":
			return nil, errors.New("the URL has no host, or a comma too many between them")
		case strings.ContainsAny(h, " @\\<>\"'%"):
			return nil, errURL
		case srv && strings.Contains(h, ":"):
			return nil, errors.New("the URL of mongodb+srv has a port, which the DNS tells")
		case srv:
			addrs = append(addrs, h)
			continue
		}
		if _, _, err := net.SplitHostPort(h); err != nil {
			h = net.JoinHostPort(strings.Trim(h, "[]"), "27017")
		}
		host, p, err := net.SplitHostPort(h)
		if n, nErr := strconv.Atoi(p); err != nil || host == "" || nErr != nil || n < 1 || n > 65535 {
			return nil, errors.New("the URL has a host that is not of the form host:port")
		}
		addrs = append(addrs, h)
	}
	if srv && len(addrs) > 1 {
		return nil, errors.New("the URL of mongodb+srv has several hosts, which the DNS tells")
	}
	return addrs, nil
}

// params are the parameters of a URL, by their names in lower case. The first error
// stays.
type params struct {
	values url.Values
	err    error
}

func newParams(query url.Values) *params {
	q := &params{values: url.Values{}}
	for name, v := range query {
		lower := strings.ToLower(name) // as MongoDB compares them
		q.values[lower] = append(q.values[lower], v...)
	}
	return q
}

func (q *params) fail(format string, args ...any) {
	if q.err == nil {
		q.err = fmt.Errorf(format, args...)
	}
}

func (q *params) take(name string) string {
	v := q.values[name]
	delete(q.values, name)
	if len(v) == 0 {
		return ""
	}
	if len(v) > 1 {
		q.fail("the URL has %s twice", name)
	}
	if v[0] == "" {
		q.fail("the URL has %s without a value", name)
	}
	return v[0]
}

func (q *params) yes(name string) bool {
	v := q.take(name)
	if v != "" && v != "true" {
		q.fail("%s in the URL can only be true", name)
	}
	return v == "true"
}

// tls returns the configuration of TLS, nil if there is none.
func (q *params) tls(srv bool) *tls.Config {
	wanted := srv
	for _, name := range []string{"tls", "ssl"} { // the latter is its old name
		switch q.take(name) {
		case "":
		case "true":
			wanted = true
		case "false":
			wanted = false
		default:
			q.fail("%s in the URL is either true or false", name)
		}
	}
	for _, name := range []string{"tlsinsecure", "tlsallowinvalidcertificates", "tlsallowinvalidhostnames", "sslinsecure"} {
		if q.take(name) == "true" {
			q.fail("%s in the URL would trust anybody who answers: name the authority with ca=FILE, and the host, if it is another one, with servername=NAME", name)
		}
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: q.take("servername")}
	ca, cert, key := q.take("ca"), q.take("cert"), q.take("key")
	if file := q.take("tlscafile"); file != "" {
		ca = file
	}
	if file := q.take("tlscertificatekeyfile"); file != "" {
		cert, key = file, file
	}
	if !wanted {
		if c.ServerName+ca+cert+key != "" {
			q.fail("the URL has files or a name for TLS: add tls=true")
		}
		return nil
	}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			q.fail("ca in the URL: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if err == nil && !c.RootCAs.AppendCertsFromPEM(pem) {
			q.fail("ca in the URL: %s holds no certificate in PEM", ca)
		}
	}
	if (cert == "") != (key == "") {
		q.fail("cert and key in the URL go together: give both or none")
	} else if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			q.fail("cert and key in the URL: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c
}

// fixedParams are what a URL may say, and holds in any case.
var fixedParams = map[string][]string{
	"w":                {"majority"},
	"journal":          {"true"},
	"readconcernlevel": {"majority"},
	"readpreference":   {"primary"},
	"retrywrites":      {"true", "false"},
}

// driverParams are for the driver.
var driverParams = []string{
	"authsource", "authmechanism", "authmechanismproperties", "replicaset", "directconnection", "loadbalanced",
	"appname", "compressors", "maxpoolsize", "minpoolsize", "maxconnecting", "maxidletimems", "connecttimeoutms",
	"serverselectiontimeoutms", "heartbeatfrequencyms", "retryreads", "srvmaxhosts", "srvservicename",
}

// rest returns what is for the driver. It names only what it knows: anything else may
// be a part of a password that was not written as %XX.
func (q *params) rest() url.Values {
	for name, values := range fixedParams {
		if v := q.take(name); v != "" && !slices.Contains(values, strings.ToLower(v)) {
			q.fail("%s in the URL can only be %s: sessions need it", name, strings.Join(values, " or "))
		}
	}
	passed := url.Values{}
	for _, name := range driverParams {
		if v := q.take(name); v != "" {
			passed.Set(name, v)
		}
	}
	if len(q.values) > 0 {
		q.fail("the URL has a parameter that is not known: the documentation of OpenURL lists those that are")
	}
	return passed
}

var errPlaintext = errors.New("not encrypted")

func plaintextError(addr string) error {
	return fmt.Errorf("%w: %s is not on this machine, and the connection would be readable on the way; add tls=true to the URL, or, where the network itself is encrypted, insecure-plaintext=true", errPlaintext, addr)
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

// dialer connects. It looks at each address again: servers tell those of their replica
// set themselves.
type dialer struct{ plaintext bool }

// DialContext implements [options.ContextDialer].
func (d dialer) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	if !d.plaintext && !loopback(addr) {
		return nil, plaintextError(addr)
	}
	n := net.Dialer{Timeout: dialTimeout, KeepAlive: time.Second}
	return n.DialContext(ctx, network, addr)
}
