package integration

import (
	"strings"
	"testing"
)

// TestRedisURLOfOtherTopology: a URL for a server of another kind is refused when
// it is opened, and not by errors for a part of the sessions.
func TestRedisURLOfOtherTopology(t *testing.T) {
	notShort(t)
	single, cluster := redisShared(t, "redis"), redisShared(t, "redis-cluster")
	refuse := func(rawURL, want string) {
		t.Helper()
		if text := redisBadURL(t, rawURL, ""); !strings.Contains(text, want) {
			t.Errorf("%s: %s\nwant something about %q", rawURL, text, want)
		}
	}
	refuse("redis+cluster://"+single.Nodes[0].Addr, "begin the URL with redis:// or rediss://")
	for _, n := range cluster.Nodes { // replicas, too
		refuse("redis://"+n.Addr, "use a URL that begins with redis+cluster://")
	}
}
