package redisstore

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
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coatcheck/coatcheck/store"
	"github.com/redis/rueidis"
)

// OpenURL returns a store with connections of its own; Close it when done. It
// connects before it returns, and ctx bounds that. opts, which may be nil, are
// what the URL does not say:
//
//	redis://[USER[:PASSWORD]@]HOST[:PORT][/DATABASE]
//	redis+sentinel://[USER[:PASSWORD]@]HOST[:PORT],HOST[:PORT],…/PRIMARY[/DATABASE]
//	redis+cluster://[USER[:PASSWORD]@]HOST[:PORT],HOST[:PORT],…
//
// With rediss in place of redis the connections are encrypted. valkey and valkeys
// mean the same. Ports default to 6379, of Sentinels to 26379. Behind a question
// mark may follow, with & in between:
//
//	prefix=TEXT             Options.Prefix
//	min-replicas=N          Options.MinReplicas
//	replica-timeout=TIME    Options.ReplicaTimeout, as 500ms
//	ca=FILE                 trusts these authorities (PEM) and not the system's
//	cert=FILE&key=FILE      the client's certificate, for mutual TLS
//	servername=NAME         the name that the servers' certificates are for
//	sentinel-user=USER, sentinel-password=PASSWORD
//	                        for the Sentinels; without them they are asked without
//	insecure-plaintext=true
//	                        without TLS to a host that is not this one
//
// Characters of special meaning are written as in every URL: %40 for @ in a
// password. Without TLS, a host that is not loopback is refused: session records
// are sealed, but a password is not, and who can change what is on the wire can
// sign users out and bring back what they had. Errors hold nothing of the URL but
// the names of hosts and files.
func OpenURL(ctx context.Context, rawURL string, opts *Options) (*Store, error) {
	var o Options
	if opts != nil {
		o = *opts
	}
	co, err := parseURL(rawURL, &o)
	if err != nil {
		return nil, fmt.Errorf("redisstore: %w", err)
	}
	if err := o.complete(); err != nil {
		return nil, err
	}
	client, err := connect(ctx, co)
	if err != nil {
		return nil, fmt.Errorf("redisstore: connect to %s: %w", strings.Join(co.InitAddress, ", "), connectError(ctx, err, co.TLSConfig != nil))
	}
	s, err := New(client, &o)
	if err != nil {
		client.Close()
		return nil, err
	}
	s.close = client.Close
	if co.ClusterOption.ShardsRefreshInterval > 0 && !s.cluster {
		client.Close()
		return nil, fmt.Errorf("redisstore: %s is not part of a cluster, or does not let this user ask (see the rights in the package's documentation); for a single server begin the URL with redis:// or rediss://", co.InitAddress[0])
	}
	err = s.Ping(ctx)
	if err == nil {
		err = s.holdsAll(ctx)
	}
	if err != nil {
		client.Close()
		return nil, err
	}
	return s, nil
}

// holdsAll returns an error if a single server turns out to be one of a cluster,
// which would answer for a part of the sessions, and for the others with errors.
// Reads are what every user has the right to, and so many keys do not happen to
// be on one of several servers.
func (s *Store) holdsAll(ctx context.Context) error {
	if s.cluster {
		return nil
	}
	cmds := make(rueidis.Commands, 32)
	for i := range cmds {
		cmds[i] = s.client.B().Get().Key(s.recordKey(store.Key{byte(i)})).Build()
	}
	for _, res := range s.client.DoMulti(ctx, cmds...) {
		if e, ok := rueidis.IsRedisErr(res.Error()); ok {
			if _, moved := e.IsMoved(); moved {
				return readError(ctx, "open", e)
			}
		}
	}
	return nil
}

// CheckURL returns what is wrong with rawURL and opts, which may be nil, as far as
// can be told without connecting. [OpenURL] returns the same.
func CheckURL(rawURL string, opts *Options) error {
	var o Options
	if opts != nil {
		o = *opts
	}
	if _, err := parseURL(rawURL, &o); err != nil {
		return fmt.Errorf("redisstore: %w", err)
	}
	return o.complete()
}

// connect is rueidis.NewClient, which takes no context.
func connect(ctx context.Context, co rueidis.ClientOption) (rueidis.Client, error) {
	type made struct {
		client rueidis.Client
		err    error
	}
	done := make(chan made, 1)
	go func() {
		c, err := rueidis.NewClient(co)
		done <- made{c, err}
	}()
	select {
	case m := <-done:
		return m.client, m.err
	case <-ctx.Done():
		go func() {
			if m := <-done; m.err == nil {
				m.client.Close()
			}
		}()
		return nil, ctx.Err()
	}
}

// Settings of a client for sessions. Requests wait for them, so a server that
// does not answer must be given up in seconds.
const (
	dialTimeout  = time.Second
	answerLimit  = 2 * time.Second
	bufferSize   = 64 << 10
	topologyLook = time.Second
)

type scheme struct {
	tls, sentinel, cluster bool
}

func parseScheme(text string) (scheme, bool) {
	base, kind, _ := strings.Cut(text, "+")
	s := scheme{tls: base == "rediss" || base == "valkeys", sentinel: kind == "sentinel", cluster: kind == "cluster"}
	known := slices.Contains([]string{"redis", "rediss", "valkey", "valkeys"}, base)
	return s, known && (s.sentinel || s.cluster || text == base)
}

var errURL = errors.New("the URL is not of the form redis://[user:password@]host[:port][/database]; special characters in a password are written as %XX")

// parseURL returns the options of the client, and completes o.
func parseURL(raw string, o *Options) (co rueidis.ClientOption, err error) {
	text, rest, ok := strings.Cut(raw, "://")
	sch, known := parseScheme(text)
	if !ok || !known {
		return co, errors.New("the URL does not begin with redis:// or rediss://, redis+sentinel:// or redis+cluster://, or the same with valkey")
	}
	// net/url takes one host; what is before the path is cut off by hand.
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	authority := rest[:end]
	u, err := url.Parse("redis://host" + rest[end:])
	if err != nil || u.Fragment != "" {
		return co, errURL
	}
	hosts := authority
	if i := strings.LastIndex(authority, "@"); i >= 0 {
		hosts = authority[i+1:]
		user, password, _ := strings.Cut(authority[:i], ":")
		if co.Username, err = url.PathUnescape(user); err != nil {
			return co, errURL
		}
		if co.Password, err = url.PathUnescape(password); err != nil {
			return co, errURL
		}
	}
	co.InitAddress, err = parseHosts(hosts, sch)
	if err != nil {
		return co, err
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return co, errURL
	}
	q := &params{values: query}
	if err := parsePath(strings.Trim(u.Path, "/"), sch, &co); err != nil {
		return co, err
	}
	if sch.sentinel {
		co.Sentinel.Username, co.Sentinel.Password = q.take("sentinel-user"), q.take("sentinel-password")
		co.Sentinel.TopologyRefreshInterval = topologyLook
	}
	if sch.tls {
		co.TLSConfig = q.tls()
		co.Sentinel.TLSConfig = co.TLSConfig
	}
	if p := q.take("prefix"); p != "" {
		o.Prefix = p
	}
	if n := q.number("min-replicas"); n > 0 {
		o.MinReplicas = n
	}
	if d := q.duration("replica-timeout"); d > 0 {
		o.ReplicaTimeout = d
	}
	plaintext := q.yes("insecure-plaintext")
	if err := q.rest(sch); err != nil {
		return co, err
	}
	if !sch.tls && !plaintext {
		for _, addr := range co.InitAddress {
			if !loopback(addr) {
				return co, plaintextError(addr)
			}
		}
	}
	o.encrypted = encryptionOff
	if sch.tls {
		o.encrypted = encryptionOn
	}
	co.ClientName = "coatcheck"
	co.ClientSetInfo = rueidis.DisableClientSetInfo // a right that Redis 7.0 cannot name
	co.ForceSingleClient = !sch.sentinel && !sch.cluster
	co.DisableCache = true // package nearcache does that, for every store
	co.Dialer = net.Dialer{Timeout: dialTimeout, KeepAlive: time.Second}
	co.Sentinel.Dialer = co.Dialer
	co.ConnWriteTimeout = answerLimit
	co.PipelineMultiplex = -1 // one connection: what shares one shares system calls
	co.ReadBufferEachConn, co.WriteBufferEachConn = bufferSize, bufferSize
	co.BlockingPoolSize = maxWaits + 16
	if sch.cluster {
		co.ClusterOption.ShardsRefreshInterval = topologyLook
	}
	co.DialCtxFn = dialer(plaintext)
	return co, nil
}

func parseHosts(text string, sch scheme) ([]string, error) {
	port := "6379"
	if sch.sentinel {
		port = "26379"
	}
	var addrs []string
	for h := range strings.SplitSeq(text, ",") {
		switch {
		case h == "":
			return nil, errors.New("the URL has no host, or a comma too many between them")
		case strings.ContainsAny(h, " @\\<>\"'"):
			return nil, errURL
		}
		if _, _, err := net.SplitHostPort(h); err != nil {
			h = net.JoinHostPort(strings.Trim(h, "[]"), port)
		}
		host, p, err := net.SplitHostPort(h)
		if n, nErr := strconv.Atoi(p); err != nil || host == "" || nErr != nil || n < 1 || n > 65535 {
			return nil, errors.New("the URL has a host that is not of the form host:port")
		}
		addrs = append(addrs, h)
	}
	if len(addrs) > 1 && !sch.sentinel && !sch.cluster {
		return nil, errors.New("the URL has several hosts, which only redis+sentinel:// and redis+cluster:// can use")
	}
	return addrs, nil
}

const primaryBytes = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_"

// parsePath reads the name of a primary and the number of a database.
func parsePath(path string, sch scheme, co *rueidis.ClientOption) error {
	database := path
	if sch.sentinel {
		co.Sentinel.MasterSet, database, _ = strings.Cut(path, "/")
		if co.Sentinel.MasterSet == "" {
			return errors.New("the URL of Sentinels names their primary behind the hosts, as in redis+sentinel://host1,host2,host3/mymaster")
		}
		// Sentinel's own rule. What is not a name may be half of a password.
		if strings.Trim(co.Sentinel.MasterSet, primaryBytes) != "" {
			return errors.New("the name of a primary in the URL of Sentinels can only have letters, digits and .-_ in it; a slash in a password is written as %2F")
		}
	}
	if database == "" {
		return nil
	}
	n, err := strconv.Atoi(database)
	switch {
	case err != nil || n < 0:
		return errors.New("the path of the URL is not the number of a database, as in redis://host/1")
	case sch.cluster && n != 0:
		return errors.New("a cluster has the database 0 alone; use prefix=TEXT to keep apps apart")
	}
	co.SelectDB = n
	return nil
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

func (q *params) number(name string) int {
	v := q.take(name)
	if v == "" {
		return 0
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 {
		q.fail("%s in the URL is not a positive number", name)
	}
	return n
}

func (q *params) duration(name string) time.Duration {
	v := q.take(name)
	if v == "" {
		return 0
	}
	d, err := time.ParseDuration(v)
	if err != nil || d <= 0 {
		q.fail("%s in the URL is not a positive time, as 500ms", name)
	}
	return d
}

func (q *params) tls() *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: q.take("servername")}
	if file := q.take("ca"); file != "" {
		pem, err := os.ReadFile(file)
		if err != nil {
			q.fail("ca in the URL: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if err == nil && !c.RootCAs.AppendCertsFromPEM(pem) {
			q.fail("ca in the URL: %s holds no certificate in PEM", file)
		}
	}
	cert, key := q.take("cert"), q.take("key")
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

// rest complains of what is left over. It names only what it knows: anything else
// may be a part of a password that was not written as %XX.
func (q *params) rest(sch scheme) error {
	if q.err != nil || len(q.values) == 0 {
		return q.err
	}
	for _, name := range []string{"ca", "cert", "key", "servername"} {
		if !sch.tls && q.values.Has(name) {
			return fmt.Errorf("%s in the URL is for TLS: begin the URL with rediss", name)
		}
	}
	return errors.New("the URL has a parameter that is not known; known are prefix, min-replicas, replica-timeout, ca, cert, key, servername, sentinel-user, sentinel-password and insecure-plaintext")
}

var errPlaintext = errors.New("not encrypted")

func plaintextError(addr string) error {
	return fmt.Errorf("%w: %s is not on this machine, and the connection would be readable on the way; begin the URL with rediss, or, where the network itself is encrypted, add insecure-plaintext=true", errPlaintext, addr)
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

// dialer connects. It looks at each address again: Sentinels and clusters tell
// those of their servers themselves.
func dialer(plaintext bool) func(context.Context, string, *net.Dialer, *tls.Config) (net.Conn, error) {
	dial := func(ctx context.Context, addr string, d *net.Dialer, c *tls.Config) (net.Conn, error) {
		if c != nil {
			return dialTLS(ctx, addr, d, c)
		}
		if !plaintext && !loopback(addr) {
			return nil, plaintextError(addr)
		}
		return d.DialContext(ctx, "tcp", addr)
	}
	return func(ctx context.Context, addr string, d *net.Dialer, c *tls.Config) (net.Conn, error) {
		conn, err := dial(ctx, addr, d, c)
		if err != nil {
			return nil, err
		}
		return yieldingConn{conn}, nil
	}
}

// yieldingConn lets every goroutine that is ready to run do so before it writes.
// The client's writer is woken by the first command and scheduled next; it would
// send that one alone, and so would Redis read it. Those that are about to send a
// command now do that first, and theirs leave together with the next write. Where
// nobody else is ready, yielding takes a fraction of a microsecond: unlike a flush
// delay, it costs a lone request nothing.
type yieldingConn struct{ net.Conn }

func (c yieldingConn) Write(b []byte) (int, error) {
	runtime.Gosched()
	return c.Conn.Write(b)
}

// handshakeError is that of a connection that TLS has not come to stand on:
// nothing of ours was sent on it.
type handshakeError struct{ error }

func (e handshakeError) Unwrap() error { return e.error }

// dialTLS is what [tls.Dialer] does, with an error that tells a server that does
// not speak TLS, and waits for more, from one that cannot be reached.
func dialTLS(ctx context.Context, addr string, d *net.Dialer, c *tls.Config) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, d.Timeout)
	defer cancel()
	raw, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	if c.ServerName == "" {
		c = c.Clone()
		c.ServerName, _, _ = net.SplitHostPort(addr)
	}
	conn := tls.Client(raw, c)
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, handshakeError{err}
	}
	return conn, nil
}
