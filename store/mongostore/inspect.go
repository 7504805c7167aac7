package mongostore

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/coatcheck/coatcheck/store"
)

// encryption is what is known of a client's connections.
type encryption int

const (
	encryptionUnknown encryption = iota
	encryptionOff
	encryptionLocal // there is none, and connections stay on this machine
	encryptionOn
)

// Inspect implements [store.Inspector]. It looks at encryption, authentication, the
// user's rights, the replica set, the indexes, the removal of what has expired, the
// server's clock and its version.
func (s *Store) Inspect(ctx context.Context) ([]store.Finding, error) {
	if err := ctx.Err(); err != nil {
		return nil, readError(ctx, "inspect", err)
	}
	before := time.Now()
	hello, err := s.hello(ctx)
	after := time.Now()
	if err != nil {
		return nil, readError(ctx, "inspect", err)
	}
	version, ferret := s.version(ctx)
	found := []store.Finding{s.inspectTLS()}
	found = append(found, s.inspectLogin(ctx, ferret)...)
	found = append(found, inspectReplication(hello, ferret))
	found = append(found, s.inspectIndexes(ctx)...)
	found = append(found, s.inspectMonitor(ctx, ferret), inspectClock(hello, before, after), inspectVersion(version, ferret))
	if err := ctx.Err(); err != nil {
		return nil, readError(ctx, "inspect", err)
	}
	return found, nil
}

func unknown(check, command string) store.Finding {
	return store.Finding{Check: check, Severity: store.SeverityUnknown, Evidence: "the server does not tell this user (" + command + ")"}
}

func inspectClock(h helloReply, before, after time.Time) store.Finding {
	if h.at.IsZero() {
		return unknown("clock", "hello")
	}
	return store.InspectClock(h.at, before, after)
}

func (s *Store) inspectTLS() store.Finding {
	const fix = "let the server take TLS alone (net.tls.mode: requireTLS), and add tls=true to the URL"
	switch s.encrypted {
	case encryptionOn:
		return store.Finding{Check: "tls", Severity: store.SeverityOK, Evidence: "connections are encrypted, and the server's certificate is verified"}
	case encryptionLocal:
		return store.Finding{Check: "tls", Severity: store.SeverityWarning, Evidence: "connections are not encrypted; they stay on this machine", Fix: fix}
	case encryptionOff:
		return store.Finding{Check: "tls", Severity: store.SeverityCritical, Evidence: "connections are not encrypted and leave this machine", Fix: fix}
	}
	return store.Finding{Check: "tls", Severity: store.SeverityUnknown, Evidence: "the app has made the connections itself"}
}

// broad are roles that may do more than sessions need.
var broad = []string{
	"root", "__system", "dbOwner", "dbAdmin", "dbAdminAnyDatabase", "readWriteAnyDatabase", "readAnyDatabase",
	"userAdmin", "userAdminAnyDatabase", "clusterAdmin", "clusterManager", "hostManager", "backup", "restore",
	"atlasAdmin",
}

// inspectLogin looks at who this is to the server, and what they may do.
func (s *Store) inspectLogin(ctx context.Context, ferret string) []store.Finding {
	raw, err := s.ask(ctx, bson.D{e("connectionStatus", 1)})
	users, ok := documents(raw.Lookup("authInfo", "authenticatedUsers"))
	if err != nil || !ok {
		return []store.Finding{unknown("auth", "connectionStatus"), unknown("privileges", "connectionStatus")}
	}
	if len(users) == 0 {
		return []store.Finding{
			{
				Check: "auth", Severity: store.SeverityCritical,
				Evidence: "who reaches the server's port needs no password",
				Fix:      "make a user for the app (see the package's documentation), put it into the URL, and turn authorization on (security.authorization: enabled)",
			},
			{Check: "privileges", Severity: store.SeverityUnknown, Evidence: "without a login there is nothing to limit"},
		}
	}
	auth := store.Finding{Check: "auth", Severity: store.SeverityOK, Evidence: "the app has signed in to the server"}
	if ferret != "" {
		return []store.Finding{auth, {
			Check: "privileges", Severity: store.SeverityWarning,
			Evidence: "FerretDB signs users in and does not limit what they may do: whoever takes over one web server can do everything",
			Fix:      "give sessions a FerretDB, and a PostgreSQL, of their own",
		}}
	}
	roles, ok := documents(raw.Lookup("authInfo", "authenticatedUserRoles"))
	if !ok || len(roles) == 0 {
		return []store.Finding{auth, unknown("privileges", "connectionStatus")}
	}
	for _, r := range roles {
		if name, _ := r.Lookup("role").StringValueOK(); slices.Contains(broad, name) {
			return []store.Finding{auth, {
				Check: "privileges", Severity: store.SeverityWarning,
				Evidence: "the user may do more than sessions need (" + name + "): whoever takes over one web server can do it too",
				Fix:      "give the user the role that the package's documentation describes, and no other",
			}}
		}
	}
	return []store.Finding{auth, {Check: "privileges", Severity: store.SeverityOK, Evidence: "the user has none of the roles that may do more than sessions need"}}
}

// documents returns the documents of an array.
func documents(v bson.RawValue) (list []bson.Raw, ok bool) {
	array, ok := v.ArrayOK()
	if !ok {
		return nil, false
	}
	values, err := array.Values()
	if err != nil {
		return nil, false
	}
	for _, v := range values {
		if d, ok := v.DocumentOK(); ok {
			list = append(list, d)
		}
	}
	return list, true
}

func inspectReplication(h helloReply, ferret string) store.Finding {
	f := store.Finding{Check: "replication", Severity: store.SeverityOK}
	switch {
	case !h.primary:
		f.Severity, f.Evidence = store.SeverityCritical, "this server is not the primary: it takes no writes"
		f.Fix = elsewise
	case ferret != "":
		f.Severity = store.SeverityUnknown
		f.Evidence = "FerretDB keeps data in PostgreSQL, of whose replicas it does not tell"
	case h.sharded:
		f.Evidence = "a sharded cluster; each shard is a replica set"
	case h.set == "":
		f.Severity, f.Evidence = store.SeverityWarning, "one server alone: while it is away, so are sessions, and what its disk loses is lost"
		f.Fix = "make it a replica set of three servers (replication.replSetName, rs.initiate)"
	case h.hosts < 3:
		f.Severity, f.Evidence = store.SeverityWarning, fmt.Sprintf("the replica set %s has %d servers with data: writes wait for a majority, and without one of them there may be none", h.set, h.hosts)
		f.Fix = "have three servers with data"
	default:
		f.Evidence = fmt.Sprintf("the replica set %s has %d servers with data", h.set, h.hosts)
	}
	return f
}

func (s *Store) inspectIndexes(ctx context.Context) []store.Finding {
	checks := []struct {
		name string
		find func(indexed) error
		good string
		bad  store.Severity
	}{
		{"expiry-index", indexed.checkExpiry, "there is one by which the server deletes what has expired", store.SeverityWarning},
		{"owner-index", indexed.checkOwner, "there is one by owner", store.SeverityWarning},
	}
	there, err := s.indexes(ctx)
	var found []store.Finding
	for _, c := range checks {
		f := store.Finding{Check: c.name, Severity: store.SeverityOK, Evidence: c.good}
		if err != nil {
			f = unknown(c.name, "listIndexes")
		} else if wrong := c.find(there); wrong != nil {
			f.Severity, f.Evidence, f.Fix = c.bad, wrong.Error(), "run Migrate"
		}
		found = append(found, f)
	}
	return found
}

// inspectMonitor looks at what deletes by the index.
func (s *Store) inspectMonitor(ctx context.Context, ferret string) store.Finding {
	if ferret != "" {
		return store.Finding{Check: "ttl-monitor", Severity: store.SeverityUnknown, Evidence: "FerretDB does not tell; it is a job of pg_cron in its PostgreSQL"}
	}
	raw, err := s.ask(ctx, bson.D{e("getParameter", 1), e("ttlMonitorEnabled", 1)})
	on, ok := raw.Lookup("ttlMonitorEnabled").BooleanOK()
	switch {
	case err != nil || !ok:
		return unknown("ttl-monitor", "getParameter")
	case !on:
		return store.Finding{
			Check: "ttl-monitor", Severity: store.SeverityWarning,
			Evidence: "the server deletes nothing by its indexes (ttlMonitorEnabled is false), so sessions that have expired stay for ever",
			Fix:      "turn it on: db.adminCommand({setParameter: 1, ttlMonitorEnabled: true})",
		}
	}
	return store.Finding{Check: "ttl-monitor", Severity: store.SeverityOK, Evidence: "the server deletes what has expired"}
}

// version returns the version of MongoDB that the server says to be, and that of
// FerretDB if it is one.
func (s *Store) version(ctx context.Context) (version, ferret string) {
	raw, err := s.ask(ctx, bson.D{e("buildInfo", 1)})
	if err != nil {
		return "", ""
	}
	version, _ = raw.Lookup("version").StringValueOK()
	ferret, _ = raw.Lookup("ferretdb", "version").StringValueOK()
	return version, ferret
}

func inspectVersion(version, ferret string) store.Finding {
	if ferret != "" {
		return store.Finding{Check: "version", Severity: store.SeverityOK, Evidence: "FerretDB " + ferret}
	}
	text, _, _ := strings.Cut(version, ".")
	major, err := strconv.Atoi(text)
	if err != nil {
		return unknown("version", "buildInfo")
	}
	f := store.Finding{Check: "version", Severity: store.SeverityOK, Evidence: "MongoDB " + version}
	if major < 5 {
		f.Severity, f.Fix = store.SeverityCritical, "use MongoDB 5.0 at least: older ones may be set up to read what a failover takes back"
	}
	return f
}
