package integration

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/event"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/mongo/readconcern"
	"go.mongodb.org/mongo-driver/v2/mongo/readpref"
	"go.mongodb.org/mongo-driver/v2/mongo/writeconcern"

	"github.com/coatcheck/coatcheck/internal/testserver"
	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/breaker"
	"github.com/coatcheck/coatcheck/store/mongostore"
	"github.com/coatcheck/coatcheck/store/nearcache"
	"github.com/coatcheck/coatcheck/store/storetest"
)

// mongoCollection is the name of a collection that nobody else has in a server that
// tests share.
func mongoCollection() string { return strings.ToLower(rand.Text()[:10]) }

// mongoClient returns a client of the test's own, at that URL of srv.
func mongoClient(t testing.TB, srv *testserver.Server, rawURL string, set ...func(*options.ClientOptions)) *mongo.Client {
	t.Helper()
	base, _, _ := strings.Cut(rawURL, "?")
	o := options.Client().ApplyURI(base)
	if srv.TLS != nil {
		pem, err := os.ReadFile(srv.TLS.CA)
		redisMust(t, "CA", err)
		pair, err := tls.LoadX509KeyPair(srv.TLS.Cert, srv.TLS.Key)
		redisMust(t, "certificate", err)
		c := &tls.Config{RootCAs: x509.NewCertPool(), Certificates: []tls.Certificate{pair}}
		c.RootCAs.AppendCertsFromPEM(pem)
		o.SetTLSConfig(c)
	}
	for _, f := range set {
		f(o)
	}
	c, err := mongo.Connect(o)
	redisMust(t, "Connect", err)
	t.Cleanup(func() { _ = c.Disconnect(context.Background()) })
	return c
}

// mongoOver returns a store over a client.
func mongoOver(t testing.TB, c *mongo.Client, collection string) *mongostore.Store {
	t.Helper()
	s, err := mongostore.New(c, &mongostore.Options{Collection: collection})
	redisMust(t, "New", err)
	return s
}

// mongoOpen returns a store of that collection, which it does not create.
func mongoOpen(t testing.TB, rawURL, collection string) *mongostore.Store {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	s, err := mongostore.OpenURL(ctx, rawURL, &mongostore.Options{Collection: collection})
	redisMust(t, "OpenURL", err)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

// mongoNew returns a store of a new collection.
func mongoNew(t testing.TB, srv *testserver.Server) *mongostore.Store {
	t.Helper()
	s := mongoOpen(t, srv.URL, mongoCollection())
	redisMust(t, "Migrate", s.Migrate(t.Context()))
	return s
}

// mongoURL returns rawURL with more parameters.
func mongoURL(rawURL, params string) string {
	if strings.Contains(rawURL, "?") {
		return rawURL + "&" + params
	}
	return rawURL + "?" + params
}

// mongoAt returns rawURL with another address.
func mongoAt(t testing.TB, rawURL, addr string) string {
	t.Helper()
	u, err := url.Parse(rawURL)
	redisMust(t, "URL", err)
	u.Host = addr
	return u.String()
}

// mongoDocuments returns how many documents a collection has, also of what has expired.
func mongoDocuments(t testing.TB, c *mongo.Client, s *mongostore.Store) int {
	t.Helper()
	n, err := c.Database(s.Database()).Collection(s.Collection()).CountDocuments(context.Background(), bson.D{})
	redisMust(t, "CountDocuments", err)
	return int(n)
}

// mongoConfig makes stores over two clients, which stand for two processes.
func mongoConfig(t testing.TB, srv *testserver.Server) storetest.Config {
	first, second := mongoClient(t, srv, srv.URL), mongoClient(t, srv, srv.URL)
	redisMust(t, "Ping", mongoOver(t, first, mongoCollection()).Ping(t.Context())) // else every rule says the same
	return storetest.Config{
		New: func(t *testing.T) store.Store {
			s := mongoOver(t, first, mongoCollection())
			redisMust(t, "Migrate", s.Migrate(t.Context()))
			return s
		},
		Second: func(t *testing.T, s store.Store) store.Store {
			return mongoOver(t, second, s.(*mongostore.Store).Collection())
		},
		Expiry:  100 * time.Millisecond, // most of what a run takes is waiting for it
		MaxData: 16<<20 - 16<<10,
		Count: func(t *testing.T, s store.Store) int {
			return mongoDocuments(t, second, s.(*mongostore.Store))
		},
	}
}

func TestMongo(t *testing.T) {
	t.Parallel()
	notShort(t)
	storetest.Run(t, mongoConfig(t, testserver.Shared(t, "mongo")))
}

// TestMongoScripts: random sequences of operations end as they do in memory.
func TestMongoScripts(t *testing.T) {
	t.Parallel()
	storetest.RunScripts(t, mongoConfig(t, testserver.Shared(t, "mongo")), 1)
}

// TestMongoWrapped: the wrappers keep the contract over it.
func TestMongoWrapped(t *testing.T) {
	t.Parallel()
	notShort(t)
	c := mongoConfig(t, testserver.Shared(t, "mongo"))
	for name, wrap := range map[string]func(store.Store) (store.Store, error){
		"nearcache": func(s store.Store) (store.Store, error) { return nearcache.New(s, nil) },
		"breaker": func(s store.Store) (store.Store, error) {
			return breaker.New(s, &breaker.Options{Timeout: 10 * time.Second})
		},
	} {
		t.Run(name, func(t *testing.T) {
			storetest.RunScripts(t, storetest.Config{
				New: func(t *testing.T) store.Store {
					s, err := wrap(c.New(t))
					redisMust(t, "wrap", err)
					return s
				},
				MaxData: c.MaxData,
			}, 1)
		})
	}
}

// TestMongoTLS: the same over mutual TLS, by URL.
func TestMongoTLS(t *testing.T) {
	t.Parallel()
	notShort(t)
	srv := testserver.Shared(t, "mongo-tls")
	storetest.RunScripts(t, storetest.Config{
		New: func(t *testing.T) store.Store { return mongoNew(t, srv) },
		Second: func(t *testing.T, s store.Store) store.Store {
			return mongoOpen(t, srv.URL, s.(*mongostore.Store).Collection())
		},
	}, 2)
}

// TestMongoMigrate: any number of servers may create the collection at once, and
// again, and Verify tells what is wrong before.
func TestMongoMigrate(t *testing.T) {
	t.Parallel()
	srv := testserver.Shared(t, "mongo")
	c, name := mongoClient(t, srv, srv.URL), mongoCollection()
	first := mongoOver(t, c, name)
	mentions(t, "Verify without a collection", first.Verify(t.Context()), "Migrate creates it")
	const n = 8
	done := make(chan error, n)
	for range n {
		s := mongoOver(t, c, name)
		go func() { done <- s.Migrate(t.Context()) }()
	}
	for range n {
		if err := <-done; err != nil {
			t.Errorf("one of %d Migrates at once: %v", n, err)
		}
	}
	for _, f := range []func(context.Context) error{first.Verify, first.Migrate, first.Verify} {
		if err := f(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// TestMongoForeignIndexes: an index that does something else is told, and left alone.
func TestMongoForeignIndexes(t *testing.T) {
	t.Parallel()
	srv := testserver.Shared(t, "mongo")
	c := mongoClient(t, srv, srv.URL)
	for name, x := range map[string]struct {
		index mongo.IndexModel
		want  string
	}{
		"nothing is deleted": {
			mongo.IndexModel{Keys: bson.D{{Key: "expires", Value: 1}}},
			"has no expireAfterSeconds",
		},
		"deleted too early": {
			mongo.IndexModel{Keys: bson.D{{Key: "expires", Value: 1}}, Options: options.Index().SetExpireAfterSeconds(1)},
			"after 1 seconds",
		},
		"sessions left out": {
			mongo.IndexModel{
				Keys:    bson.D{{Key: "owner", Value: 1}},
				Options: options.Index().SetPartialFilterExpression(bson.D{{Key: "version", Value: bson.D{{Key: "$gt", Value: 5}}}}),
			},
			"leaves out sessions",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := mongoOver(t, c, mongoCollection())
			_, err := c.Database(s.Database()).Collection(s.Collection()).Indexes().CreateOne(t.Context(), x.index)
			redisMust(t, "CreateOne", err)
			mentions(t, "Migrate", s.Migrate(t.Context()), x.want)
			mentions(t, "Verify", s.Verify(t.Context()), x.want)
			found := mongoInspect(t, s)
			for _, check := range []string{"expiry-index", "owner-index"} {
				if f := found[check]; strings.Contains(f.Evidence, x.want) != (f.Severity == store.SeverityWarning) {
					t.Errorf("%s is %v: %s", check, f.Severity, f.Evidence)
				}
			}
		})
	}
}

// mongoWatch has the commands that a client sends.
type mongoWatch struct {
	mu   sync.Mutex
	sent []bson.Raw
}

func (w *mongoWatch) set(o *options.ClientOptions) {
	o.SetMonitor(&event.CommandMonitor{Started: func(_ context.Context, e *event.CommandStartedEvent) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.sent = append(w.sent, append(bson.Raw(nil), e.Command...))
	}})
}

// take returns what was sent since the last time.
func (w *mongoWatch) take() []bson.Raw {
	w.mu.Lock()
	defer w.mu.Unlock()
	sent := w.sent
	w.sent = nil
	return sent
}

// TestMongoTripsAndConcerns: whatever the app's client is set to, writes wait for a
// majority, reads are of the primary and of what a majority has, nothing is a part of
// the app's transaction, and each method makes the round trips that are documented.
func TestMongoTripsAndConcerns(t *testing.T) {
	t.Parallel()
	srv := testserver.Shared(t, "mongo")
	var w mongoWatch
	c := mongoClient(t, srv, srv.URL, w.set, func(o *options.ClientOptions) {
		o.SetWriteConcern(writeconcern.W1()).SetReadConcern(readconcern.Local()).SetReadPreference(readpref.SecondaryPreferred())
		o.SetBSONOptions(&options.BSONOptions{IntMinSize: true, NilSliceAsEmpty: true})
	})
	s := mongoOver(t, c, mongoCollection())
	redisMust(t, "Migrate", s.Migrate(t.Context()))
	session, err := c.StartSession()
	redisMust(t, "StartSession", err)
	defer session.EndSession(context.Background())
	redisMust(t, "StartTransaction", session.StartTransaction())
	ctx := mongo.NewSessionContext(t.Context(), session)

	k, r := numberedKey(1), dynamoSession(1)
	past := r
	for _, step := range []struct {
		name  string
		trips int
		call  func() error
	}{
		{"Create", 1, func() error { return s.Create(ctx, k, r) }},
		{"Get", 1, func() error { _, err := s.Get(ctx, k); return err }},
		{"Replace", 1, func() error { return s.Replace(ctx, k, 1, r) }},
		{"a stale Replace", 2, func() error { return mongoWants(s.Replace(ctx, k, 2, r), store.ErrConflict) }},
		{"Touch", 1, func() error { return s.Touch(ctx, k, r.Deadline) }},
		{"Touch of nothing", 2, func() error { return mongoWants(s.Touch(ctx, numberedKey(2), r.Deadline), store.ErrNotFound) }},
		{"ListOwner", 1, func() error { _, err := s.ListOwner(ctx, r.Owner); return err }},
		{"GetMany", 1, func() error { _, err := s.GetMany(ctx, []store.Key{k, numberedKey(2)}); return err }},
		{"List", 1, func() error {
			for _, err := range s.List(ctx) {
				if err != nil {
					return err
				}
			}
			return nil
		}},
		{"Create over it", 3, func() error { return mongoWants(s.Create(ctx, k, r), store.ErrConflict) }},
		{"DeleteOwner", 2, func() error { _, err := s.DeleteOwner(ctx, r.Owner); return err }},
		{"Create of what soon expires", 1, func() error {
			past.Expires = time.Now().Add(100 * time.Millisecond).Truncate(time.Millisecond)
			return s.Create(ctx, k, past)
		}},
		{"Create over what has expired", 2, func() error {
			for time.Now().Before(past.Expires) {
				time.Sleep(time.Millisecond) // the real server has a real clock
			}
			return s.Create(ctx, k, r)
		}},
		{"Delete", 1, func() error { _, err := s.Delete(ctx, k); return err }},
		{"Delete of nothing", 2, func() error { _, err := s.Delete(ctx, k); return err }},
	} {
		w.take()
		redisMust(t, step.name, step.call())
		sent := w.take()
		if len(sent) != step.trips {
			t.Errorf("%s made %d round trips; want %d", step.name, len(sent), step.trips)
		}
		for _, command := range sent {
			name := command.Index(0).Key()
			concern, _ := command.Lookup("writeConcern", "w").StringValueOK()
			level, _ := command.Lookup("readConcern", "level").StringValueOK()
			switch name {
			case "insert", "update", "delete", "findAndModify":
				if concern != "majority" {
					t.Errorf("%s: %s waits for %q; want a majority", step.name, name, concern)
				}
			case "find":
				if tells := step.trips > 1; level != "majority" && !tells || level != "local" && tells {
					t.Errorf("%s: a find is of %q", step.name, level)
				}
			default:
				t.Errorf("%s sent %s", step.name, name)
			}
			if mode, ok := command.Lookup("$readPreference", "mode").StringValueOK(); ok && mode != "primary" && mode != "primaryPreferred" {
				t.Errorf("%s: %s is asked of %q; want the primary", step.name, name, mode)
			}
			for _, field := range []string{"txnNumber", "autocommit", "startTransaction"} {
				if _, err := command.LookupErr(field); err == nil {
					t.Errorf("%s: %s is a part of the app's transaction, or to be repeated: it has %s", step.name, name, field)
				}
			}
		}
	}
	if r.Version = 7; s.Create(t.Context(), k, r) != nil {
		t.Fatal("Create")
	}
	raw, err := c.Database(s.Database()).Collection(s.Collection()).FindOne(t.Context(), bson.D{}).Raw()
	redisMust(t, "FindOne", err)
	if _, ok := raw.Lookup("version").Int64OK(); !ok {
		t.Error("the client's settings change what is stored: a small version is no long")
	}
}

// mongoWants returns nil if err is what is wanted.
func mongoWants(err, want error) error {
	if errors.Is(err, want) {
		return nil
	}
	return fmt.Errorf("%v; want %w", err, want)
}

// TestMongoTooLarge: what is over MongoDB's limit is refused before anything is sent.
func TestMongoTooLarge(t *testing.T) {
	t.Parallel()
	srv := testserver.Shared(t, "mongo")
	var w mongoWatch
	s := mongoOver(t, mongoClient(t, srv, srv.URL, w.set), mongoCollection())
	r := dynamoSession(1)
	r.Data = make([]byte, 17<<20)
	for name, err := range map[string]error{
		"Create":  s.Create(t.Context(), numberedKey(1), r),
		"Replace": s.Replace(t.Context(), numberedKey(1), 1, r),
	} {
		if mongoWants(err, store.ErrTooLarge) != nil {
			t.Errorf("%s of 17 MiB: %v; want ErrTooLarge", name, err)
		}
	}
	if sent := w.take(); len(sent) != 0 {
		t.Errorf("%d commands were sent", len(sent))
	}
}

// mongoInspect returns the findings by check.
func mongoInspect(t *testing.T, s *mongostore.Store) map[string]store.Finding {
	t.Helper()
	list, err := s.Inspect(t.Context())
	redisMust(t, "Inspect", err)
	found := map[string]store.Finding{}
	for _, f := range list {
		found[f.Check] = f
	}
	return found
}

// TestMongoInspectAWellConfiguredServer: what FerretDB does not tell is unknown, and
// nothing is worse but that it limits nobody. TestMongoNoHiddenRetry inspects another one.
func TestMongoInspectAWellConfiguredServer(t *testing.T) {
	t.Parallel()
	notShort(t)
	redisFindings(t, mongoInspect(t, mongoNew(t, testserver.Shared(t, "mongo-tls"))),
		"tls ok, auth ok, privileges warning, replication unknown, expiry-index ok, owner-index ok, ttl-monitor unknown, clock ok, version ok")
}

// TestSoakMongoCollects: the server deletes what has expired, and nothing else.
func TestSoakMongoCollects(t *testing.T) {
	if os.Getenv("COATCHECK_SOAK") != "1" {
		t.Skip("waits minutes for the server to collect; COATCHECK_SOAK=1 runs it")
	}
	t.Parallel()
	srv := testserver.Start(t, "mongo", nil)
	c := mongoClient(t, srv, srv.URL)
	s := mongoNew(t, srv)
	redisMust(t, "Create", s.Create(t.Context(), numberedKey(1), dynamoSession(1)))
	redisMust(t, "Create", s.Create(t.Context(), numberedKey(2), dynamoSession(2)))
	// As if ten minutes had passed for one of them.
	key := numberedKey(2)
	_, err := c.Database(s.Database()).Collection(s.Collection()).UpdateOne(t.Context(),
		bson.D{{Key: "_id", Value: bson.Binary{Data: key[:]}}},
		bson.D{{Key: "$set", Value: bson.D{{Key: "expires", Value: time.Now().Add(-10 * time.Minute)}}}})
	redisMust(t, "UpdateOne", err)
	for end := time.Now().Add(5 * time.Minute); mongoDocuments(t, c, s) != 1; time.Sleep(time.Second) {
		if time.Now().After(end) {
			t.Fatal("in five minutes nothing was collected")
		}
	}
	if _, err := s.Get(t.Context(), numberedKey(1)); err != nil {
		t.Errorf("Get of what is alive: %v", err)
	}
}
