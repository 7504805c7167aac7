package integration

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/coatcheck/coatcheck/internal/testserver"
	"github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/store/nearcache"
	"github.com/coatcheck/coatcheck/store/redisstore"
)

// nearShop is a web server with a near cache.
type nearShop struct {
	*shop
	*nearcache.Cache
	stale atomic.Int64 // copies that lacked what their user had written
}

// openNearShop serves the shop from Redis through a cache of its own, with pushed
// invalidation or without.
func openNearShop(t testing.TB, url, prefix string, maxStale time.Duration, push bool) *nearShop {
	t.Helper()
	c, err := nearcache.New(redisOpen(t, url, &redisstore.Options{Prefix: prefix}), &nearcache.Options{
		MaxStale: maxStale,
		Logger:   slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	n := &nearShop{Cache: c}
	n.shop = openShop(t, c, session.Options{Observer: func(_ context.Context, e session.Event) {
		if e.Kind == session.EventStaleRead {
			n.stale.Add(1)
		}
	}})
	if push {
		ctx, cancel := context.WithCancel(context.Background())
		var run sync.WaitGroup
		run.Go(func() { _ = c.Run(ctx) })
		t.Cleanup(func() { cancel(); run.Wait() })
		n.awaitPush(t)
	}
	return n
}

func (n *nearShop) awaitPush(t testing.TB) {
	t.Helper()
	eventually(t, "the stream of changes", func() bool { return n.Stats().Pushing })
}

// hold asks n until it answers b from a copy.
func (n *nearShop) hold(t testing.TB, b *browser) {
	t.Helper()
	eventually(t, "an answer from a copy", func() bool {
		hits := n.Stats().Hits
		b.must(t, n.shop, "/")
		return n.Stats().Hits > hits
	})
}

const longStale = 10 * time.Minute // nothing that a test sees is due to it

// TestRedisNearCacheRevocation: a session that one server ends is dead on the
// other as soon as it is told, and without being told after MaxStale.
func TestRedisNearCacheRevocation(t *testing.T) {
	srv := testserver.Shared(t, "redis")
	rounds := 300
	if testing.Short() {
		rounds = 30
	}
	ways := map[string]func(t *testing.T, a *nearShop, b *browser, owner, handle string){
		"logout with a copy of the cookie": func(t *testing.T, a *nearShop, b *browser, _, _ string) {
			b.copied(t, a.shop).must(t, a.shop, "/logout")
		},
		"Revoke": func(t *testing.T, a *nearShop, _ *browser, owner, handle string) {
			h, err := session.ParseHandle(handle)
			if err != nil {
				t.Fatal(err)
			}
			if found, err := a.Revoke(t.Context(), owner, h); !found || err != nil {
				t.Fatalf("Revoke: %v, %v", found, err)
			}
		},
		"RevokeAll": func(t *testing.T, a *nearShop, _ *browser, owner, _ string) {
			if n, err := a.RevokeAll(t.Context(), owner); n != 1 || err != nil {
				t.Fatalf("RevokeAll: %d, %v", n, err)
			}
		},
	}
	for _, mode := range []struct {
		name     string
		push     bool
		maxStale time.Duration
		rounds   int
	}{
		{"pushed", true, longStale, rounds},
		{"not pushed", false, 200 * time.Millisecond, rounds / 30},
	} {
		t.Run(mode.name, func(t *testing.T) {
			prefix := redisPrefix()
			a := openNearShop(t, srv.URL, prefix, mode.maxStale, mode.push)
			b := openNearShop(t, srv.URL, prefix, mode.maxStale, mode.push)
			tr := shopTransport(t)
			for name, revoke := range ways {
				var took []time.Duration
				lived := 0 // rounds in which the dead session was seen
				for i := range mode.rounds {
					user := newBrowser(t, tr)
					in := user.must(t, a.shop, fmt.Sprintf("/signin?v=%s-%d", prefix[:10], i))
					b.hold(t, user)
					revoke(t, a, user, in.Owner, in.Handle)
					revoked := time.Now()
					seen := false
					eventually(t, "the other server seeing "+name, func() bool {
						r := user.must(t, b.shop, "/")
						if r.Owner == "" {
							took = append(took, time.Since(revoked))
							return true
						}
						seen = true
						// It was read before it was ended, whatever the machine was busy with.
						if r.began.Sub(revoked) > mode.maxStale {
							t.Errorf("%s: the dead session works %v later; want at most MaxStale, %v", name, r.began.Sub(revoked), mode.maxStale)
						}
						return false
					})
					if seen {
						lived++
					}
				}
				if !mode.push && lived == 0 {
					t.Errorf("%s: a copy was never used, so nothing is shown", name)
				}
				t.Logf("%-33s dead on the other server after: %s; the dead session was answered in %d rounds", name+":", spread(took), lived)
			}
		})
	}
}

// nearUser does one thing after the other, on either server, and knows what it
// must see. Nobody else writes its session.
type nearUser struct {
	*browser
	want  shopState
	steps int
	reads int
	stale int
	first string // what was wrong first
}

func (u *nearUser) step(t testing.TB, rng *rand.Rand, id string, servers []*nearShop) {
	s := servers[rng.IntN(len(servers))]
	u.steps++
	path := "/"
	switch n := rng.IntN(100); {
	case n < 50:
		u.reads++
	case n < 70:
		path = "/add"
		u.want.Cart++
	case n < 85:
		u.want.Note = fmt.Sprint("step", u.steps)
		path = "/note?v=" + u.want.Note
	case n < 90:
		u.want.Owner = id
		path = "/signin?v=" + id
	case n < 96:
		path = "/renew"
	default:
		path = "/logout"
		u.want = shopState{}
	}
	r := u.must(t, s.shop, path)
	r.Handle = ""
	if r.shopState != u.want {
		u.stale++
		if u.first == "" {
			u.first = fmt.Sprintf("step %d, %s: read %+v; the user's own last write left %+v", u.steps, path, r.shopState, u.want)
		}
	}
}

// TestRedisNearCacheOwnWrites: a user who goes from server to server, each request
// after the answer to the last, never reads anything older than what they wrote
// last. That must hold where changes are pushed, where they are not, and where
// copies live for minutes, so that the cookie of the version alone prevents it: as
// the last case shows, in which it is never sent.
func TestRedisNearCacheOwnWrites(t *testing.T) {
	srv := testserver.Shared(t, "redis")
	users, steps := 40, 120
	if testing.Short() {
		steps = 30
	}
	for _, mode := range []struct {
		name     string
		push     bool
		maxStale time.Duration
		strip    bool
	}{
		{"pushed", true, 0, false},
		{"not pushed", false, 0, false},
		{"not pushed, copies live for minutes", false, longStale, false},
		{"control: without the cookie of the version", false, longStale, true},
	} {
		t.Run(mode.name, func(t *testing.T) {
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			prefix := redisPrefix()
			servers := []*nearShop{
				openNearShop(t, srv.URL, prefix, mode.maxStale, mode.push),
				openNearShop(t, srv.URL, prefix, mode.maxStale, mode.push),
			}
			tr := shopTransport(t)
			all := make([]*nearUser, users)
			var run sync.WaitGroup
			for i := range all {
				u := &nearUser{browser: newBrowser(t, tr)}
				if mode.strip {
					u.http.Jar = forgetful{u.http.Jar}
				}
				all[i] = u
				run.Go(func() {
					rng := rand.New(rand.NewPCG(seed, uint64(i)))
					for range steps {
						u.step(t, rng, fmt.Sprint("user", i), servers)
					}
				})
			}
			run.Wait()
			var reads, stale, total int
			for i, u := range all {
				if u.stale > 0 && !mode.strip {
					t.Errorf("user %d: %d answers were older than the user's own last write; the first: %s", i, u.stale, u.first)
				}
				reads, stale, total = reads+u.reads, stale+u.stale, total+u.steps
			}
			var hits, through uint64
			for _, s := range servers {
				hits += s.Stats().Hits
				through += uint64(s.stale.Load())
			}
			if mode.strip && stale == 0 {
				t.Error("nobody read anything stale without the cookie of the version, so the other cases show nothing")
			}
			if hits == 0 {
				t.Error("no copy was ever used, so this shows nothing")
			}
			t.Logf("%d users, %d steps, %d of them reads: %d stale answers; %d reads answered from copies, %d copies too old for their user",
				users, total, reads, stale, hits, through)
		})
	}
}

// trackers returns the IDs of the connections to which c's server tells changes.
func trackers(t testing.TB, c rueidis.Client) []string {
	t.Helper()
	list, err := c.Do(t.Context(), c.B().ClientList().Build()).ToString()
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for line := range strings.Lines(list) {
		fields := map[string]string{}
		for f := range strings.FieldsSeq(line) {
			name, value, _ := strings.Cut(f, "=")
			fields[name] = value
		}
		if strings.Contains(fields["flags"], "t") {
			ids = append(ids, fields["id"])
		}
	}
	return ids
}

// TestRedisNearCacheStreamBreaks: when the connection that brings the changes is
// killed, or the database emptied, no copy survives; and changes are pushed again
// soon.
func TestRedisNearCacheStreamBreaks(t *testing.T) {
	l := newLink(t)
	admin := l.admin
	a := openNearShop(t, l.url, "", longStale, true)
	b := openNearShop(t, l.url, "", longStale, true)
	tr := shopTransport(t)
	user := newBrowser(t, tr)
	user.must(t, a.shop, "/signin?v=ann")
	elsewhere := user.copied(t, a.shop) // which knows of no version
	pushed := func(what string) {
		b.hold(t, elsewhere)
		want := user.must(t, a.shop, "/add").Cart
		eventually(t, "a pushed change "+what, func() bool { return elsewhere.must(t, b.shop, "/").Cart == want })
	}
	pushed("at first")

	b.hold(t, elsewhere)
	was := b.Stats()
	ids := trackers(t, admin)
	if len(ids) != 2 || was.Entries == 0 {
		t.Fatalf("%d connections are told of changes and %d copies kept; want 2, of two servers, and at least one", len(ids), was.Entries)
	}
	began := time.Now()
	for _, id := range ids {
		redisMust(t, "CLIENT KILL", redisDo(t, admin, "CLIENT", "KILL", "ID", id).Error())
	}
	eventually(t, "the cache being emptied when its stream broke", func() bool {
		now := b.Stats()
		return now.Flushes > was.Flushes && now.Entries == 0
	})
	emptied := time.Since(began)
	b.awaitPush(t)
	a.awaitPush(t)
	t.Logf("empty %v after CLIENT KILL, pushed again after %v", emptied.Round(time.Microsecond), time.Since(began).Round(time.Millisecond))
	if again := trackers(t, admin); len(again) != 2 || slices.ContainsFunc(again, func(id string) bool { return slices.Contains(ids, id) }) {
		t.Errorf("connections %v are told of changes after %v were killed; want two others", again, ids)
	}
	pushed("after CLIENT KILL")

	// Nor does one survive where the stream cannot come back.
	b.hold(t, elsewhere)
	l.proxy.Stop()
	eventually(t, "the cache being emptied while its server cannot be reached", func() bool {
		return b.Stats().Entries == 0
	})
	if err := l.proxy.Start(); err != nil {
		t.Fatal(err)
	}
	b.awaitPush(t)
	a.awaitPush(t)
	pushed("after the server was away")

	b.hold(t, elsewhere)
	was = b.Stats()
	redisMust(t, "FLUSHALL", redisDo(t, admin, "FLUSHALL").Error())
	eventually(t, "the cache being emptied by FLUSHALL", func() bool {
		now := b.Stats()
		return now.Flushes > was.Flushes && now.Entries == 0
	})
	if r := elsewhere.must(t, b.shop, "/"); r.Owner != "" {
		t.Errorf("a session of %q after FLUSHALL", r.Owner)
	}
}

// TestRedisNearCacheFailover: when a primary of a cluster dies, no copy is used
// for longer than MaxStale, and the new primary pushes changes.
func TestRedisNearCacheFailover(t *testing.T) {
	if testing.Short() {
		t.Skip("a failover takes seconds")
	}
	srv := testserver.Start(t, "redis-cluster", nil)
	const maxStale = time.Second
	writer := openNearShop(t, srv.URL, "", maxStale, false)
	brief := openNearShop(t, srv.URL, "", maxStale, true)
	pushed := openNearShop(t, srv.URL, "", longStale, true) // sees changes by being told, or not at all
	tr := shopTransport(t)
	const users = 12
	var user, elsewhere [users]*browser
	for i := range users {
		user[i] = newBrowser(t, tr)
		user[i].must(t, writer.shop, fmt.Sprintf("/signin?v=user%d", i))
		user[i].must(t, writer.shop, "/add")
		elsewhere[i] = user[i].copied(t, writer.shop)
		brief.hold(t, elsewhere[i])
		pushed.hold(t, elsewhere[i])
	}

	// What a replica does not have yet dies with its primary, which is not what is
	// to be shown here: nobody writes until each has all.
	admin := redisAdmin(t, srv, "")
	for _, c := range redisPrimaries(t, admin) {
		eventually(t, "the replicas having everything", func() bool {
			info, err := c.Do(t.Context(), c.B().Info().Section("replication").Build()).ToString()
			return err == nil && replicated(info)
		})
	}
	broke := pushed.Stats().Flushes
	victim := ""
	for name, c := range admin {
		if slices.Contains(redisPrimaries(t, admin), c) {
			victim = name
			break
		}
	}
	srv.Kill(t, victim)
	killed := time.Now()

	var run sync.WaitGroup
	var failed, checked atomic.Int64
	for i := range users {
		run.Go(func() {
			for range 3 {
				var r reply
				for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
					if r = user[i].ask(t, writer.shop, "/add"); r.status == http.StatusOK {
						break
					}
					failed.Add(1)
					if r.status != http.StatusServiceUnavailable || time.Now().After(end) {
						t.Errorf("user %d cannot write: %d %s", i, r.status, r.outcome)
						return
					}
				}
				written := time.Now()
				for ; ; time.Sleep(20 * time.Millisecond) {
					got := elsewhere[i].ask(t, brief.shop, "/")
					late := got.began.Sub(written)
					if got.status == http.StatusOK && (got.Cart >= r.Cart || got.Owner == "") {
						if got.Owner == "" {
							t.Errorf("user %d was signed out by the failover", i)
						}
						break
					}
					if got.status == http.StatusOK && late > maxStale {
						t.Errorf("user %d: a cart of %d is read %v after one of %d was written; want at most MaxStale, %v", i, got.Cart, late, r.Cart, maxStale)
						break
					}
					if late > time.Minute {
						t.Errorf("user %d cannot read: %d", i, got.status)
						return
					}
				}
				checked.Add(1)
			}
		})
	}
	run.Wait()
	t.Logf("%s killed; everybody has written three times after %v, %d requests failed meanwhile; %d changes seen within MaxStale",
		victim, time.Since(killed).Round(time.Millisecond), failed.Load(), checked.Load())
	if pushed.Stats().Flushes == broke {
		t.Error("the cache was not emptied when a primary died, to which one of its streams led")
	}
	eventually(t, "the stream of changes from the new primaries", func() bool {
		return pushed.Stats().Pushing && brief.Stats().Pushing
	})
	t.Logf("changes are pushed again after %v", time.Since(killed).Round(time.Millisecond))
	for i := range users {
		pushed.hold(t, elsewhere[i])
		want := user[i].must(t, writer.shop, "/add").Cart
		eventually(t, "a change pushed by the primaries after the failover", func() bool {
			return elsewhere[i].must(t, pushed.shop, "/").Cart == want
		})
	}
}

// replicated reports whether INFO replication names a replica that has everything.
func replicated(info string) bool {
	offset, behind, found := "", false, false
	for line := range strings.Lines(info) {
		line = strings.TrimSpace(line)
		if o, ok := strings.CutPrefix(line, "master_repl_offset:"); ok {
			offset = o
		}
	}
	for line := range strings.Lines(info) {
		if strings.HasPrefix(line, "slave") && strings.Contains(line, "state=online") {
			found = true
			behind = behind || !strings.Contains(line, "offset="+offset+",")
		}
	}
	return found && !behind
}

// TestRedisNearCacheStampede: many requests of one session, whose copy is not
// there yet, cost the server one read.
func TestRedisNearCacheStampede(t *testing.T) {
	l := newLink(t)
	writer := openNearShop(t, l.url, "", 0, false)
	tr := shopTransport(t)
	user := newBrowser(t, tr)
	user.must(t, writer.shop, "/signin?v=ann")
	want := user.must(t, writer.shop, "/add").Cart
	cold := openNearShop(t, l.url, "", longStale, false)

	lift := l.toxic(t, "latency", `{"latency": 200}`, "downstream") // so that all come before the first answer
	defer lift()
	before := redisCalls(t, l.admin, "get")
	var crowd sync.WaitGroup
	for range 200 {
		b := user.copied(t, writer.shop)
		crowd.Go(func() {
			if r := b.must(t, cold.shop, "/"); r.Owner != "ann" || r.Cart != want {
				t.Errorf("owner %q, a cart of %d; want ann's, %d", r.Owner, r.Cart, want)
			}
		})
	}
	crowd.Wait()
	s := cold.Stats()
	n := redisCalls(t, l.admin, "get") - before
	if n != 1 {
		t.Errorf("200 requests of one session made %d GETs; want 1", n)
	}
	t.Logf("200 requests: %d GET; %d waited for it, %d came later", n, s.Misses, s.Hits)
}

// TestRedisNearCacheStaysWarm: while Redis answers on the connection that it tells
// of changes on, copies are used for longer than MaxStale; a server that hangs
// vouches for none.
func TestRedisNearCacheStaysWarm(t *testing.T) {
	srv := testserver.Start(t, "redis", nil)
	const maxStale = time.Second
	n := openNearShop(t, srv.URL, redisPrefix(), maxStale, true)
	b := newBrowser(t, nil)
	b.must(t, n.shop, "/signin?v=alice")
	n.hold(t, b)
	loads := n.Stats().Loads
	for end := time.Now().Add(3 * maxStale); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		b.must(t, n.shop, "/")
	}
	if s := n.Stats(); s.Loads != loads || s.Flushes != 1 {
		t.Errorf("within three times MaxStale the store was read %d times, with %d flushes; want no read, and the flush that the stream began with", s.Loads-loads, s.Flushes)
	}

	srv.Freeze(t, "node-1")
	defer srv.Thaw(t, "node-1")
	eventually(t, "a read that no copy answers, since the server hangs", func() bool {
		return b.ask(t, n.shop, "/").status == http.StatusServiceUnavailable
	})
}
