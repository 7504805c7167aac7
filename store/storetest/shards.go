package storetest

import "github.com/coatcheck/coatcheck/store"

var shardRules = []rule{
	{
		name: "in-range",
		says: "There is at least one shard, and Shard of any key is from 0 to Shards()-1.",
		why:  "A breaker keeps a circuit for each, in a slice.",
		look: "shards counted from 1; signed remainders.",
		run: func(x *script) {
			sh := need[store.Sharded](x)
			n := sh.Shards()
			if n < 1 {
				x.Fatalf("Shards = %d; want at least 1", n)
			}
			for range 1000 {
				if i := sh.Shard(x.key()); i < 0 || i >= n {
					x.Fatalf("Shard of a key is %d of %d; want 0 to %d", i, n, n-1)
				}
			}
		},
	},
	{
		name: "stable",
		says: "The number of shards, and the shard of a key, stay the same for the life of the store.",
		why:  "The outage of one server would be counted against others.",
		look: "slots that move; then number by what does not, such as a hash of the key.",
		run: func(x *script) {
			sh := need[store.Sharded](x)
			n := sh.Shards()
			first := make(map[store.Key]int)
			for range 200 {
				k := x.key()
				first[k] = sh.Shard(k)
			}
			for range 5 {
				x.created(x.session("alice"))
				if again := sh.Shards(); again != n {
					x.Fatalf("Shards was %d, and is %d", n, again)
				}
				for k, i := range first {
					if again := sh.Shard(k); again != i {
						x.Fatalf("Shard of a key was %d, and is %d", i, again)
					}
				}
			}
		},
	},
}
