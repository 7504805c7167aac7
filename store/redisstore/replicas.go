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

// exec runs a script that writes. With [Options.MinReplicas] it answers an
// ErrUnconfirmed if too few replicas have the write in time.
func (s *Store) exec(ctx context.Context, script *script, key string, args ...string) rueidis.RedisResult {
	if s.opts.MinReplicas == 0 {
		return script.exec(ctx, s.client, key, args...)
	}
	// WAIT counts the writes of its own connection alone, and holds it up
	// meanwhile: the script and it need a connection that nobody else uses.
	select {
	case s.waits <- struct{}{}:
		defer func() { <-s.waits }()
	case <-ctx.Done():
		return rueidis.NewErrorResult(notBegun{ctx.Err()})
	}
	var res rueidis.RedisResult
	err := s.client.Dedicated(func(c rueidis.DedicatedClient) error {
		both := c.DoMulti(ctx, script.byHash(c.B(), key, args), s.wait(c.B()))
		if isNoScript(both[0]) {
			both = c.DoMulti(ctx, script.whole(c.B(), key, args), s.wait(c.B()))
		}
		res = both[0]
		if res.Error() != nil {
			return nil
		}
		n, err := both[1].AsInt64()
		switch {
		case err != nil:
			return fmt.Errorf("%w: wait for replicas: %w", store.ErrUnconfirmed, explain(ctx, err))
		case n < int64(s.opts.MinReplicas):
			return fmt.Errorf("%w: %d of %d within %v", store.ErrUnconfirmed, n, s.opts.MinReplicas, s.opts.ReplicaTimeout)
		}
		return nil
	})
	if err != nil {
		return rueidis.NewErrorResult(err)
	}
	return res
}

func (s *Store) wait(b rueidis.Builder) rueidis.Completed {
	ms := (s.opts.ReplicaTimeout.Microseconds() + 999) / 1000
	return b.Wait().Numreplicas(int64(s.opts.MinReplicas)).Timeout(ms).Build()
}
