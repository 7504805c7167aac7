package integration

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/redis/rueidis"
	"github.com/rs/zerolog"

	"github.com/coatcheck/coatcheck/internal/testserver"
	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/breaker"
	"github.com/coatcheck/coatcheck/store/redisstore"
)

// redisSession returns a session of owner that is like no other in its data.
func redisSession(i int, owner string) store.Record {
	r := numberedSession(i)
	r.Owner, r.Version = owner, 1
	return r.Truncate()
}

// redisDo sends a command of the test's own and returns its answer.
func redisDo(t testing.TB, c rueidis.Client, words ...string) rueidis.RedisResult {
	t.Helper()
	res := c.Do(context.Background(), c.B().Arbitrary(words...).Build())
	if err := res.Error(); err != nil && !rueidis.IsRedisNil(err) {
		t.Fatalf("%s: %v", words[0], err)
	}
	return res
}

// redisFixture is a store on a server that others use, too.
type redisFixture struct {
	*redisstore.Store
	prefix string
	admin  map[string]rueidis.Client
}

func redisFix(t *testing.T, srv *testserver.Server) redisFixture {
	t.Helper()
	f := redisFixture{prefix: redisPrefix(), admin: redisAdmin(t, srv, "")}
	f.Store = redisOpen(t, srv.URL, &redisstore.Options{Prefix: f.prefix})
	return f
}

// one returns the only key of that sort, s or o, and its server.
func (f redisFixture) one(t testing.TB, sort string) (string, rueidis.Client) {
	t.Helper()
	for name, c := range redisKeys(t, f.admin, f.prefix+sort+":") {
		return name, c
	}
	t.Fatalf("no key of sort %s", sort)
	return "", nil
}

func redisMust(t testing.TB, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// TestRedisScriptFlush: a server that has forgotten the scripts gets them again,
// also in the middle of a pipeline.
func TestRedisScriptFlush(t *testing.T) {
	redisEach(t, []string{"redis", "redis-cluster", "valkey"}, func(t *testing.T, srv *testserver.Server) {
		f := redisFix(t, srv)
		ctx := t.Context()
		flush := func() {
			for _, c := range redisPrimaries(t, f.admin) {
				redisDo(t, c, "SCRIPT", "FLUSH")
			}
		}
		k := numberedKey(1)
		flush()
		redisMust(t, "Create", f.Create(ctx, k, redisSession(1, "alice")))
		flush()
		next := redisSession(1, "alice")
		next.Version = 2
		redisMust(t, "Replace", f.Replace(ctx, k, 1, next))
		flush()
		redisMust(t, "Touch", f.Touch(ctx, k, time.Now().Add(2*time.Hour)))
		flush()
		if existed, err := f.Delete(ctx, k); err != nil || !existed {
			t.Fatalf("Delete: %v, %v", existed, err)
		}
		// More than one batch, over all slots.
		const n = 300
		for i := range n {
			redisMust(t, "Create", f.Create(ctx, numberedKey(i), redisSession(i, "bob")))
		}
		flush()
		if ended, err := f.DeleteOwner(ctx, "bob"); err != nil || ended != n {
			t.Fatalf("DeleteOwner ended %d sessions, %v; want %d", ended, err, n)
		}
		if left := redisKeys(t, f.admin, f.prefix); len(left) != 0 {
			t.Errorf("%d keys are left of sessions that have ended", len(left))
		}
	})
}

// TestRedisDamage: what is no record is ErrCorrupt and stays until it is deleted;
// it is in nobody's way.
func TestRedisDamage(t *testing.T) {
	redisEach(t, []string{"redis", "redis-cluster"}, func(t *testing.T, srv *testserver.Server) {
		for name, damage := range map[string]func(t *testing.T, c rueidis.Client, key string){
			"another type": func(t *testing.T, c rueidis.Client, key string) {
				redisDo(t, c, "DEL", key)
				redisDo(t, c, "LPUSH", key, "x")
			},
			"another format": func(t *testing.T, c rueidis.Client, key string) { redisDo(t, c, "SETRANGE", key, "0", "\x02") },
			"cut short":      func(t *testing.T, c rueidis.Client, key string) { redisDo(t, c, "SET", key, "\x01\x00x", "KEEPTTL") },
		} {
			t.Run(name, func(t *testing.T) {
				f := redisFix(t, srv)
				ctx := t.Context()
				k, r := numberedKey(1), redisSession(1, "alice")
				redisMust(t, "Create", f.Create(ctx, k, r))
				key, c := f.one(t, "s")
				redisMust(t, "Create", f.Create(ctx, numberedKey(2), redisSession(2, "alice")))
				damage(t, c, key)

				next := r
				next.Version = 2
				_, getErr := f.Get(ctx, k)
				for op, err := range map[string]error{
					"Get":     getErr,
					"Replace": f.Replace(ctx, k, 1, next),
					"Touch":   f.Touch(ctx, k, time.Now().Add(2*time.Hour)),
				} {
					if !errors.Is(err, store.ErrCorrupt) || errors.Is(err, store.ErrAmbiguous) {
						t.Errorf("%s of a damaged record: %v; want ErrCorrupt", op, err)
					}
				}
				if err := f.Create(ctx, k, r); !errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrCorrupt) {
					t.Errorf("Create over a damaged record: %v; want ErrConflict or ErrCorrupt", err)
				}
				list, err := f.ListOwner(ctx, "alice")
				if err != nil || len(list) != 1 {
					t.Errorf("ListOwner beside a damaged record: %d sessions, %v; want the other one", len(list), err)
				}
				many, err := f.GetMany(ctx, []store.Key{k, numberedKey(2)})
				if err != nil || len(many) != 1 {
					t.Errorf("GetMany beside a damaged record: %d sessions, %v; want the other one", len(many), err)
				}
				for kr, err := range f.List(ctx) {
					if err != nil || kr.Key == k {
						t.Errorf("List beside a damaged record: %v", err)
					}
				}
				if ended, err := f.DeleteOwner(ctx, "alice"); err != nil || ended != 1 {
					t.Errorf("DeleteOwner beside a damaged record ended %d, %v; want the other one", ended, err)
				}
				if existed, err := f.Delete(ctx, k); err != nil || !existed {
					t.Errorf("Delete of a damaged record: %v, %v; want that it was there", existed, err)
				}
				redisMust(t, "Create after it", f.Create(ctx, k, r))
			})
		}
		t.Run("an index of another type", func(t *testing.T) {
			f := redisFix(t, srv)
			ctx := t.Context()
			k := numberedKey(1)
			redisMust(t, "Create", f.Create(ctx, k, redisSession(1, "alice")))
			index, c := f.one(t, "o")
			redisDo(t, c, "DEL", index)
			redisDo(t, c, "LPUSH", index, "x")
			_, listErr := f.ListOwner(ctx, "alice")
			_, deleteErr := f.DeleteOwner(ctx, "alice")
			for op, err := range map[string]error{
				"Create":      f.Create(ctx, numberedKey(2), redisSession(2, "alice")),
				"Touch":       f.Touch(ctx, k, time.Now().Add(2*time.Hour)),
				"ListOwner":   listErr,
				"DeleteOwner": deleteErr,
			} {
				if !errors.Is(err, store.ErrCorrupt) || errors.Is(err, store.ErrAmbiguous) || strings.Contains(err.Error(), "string") {
					t.Errorf("%s: %v; want ErrCorrupt, which does not say that an index is a string", op, err)
				}
			}
			if _, err := f.Get(ctx, numberedKey(2)); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("Get of a session that could not be entered: %v; want ErrNotFound", err)
			}
			if existed, err := f.Delete(ctx, k); err != nil || !existed {
				t.Errorf("Delete: %v, %v; want that it was there", existed, err)
			}
			redisDo(t, c, "DEL", index)
			redisMust(t, "Create after it", f.Create(ctx, k, redisSession(1, "alice")))
		})
	})
}

// redisProxy returns a proxy to addr that this test alone has.
func redisProxy(t testing.TB, addr string) *toxiproxy.Proxy {
	t.Helper()
	p := toxiproxy.NewProxy(toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop()), "redis", "127.0.0.1:0", addr)
	redisMust(t, "proxy", p.Start())
	t.Cleanup(p.Stop)
	return p
}

func redisToxic(t testing.TB, p *toxiproxy.Proxy, json string) {
	t.Helper()
	if _, err := p.Toxics.AddToxicJson(strings.NewReader(json)); err != nil {
		t.Fatal(err)
	}
}

// TestRedisLostAnswers: a write that took effect, and whose answer never came, is
// ErrAmbiguous: no conflict with itself by a hidden second attempt, and no absence.
func TestRedisLostAnswers(t *testing.T) {
	srv := testserver.Start(t, "redis", nil) // in which nobody else flushes scripts
	f := redisFix(t, srv)
	for _, c := range []struct {
		name string
		call func(ctx context.Context, s *redisstore.Store, k store.Key, r store.Record) error
		done func(r store.Record, err error) bool
	}{
		{
			"Create",
			func(ctx context.Context, s *redisstore.Store, _ store.Key, r store.Record) error {
				r.Owner = ""
				return s.Create(ctx, numberedKey(100), r)
			},
			nil,
		},
		{
			"Replace",
			func(ctx context.Context, s *redisstore.Store, k store.Key, r store.Record) error {
				r.Version = 2
				return s.Replace(ctx, k, 1, r)
			},
			func(r store.Record, err error) bool { return err == nil && r.Version == 2 },
		},
		{
			"Touch",
			func(ctx context.Context, s *redisstore.Store, k store.Key, r store.Record) error {
				return s.Touch(ctx, k, r.Expires.Add(time.Hour))
			},
			func(r store.Record, err error) bool { return err == nil && r.Version == 1 },
		},
		{
			"Delete",
			func(ctx context.Context, s *redisstore.Store, k store.Key, _ store.Record) error {
				_, err := s.Delete(ctx, k)
				return err
			},
			func(_ store.Record, err error) bool { return errors.Is(err, store.ErrNotFound) },
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := redisProxy(t, srv.Nodes[0].Addr)
			s := redisOpen(t, "redis://"+p.Listen, &redisstore.Options{Prefix: f.prefix})
			r := redisSession(1, "alice")
			k := numberedKey(1)
			_, _ = f.Delete(t.Context(), k)
			redisMust(t, "Create", f.Create(t.Context(), k, r))
			// The server knows all scripts: the first answer is the only one.
			redisMust(t, "warm up", redisWarm(t.Context(), f.Store))

			// What goes down is swallowed, and the connection then closed.
			redisToxic(t, p, `{"name":"lost","type":"limit_data","stream":"downstream","toxicity":1,"attributes":{"bytes":0}}`)
			err := c.call(t.Context(), s, k, r)
			if !errors.Is(err, store.ErrAmbiguous) || errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrNotFound) {
				t.Errorf("%s whose answer was lost: %v; want ErrAmbiguous alone", c.name, err)
			}
			if c.done != nil {
				redisEventually(t, c.name+" to have taken effect, for the request was passed on", func() bool { return c.done(f.Get(t.Context(), k)) })
			}
		})
	}
}

// redisWarm runs every script once.
func redisWarm(ctx context.Context, s *redisstore.Store) error {
	k, r := numberedKey(1<<20), redisSession(1<<20, "")
	if _, err := s.Delete(ctx, k); err != nil {
		return err
	}
	if err := s.Create(ctx, k, r); err != nil {
		return err
	}
	if err := s.Replace(ctx, k, 1, r); err != nil {
		return err
	}
	return s.Touch(ctx, k, r.Expires)
}

// redisEventually polls a real server.
func redisEventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited half a minute for %s", what)
		}
	}
}

// TestRedisUnreachable: a write that has not reached a server is not ambiguous.
func TestRedisUnreachable(t *testing.T) {
	t.Parallel()
	srv := testserver.Start(t, "redis", nil)
	s := redisOpen(t, srv.URL, nil)
	srv.Kill(t, "node-1")
	redisEventually(t, "the connection to be known as broken, and nothing more", func() bool {
		err := s.Replace(t.Context(), numberedKey(1), 1, redisSession(1, ""))
		if err == nil {
			t.Fatal("Replace on a dead server succeeded")
		}
		return !errors.Is(err, store.ErrAmbiguous)
	})
}

// TestRedisEveryKeyEnds: no key is immortal, and each ends five minutes after what
// it holds.
func TestRedisEveryKeyEnds(t *testing.T) {
	redisEach(t, []string{"redis", "redis-cluster", "valkey"}, func(t *testing.T, srv *testserver.Server) {
		f := redisFix(t, srv)
		ctx := t.Context()
		seed := rand.Uint64()
		r := rand.New(rand.NewPCG(seed, 0))
		versions := map[int]uint64{}
		for range 400 {
			i := r.IntN(12)
			rec := redisSession(i, []string{"", "alice", "bob"}[i%3])
			rec.Deadline = rec.Created.Add(time.Duration(1+r.IntN(72)) * time.Hour).Truncate(time.Millisecond)
			rec.Expires = rec.Created.Add(time.Duration(1+r.IntN(59)) * time.Minute).Truncate(time.Millisecond)
			rec.Version = uint64(r.Uint32())
			k := numberedKey(i)
			var err error
			switch r.IntN(6) {
			case 0, 1:
				err = f.Create(ctx, k, rec)
			case 2, 3:
				err = f.Replace(ctx, k, versions[i], rec)
			case 4:
				err = f.Touch(ctx, k, time.Now().Add(time.Duration(r.IntN(5000))*time.Minute))
				rec.Version = versions[i]
			case 5:
				_, err = f.Delete(ctx, k)
			}
			switch {
			case err == nil:
				versions[i] = rec.Version
			case errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrConflict):
			default:
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
		var last time.Time // the last deadline of an owner's session
		for i := range 12 {
			if got, err := f.Get(ctx, numberedKey(i)); err == nil && got.Deadline.After(last) {
				last = got.Deadline
			}
		}
		for name, c := range redisKeys(t, f.admin, f.prefix) {
			ms, err := redisDo(t, c, "PTTL", name).AsInt64()
			if err != nil {
				t.Fatal(err)
			}
			if ms < 0 {
				t.Errorf("seed %d: a key of sort %s never ends", seed, name[len(f.prefix):len(f.prefix)+1])
			}
			if strings.HasPrefix(name, f.prefix+"s:") {
				// PEXPIRETIME needs 7.0, which the servers here have.
				end, err := redisDo(t, c, "PEXPIRETIME", name).AsInt64()
				if err != nil {
					t.Fatal(err)
				}
				for i := range 12 {
					got, err := f.Get(ctx, numberedKey(i))
					if err == nil && end == got.Expires.Add(5*time.Minute).UnixMilli() {
						end = 0
						break
					}
				}
				if end != 0 {
					t.Errorf("seed %d: a record's key does not end five minutes after a record's expiry", seed)
				}
			}
		}
	})
}

// TestRedisTTLFollowsExpiry: the key's end moves with the record's, by every
// method, and not back by a touch.
func TestRedisTTLFollowsExpiry(t *testing.T) {
	srv := redisShared(t, "redis")
	f := redisFix(t, srv)
	ctx := t.Context()
	k, r := numberedKey(1), redisSession(1, "alice")
	var key string
	var c rueidis.Client
	ends := func(what string, want time.Time) {
		t.Helper()
		if key == "" {
			key, c = f.one(t, "s")
		}
		got, err := redisDo(t, c, "PEXPIRETIME", key).AsInt64()
		if err != nil || got != want.Add(5*time.Minute).UnixMilli() {
			t.Errorf("after %s the key ends at %v, %v; want five minutes after %v", what, time.UnixMilli(got).UTC(), err, want)
		}
	}
	redisMust(t, "Create", f.Create(ctx, k, r))
	ends("Create", r.Expires)
	later := r.Expires.Add(time.Hour)
	redisMust(t, "Touch", f.Touch(ctx, k, later))
	ends("Touch", later)
	redisMust(t, "Touch", f.Touch(ctx, k, r.Expires))
	ends("a Touch to an earlier time", later)
	redisMust(t, "Touch", f.Touch(ctx, k, r.Deadline.Add(time.Hour)))
	ends("a Touch past the deadline", r.Deadline)
	next := r
	next.Version = 2
	redisMust(t, "Replace", f.Replace(ctx, k, 1, next))
	ends("a Replace to an earlier expiry", r.Expires)
	next.Version, next.Deadline, next.Expires = 3, r.Expires, r.Expires.Add(-time.Minute)
	redisMust(t, "Replace", f.Replace(ctx, k, 2, next))
	ends("a Replace to an earlier deadline", next.Expires)
	past := next
	past.Version, past.Deadline, past.Expires = 4, r.Deadline, r.Deadline
	redisMust(t, "Replace", f.Replace(ctx, k, 3, past))
	ends("a Replace past the deadline", next.Deadline)
}

// TestRedisRoundTrips counts commands: a record's own change is one.
func TestRedisRoundTrips(t *testing.T) {
	srv := testserver.Start(t, "redis", nil)
	s := redisOpen(t, srv.URL, nil)
	c := redisClient(t, srv, srv.Nodes[0].Addr, "")
	ctx := t.Context()
	next := func(i int, v uint64) store.Record { r := redisSession(i, ""); r.Version = v; return r }
	calls := []struct {
		name string
		call func() error
		want map[string]int // commands
	}{
		{"Create", func() error { return s.Create(ctx, numberedKey(1), redisSession(1, "")) }, map[string]int{"evalsha": 1}},
		{"Get", func() error { _, err := s.Get(ctx, numberedKey(1)); return err }, map[string]int{"get": 1}},
		{"Replace", func() error { return s.Replace(ctx, numberedKey(1), 1, next(1, 2)) }, map[string]int{"evalsha": 1}},
		{"Touch", func() error { return s.Touch(ctx, numberedKey(1), time.Now().Add(90*time.Minute)) }, map[string]int{"evalsha": 1}},
		{"Delete", func() error { _, err := s.Delete(ctx, numberedKey(1)); return err }, map[string]int{"evalsha": 1}},
		{"Create with an owner", func() error { return s.Create(ctx, numberedKey(2), redisSession(2, "alice")) }, map[string]int{"evalsha": 2, "zscore": 2}},
		{"Replace with an owner", func() error {
			r := redisSession(2, "alice")
			r.Version = 2
			return s.Replace(ctx, numberedKey(2), 1, r)
		}, map[string]int{"evalsha": 1}},
		{"Touch with an owner", func() error { return s.Touch(ctx, numberedKey(2), time.Now().Add(90*time.Minute)) }, map[string]int{"evalsha": 2, "zscore": 1}},
		{"Delete with an owner", func() error { _, err := s.Delete(ctx, numberedKey(2)); return err }, map[string]int{"evalsha": 1, "zrem": 1}},
	}
	// Commands that scripts call count, too: one ZSCORE of each that enters.
	for _, x := range calls { // scripts are sent whole the first time
		redisMust(t, x.name, x.call())
	}
	for _, x := range calls {
		redisDo(t, c, "CONFIG", "RESETSTAT")
		redisMust(t, x.name, x.call())
		for _, cmd := range []string{"get", "evalsha", "eval", "zscore", "zrem", "set", "del"} {
			if got := redisCalls(t, c, cmd); cmd != "set" && cmd != "del" && cmd != "zrem" && got != x.want[cmd] || cmd == "zrem" && got < x.want[cmd] {
				t.Errorf("%s sends %d times %s; want %d", x.name, got, cmd, x.want[cmd])
			}
		}
	}
}

// redisCalls returns how often the server has run a command since its statistics
// were reset; those that scripts call count, too.
func redisCalls(t testing.TB, c rueidis.Client, command string) int {
	t.Helper()
	text, err := redisDo(t, c, "INFO", "commandstats").ToString()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, "cmdstat_"+command+":calls="); ok {
			n, _, _ := strings.Cut(rest, ",")
			calls, err := strconv.Atoi(n)
			if err != nil {
				t.Fatal(err)
			}
			return calls
		}
	}
	return 0
}

// members returns the entries of all owners, with their scores.
func (f redisFixture) members(t testing.TB) map[string]float64 {
	t.Helper()
	names := redisKeys(t, f.admin, f.prefix+"o:")
	all := map[string]float64{}
	for name, c := range names {
		list, err := redisDo(t, c, "ZRANGE", name, "0", "-1", "WITHSCORES").AsZScores()
		if err != nil {
			t.Fatal(err)
		}
		for _, z := range list {
			all[z.Member] = z.Score
		}
	}
	return all
}

// redisEntry makes entries of an owner from one that the store has made. The layout
// is in redisstore's owner.go.
type redisEntry struct {
	tag   string
	score int64
}

func (f redisFixture) entry(t testing.TB) redisEntry {
	t.Helper()
	for member, score := range f.members(t) {
		return redisEntry{member[:len(member)-len(store.Key{})], int64(score)}
	}
	t.Fatal("no entry")
	return redisEntry{}
}

func (e redisEntry) member(i int) string { k := numberedKey(i); return e.tag + string(k[:]) }

// made returns the score of an entry as of age ago whose deadline is in life.
func (e redisEntry) made(age, life time.Duration) string {
	now := time.Now()
	return strconv.FormatInt(e.score>>33<<33|(now.Add(life).Unix()/256+1)<<9|now.Add(-age).Unix()/8&511, 10)
}

// stranger is that of another owner in the same set.
func (e redisEntry) stranger(n int64) redisEntry {
	return redisEntry{fmt.Sprintf("%03d", n%1000), (e.score>>33+n*7919)%(1<<19)<<33 | e.score&(1<<33-1)}
}

// TestRedisIndexHeals: what a crash between the two writes, or a failover, leaves
// in an index goes when somebody looks, and what it loses comes back by a touch.
func TestRedisIndexHeals(t *testing.T) {
	redisEach(t, []string{"redis", "redis-cluster", "valkey"}, func(t *testing.T, srv *testserver.Server) {
		ctx := t.Context()
		fix := func(t *testing.T) (redisFixture, redisEntry, string, rueidis.Client) {
			f := redisFix(t, srv)
			redisMust(t, "Create", f.Create(ctx, numberedKey(1), redisSession(1, "alice")))
			name, c := f.one(t, "o")
			return f, f.entry(t), name, c
		}
		for method, look := range map[string]func(f redisFixture) error{
			"ListOwner": func(f redisFixture) error { _, err := f.ListOwner(ctx, "alice"); return err },
			"DeleteOwner": func(f redisFixture) error {
				_, err := f.DeleteOwner(ctx, "alice", redisSession(1, "").Handle)
				return err
			},
		} {
			t.Run(method+" prunes", func(t *testing.T) {
				f, e, index, c := fix(t)
				redisDo(t, c, "ZADD", index, e.made(0, time.Hour), e.member(2))              // a Create that is under way
				redisDo(t, c, "ZADD", index, e.made(50*time.Second, time.Hour), e.member(3)) // a slow one
				redisDo(t, c, "ZADD", index, e.made(2*time.Minute, time.Hour), e.member(4))  // one that never arrived
				other := redisEntry{"xyz", e.score}                                          // whose hash begins alike, but for the member
				redisDo(t, c, "ZADD", index, other.made(2*time.Minute, time.Hour), other.member(5))
				redisMust(t, method, look(f))
				m := f.members(t)
				for i, want := range map[int]bool{1: true, 2: true, 3: true, 4: false} {
					if _, got := m[e.member(i)]; got != want {
						t.Errorf("entry %d is there: %v; want %v", i, got, want)
					}
				}
				if _, got := m[other.member(5)]; !got {
					t.Error("an entry of another owner is gone, which is nobody's business here")
				}
			})
			t.Run(method+" leaves who has the same place alone", func(t *testing.T) {
				f, e, index, c := fix(t)
				bob := redisSession(2, "bob")
				redisMust(t, "Create", f.Create(ctx, numberedKey(2), bob))
				redisDo(t, c, "ZADD", index, e.made(2*time.Minute, time.Hour), e.member(2)) // if hashes were alike
				other := redisEntry{"xyz", e.score}                                         // alike but for the last part: is not even read
				redisDo(t, c, "ZADD", index, other.made(0, time.Hour), other.member(1))
				redisMust(t, method, look(f))
				if _, ok := f.members(t)[e.member(2)]; !ok {
					t.Error("the entry of an owner whose hash is the same is gone: no revocation will find the session")
				}
				if _, err := f.Get(ctx, numberedKey(2)); err != nil {
					t.Errorf("Get of the other's session: %v", err)
				}
				if list, err := f.ListOwner(ctx, "alice"); err != nil || len(list) != 1 {
					t.Errorf("ListOwner: %d sessions, %v; want the owner's one", len(list), err)
				}
			})
		}
		t.Run("past deadlines go when others enter", func(t *testing.T) {
			f, e, index, c := fix(t)
			other := e.stranger(1) // whoever it is: few entries are all looked at
			redisDo(t, c, "ZADD", index, other.made(time.Hour, -15*time.Minute), other.member(2))
			redisDo(t, c, "ZADD", index, other.made(time.Hour, -4*time.Minute), other.member(3)) // not by every clock
			redisMust(t, "Create", f.Create(ctx, numberedKey(5), redisSession(5, "alice")))
			for range 200 { // one in four looks
				redisMust(t, "Touch", f.Touch(ctx, numberedKey(1), time.Now()))
			}
			m := f.members(t)
			if _, ok := m[other.member(2)]; ok || len(m) != 3 {
				t.Errorf("%d entries, the one past its deadline among them: %v; want 3 without it", len(m), ok)
			}
		})
		t.Run("whoever enters, those past their deadlines become few", func(t *testing.T) {
			f, e, index, c := fix(t)
			touch := func() { redisMust(t, "Touch", f.Touch(ctx, numberedKey(1), time.Now())) }
			dead := func() int {
				n, last := 0, time.Now().Add(-10*time.Minute).Unix()
				for _, score := range f.members(t) {
					if int64(score)>>9%(1<<24)*256 < last {
						n++
					}
				}
				return n
			}
			// Each that comes has, in the long run, one that ends.
			const n = 600
			for i := range n {
				a, b := e.stranger(int64(2*i+1)), e.stranger(int64(2*i+2))
				redisDo(t, c, "ZADD", index, a.made(time.Hour, time.Hour), a.member(i), b.made(time.Hour, -time.Hour), b.member(i))
				touch()
			}
			// A quarter of all is a third of those that live.
			if got := dead(); got > n/2 {
				t.Errorf("%d entries past their deadlines of %d; want about a third", got, n)
			}
			for i := 0; dead() > 0; i++ {
				if i == 100 {
					t.Fatalf("after 20,000 touches %d entries past their deadlines are still there", dead())
				}
				for range 200 {
					touch()
				}
			}
			if got := len(f.members(t)); got != n+1 {
				t.Errorf("%d entries; want the %d that are not past their deadlines", got, n+1)
			}
		})
		t.Run("a large set is as a small one", func(t *testing.T) {
			f, e, index, c := fix(t)
			for i := range 500 { // the server keeps up to 128 as a list
				other := e.stranger(int64(i + 1))
				redisDo(t, c, "ZADD", index, other.made(time.Hour, time.Hour), other.member(i))
			}
			const n = 300
			for i := 2; i <= n; i++ {
				redisMust(t, "Create", f.Create(ctx, numberedKey(i), redisSession(i, "alice")))
			}
			if found, err := f.Delete(ctx, numberedKey(n)); !found || err != nil {
				t.Errorf("Delete: %v, %v", found, err)
			}
			if list, err := f.ListOwner(ctx, "alice"); len(list) != n-1 || err != nil {
				t.Errorf("ListOwner: %d sessions, %v; want %d", len(list), err, n-1)
			}
			if ended, err := f.DeleteOwner(ctx, "alice"); ended != n-1 || err != nil {
				t.Errorf("DeleteOwner: %d sessions, %v; want %d", ended, err, n-1)
			}
			if got := len(f.members(t)); got != 500 {
				t.Errorf("%d entries are left; want 500 of others", got)
			}
		})
		t.Run("an entry that is made anew is another", func(t *testing.T) {
			f, e, _, _ := fix(t)
			record, rc := f.one(t, "s")
			for range 3 {
				before := f.members(t)[e.member(1)]
				redisDo(t, rc, "DEL", record)
				redisMust(t, "Create", f.Create(ctx, numberedKey(1), redisSession(1, "alice")))
				if after := f.members(t)[e.member(1)]; after == before {
					t.Error("the score is as before: who saw the record gone would throw the new entry out")
				}
			}
		})
		t.Run("a touch leaves an entry as it is", func(t *testing.T) {
			f, e, index, c := fix(t)
			k := numberedKey(1)
			r, err := f.Get(ctx, k)
			redisMust(t, "Get", err)
			for life, same := range map[time.Duration]bool{time.Until(r.Deadline): true, time.Minute: false} {
				score := e.made(time.Minute, life)
				redisDo(t, c, "ZADD", index, score, e.member(1))
				redisMust(t, "Touch", f.Touch(ctx, k, time.Now().Add(2*time.Hour)))
				if after := strconv.FormatInt(int64(f.members(t)[e.member(1)]), 10); (after == score) != same {
					t.Errorf("an entry that ends in %v has the score %s, and %s after a touch", life, score, after)
				}
			}
		})
		t.Run("a lost index comes back by a touch", func(t *testing.T) {
			f, _, index, c := fix(t)
			redisDo(t, c, "DEL", index)
			redisMust(t, "Touch", f.Touch(ctx, numberedKey(1), time.Now().Add(2*time.Hour)))
			if list, err := f.ListOwner(ctx, "alice"); err != nil || len(list) != 1 {
				t.Errorf("ListOwner: %d sessions, %v; want the one that was touched", len(list), err)
			}
		})
		t.Run("a create whose entry was pruned is no session", func(t *testing.T) {
			f, _, index, c := fix(t)
			stop := make(chan struct{})
			var wg sync.WaitGroup
			wg.Go(func() { // who prunes as fast as can be
				for {
					select {
					case <-stop:
						return
					default:
						_ = c.Do(ctx, c.B().Del().Key(index).Build()).Error()
					}
				}
			})
			i := 100
			redisEventually(t, "a Create to notice that its entry is gone", func() bool {
				i++
				err := f.Create(ctx, numberedKey(i), redisSession(i, "alice"))
				if err != nil && !errors.Is(err, store.ErrNotFound) {
					t.Fatalf("Create: %v; want success or ErrNotFound", err)
				}
				return err != nil
			})
			close(stop)
			wg.Wait()
			if _, err := f.Get(ctx, numberedKey(i)); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("Get after it: %v; want ErrNotFound: the session would be in no list", err)
			}
		})
		t.Run("a create that conflicts leaves the entry as long as the record", func(t *testing.T) {
			f, e, _, _ := fix(t)
			before := f.members(t)[e.member(1)]
			brief := redisSession(1, "alice")
			brief.Deadline, brief.Expires = time.Now().Add(time.Minute), time.Now().Add(time.Minute)
			if err := f.Create(ctx, numberedKey(1), brief); !errors.Is(err, store.ErrConflict) {
				t.Fatalf("Create over a live session: %v; want ErrConflict", err)
			}
			if after := f.members(t)[e.member(1)]; int64(after)>>9 != int64(before)>>9 {
				t.Errorf("the entry of a live session now ends %d s earlier: it would be pruned, and a revocation miss the session", (int64(before)>>9-int64(after)>>9)*256)
			}
		})
		t.Run("a create that conflicts leaves no entry of another owner", func(t *testing.T) {
			f, e, _, _ := fix(t)
			if err := f.Create(ctx, numberedKey(1), redisSession(1, "bob")); !errors.Is(err, store.ErrConflict) {
				t.Fatalf("Create over a live session: %v; want ErrConflict", err)
			}
			if m := f.members(t); len(m) != 1 || m[e.member(1)] == 0 {
				t.Errorf("%d entries; want alice's alone", len(m))
			}
		})
		t.Run("owners are bytes", func(t *testing.T) {
			f := redisFix(t, srv)
			owners := []string{"\x00", "\x00\x00", "\xff\xfe{}", "a\r\nb", strings.Repeat("\xe9", store.MaxOwner), "jos\u00e9", "JOS\u00c9 "}
			for i, o := range owners {
				redisMust(t, "Create", f.Create(ctx, numberedKey(i), redisSession(i, o)))
			}
			for i, o := range owners {
				list, err := f.ListOwner(ctx, o)
				if err != nil || len(list) != 1 || list[0].Owner != o || list[0].Key != numberedKey(i) {
					t.Errorf("ListOwner of owner %d: %d sessions, %v", i, len(list), err)
				}
			}
			if n, err := f.DeleteOwner(ctx, owners[0]); n != 1 || err != nil {
				t.Errorf("DeleteOwner: %d, %v", n, err)
			}
		})
	})
}

// TestRedisVersionsAreBytes: Lua's numbers are doubles, and these differ where
// doubles do not.
func TestRedisVersionsAreBytes(t *testing.T) {
	redisEach(t, []string{"redis", "valkey"}, func(t *testing.T, srv *testserver.Server) {
		f := redisFix(t, srv)
		for i, v := range []uint64{0, 1, 1 << 53, 1 << 63, 1<<64 - 2} {
			k, r := numberedKey(i), redisSession(i, "")
			r.Version = v
			redisMust(t, "Create", f.Create(t.Context(), k, r))
			for _, other := range []uint64{v ^ 1, v ^ 1<<63, v ^ 1<<52, v + 1<<32} {
				if err := f.Replace(t.Context(), k, other, r); !errors.Is(err, store.ErrConflict) {
					t.Errorf("Replace of version %#x by %#x: %v; want ErrConflict", v, other, err)
				}
			}
			redisMust(t, "Replace", f.Replace(t.Context(), k, v, r))
		}
	})
}

// TestRedisRevocationRacesSignIn: whatever the interleaving, no session is alive
// that its owner's list does not show.
func TestRedisRevocationRacesSignIn(t *testing.T) {
	redisEach(t, []string{"redis", "redis-cluster"}, func(t *testing.T, srv *testserver.Server) {
		f := redisFix(t, srv)
		other := redisOpen(t, srv.URL, &redisstore.Options{Prefix: f.prefix})
		ctx := t.Context()
		rounds := 60
		if testing.Short() {
			rounds = 10
		}
		for round := range rounds {
			owner := fmt.Sprintf("owner %d", round)
			const n = 8
			created := make([]error, n)
			var wg sync.WaitGroup
			for i := range n {
				wg.Go(func() { created[i] = f.Create(ctx, numberedKey(round*n+i), redisSession(round*n+i, owner)) })
			}
			for range 3 {
				wg.Go(func() {
					if _, err := other.DeleteOwner(ctx, owner); err != nil {
						t.Errorf("DeleteOwner: %v", err)
					}
				})
			}
			wg.Wait()
			list, err := other.ListOwner(ctx, owner)
			if err != nil {
				t.Fatal(err)
			}
			listed := map[store.Key]bool{}
			for _, kr := range list {
				listed[kr.Key] = true
			}
			for i, err := range created {
				if err != nil && !errors.Is(err, store.ErrNotFound) {
					t.Fatalf("Create: %v", err)
				}
				k := numberedKey(round*n + i)
				if _, err := f.Get(ctx, k); err == nil && !listed[k] {
					t.Fatalf("round %d: a session is alive that its owner's list does not show: no revocation will find it", round)
				}
			}
		}
	})
}

// TestRedisListWhileWriting: what lives throughout is listed, from every primary.
func TestRedisListWhileWriting(t *testing.T) {
	redisEach(t, []string{"redis", "redis-cluster", "redis-cluster-tls"}, func(t *testing.T, srv *testserver.Server) {
		f := redisFix(t, srv)
		const n = 1500
		for i := range n {
			redisMust(t, "Create", f.Create(t.Context(), numberedKey(i), redisSession(i, "")))
		}
		stop := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			for i := n; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				if err := f.Create(t.Context(), numberedKey(i), redisSession(i, "")); err != nil {
					t.Errorf("Create: %v", err)
					return
				}
				if i%2 == 0 {
					_, _ = f.Delete(t.Context(), numberedKey(i))
				}
			}
		})
		found := map[store.Key]bool{}
		for kr, err := range f.List(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			found[kr.Key] = true
		}
		close(stop)
		wg.Wait()
		missing := 0
		for i := range n {
			if !found[numberedKey(i)] {
				missing++
			}
		}
		if missing > 0 {
			t.Errorf("List has missed %d of %d sessions that were there throughout", missing, n)
		}
		if srv.Kind != "redis" && len(redisPrimaries(t, f.admin)) < 3 {
			t.Error("the cluster has fewer primaries than three: this test shows nothing")
		}
	})
}

// TestRedisRefusals: a server that takes no writes says why, and the write is
// neither ambiguous nor a conflict.
func TestRedisRefusals(t *testing.T) {
	notShort(t)
	t.Parallel()
	seen := map[string]string{}
	check := func(t *testing.T, name, want string, s *redisstore.Store, refused func(t *testing.T, what string, err error)) {
		t.Helper()
		for op, err := range map[string]error{
			"Create":  s.Create(t.Context(), numberedKey(2), redisSession(2, "")),
			"Replace": s.Replace(t.Context(), numberedKey(1), 1, redisSession(1, "")),
		} {
			refused(t, op, err)
			if err == nil {
				continue
			}
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v; want something about %q", op, err, want)
			}
			if other, ok := seen[err.Error()]; ok && other != name {
				t.Errorf("%s and %s have the same error %v", name, other, err)
			}
			seen[err.Error()] = name
		}
		if _, err := s.Get(t.Context(), numberedKey(1)); err != nil {
			t.Errorf("Get: %v; want that reads go on", err)
		}
	}
	t.Run("full", func(t *testing.T) {
		srv := testserver.Start(t, "redis", nil)
		s := redisOpen(t, srv.URL, nil)
		redisMust(t, "Create", s.Create(t.Context(), numberedKey(1), redisSession(1, "")))
		redisDo(t, redisClient(t, srv, srv.Nodes[0].Addr, ""), "CONFIG", "SET", "maxmemory", "1")
		check(t, "full", "more memory", s, forGood)
		if existed, err := s.Delete(t.Context(), numberedKey(1)); err != nil || !existed {
			t.Errorf("Delete on a full server: %v, %v; want that signing out goes on", existed, err)
		}
	})
	t.Run("replica", func(t *testing.T) {
		srv := redisShared(t, "redis-sentinel")
		prefix := redisPrefix()
		redisMust(t, "Create", redisOpen(t, srv.URL, &redisstore.Options{Prefix: prefix, MinReplicas: 2, ReplicaTimeout: 10 * time.Second}).
			Create(t.Context(), numberedKey(1), redisSession(1, "")))
		for _, n := range srv.Nodes {
			if n.Role == "replica" {
				check(t, "replica", "connect to the primary", redisOpen(t, "redis://"+n.Addr, &redisstore.Options{Prefix: prefix}), refused)
				return
			}
		}
	})
	t.Run("cannot save", func(t *testing.T) {
		srv := testserver.Start(t, "redis", &testserver.Options{Config: []string{"save 3600 1000000", "stop-writes-on-bgsave-error yes", "enable-protected-configs yes"}})
		s := redisOpen(t, srv.URL, nil)
		c := redisClient(t, srv, srv.Nodes[0].Addr, "")
		redisMust(t, "Create", s.Create(t.Context(), numberedKey(1), redisSession(1, "")))
		// The snapshot cannot be moved to where a folder is.
		dir := redisDo(t, c, "CONFIG", "GET", "dir")
		m, err := dir.AsStrMap()
		redisMust(t, "CONFIG GET", err)
		redisMust(t, "make a folder", os.MkdirAll(filepath.Join(m["dir"], "folder", "x"), 0o700))
		redisDo(t, c, "CONFIG", "SET", "dbfilename", "folder")
		redisDo(t, c, "BGSAVE")
		redisEventually(t, "the snapshot to fail", func() bool {
			text, err := redisDo(t, c, "INFO", "persistence").ToString()
			return err == nil && strings.Contains(text, "rdb_last_bgsave_status:err")
		})
		check(t, "cannot save", "see its log", s, forGood)
	})
}

// TestRedisSilence: a server that has stopped is no absence and no conflict, and
// holds a caller no longer than their deadline.
func TestRedisSilence(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string]*redisstore.Options{"plain": nil, "MinReplicas": {MinReplicas: 1, ReplicaTimeout: 100 * time.Millisecond}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := testserver.Start(t, "redis", nil)
			s := redisOpen(t, srv.URL, opts)
			srv.Freeze(t, "node-1")
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if err := s.Create(ctx, numberedKey(1), redisSession(1, "")); !errors.Is(err, store.ErrAmbiguous) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Create: %v; want ErrAmbiguous and the context's error", err)
			}
			ctx, cancel = context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if _, err := s.Get(ctx, numberedKey(1)); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, store.ErrNotFound) {
				t.Errorf("Get: %v; want the context's error, and no absence", err)
			}
			srv.Thaw(t, "node-1")
			redisEventually(t, "reads to go on by themselves", func() bool {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				_, err := s.Get(ctx, numberedKey(2))
				return errors.Is(err, store.ErrNotFound)
			})
		})
	}
}

// TestRedisThatCannotSave: a server that cannot save to disk refuses writes. It says what is
// wrong, reads go on, behind a breaker, too, and so do writes when the cause is gone.
func TestRedisThatCannotSave(t *testing.T) {
	notShort(t)
	srv := testserver.Start(t, "redis", &testserver.Options{Config: []string{"save 3600 1", "stop-writes-on-bgsave-error yes"}})
	admin := redisClient(t, srv, srv.Nodes[0].Addr, "")
	s := redisOpen(t, srv.URL, nil)
	guarded, err := breaker.New(s, nil)
	redisMust(t, "breaker.New", err)
	k, r := numberedKey(1), numberedSession(1)
	r.Version = 1
	redisMust(t, "Create", s.Create(t.Context(), k, r))

	dir, err := redisDo(t, admin, "CONFIG", "GET", "dir").AsStrMap()
	redisMust(t, "CONFIG GET", err)
	inTheWay := filepath.Join(dir["dir"], "dump.rdb")
	redisMust(t, "Mkdir", os.Mkdir(inTheWay, 0o755))
	redisDo(t, admin, "BGSAVE")
	next := r
	next.Version = 2
	expires := r.Expires
	redisEventually(t, "a write to be refused", func() bool {
		expires = expires.Add(time.Second) // else there is nothing to write
		return s.Touch(t.Context(), k, expires) != nil
	})
	for name, err := range map[string]error{
		"Create":  s.Create(t.Context(), numberedKey(2), r),
		"Replace": s.Replace(t.Context(), k, 1, next),
	} {
		forGood(t, name+" while nothing can be saved", err)
		mentions(t, name+" while nothing can be saved", err, "cannot save to disk")
	}
	pinger, _ := store.As[store.Pinger](guarded)
	for range 20 { // more than open a circuit
		if err := pinger.Ping(t.Context()); err != nil {
			t.Fatalf("Ping: %v; want nil: the server answers", err)
		}
		if got, err := guarded.Get(t.Context(), k); err != nil || got.Version != 1 {
			t.Fatalf("Get: version %d, %v; want what was there", got.Version, err)
		}
	}
	if f := redisInspect(t, s)["persistence"]; f.Severity != store.SeverityCritical || !strings.Contains(f.Evidence, "refuses writes") {
		t.Errorf("Inspect finds %v: %s; want a critical finding", f.Severity, f.Evidence)
	}

	redisMust(t, "Remove", os.Remove(inTheWay))
	redisDo(t, admin, "BGSAVE")
	redisEventually(t, "writes again", func() bool { return guarded.Replace(t.Context(), k, 1, next) == nil })
}
