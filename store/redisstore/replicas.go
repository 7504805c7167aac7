package redisstore

import (
	"context"
	"fmt"

	"github.com/coatcheck/coatcheck/store"
	"github.com/redis/rueidis"
)

// maxWaits bounds the writes that wait for replicas at once, each on a connection
// of its own. With a replica that has stopped it is also what a server takes: 256
// writes a second, none of which it can confirm.
const maxWaits = 128

// Confirms implements [store.Confirmer]: with [Options.MinReplicas], writes wait for
// replicas.
func (s *Store) Confirms() bool { return s.opts.MinReplicas > 0 }

// execNow runs a script without waiting for replicas.
func (s *Store) execNow(ctx context.Context, x *script, key string, args ...string) rueidis.RedisResult {
	return x.exec(ctx, s.client, key, args...)
}

// exec runs a script that writes. With [Options.MinReplicas] it answers an
// ErrUnconfirmed if too few replicas have the write in time.
func (s *Store) exec(ctx context.Context, x *script, key string, args ...string) rueidis.RedisResult {
	if s.opts.MinReplicas == 0 {
		return s.execNow(ctx, x, key, args...)
	}
	select {
	case s.waits <- struct{}{}:
	case <-ctx.Done():
		return rueidis.NewErrorResult(notBegun{ctx.Err()})
	}
	// To get a connection may take longer than ctx, which it does not look at.
	answered := make(chan rueidis.RedisResult, 1)
	go func() {
		defer func() { <-s.waits }()
		answered <- s.execAndWait(ctx, x, key, args)
	}()
	select {
	case res := <-answered:
		return res
	case <-ctx.Done():
		return rueidis.NewErrorResult(ctx.Err())
	}
}

// execAndWait has a connection that nobody else uses: WAIT counts the writes of its
// own connection alone, and holds it up meanwhile. Any command on it makes WAIT ask
// for all that the server has written so far.
func (s *Store) execAndWait(ctx context.Context, x *script, key string, args []string) rueidis.RedisResult {
	c, release := s.client.Dedicate()
	defer release()
	if ctx.Err() != nil {
		return rueidis.NewErrorResult(notBegun{ctx.Err()})
	}
	both := c.DoMulti(ctx, x.byHash(c.B(), key, args), s.wait(c.B()))
	if isNoScript(both[0]) {
		both = c.DoMulti(ctx, x.whole(c.B(), key, args), s.wait(c.B()))
	}
	if ctx.Err() != nil {
		c.Close() // the next user would wait for what this one did not
	}
	if isRedirect(both[0]) {
		// Slots are moving. This connection leads to one server; the client knows
		// the way, but not to the replicas there.
		if res := s.execNow(ctx, x, key, args...); res.Error() != nil {
			return res
		}
		return rueidis.NewErrorResult(fmt.Errorf("%w: the slot is moving", store.ErrUnconfirmed))
	}
	if both[0].Error() != nil {
		return both[0]
	}
	n, err := both[1].AsInt64()
	switch {
	case err != nil:
		return rueidis.NewErrorResult(fmt.Errorf("%w: wait for replicas: %w", store.ErrUnconfirmed, explain(ctx, err)))
	case n < int64(s.opts.MinReplicas):
		return rueidis.NewErrorResult(fmt.Errorf("%w: %d of %d within %v", store.ErrUnconfirmed, n, s.opts.MinReplicas, s.opts.ReplicaTimeout))
	}
	return both[0]
}

// isRedirect reports whether the server has sent a command elsewhere, undone.
func isRedirect(res rueidis.RedisResult) bool {
	e, ok := rueidis.IsRedisErr(res.Error())
	if !ok {
		return false
	}
	_, moved := e.IsMoved()
	_, ask := e.IsAsk()
	return moved || ask || e.IsTryAgain()
}

// confirm waits for replicas of what a pipeline has done under keys, by running the
// script again, which finds it done.
func (s *Store) confirm(ctx context.Context, x *script, keys, args []string) error {
	if s.opts.MinReplicas == 0 {
		return nil
	}
	for _, key := range keys {
		if err := s.exec(ctx, x, key, args...).Error(); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) wait(b rueidis.Builder) rueidis.Completed {
	ms := (s.opts.ReplicaTimeout.Microseconds() + 999) / 1000
	return b.Wait().Numreplicas(int64(s.opts.MinReplicas)).Timeout(ms).Build()
}
