package integration

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/coatcheck/coatcheck/internal/testserver"
	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/mongostore"
)

// TestMongoLostAnswers: a write that took effect, and whose answer never came, is
// ErrAmbiguous: no conflict with itself by a hidden second attempt, and no absence.
func TestMongoLostAnswers(t *testing.T) {
	t.Parallel()
	srv := testserver.Shared(t, "mongo")
	for _, c := range []struct {
		name string
		call func(ctx context.Context, s *mongostore.Store, k store.Key, r store.Record) error
		done func(r store.Record, err error) bool
	}{
		{
			"Create",
			func(ctx context.Context, s *mongostore.Store, _ store.Key, r store.Record) error {
				return s.Create(ctx, numberedKey(2), r)
			},
			nil,
		},
		{
			"Replace",
			func(ctx context.Context, s *mongostore.Store, k store.Key, r store.Record) error {
				r.Version = 2
				return s.Replace(ctx, k, 1, r)
			},
			func(r store.Record, err error) bool { return err == nil && r.Version == 2 },
		},
		{
			"Touch",
			func(ctx context.Context, s *mongostore.Store, k store.Key, r store.Record) error {
				return s.Touch(ctx, k, r.Expires.Add(time.Hour))
			},
			func(r store.Record, err error) bool { return err == nil && time.Until(r.Expires) > time.Hour },
		},
		{
			"Delete",
			func(ctx context.Context, s *mongostore.Store, k store.Key, _ store.Record) error {
				_, err := s.Delete(ctx, k)
				return err
			},
			func(_ store.Record, err error) bool { return errors.Is(err, store.ErrNotFound) },
		},
		{
			"DeleteOwner",
			func(ctx context.Context, s *mongostore.Store, _ store.Key, r store.Record) error {
				_, err := s.DeleteOwner(ctx, r.Owner)
				return err
			},
			func(_ store.Record, err error) bool { return errors.Is(err, store.ErrNotFound) },
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := mongoNew(t, srv)
			p := redisProxy(t, srv.Node(t, "node-1").Addr)
			// The client looks at the server at the beginning and then not for a minute:
			// it is to notice by the call.
			s := mongoOpen(t, mongoURL(mongoAt(t, srv.URL, p.Listen), "heartbeatFrequencyMS=60000"), f.Collection())
			k, r := numberedKey(1), dynamoSession(1)
			redisMust(t, "Create", f.Create(t.Context(), k, r))
			redisMust(t, "Ping", s.Ping(t.Context()))
			// What goes down is swallowed, and the connection then closed.
			redisToxic(t, p, `{"name":"lost","type":"limit_data","stream":"downstream","toxicity":1,"attributes":{"bytes":0}}`)
			err := c.call(t.Context(), s, k, r)
			if !errors.Is(err, store.ErrAmbiguous) || errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrNotFound) {
				t.Errorf("%s whose answer was lost: %v; want ErrAmbiguous alone", c.name, err)
			}
			done := c.done
			if done == nil {
				k, done = numberedKey(2), func(_ store.Record, err error) bool { return err == nil }
			}
			redisEventually(t, c.name+" to have taken effect, for the request was passed on", func() bool { return done(f.Get(t.Context(), k)) })
		})
	}
}

// losingConn loses the answer to one update.
type losingConn struct {
	net.Conn
	armed *atomic.Bool
	lose  bool
}

func (c *losingConn) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte("\x02update\x00")) && c.armed.CompareAndSwap(true, false) {
		c.lose = true
	}
	return c.Conn.Write(b)
}

func (c *losingConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.lose {
		c.Conn.Close()
		return 0, io.ErrUnexpectedEOF
	}
	return n, err
}

// losingDialer makes such connections.
type losingDialer struct{ armed atomic.Bool }

func (d *losingDialer) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &losingConn{Conn: conn, armed: &d.armed}, nil
}

// TestMongoNoHiddenRetry: a second attempt, whose answer would arrive, finds the first
// one's version, and would be taken for a conflict. The client here repeats writes, as
// it does by default where the server says that it is of a replica set; and the server
// knows no repetitions. That it is open to everybody is what Inspect finds.
func TestMongoNoHiddenRetry(t *testing.T) {
	t.Parallel()
	notShort(t)
	srv := testserver.Start(t, "mongo", &testserver.Options{Config: []string{"--dev-repl-set-name=rs0", "--no-auth"}})
	open := "mongodb://" + srv.Node(t, "node-1").Addr
	redisFindings(t, mongoInspect(t, mongoOpen(t, open, mongoCollection())),
		"tls warning, auth critical, privileges unknown, replication unknown, expiry-index warning, owner-index warning, ttl-monitor unknown, clock ok, version ok")
	var d losingDialer
	c := mongoClient(t, srv, open, func(o *options.ClientOptions) { o.SetDialer(&d) })
	s := mongoOver(t, c, mongoCollection())
	redisMust(t, "Migrate", s.Migrate(t.Context()))
	k, r := numberedKey(1), dynamoSession(1)
	redisMust(t, "Create", s.Create(t.Context(), k, r))
	r.Version = 2
	d.armed.Store(true)
	if err := s.Replace(t.Context(), k, 1, r); !errors.Is(err, store.ErrAmbiguous) {
		t.Errorf("Replace whose first answer was lost: %v; want ErrAmbiguous", err)
	}
	if got, err := s.Get(t.Context(), k); err != nil || got.Version != 2 {
		t.Errorf("Get after it: version %d, %v; want 2", got.Version, err)
	}

	// What the driver makes of it: nothing has matched, though something was changed.
	d.armed.Store(true)
	was, err := c.Database(s.Database()).Collection(s.Collection()).UpdateOne(t.Context(),
		bson.D{{Key: "version", Value: int64(2)}}, bson.D{{Key: "$set", Value: bson.D{{Key: "version", Value: int64(3)}}}})
	if err != nil || was.MatchedCount != 0 {
		t.Errorf("the driver's own update: %+v, %v; want that it has matched nothing, else this test shows nothing", was, err)
	}
	if got, err := s.Get(t.Context(), k); err != nil || got.Version != 3 {
		t.Errorf("Get after it: version %d, %v; want 3", got.Version, err)
	}
}

// mongoCount increments a counter by several workers until stop is closed and returns
// how many increments were acknowledged, and how many may have been done.
func mongoCount(t *testing.T, s store.Store, k store.Key, stop <-chan struct{}) (sure, open func() int, wait func()) {
	var acknowledged, ambiguous atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
				err := increment(ctx, s, k)
				cancel()
				switch {
				case err == nil:
					acknowledged.Add(1)
				case errors.Is(err, store.ErrAmbiguous):
					ambiguous.Add(1)
				case errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrCorrupt):
					t.Errorf("an increment meanwhile: %v; want that the record is there", err)
					return
				}
			}
		})
	}
	return func() int { return int(acknowledged.Load()) }, func() int { return int(ambiguous.Load()) }, wg.Wait
}

// TestSoakMongoCrashes: a server that has stopped, or died, is no absence and no conflict;
// what was acknowledged outlives it; nothing is done twice; and all goes on by itself.
func TestSoakMongoCrashes(t *testing.T) {
	soak(t)
	t.Parallel()
	srv := testserver.Start(t, "mongo", nil)
	// It is to notice by the calls.
	s := mongoOpen(t, mongoURL(srv.URL, "heartbeatFrequencyMS=60000&serverSelectionTimeoutMS=200"), mongoCollection())
	redisMust(t, "Migrate", s.Migrate(t.Context()))
	k, r := numberedKey(1), dynamoSession(1)
	r.Data = counted(0)
	redisMust(t, "Create", s.Create(t.Context(), k, r))
	goesOn := func() {
		t.Helper()
		redisEventually(t, "reads to go on by themselves", func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			got, err := s.Get(ctx, k)
			return err == nil && got.Version == 1
		})
	}

	srv.Freeze(t, "node-1")
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := s.Create(ctx, numberedKey(2), dynamoSession(2)); !errors.Is(err, store.ErrAmbiguous) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Create on a frozen server: %v; want ErrAmbiguous and the context's error", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := s.Get(ctx, k); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, store.ErrNotFound) {
		t.Errorf("Get on a frozen server: %v; want the context's error, and no absence", err)
	}
	srv.Thaw(t, "node-1")
	goesOn()

	srv.Kill(t, "node-1")
	redisEventually(t, "the connection to be known as broken, and nothing more", func() bool {
		err := s.Replace(t.Context(), k, 1, r)
		if err == nil {
			t.Fatal("Replace on a dead server succeeded")
		}
		return !errors.Is(err, store.ErrAmbiguous)
	})
	refused(t, "Create on a dead server", s.Create(t.Context(), numberedKey(3), r))
	srv.Restart(t, "node-1")
	goesOn()

	stop := make(chan struct{})
	sure, open, wait := mongoCount(t, mongoOpen(t, srv.URL, s.Collection()), k, stop)
	end := sync.OnceFunc(func() { close(stop); wait() })
	defer end()
	for _, node := range []string{"node-1", "database-1", "node-1"} {
		before := sure()
		redisEventually(t, "increments before "+node+" is killed", func() bool { return sure() > before+20 })
		srv.Kill(t, node)
		srv.Restart(t, node)
	}
	before := sure()
	redisEventually(t, "increments after the last crash", func() bool { return sure() > before+20 })
	end()
	var got store.Record
	redisEventually(t, "the counter to be read", func() (ok bool) {
		var err error
		got, err = s.Get(t.Context(), k)
		return err == nil
	})
	if n := int(count(got)); n < sure() || n > sure()+open() {
		t.Errorf("the counter is %d; want from %d, which were acknowledged, to %d more, which may have been done", n, sure(), open())
	}
	t.Logf("the counter is %d: %d acknowledged, %d open", count(got), sure(), open())
}

// TestMongoBlackhole: a network that swallows everything is no absence and no
// conflict.
func TestMongoBlackhole(t *testing.T) {
	t.Parallel()
	srv := testserver.Shared(t, "mongo")
	f := mongoNew(t, srv)
	p := redisProxy(t, srv.Node(t, "node-1").Addr)
	s := mongoOpen(t, mongoURL(mongoAt(t, srv.URL, p.Listen), "heartbeatFrequencyMS=60000"), f.Collection())
	k, r := numberedKey(1), dynamoSession(1)
	redisMust(t, "Create", s.Create(t.Context(), k, r))
	redisToxic(t, p, `{"name":"hole","type":"timeout","stream":"upstream","toxicity":1,"attributes":{"timeout":0}}`)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	r.Version = 2
	if err := s.Replace(ctx, k, 1, r); !errors.Is(err, store.ErrAmbiguous) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Replace: %v; want ErrAmbiguous and the context's error", err)
	}
	if got, err := f.Get(t.Context(), k); err != nil || got.Version != 1 {
		t.Errorf("Get by another way: version %d, %v; want 1, for nothing has arrived", got.Version, err)
	}
	redisMust(t, "RemoveToxic", p.Toxics.RemoveToxic(t.Context(), "hole"))
}

// TestMongoDamage: what is no record is ErrCorrupt and stays until it is deleted; it
// is in nobody's way.
func TestMongoDamage(t *testing.T) {
	t.Parallel()
	srv := testserver.Shared(t, "mongo")
	c := mongoClient(t, srv, srv.URL)
	for name, x := range map[string]struct {
		change  bson.D
		changed bool // a Replace still takes it
	}{
		"a handle that is too short": {bson.D{{Key: "$set", Value: bson.D{{Key: "handle", Value: bson.Binary{Data: []byte{1}}}}}}, true},
		"a version that is a text":   {bson.D{{Key: "$set", Value: bson.D{{Key: "version", Value: "1"}}}}, false},
		"no deadline":                {bson.D{{Key: "$unset", Value: bson.D{{Key: "deadline", Value: 1}}}}, false},
		"data that is a text":        {bson.D{{Key: "$set", Value: bson.D{{Key: "data", Value: "x"}}}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := mongoOver(t, c, mongoCollection())
			redisMust(t, "Migrate", s.Migrate(t.Context()))
			ctx := t.Context()
			k, r := numberedKey(1), dynamoSession(1)
			redisMust(t, "Create", s.Create(ctx, k, r))
			other := dynamoSession(2)
			other.Owner = r.Owner
			redisMust(t, "Create", s.Create(ctx, numberedKey(2), other))
			res, err := c.Database(s.Database()).Collection(s.Collection()).UpdateOne(ctx, bson.D{{Key: "_id", Value: bson.Binary{Data: k[:]}}}, x.change)
			if err != nil || res.MatchedCount != 1 {
				t.Fatalf("UpdateOne: %+v, %v", res, err)
			}
			if _, err := s.Get(ctx, k); !errors.Is(err, store.ErrCorrupt) || errors.Is(err, store.ErrAmbiguous) {
				t.Errorf("Get of a damaged record: %v; want ErrCorrupt", err)
			}
			if err := s.Create(ctx, k, r); !errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrCorrupt) {
				t.Errorf("Create over a damaged record: %v; want ErrConflict or ErrCorrupt", err)
			}
			if !x.changed {
				if err := s.Replace(ctx, k, 1, r); !errors.Is(err, store.ErrCorrupt) {
					t.Errorf("Replace of a damaged record: %v; want ErrCorrupt", err)
				}
			}
			if list, err := s.ListOwner(ctx, r.Owner); err != nil || len(list) != 1 {
				t.Errorf("ListOwner beside a damaged record: %d sessions, %v; want the other one", len(list), err)
			}
			if many, err := s.GetMany(ctx, []store.Key{k, numberedKey(2)}); err != nil || len(many) != 1 {
				t.Errorf("GetMany beside a damaged record: %d sessions, %v; want the other one", len(many), err)
			}
			for kr, err := range s.List(ctx) {
				if err != nil || kr.Key == k {
					t.Errorf("List beside a damaged record: %v", err)
				}
			}
			if _, err := s.Delete(ctx, k); err != nil {
				t.Errorf("Delete of a damaged record: %v", err)
			}
			redisMust(t, "Create after it", s.Create(ctx, k, r))
			if ended, err := s.DeleteOwner(ctx, r.Owner); err != nil || ended != 2 {
				t.Errorf("DeleteOwner after it ended %d, %v; want 2", ended, err)
			}
		})
	}
}

// TestMongoListBeside: documents of others, and damaged ones, more than a page of
// them, hide no session from List.
func TestMongoListBeside(t *testing.T) {
	t.Parallel()
	srv := testserver.Shared(t, "mongo")
	c := mongoClient(t, srv, srv.URL)
	s := mongoOver(t, c, mongoCollection())
	redisMust(t, "Migrate", s.Migrate(t.Context()))
	var theirs []any
	for i := range 450 {
		id := any(i)
		if i%2 == 0 {
			id = bson.Binary{Data: append(make([]byte, 31), byte(i/2))} // before all of ours
		}
		theirs = append(theirs, bson.D{{Key: "_id", Value: id}, {Key: "expires", Value: time.Now().Add(time.Hour)}})
	}
	_, err := c.Database(s.Database()).Collection(s.Collection()).InsertMany(t.Context(), theirs)
	redisMust(t, "InsertMany", err)
	const n = 250
	for i := range n {
		redisMust(t, "Create", s.Create(t.Context(), numberedKey(i), dynamoSession(i)))
	}
	found := map[store.Key]bool{}
	for kr, err := range s.List(t.Context()) {
		redisMust(t, "List", err)
		found[kr.Key] = true
	}
	if len(found) != n {
		t.Errorf("List found %d of %d sessions", len(found), n)
	}
}

// mongoBadURL returns the error of opening rawURL, which must not hold secret.
func mongoBadURL(t *testing.T, rawURL, secret string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	s, err := mongostore.OpenURL(ctx, mongoURL(rawURL, "serverSelectionTimeoutMS=1000"), nil)
	if err == nil {
		s.Close()
		t.Fatal("OpenURL succeeded")
	}
	if secret != "" && strings.Contains(err.Error(), secret) {
		t.Errorf("the error holds the password: %v", err)
	}
	return err.Error()
}

// TestMongoConnectionErrors: each mistake has an error of its own, which says what to
// do.
func TestMongoConnectionErrors(t *testing.T) {
	t.Parallel()
	notShort(t)
	const wrong = "hunter2"
	plain, encrypted := testserver.Shared(t, "mongo"), testserver.Shared(t, "mongo-tls")
	certs := encrypted.TLS
	// Of a server whose certificate is out of date nobody sees more than that.
	made := filepath.Dir(certs.CA)
	pair, err := tls.LoadX509KeyPair(filepath.Join(made, "expired-server.pem"), filepath.Join(made, "expired-server-key.pem"))
	redisMust(t, "certificate", err)
	expired, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}})
	redisMust(t, "Listen", err)
	t.Cleanup(func() { expired.Close() })
	go func() {
		for {
			c, err := expired.Accept()
			if err != nil {
				return
			}
			_ = c.(*tls.Conn).Handshake()
			c.Close()
		}
	}()
	base, _, _ := strings.Cut(encrypted.URL, "?")
	files := func(ca, cert, key string) string {
		return "?tls=true&" + url.Values{"ca": {ca}, "cert": {cert}, "key": {key}}.Encode()
	}
	login := func(rawURL, user, password string) string {
		u, err := url.Parse(rawURL)
		redisMust(t, "URL", err)
		u.User = url.UserPassword(user, password)
		return u.String()
	}
	for _, c := range []struct{ name, url, secret, want string }{
		{"plaintext to a port with TLS", base, "", "add tls=true"},
		{"TLS to a port without", plain.URL + files(certs.CA, certs.Cert, certs.Key), "", "it may not speak TLS on this port"},
		{"a stranger's authority", base + files(certs.OtherCA, certs.Cert, certs.Key), "", "ca=FILE"},
		{"the system's authorities", base + "?tls=true&cert=" + certs.Cert + "&key=" + certs.Key, "", "ca=FILE"},
		{"an expired server", mongoAt(t, encrypted.URL, expired.Addr().String()), "", "renew it if it has expired"},
		{"no client certificate", base + "?tls=true&ca=" + certs.CA, "", "want a client certificate"},
		{"a stranger's client certificate", base + files(certs.CA, certs.OtherCert, certs.OtherKey), "", "want a client certificate"},
		{"an expired client certificate", base + files(certs.CA, certs.ExpiredCert, certs.ExpiredKey), "", "want a client certificate"},
		{"another name", encrypted.URL + "&servername=mongo.example.com", "", "servername=NAME"},
		{"a wrong password", login(plain.URL, "coatcheck", wrong), wrong, "the user or the password is wrong"},
		{"an unknown user", login(plain.URL, "nobody", wrong), wrong, "the user or the password is wrong"},
		{"a client certificate whose key is another's", base + files(certs.CA, certs.Cert, certs.OtherKey), "", "cert and key in the URL: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if text := mongoBadURL(t, c.url, c.secret); !strings.Contains(text, c.want) {
				t.Errorf("%s\nwant something about %q", text, c.want)
			}
		})
	}
	t.Run("no user", func(t *testing.T) {
		t.Parallel()
		s := mongoOpen(t, "mongodb://"+plain.Node(t, "node-1").Addr, "")
		_, err := s.Get(t.Context(), numberedKey(1))
		failed(t, "Get", err)
		mentions(t, "Get", err, "the documentation of mongostore lists the rights")
	})
}

// TestMongoClosed: a store that was closed says so, and has not written.
func TestMongoClosed(t *testing.T) {
	t.Parallel()
	srv := testserver.Shared(t, "mongo")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	s, err := mongostore.OpenURL(ctx, srv.URL, &mongostore.Options{Collection: mongoCollection()})
	redisMust(t, "OpenURL", err)
	redisMust(t, "Close", s.Close())
	refused(t, "Create", s.Create(ctx, numberedKey(1), dynamoSession(1)))
	if err := s.Create(ctx, numberedKey(1), dynamoSession(1)); !strings.Contains(err.Error(), mongo.ErrClientDisconnected.Error()) {
		t.Errorf("Create: %v; want that it is closed", err)
	}
}
