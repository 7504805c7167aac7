// Package mongostore keeps sessions in a collection of MongoDB 5.0 or newer: a replica
// set, a sharded cluster, or one server alone. It is tested with FerretDB 2, which
// speaks MongoDB's protocol over PostgreSQL.
//
//	s, err := mongostore.OpenURL(ctx, "mongodb+srv://app:secret@cluster.example.com/shop", nil)
//	…
//	sessions, err := session.New(s, nil)
//
// The collection and its indexes are made once, by [Store.Migrate]; [Store.Verify]
// looks at them.
//
// # What a failover can lose
//
// Nothing that was acknowledged. A write is acknowledged when a majority of the
// replica set has it on disk, and reads are answered by the primary with what a
// majority has, so that nothing is read that a failover takes back. The store asks for
// both in each command, whatever its client is set to. The price is a round trip
// between the servers for each write. While there is no majority, writes wait and then
// are [store.ErrAmbiguous].
//
// One thing remains. A primary that is cut off from the others answers reads for some
// seconds more, until it notices (electionTimeoutMillis, 10 s by default), while
// another one takes writes: who reads there sees a session that was signed out
// elsewhere in these seconds. It cannot acknowledge writes, so nothing comes of it that
// lasts. Linearizable reads would exclude it, and write to a majority for each request;
// the store does without.
//
// No transactions are needed, as a session is one document, nor change streams, which
// one server alone and FerretDB lack. There is no [store.Watcher]: the copies of package
// nearcache are as old as their bound.
//
// # Lost answers
//
// A write whose answer is lost may have been done. MongoDB's driver would send it again,
// and a replica set would know it (retryWrites); one server alone and FerretDB do not,
// and there the condition of an update that is stored fails because of itself: it would
// be taken for a conflict, and made twice. So the store has the driver repeat reads only.
// Such a write is a [store.ErrAmbiguous], and package session finds out by reading. What
// the server says that it has not done, because it is no longer the primary, is sent
// again to the next one, until the context ends.
//
// # What is stored
//
// A session is one document, with fields that can be read: _id (the hash of the session's
// ID), version, handle, owner, created, deadline, expires, next, label and data. Owner,
// label and data are binary, and data is sealed by package session. Who is anonymous has
// no owner, and is not in the index by owner. The clock of the caller decides what has
// expired; the server deletes it five minutes later or more, by an index (TTL), so clocks
// may differ by less than that. Data may have 16 MiB less 16 KiB: a document of MongoDB
// has at most 16 MiB.
//
// Shard a collection by hashed _id, and by nothing else: every command on one session
// then asks one shard, and the key is unique. Those by owner ask all of them.
//
//	sh.shardCollection("coatcheck.sessions", {_id: "hashed"})
//
// A touch moves an entry of the index by expiry. It happens once in a tenth of the idle
// timeout for each session in use.
//
// # Round trips
//
//	Get, ListOwner          1
//	Delete                  1; where there is nothing 2
//	Create                  1; over what has expired 2
//	Replace, Touch          1; where nothing matches 2, to tell why
//	DeleteOwner             2
//	GetMany, List           1 for each 200 records
//
// # Rights
//
// A role for a web server, with the names in [Options]:
//
//	use coatcheck
//	db.createRole({role: "sessions", roles: [], privileges: [
//	  {resource: {db: "coatcheck", collection: "sessions"},
//	   actions: ["find", "insert", "update", "remove", "listIndexes"]}]})
//
// Migrate also wants createCollection and createIndex there, and Inspect, to see
// whether the server deletes what has expired, getParameter on {cluster: true}. FerretDB
// 2.7 signs users in and does not limit what they may do: give sessions one of their own.
//
// # Errors
//
// An error of the server is shown by its name, its code and what to do about it. Its
// message is not: that of a duplicate key holds the key.
package mongostore
