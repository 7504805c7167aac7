package redisstore

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/coatcheck/coatcheck/store"
	"github.com/redis/rueidis"
)

// Inspect implements [store.Inspector]. It looks at encryption, authentication,
// the user's rights, eviction, persistence, replication, protected mode, its clock and the
// server's version; of a cluster, at every primary, and tells the worst.
func (s *Store) Inspect(ctx context.Context) ([]store.Finding, error) {
	nodes, _, err := s.primaries(ctx)
	if err != nil {
		return nil, readError(ctx, "inspect", err)
	}
	var worst []store.Finding
	for _, n := range nodes {
		x := inspection{s: s, client: n.client, ctx: ctx}
		found, err := x.run()
		if err != nil {
			return nil, readError(ctx, "inspect", err)
		}
		for i, f := range found {
			if s.cluster {
				f.Evidence = n.addr + ": " + f.Evidence
			}
			if i == len(worst) {
				worst = append(worst, f)
			} else if f.Severity > worst[i].Severity {
				worst[i] = f
			}
		}
	}
	return append([]store.Finding{s.inspectTLS(nodes)}, worst...), nil
}

func (s *Store) inspectTLS(nodes []node) store.Finding {
	local := true
	for _, n := range nodes {
		local = local && loopback(n.addr)
	}
	const fix = "let the server listen with TLS (tls-port, tls-cert-file, tls-key-file, tls-ca-cert-file) and begin the URL with rediss"
	switch {
	case s.opts.encrypted == encryptionOn:
		return store.Finding{Check: "tls", Severity: store.SeverityOK, Evidence: "connections are encrypted, and the server's certificate is verified"}
	case s.opts.encrypted == encryptionUnknown:
		return store.Finding{Check: "tls", Severity: store.SeverityUnknown, Evidence: "the app has made the connections itself"}
	case local:
		return store.Finding{Check: "tls", Severity: store.SeverityWarning, Evidence: "connections are not encrypted; they stay on this machine", Fix: fix}
	}
	return store.Finding{Check: "tls", Severity: store.SeverityCritical, Evidence: "connections are not encrypted and leave this machine", Fix: fix}
}

// inspection is that of one server.
type inspection struct {
	s      *Store
	client rueidis.Client
	ctx    context.Context

	info    map[string]string
	noLogin bool // who reaches the server needs no password
}

func (x *inspection) run() ([]store.Finding, error) {
	if err := ping(x.ctx, x.client); err != nil {
		return nil, err
	}
	x.info = x.readInfo()
	return []store.Finding{
		x.auth(), x.privileges(), x.eviction(), x.persistence(), x.replication(), x.protectedMode(), x.clock(), x.version(),
	}, nil
}

// readInfo returns INFO's fields, none if it may not be asked.
func (x *inspection) readInfo() map[string]string {
	fields := make(map[string]string)
	text, err := x.client.Do(x.ctx, x.client.B().Info().Build()).ToString()
	if err != nil {
		return fields
	}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			fields[name] = value
		}
	}
	return fields
}

// config returns a setting of the server, and whether it may be asked.
func (x *inspection) config(name string) (string, bool) {
	m, err := x.client.Do(x.ctx, x.client.B().ConfigGet().Parameter(name).Build()).AsStrMap()
	v, ok := m[name]
	return v, err == nil && ok
}

// user returns the flags and the commands of an ACL user, and whether they may be
// asked.
func (x *inspection) user(name string) (flags []string, commands string, ok bool) {
	m, err := x.client.Do(x.ctx, x.client.B().AclGetuser().Username(name).Build()).AsMap()
	if err != nil {
		return nil, "", false
	}
	f, c := m["flags"], m["commands"]
	if flags, err = f.AsStrSlice(); err != nil {
		return nil, "", false
	}
	commands, err = c.ToString()
	return flags, commands, err == nil
}

func has(list []string, word string) bool {
	for _, w := range list {
		if w == word {
			return true
		}
	}
	return false
}

func unknown(check, command string) store.Finding {
	return store.Finding{Check: check, Severity: store.SeverityUnknown, Evidence: "this user may not ask the server (" + command + ")"}
}

// keep is what makes a CONFIG SET outlast a restart.
const keep = ", then CONFIG REWRITE or the same in redis.conf, or a restart undoes it"

func (x *inspection) auth() store.Finding {
	flags, _, ok := x.user("default")
	if !ok {
		return unknown("auth", "ACL GETUSER")
	}
	x.noLogin = has(flags, "on") && has(flags, "nopass")
	if x.noLogin {
		return store.Finding{
			Check: "auth", Severity: store.SeverityCritical,
			Evidence: "who reaches the server's port needs no password",
			Fix:      "make a user for the app (see the package's documentation), put it into the URL, and switch the default one off: ACL SETUSER default off, then ACL SAVE or CONFIG REWRITE",
		}
	}
	return store.Finding{Check: "auth", Severity: store.SeverityOK, Evidence: "the server wants a password"}
}

func (x *inspection) privileges() store.Finding {
	if x.noLogin {
		return store.Finding{Check: "privileges", Severity: store.SeverityUnknown, Evidence: "without a login there is nothing to limit"}
	}
	me, err := x.client.Do(x.ctx, x.client.B().AclWhoami().Build()).ToString()
	if err != nil {
		return unknown("privileges", "ACL WHOAMI")
	}
	_, commands, ok := x.user(me)
	if !ok {
		return unknown("privileges", "ACL GETUSER")
	}
	rules := strings.Fields(commands)
	for _, wide := range []string{"+@all", "+@dangerous", "+@admin", "+flushall", "+flushdb", "+keys", "+config"} {
		if has(rules, wide) && !has(rules, "-@dangerous") {
			return store.Finding{
				Check: "privileges", Severity: store.SeverityWarning,
				Evidence: "the user may do more than sessions need (" + wide + "): whoever takes over one web server can delete everything",
				Fix:      "give the user the commands that the package's documentation lists, and no others",
			}
		}
	}
	return store.Finding{Check: "privileges", Severity: store.SeverityOK, Evidence: "the user may do little more than sessions need"}
}

func (x *inspection) eviction() store.Finding {
	policy, ok := x.info["maxmemory_policy"]
	if !ok {
		return unknown("eviction", "INFO")
	}
	limit := x.info["maxmemory_human"]
	if x.info["maxmemory"] == "0" {
		limit = "none"
	}
	f := store.Finding{
		Check: "eviction", Severity: store.SeverityOK,
		Evidence: fmt.Sprintf("maxmemory-policy is %s, maxmemory %s", policy, limit),
	}
	if policy != "noeviction" {
		f.Severity = store.SeverityCritical
		if limit == "none" { // until somebody sets one
			f.Severity = store.SeverityWarning
		}
		f.Evidence += ": a server that is full signs users out to make room"
		f.Fix = "CONFIG SET maxmemory-policy noeviction, and give sessions a server of their own or memory enough" + keep
	}
	return f
}

func (x *inspection) persistence() store.Finding {
	aof, ok := x.info["aof_enabled"]
	if !ok {
		return unknown("persistence", "INFO")
	}
	if x.info["rdb_last_bgsave_status"] == "err" || x.info["aof_last_write_status"] == "err" {
		return store.Finding{
			Check: "persistence", Severity: store.SeverityCritical,
			Evidence: "the last attempt to save to disk failed: the server refuses writes until one succeeds, unless it is told otherwise",
			Fix:      "look into the server's log, and at the space and the rights of its directory",
		}
	}
	const fix = "CONFIG SET appendonly yes (appendfsync everysec loses a second at most)" + keep
	if aof == "1" {
		f := store.Finding{Check: "persistence", Severity: store.SeverityOK, Evidence: "appendonly is on"}
		if sync, ok := x.config("appendfsync"); ok {
			f.Evidence += ", appendfsync " + sync
			if sync == "no" {
				f.Severity = store.SeverityWarning
				f.Evidence += ": a crash of the machine loses up to half a minute"
				f.Fix = "CONFIG SET appendfsync everysec" + keep
			}
		}
		return f
	}
	save, ok := x.config("save")
	switch {
	case !ok:
		return store.Finding{Check: "persistence", Severity: store.SeverityWarning, Evidence: "appendonly is off: a restart loses what the last snapshot has not", Fix: fix}
	case save == "":
		return store.Finding{Check: "persistence", Severity: store.SeverityWarning, Evidence: "nothing is saved to disk: a restart of the server signs everybody out", Fix: fix}
	}
	return store.Finding{Check: "persistence", Severity: store.SeverityWarning, Evidence: "snapshots alone (save " + save + "): a restart loses what came after the last one", Fix: fix}
}

func (x *inspection) replication() store.Finding {
	role, ok := x.info["role"]
	if !ok {
		return unknown("replication", "INFO")
	}
	f := store.Finding{Check: "replication", Severity: store.SeverityOK}
	if role != "master" {
		f.Severity, f.Evidence = store.SeverityCritical, "this server is a replica: it takes no writes"
		f.Fix = "connect to the primary, or by Sentinel or Cluster, which follow it"
		return f
	}
	n, _ := strconv.Atoi(x.info["connected_slaves"])
	f.Evidence = fmt.Sprintf("%d replicas are connected", n)
	switch {
	case n < x.s.opts.MinReplicas:
		f.Severity = store.SeverityCritical
		f.Evidence += fmt.Sprintf(", and MinReplicas is %d: no write can be confirmed", x.s.opts.MinReplicas)
		f.Fix = "start more replicas, or lower MinReplicas"
	case n == 0 && x.s.Topology() != string(rueidis.ClientModeStandalone):
		f.Severity = store.SeverityWarning
		f.Evidence += ": there is nothing to fail over to"
		f.Fix = "start a replica for each primary"
	}
	return f
}

func (x *inspection) protectedMode() store.Finding {
	mode, ok := x.config("protected-mode")
	if !ok {
		return unknown("protected-mode", "CONFIG GET")
	}
	if mode == "no" && x.noLogin {
		return store.Finding{
			Check: "protected-mode", Severity: store.SeverityCritical,
			Evidence: "protected-mode is off and there is no password: the server answers anybody",
			Fix:      "CONFIG SET protected-mode yes, and set a password" + keep,
		}
	}
	return store.Finding{Check: "protected-mode", Severity: store.SeverityOK, Evidence: "protected-mode is " + mode}
}

func (x *inspection) version() store.Finding {
	name, v := "Redis", x.info["redis_version"]
	if valkey := x.info["valkey_version"]; valkey != "" {
		name, v = "Valkey", valkey
	}
	if v == "" {
		return unknown("version", "INFO")
	}
	f := store.Finding{Check: "version", Severity: store.SeverityOK, Evidence: name + " " + v}
	major, rest, _ := strings.Cut(v, ".")
	minor, _, _ := strings.Cut(rest, ".")
	m, _ := strconv.Atoi(major)
	n, _ := strconv.Atoi(minor)
	if m < 6 || m == 6 && n < 2 {
		f.Severity, f.Fix = store.SeverityCritical, "use Redis 6.2 or Valkey at least: older ones lack commands that are needed"
	}
	return f
}

// clock compares the server's with ours. Redis removes keys by its own.
func (x *inspection) clock() store.Finding {
	before := time.Now()
	parts, err := x.client.Do(x.ctx, x.client.B().Time().Build()).AsIntSlice()
	after := time.Now()
	if err != nil || len(parts) != 2 {
		return unknown("clock", "TIME")
	}
	server := time.Unix(parts[0], parts[1]*1000)
	f := store.InspectClock(server, before, after)
	if server.Sub(after) > grace/2 {
		f.Severity = store.SeverityCritical
		f.Evidence = fmt.Sprintf("the server's clock is %v ahead of this machine's: it removes sessions before they expire", server.Sub(after).Round(time.Second))
	}
	return f
}
