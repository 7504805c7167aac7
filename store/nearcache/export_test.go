package nearcache

import "github.com/coatcheck/coatcheck/store"

// Flush is what happens when the stream of changes breaks.
func Flush(c *Cache) { c.flush() }

// Spans returns how many keys somebody is reading or writing.
func Spans(c *Cache) int {
	n := 0
	for i := range c.shards {
		sh := &c.shards[i]
		sh.mu.Lock()
		n += len(sh.spans)
		sh.mu.Unlock()
	}
	return n
}

// Invalidate is what happens when k is told to have changed.
func Invalidate(c *Cache, k store.Key) { c.forget(k, 0) }
