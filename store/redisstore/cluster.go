package redisstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coatcheck/coatcheck/store"
	"github.com/redis/rueidis"
)

// node is a server that takes writes.
type node struct {
	addr   string
	client rueidis.Client
}

// primaries returns the servers that hold the records, by address, and in a cluster
// a text that is another when slots have moved.
func (s *Store) primaries(ctx context.Context) (list []node, layout string, err error) {
	nodes := s.client.Nodes()
	if s.cluster {
		var addrs map[string]bool
		if addrs, layout, err = slotOwners(ctx, nodes); err != nil {
			return nil, "", err
		}
		for addr := range nodes {
			if !addrs[addr] {
				delete(nodes, addr)
			}
		}
		if len(nodes) != len(addrs) {
			return nil, "", fmt.Errorf("the cluster has %d primaries, of which %d are known here: it is changing", len(addrs), len(nodes))
		}
	}
	for _, addr := range slices.Sorted(maps.Keys(nodes)) {
		list = append(list, node{addr, nodes[addr]})
	}
	return list, layout, nil
}

// askPatience is how long a node of a cluster has to answer before the next one is
// asked as well.
const askPatience = 100 * time.Millisecond

// slotOwners asks the nodes, until one answers, for the addresses of the cluster's
// primaries, and for which slots they have. One that hangs holds nobody up.
func slotOwners(ctx context.Context, nodes map[string]rueidis.Client) (addrs map[string]bool, layout string, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		addrs  map[string]bool
		layout string
		err    error
	}
	answers := make(chan answer, len(nodes))
	err = errors.New("no node of the cluster is known")
	for rest, open := slices.Sorted(maps.Keys(nodes)), 0; len(rest)+open > 0; {
		var next <-chan time.Time
		if len(rest) > 0 {
			asked, c := rest[0], nodes[rest[0]] // nodes is the caller's again when one has answered
			go func() {
				var a answer
				a.addrs, a.layout, a.err = askSlots(ctx, c, asked)
				answers <- a
			}()
			rest, open = rest[1:], open+1
			next = time.After(askPatience)
		}
		select {
		case a := <-answers:
			if a.err == nil {
				return a.addrs, a.layout, nil
			}
			err = a.err
			open--
		case <-next:
		case <-ctx.Done():
			return nil, "", ctx.Err()
		}
	}
	return nil, "", err
}

// askSlots is slotOwners for the node c, whose address is asked.
func askSlots(ctx context.Context, c rueidis.Client, asked string) (addrs map[string]bool, layout string, err error) {
	ranges, err := c.Do(ctx, c.B().ClusterSlots().Build()).ToArray()
	if err != nil {
		return nil, "", err
	}
	addrs = make(map[string]bool)
	var lines []string
	for _, r := range ranges {
		text, addr, err := slotRange(r, asked)
		if err != nil {
			return nil, "", err
		}
		addrs[addr] = true
		lines = append(lines, text)
	}
	slices.Sort(lines) // Redis 6.2 has them in another order on each node
	return addrs, strings.Join(lines, ""), nil
}

// slotRange reads one line of CLUSTER SLOTS, which asked has answered.
func slotRange(r rueidis.RedisMessage, asked string) (text, addr string, err error) {
	parts, err := r.ToArray() // first slot, last slot, the primary, its replicas
	if err != nil || len(parts) < 3 {
		return "", "", errAnswer
	}
	first, err1 := parts[0].AsInt64()
	last, err2 := parts[1].AsInt64()
	primary, err3 := parts[2].ToArray()
	if err1 != nil || err2 != nil || err3 != nil || len(primary) < 2 {
		return "", "", errAnswer
	}
	host, err := primary[0].ToString()
	if err != nil || host == "" { // a node may not know by which name it is reached
		if host, _, err = net.SplitHostPort(asked); err != nil {
			return "", "", errAnswer
		}
	}
	port, err := primary[1].AsInt64()
	if err != nil {
		return "", "", errAnswer
	}
	addr = net.JoinHostPort(host, strconv.FormatInt(port, 10))
	return fmt.Sprintf("%d-%d %s\n", first, last, addr), addr, nil
}

// shards is how many parts a cluster is taken to have: runs of slots, more than
// primaries, since those move and these must not. One that straddles two
// primaries is a sixty-fourth of the sessions.
const (
	shards   = 64
	slots    = 1 << 14
	perShard = slots / shards
)

// Shards implements [store.Sharded].
func (s *Store) Shards() int {
	if s.cluster {
		return shards
	}
	return 1
}

// Shard implements [store.Sharded].
func (s *Store) Shard(k store.Key) int {
	if !s.cluster {
		return 0
	}
	return int(slot(s.recordKey(k))) / perShard
}

// slot returns the slot of a key without braces: CRC-16/XMODEM of its name, in
// 14 bits (Redis cluster specification).
func slot(name string) uint16 {
	var crc uint16
	for i := range len(name) {
		crc ^= uint16(name[i]) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return crc % slots
}
