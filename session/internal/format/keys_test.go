package format

import (
	"bytes"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coatcheck/coatcheck/store"
)

func (c *Keys) count() (n int) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		n += len(s.young) + len(s.old)
		s.mu.Unlock()
	}
	return n
}

// What is sealed with keys that are kept opens without, and the other way round,
// whoever else uses them at the same time.
func TestKeysAreThoseOfTheirIDs(t *testing.T) {
	var keys Keys
	ids := make([]ID, 50)
	for i := range ids {
		ids[i] = NewID()
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				for _, id := range ids {
					kept, fresh := &Sealer{Keys: &keys}, new(Sealer)
					rec, k := store.Record{Owner: "o"}, id.Key()
					for _, c := range []struct{ seals, opens *Sealer }{{kept, fresh}, {fresh, kept}} {
						rec.Data = c.seals.Seal(id, k, rec, []byte("p"))
						if got, err := c.opens.Open(id, k, rec, false); err != nil || !bytes.Equal(got, []byte("p")) {
							t.Errorf("a record does not open with the key of its ID: %q, %v", got, err)
						}
					}
				}
			}
		})
	}
	wg.Wait()
	if n := keys.count(); n != len(ids) {
		t.Errorf("%d keys are kept of %d sessions", n, len(ids))
	}
}

func TestKeysAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var keys Keys
		used, unused := NewID(), NewID()
		keys.of(unused, unused.Key())
		for range 5 {
			kept := keys.of(used, used.Key())
			time.Sleep(keyLife - time.Second)
			if keys.of(used, used.Key()) != kept {
				t.Error("a key that is used was made twice")
			}
		}
		if n := keys.count(); n > 2 { // in both generations
			t.Errorf("%d are kept of one key that was used in the last two minutes", n)
		}
		time.Sleep(2*keyLife + time.Second)
		if n := keys.count(); n != 0 {
			t.Errorf("%d keys are kept that nobody has used for two minutes", n)
		}
	})
}

func TestKeysAreBounded(t *testing.T) {
	var keys Keys
	for range 5 * keyShards * keysPerShard {
		id := NewID()
		keys.of(id, id.Key())
	}
	if n := keys.count(); n > 2*keyShards*keysPerShard {
		t.Errorf("%d keys are kept, more than two generations", n)
	}
}

func BenchmarkKeys(b *testing.B) {
	id := NewID()
	k := id.Key()
	b.Run("made", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			newAEAD(id)
		}
	})
	b.Run("kept", func(b *testing.B) {
		var keys Keys
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				keys.of(id, k)
			}
		})
	})
}
