package redisstore

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"

	"github.com/coatcheck/coatcheck/store"
	"github.com/redis/rueidis"
)

// node is a server that takes writes.
type node struct {
	addr   string
	client rueidis.Client
}

// primaries returns the servers that hold the records, by address.
func (s *Store) primaries(ctx context.Context) ([]node, error) {
	nodes := s.client.Nodes()
	if s.cluster {
		addrs, err := s.slotOwners(ctx)
		if err != nil {
			return nil, err
		}
		for addr := range nodes {
			if !addrs[addr] {
				delete(nodes, addr)
			}
		}
		if len(nodes) != len(addrs) {
			return nil, fmt.Errorf("the cluster has %d primaries, of which %d are known here: it is changing", len(addrs), len(nodes))
		}
	}
	list := make([]node, 0, len(nodes))
	for _, addr := range slices.Sorted(maps.Keys(nodes)) {
		list = append(list, node{addr, nodes[addr]})
	}
	return list, nil
}

// slotOwners asks the cluster for the addresses of its primaries.
func (s *Store) slotOwners(ctx context.Context) (map[string]bool, error) {
	ranges, err := s.client.Do(ctx, s.client.B().ClusterSlots().Build()).ToArray()
	if err != nil {
		return nil, err
	}
	addrs := make(map[string]bool)
	for _, r := range ranges {
		parts, err := r.ToArray() // first slot, last slot, the primary, its replicas
		if err != nil || len(parts) < 3 {
			return nil, errAnswer
		}
		primary, err := parts[2].ToArray()
		if err != nil || len(primary) < 2 {
			return nil, errAnswer
		}
		host, err := primary[0].ToString()
		if err != nil {
			return nil, errAnswer
		}
		port, err := primary[1].AsInt64()
		if err != nil {
			return nil, errAnswer
		}
		addrs[net.JoinHostPort(host, strconv.FormatInt(port, 10))] = true
	}
	return addrs, nil
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
