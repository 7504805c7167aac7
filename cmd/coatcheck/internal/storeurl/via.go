package storeurl

import (
	"errors"
	"net"
	"net/url"
	"strings"
)

var errNoOneServer = errors.New("the store has no one server on this machine that connections could be led to on a detour: name one as redis://127.0.0.1, postgres://USER:PASSWORD@127.0.0.1/DATABASE, and so on, of which nothing names other servers")

// Server returns the address of the store's one server, which is on this machine, so that
// what is between can be tried out. It returns an error for a file, for several servers,
// for one that names others to connect to, and for one elsewhere, where a certificate would
// be for a name.
func (u URL) Server() (string, error) {
	addr, err := u.server()
	if err != nil || !loopback(addr) {
		return "", errNoOneServer
	}
	return addr, nil
}

func (u URL) server() (string, error) {
	port := map[kind]string{redis: "6379", valkey: "6379", postgres: "5432", mySQL: "3306", mariaDB: "3306", mongoDB: "27017"}[u.kind]
	scheme, _, _ := strings.Cut(u.raw, "://")
	host := u.host()
	switch {
	case u.kind == dynamoDB:
		endpoint, err := url.Parse(u.query().Get("endpoint"))
		if err != nil {
			return "", err
		}
		host, port = endpoint.Host, map[string]string{"http": "80", "https": "443"}[endpoint.Scheme]
	case strings.Contains(scheme, "+"), u.query().Has("replicaSet"):
		return "", errNoOneServer
	}
	if port == "" || host == "" || strings.ContainsAny(host, ",/%") {
		return "", errNoOneServer
	}
	if _, _, err := net.SplitHostPort(host); err != nil {
		host = net.JoinHostPort(strings.Trim(host, "[]"), port)
	}
	return host, nil
}

// Via returns the URL of the same store, of which Server returns no error, by another
// port of this machine, of 127.0.0.1. A server that is called localhost stays so, for a
// certificate.
func (u URL) Via(port string) URL {
	addr := net.JoinHostPort("127.0.0.1", port)
	if was, err := u.server(); err == nil && strings.HasPrefix(was, "localhost:") {
		addr = net.JoinHostPort("localhost", port)
	}
	if u.kind == dynamoDB {
		q := u.query()
		endpoint, _ := url.Parse(q.Get("endpoint")) // as before
		endpoint.Host = addr
		q.Set("endpoint", endpoint.String())
		base, _, _ := strings.Cut(u.raw, "?")
		u.raw = base + "?" + q.Encode()
		return u
	}
	scheme, rest, _ := strings.Cut(u.raw, "://")
	end := endOfAuthority(rest)
	at := strings.LastIndex(rest[:end], "@") + 1
	u.raw = scheme + "://" + rest[:at] + addr + rest[end:]
	if u.kind == mongoDB && !u.query().Has("directConnection") { // or it would ask the server for its own address
		u.raw += map[bool]string{true: "&", false: "?"}[strings.Contains(u.raw, "?")] + "directConnection=true"
	}
	return u
}

// host returns the host or hosts of a URL of the network.
func (u URL) host() string {
	_, rest, _ := strings.Cut(u.raw, "://")
	authority := rest[:endOfAuthority(rest)]
	return authority[strings.LastIndex(authority, "@")+1:]
}

func (u URL) query() url.Values {
	_, query, _ := strings.Cut(u.raw, "?")
	q, _ := url.ParseQuery(query) // which Parse has seen
	return q
}

func endOfAuthority(rest string) int {
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		return i
	}
	return len(rest)
}
