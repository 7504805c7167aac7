// Package nearcache keeps copies of sessions in the memory of a web server, so
// that most reads cost no round trip. A [Cache] is a store around a store.
//
// What it promises:
//
//   - Writes stay exact. They go through, and are decided by the store's
//     compare-and-swap: what was built on a copy that is no longer the newest
//     fails with a conflict and is done again. No update is ever lost.
//   - Whoever has written through a Cache reads that write, or a newer one,
//     through the same Cache from then on, whatever the outcome of the write
//     was.
//   - What others write is seen within Options.MaxStale, one second by default,
//     counted from before the copy was read. Where the inner store has a
//     [store.Watcher] and [Cache.Run] is running, it is seen as soon as the
//     change is told, which takes milliseconds, and copies are kept for longer:
//     while the watcher makes sure again and again that it has told everything, up
//     to a minute. A copy is never used when MaxStale has passed since that was
//     last sure, and everything is dropped when the stream of changes breaks.
//   - Memory is bounded in bytes for records, and in number for the IDs that the
//     store does not know, which an attacker can make up without end.
//
// What it does not promise:
//
//   - A session that is ended on one server is dead on that server at once, and
//     on the others within MaxStale. An app that cannot accept this for some
//     route reads through there: [Cache.GetFresh].
//   - Two servers need not show the same session at the same time. A user who
//     goes from one to the other may see an older session than a moment ago,
//     unless the caller knows the version that the user has seen, and calls
//     GetFresh if Get returns an older one.
//   - A load that does not return before MaxStale is over, or that something
//     changes meanwhile, is answered and not kept: a store that is slower than
//     MaxStale gets no help from this package, and an outage of it is none less.
//
// Age is measured by the monotonic clock, which stands still while a machine is
// suspended.
package nearcache
