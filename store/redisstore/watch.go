package redisstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/coatcheck/coatcheck/store"
	"github.com/redis/rueidis"
)

// watchInterval is how often the connections that wait for changes are tried, and
// the servers they lead to compared with those that take the writes.
const (
	watchInterval = 250 * time.Millisecond
	watchPatience = time.Second
)

// Watch implements [store.Watcher], by client tracking in broadcast mode on a
// connection of its own to each primary. The keys that are told are those of
// records under [Options.Prefix]; the server keeps nothing per key for it.
func (s *Store) Watch(ctx context.Context, ready func(asOf time.Time), changed func([]store.Key)) error {
	if err := s.watch(ctx, ready, changed); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return readError(ctx, "watch", err)
	}
	return nil
}

func (s *Store) watch(ctx context.Context, ready func(asOf time.Time), changed func([]store.Key)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	nodes, _, err := s.primaries(ctx)
	if err != nil {
		return err
	}
	tell := &teller{changed: changed}
	defer tell.stop()
	broken := make(chan error, len(nodes))
	var streams []rueidis.DedicatedClient
	for _, n := range nodes {
		c, release := n.client.Dedicate()
		// The connection closes rather than return to the pool: a broadcast that is
		// under way must not meet its next user.
		defer release()
		defer c.Close()
		end := c.SetOnInvalidations(func(names []rueidis.RedisMessage) { tell.tell(s, names) })
		go func() { broken <- <-end }()
		if err := s.track(ctx, c); err != nil {
			return fmt.Errorf("%s: %w", n.addr, err)
		}
		streams = append(streams, c)
	}
	began := time.Now()
	tell.do(func() { ready(began) })

	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-broken:
			return fmt.Errorf("a connection that waits for changes broke: %w", cmpErr(err))
		case <-tick.C:
		}
		// A server tells of a change before it answers who has made it, on each
		// connection in order: when it has answered here, what was changed before
		// the question has been told. What is changed on another server is not.
		asOf := time.Now()
		if err := s.tryStreams(ctx, nodes, streams); err != nil {
			return err
		}
		if err := s.samePrimaries(ctx, nodes); err != nil {
			return err
		}
		tell.do(func() { ready(asOf) })
	}
}

// cmpErr gives an end without a reason one.
func cmpErr(err error) error {
	if err == nil {
		return errors.New("it was closed")
	}
	return err
}

// track has the server tell of changes on the connection.
func (s *Store) track(ctx context.Context, c rueidis.DedicatedClient) error {
	// The client may track by itself, in a mode that has to be left first.
	for _, res := range c.DoMulti(ctx,
		c.B().Arbitrary("CLIENT", "TRACKING", "OFF").Build(),
		c.B().Arbitrary("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", s.records).Build()) {
		if err := res.Error(); err != nil {
			return err
		}
	}
	return nil
}

// tryStreams returns an error if a connection is dead without having broken, or
// leads to a server that refuses to read. One of a cluster that cannot see the
// others does, and still answers a PING; it knows nothing of what is changed now.
func (s *Store) tryStreams(ctx context.Context, nodes []node, streams []rueidis.DedicatedClient) error {
	ctx, cancel := context.WithTimeout(ctx, watchPatience)
	defer cancel()
	for i, c := range streams {
		res := c.Do(ctx, c.B().Get().Key(s.recordKey(store.Key{})).Build())
		// That the key is elsewhere is as good an answer as any.
		if err := res.Error(); err != nil && !rueidis.IsRedisNil(err) && !isRedirect(res) {
			return fmt.Errorf("%s does not read on the connection that waits for changes: %w", nodes[i].addr, err)
		}
	}
	return nil
}

// samePrimaries returns an error if other servers than nodes take the writes.
func (s *Store) samePrimaries(ctx context.Context, nodes []node) error {
	ctx, cancel := context.WithTimeout(ctx, watchPatience)
	defer cancel()
	now, _, err := s.primaries(ctx)
	if err != nil {
		return err
	}
	if !slices.EqualFunc(nodes, now, func(a, b node) bool { return a.addr == b.addr }) {
		return errors.New("other servers are primaries now")
	}
	return nil
}

// teller passes on what several connections say, one at a time, and nothing after
// stop.
type teller struct {
	mu      sync.Mutex
	stopped bool
	changed func([]store.Key)
	keys    []store.Key
}

func (t *teller) do(f func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.stopped {
		f()
	}
}

func (t *teller) stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stopped = true
}

// tell passes on the keys named; no names mean that anything may have changed.
func (t *teller) tell(s *Store, names []rueidis.RedisMessage) {
	t.do(func() {
		t.keys = t.keys[:0]
		for _, m := range names {
			name, err := m.ToString()
			if err != nil {
				t.changed(nil)
				return
			}
			if k, ok := s.parseKey(name); ok {
				t.keys = append(t.keys, k)
			}
		}
		if len(t.keys) > 0 || len(names) == 0 {
			t.changed(t.keys)
		}
	})
}
