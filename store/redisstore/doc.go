// Package redisstore keeps sessions in Redis or Valkey: one server, a primary
// with replicas and Sentinels, or a cluster. It needs Redis 6.2 or Valkey.
//
//	s, err := redisstore.OpenURL(ctx, "rediss://app:secret@redis.example.com/0", nil)
//	…
//	sessions, err := session.New(s, nil)
//
// # What a failover can lose
//
// Redis passes writes on to its replicas after it has answered. When a primary
// dies, what it had not yet passed on is lost with it, although it was
// acknowledged: a cart loses its last item, and worse, a session that was signed
// out in the last moments is alive again. No client can mend that.
// [Options.MinReplicas] narrows it: a write then counts when so many replicas have
// it (WAIT), and is a [store.ErrUnconfirmed] when they are not heard of in time. The
// session manager tries again until its deadline, then answers 503. Such a write
// costs a round trip to the replica and a connection of its own meanwhile. What
// remains is a failover to a replica that has not confirmed: have as many replicas
// as MinReplicas counts, or let Sentinel choose the one that is furthest, as it
// does. Reads may see a write that is not yet confirmed. Touch does not wait. A request that
// sets what is there already writes it again ([store.Confirmer]): the same form sent
// again after a 503 is answered 200 only when replicas have the value.
//
// With one replica for each primary, a failover leaves the new one without any: no
// write is confirmed until the dead server is back. Two replicas and MinReplicas 1
// go on at once.
//
// Never let a server that keeps nothing on disk be restarted by itself within the
// time that a failover takes: it comes back as an empty primary, and its replicas
// follow it into emptiness. Everybody is signed out then.
//
// A primary that is cut off from the others, and not dead, takes writes until it
// notices. Set min-replicas-to-write on the servers so that it stops.
//
// # Durability
//
// Redis forgets what is not on disk when it restarts. Turn on appendonly; with
// appendfsync everysec a crash of the machine loses a second. Set maxmemory with
// the policy noeviction: every other policy signs users out to make room.
// [Store.Inspect] looks at all that.
//
// # What is stored
//
// A session is one string under PREFIXs: and the hash of its ID, in base64url, and
// goes by its own expiry, some minutes after it is invisible. The sessions of an
// owner are found by one of 2,048 sorted sets, which all owners share: PREFIXo: and
// two characters of a hash of the owner. In a cluster a session and its entry there
// are on different servers: the entry is written first, so that a crash leaves an
// entry too many, which is pruned. If a failover loses an entry
// of a session that it keeps, the entry is written again when activity is
// recorded, after a tenth of the idle timeout in use; until then a revocation of
// all of the owner's sessions misses that session.
//
// # Rights
//
// An ACL user needs this, with PREFIX as in [Options.Prefix]:
//
//	ACL SETUSER app on >PASSWORD ~PREFIX* resetchannels -@all
//	  +get +set +getrange +setrange +pexpireat +pttl +del
//	  +zadd +zscore +zrange +zcard +zrem
//	  +eval +evalsha +scan +ping +wait +role +hello +auth +select
//	  +client|setname +client|tracking +cluster|slots +cluster|shards
//
// In a Redis before 7.0, which has no rights for parts of a command, write +client
// and +cluster. [Store.Inspect] also wants +info, +config|get, +acl|whoami,
// +acl|getuser and +time; what it may not ask it reports as unknown.
package redisstore
