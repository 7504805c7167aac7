package format

import (
	"crypto/cipher"
	"sync"
	"time"

	"github.com/coatcheck/coatcheck/store"
)

const (
	keyShards = 32
	// keysPerShard bounds a generation: two of them of 8,192 keys, at some 1.4 KB
	// each, are 23 MB at most.
	keysPerShard = 256
	// keyLife is how long a generation is: a key is forgotten when it was not used
	// for one to two of them.
	keyLife = time.Minute
)

// Keys keeps the sealing keys of sessions that are read again and again. To make one
// ready is a third of what it costs to read a session from a copy in memory. A key
// opens the values of one session and does not tell its ID. The zero value is ready,
// and safe for concurrent use.
type Keys struct {
	shards [keyShards]keyShard
}

type keyShard struct {
	mu         sync.Mutex
	young, old map[store.Key]cipher.AEAD
	timer      *time.Timer // runs while there are keys
}

// of returns the key of id, whose store key is k.
func (c *Keys) of(id ID, k store.Key) cipher.AEAD {
	s := &c.shards[k[0]%keyShards]
	s.mu.Lock()
	aead, used := s.young[k]
	if !used {
		aead = s.old[k]
	}
	s.mu.Unlock()
	if used {
		return aead
	}
	if aead == nil {
		aead = newAEAD(id)
	}
	s.keep(k, aead)
	return aead
}

func (s *keyShard) keep(k store.Key, aead cipher.AEAD) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.young) >= keysPerShard {
		s.old, s.young = s.young, nil
	}
	if s.young == nil {
		s.young = make(map[store.Key]cipher.AEAD)
	}
	s.young[k] = aead
	if s.timer == nil {
		s.timer = time.AfterFunc(keyLife, s.age)
	}
}

// age forgets what was not used since the last time.
func (s *keyShard) age() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.old, s.young = s.young, nil
	s.timer = nil
	if len(s.old) > 0 {
		s.timer = time.AfterFunc(keyLife, s.age)
	}
}
