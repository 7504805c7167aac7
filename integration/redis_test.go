package integration

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/coatcheck/coatcheck/internal/testserver"
	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/breaker"
	"github.com/coatcheck/coatcheck/store/nearcache"
	"github.com/coatcheck/coatcheck/store/redisstore"
	"github.com/coatcheck/coatcheck/store/storetest"
)

// redisKinds are the set-ups that run every rule, and redisKindsShort those that
// differ from one of them in encryption alone.
var (
	redisKinds      = []string{"redis", "redis-tls", "redis-sentinel", "redis-cluster", "valkey"}
	redisKindsShort = []string{"redis-sentinel-tls", "redis-cluster-tls"}
)

// redisEach runs f on each kind of server, at the same time. Under -short that is
// one server alone and a cluster.
func redisEach(t *testing.T, kinds []string, f func(t *testing.T, srv *testserver.Server)) {
	t.Parallel()
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			if testing.Short() && kind != "redis" && kind != "redis-cluster" {
				t.Skip("takes seconds; -short takes a single server and a cluster")
			}
			t.Parallel()
			f(t, redisShared(t, kind))
		})
	}
}

// redisShared returns a shared server whose primaries stay what they are: on a busy
// machine one can be silent for the second after which it is usually replaced, and
// a replacement loses writes, which is not what these tests are about.
func redisShared(t testing.TB, kind string) *testserver.Server {
	t.Helper()
	srv := testserver.Shared(t, kind)
	calmMu.Lock()
	defer calmMu.Unlock()
	if calm[kind] {
		return srv
	}
	for _, n := range srv.Nodes {
		switch {
		case n.Role == "sentinel":
			redisDo(t, redisClient(t, srv, n.Addr, ""), "SENTINEL", "SET", "primary", "down-after-milliseconds", "60000")
		case strings.Contains(kind, "cluster"):
			redisDo(t, redisClient(t, srv, n.Addr, ""), "CONFIG", "SET", "cluster-node-timeout", "60000")
		}
	}
	calm[kind] = true
	return srv
}

var (
	calmMu sync.Mutex
	calm   = map[string]bool{}
)

// redisPrefix is one that nobody else has in a server that tests share.
func redisPrefix() string { return strings.ToLower(rand.Text()[:10]) + ":" }

func redisOpen(t testing.TB, rawURL string, opts *redisstore.Options) *redisstore.Store {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	s, err := redisstore.OpenURL(ctx, rawURL, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

// redisURL returns the URL of srv with other credentials.
func redisURL(t testing.TB, raw string, user *url.Userinfo) string {
	t.Helper()
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok {
		t.Fatalf("no URL: %q", raw)
	}
	if i := strings.IndexByte(rest, '@'); i >= 0 {
		rest = rest[i+1:]
	}
	if user == nil {
		return scheme + "://" + rest
	}
	return scheme + "://" + user.String() + "@" + rest
}

// redisAdmin returns a client of each node of srv that keeps sessions, by name,
// with all rights.
func redisAdmin(t testing.TB, srv *testserver.Server, password string) map[string]rueidis.Client {
	t.Helper()
	clients := map[string]rueidis.Client{}
	for _, n := range srv.Nodes {
		if n.Role == "sentinel" {
			continue
		}
		clients[n.Name] = redisClient(t, srv, n.Addr, password)
	}
	return clients
}

// redisClient returns a client of one node.
func redisClient(t testing.TB, srv *testserver.Server, addr, password string) rueidis.Client {
	t.Helper()
	o := rueidis.ClientOption{InitAddress: []string{addr}, ForceSingleClient: true, DisableCache: true, Password: password}
	if srv.TLS != nil {
		pem, err := os.ReadFile(srv.TLS.CA)
		if err != nil {
			t.Fatal(err)
		}
		pair, err := tls.LoadX509KeyPair(srv.TLS.Cert, srv.TLS.Key)
		if err != nil {
			t.Fatal(err)
		}
		o.TLSConfig = &tls.Config{RootCAs: x509.NewCertPool(), Certificates: []tls.Certificate{pair}}
		o.TLSConfig.RootCAs.AppendCertsFromPEM(pem)
	}
	c, err := rueidis.NewClient(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// redisPrimaries returns those of the clients whose server takes writes.
func redisPrimaries(t testing.TB, admin map[string]rueidis.Client) []rueidis.Client {
	t.Helper()
	var list []rueidis.Client
	for _, c := range admin {
		info, err := c.Do(context.Background(), c.B().Info().Section("replication").Build()).ToString()
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(info, "role:master") {
			list = append(list, c)
		}
	}
	return list
}

// redisKeys returns all keys under prefix, each with the client of its server.
func redisKeys(t testing.TB, admin map[string]rueidis.Client, prefix string) map[string]rueidis.Client {
	t.Helper()
	keys := map[string]rueidis.Client{}
	for _, c := range redisPrimaries(t, admin) {
		for cursor := uint64(0); ; {
			page, err := c.Do(context.Background(), c.B().Scan().Cursor(cursor).Match(prefix+"*").Count(10000).Build()).AsScanEntry()
			if err != nil {
				t.Fatal(err)
			}
			for _, k := range page.Elements {
				keys[k] = c
			}
			if cursor = page.Cursor; cursor == 0 {
				break
			}
		}
	}
	return keys
}

// redisConfig makes stores that share the server at rawURL, each with a prefix of
// its own.
func redisConfig(t testing.TB, srv *testserver.Server, rawURL string, opts redisstore.Options) storetest.Config {
	var prefixes sync.Map // by store
	admin := redisAdmin(t, srv, "")
	base := opts.Prefix
	redisOpen(t, rawURL, &opts) // else every rule says the same
	return storetest.Config{
		New: func(t *testing.T) store.Store {
			o := opts
			o.Prefix = base + redisPrefix()
			s := redisOpen(t, rawURL, &o)
			prefixes.Store(s, o.Prefix)
			return s
		},
		Second: func(t *testing.T, s store.Store) store.Store {
			prefix, _ := prefixes.Load(s)
			o := opts
			o.Prefix = prefix.(string)
			return redisOpen(t, rawURL, &o)
		},
		Expiry:  100 * time.Millisecond, // most of what a run takes is waiting for it
		MaxData: 16 << 20,
		Count: func(t *testing.T, s store.Store) int {
			prefix, _ := prefixes.Load(s)
			n := 0
			for name, c := range redisKeys(t, admin, prefix.(string)) {
				if !strings.HasPrefix(name, prefix.(string)+"o:") {
					n++
					continue
				}
				members, err := c.Do(context.Background(), c.B().Zcard().Key(name).Build()).AsInt64()
				if err != nil {
					t.Fatal(err)
				}
				n += int(members)
			}
			return n
		},
	}
}

func TestRedis(t *testing.T) {
	redisEach(t, redisKinds, func(t *testing.T, srv *testserver.Server) {
		storetest.Run(t, redisConfig(t, srv, srv.URL, redisstore.Options{}))
	})
}

// TestRedisScripts: random sequences of operations end as they do in memory.
func TestRedisScripts(t *testing.T) {
	redisEach(t, append(redisKindsShort, redisKinds...), func(t *testing.T, srv *testserver.Server) {
		seeds := scripts()
		if slices.Contains(redisKindsShort, srv.Kind) {
			seeds = []uint64{1}
		}
		storetest.RunScripts(t, redisConfig(t, srv, srv.URL, redisstore.Options{}), seeds...)
	})
}

// redisACL returns the ACL rule that redisstore's documentation tells to give an
// app, word by word.
func redisACL(t testing.TB, user, password, prefix string) []string {
	t.Helper()
	_, rest, ok := strings.Cut(redisDoc(t), "//\tACL SETUSER app ")
	if !ok {
		t.Fatal("the documentation of redisstore has no line that begins ACL SETUSER app")
	}
	rule, _, _ := strings.Cut(rest, "\n//\n")
	text := strings.NewReplacer("//\t", " ", "PASSWORD", password, "PREFIX", prefix).Replace(rule)
	return append([]string{"ACL", "SETUSER", user, "reset"}, strings.Fields(text)...)
}

// redisDoc returns the documentation of package redisstore.
func redisDoc(t testing.TB) string {
	t.Helper()
	doc, err := os.ReadFile("../store/redisstore/doc.go")
	if err != nil {
		t.Fatal(err)
	}
	return string(doc)
}

// redisRestrict makes a user with just those rights, and more, on every node, and
// returns the URL to sign in with.
func redisRestrict(t testing.TB, srv *testserver.Server, prefix string, more ...string) string {
	t.Helper()
	user, password := strings.ToLower(rand.Text()[:8]), rand.Text()
	rule := append(redisACL(t, user, password, prefix), more...)
	for name, c := range redisAdmin(t, srv, "") {
		if err := c.Do(t.Context(), c.B().Arbitrary(rule...).Build()).Error(); err != nil {
			t.Fatalf("%s: the documented rule is refused: %v", name, err)
		}
	}
	return redisURL(t, srv.URL, url.UserPassword(user, password))
}

// TestRedisLeastPrivilege: the rights that the documentation lists are enough for
// every rule, and writes that wait for a replica keep them, too.
func TestRedisLeastPrivilege(t *testing.T) {
	redisEach(t, []string{"redis", "redis-sentinel", "redis-cluster", "valkey"}, func(t *testing.T, srv *testserver.Server) {
		prefix := redisPrefix()
		u := redisRestrict(t, srv, prefix)
		opts := redisstore.Options{Prefix: prefix}
		if srv.Kind == "redis-sentinel" || srv.Kind == "redis-cluster" {
			opts.MinReplicas, opts.ReplicaTimeout = 1, 10*time.Second
		}
		if testing.Short() || srv.Kind == "valkey" {
			storetest.RunScripts(t, redisConfig(t, srv, u, opts), 1)
			return
		}
		storetest.Run(t, redisConfig(t, srv, u, opts))
	})
}

// TestRedisNearCache and TestRedisBreaker: the wrappers keep the contract over a
// real server.
func TestRedisNearCache(t *testing.T) {
	redisEach(t, []string{"redis", "redis-cluster"}, func(t *testing.T, srv *testserver.Server) {
		c := redisConfig(t, srv, srv.URL, redisstore.Options{})
		redisWrapped(t, c, func(t *testing.T, s store.Store) store.Store {
			cache, err := nearcache.New(s, nil)
			if err != nil {
				t.Fatal(err)
			}
			return cache
		}, true)
	})
}

func TestRedisBreaker(t *testing.T) {
	redisEach(t, []string{"redis", "redis-cluster"}, func(t *testing.T, srv *testserver.Server) {
		c := redisConfig(t, srv, srv.URL, redisstore.Options{})
		redisWrapped(t, c, func(t *testing.T, s store.Store) store.Store {
			b, err := breaker.New(s, &breaker.Options{Timeout: 10 * time.Second})
			if err != nil {
				t.Fatal(err)
			}
			return b
		}, false)
	})
}

// redisWrapped runs the suite on c's stores, each inside of wrap.
func redisWrapped(t *testing.T, c storetest.Config, wrap func(*testing.T, store.Store) store.Store, caches bool) {
	var inner sync.Map // by wrapper
	inside := func(s store.Store) store.Store {
		i, _ := inner.Load(s)
		return i.(store.Store)
	}
	w := storetest.Config{
		New: func(t *testing.T) store.Store {
			s := c.New(t)
			o := wrap(t, s)
			inner.Store(o, s)
			return o
		},
		Inner:   func(t *testing.T, s store.Store) store.Store { return inside(s) },
		Expiry:  c.Expiry,
		MaxData: c.MaxData,
		Count:   func(t *testing.T, s store.Store) int { return c.Count(t, inside(s)) },
	}
	if !caches {
		w.Second = func(t *testing.T, s store.Store) store.Store { return wrap(t, c.Second(t, inside(s))) }
	}
	storetest.RunScripts(t, w, 1)
	if !testing.Short() {
		storetest.Run(t, w)
	}
}
