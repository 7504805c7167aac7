// Package breaker keeps a slow or broken session store from holding up whoever
// needs it: a store around a store that gives every call a deadline and, after
// repeated failures, refuses calls at once until the store answers again.
//
// The words are the field's. A circuit is closed while calls pass. It opens
// after Failures failures in a row: calls fail with [ErrOpen] and nothing is
// sent. After OpenFor it is half-open: the next call goes through as a probe,
// whose success closes the circuit and whose failure opens it again. Where the
// inner store is [store.Sharded], every shard has a circuit of its own.
//
// # What counts as a failure
//
// An error of a call that the caller did not end, and any call that got no
// answer for all of Timeout, whoever gave up on it. An answer is a success
// whatever it says: ErrNotFound, ErrConflict, ErrCorrupt. A
// call that ended before it could tell anything counts as neither: cancelled by
// the caller, past the caller's own earlier deadline, ErrInvalid, ErrTooLarge; and
// ErrUnconfirmed, which does not tell whether the store or its replicas are away.
// A caller's deadline therefore never opens a circuit that Timeout would not
// have; let callers wait for longer than Timeout, as package session does, for a
// store that hangs to be noticed.
//
// Failures are counted in a row rather than as a share of a window, because a
// share looks back: after seconds of good answers under load, a store that died
// would have to fail for seconds to reach it. And a store that answers every
// other call is worth asking. A row must also have lasted for 100 ms, counted
// from the start of its first call: one broken connection fails all calls that
// were on it, and the next ones get another.
//
// # Which calls
//
// A call about one key goes through the circuit of its shard. Over several
// shards, the calls of [store.OwnerIndex] get the deadline, count for no shard,
// and are refused only when every shard is open: signing out everywhere does
// what it can. GetMany knows its keys and is refused if one of their shards is
// open, because it could only fail. List, Sweep and Inspect are maintenance:
// never a probe and never counted, whatever the number of shards. List may take
// as long as it likes, but not Timeout for one record. Watch passes as it is.
//
// No goroutine runs in the background: a circuit becomes half-open when it is
// next looked at. A service without traffic closes again by its health checks,
// if these call Ping.
package breaker
