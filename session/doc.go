// Package session keeps the sessions of web apps outside of their servers: the
// browser carries an ID in a cookie, any server looks it up in a shared store,
// answers, and forgets. Servers may die or multiply at any moment.
//
// An app creates a [Manager] over a [store.Store], wraps its handlers with
// [Manager.Handler], declares typed attributes with [NewAttr], and gets at the
// [Session] of a request with [From]:
//
//	var cart = session.NewAttr[map[string]int]("cart")
//
//	func add(w http.ResponseWriter, r *http.Request) {
//		s := session.From(r.Context())
//		err := cart.Update(s, func(c map[string]int) (map[string]int, error) { … })
//	}
//
// # What it promises
//
// Updates are not lost. A request records what it changes; when it commits and
// another request was faster, its changes are applied to the newer values
// ([Attr.Update] functions run again). No lock is
// held between requests.
//
// What has ended stays ended. A request that is still running when its session
// is destroyed, revoked, renewed or expires cannot bring it back: its changes
// fail with [ErrEnded].
//
// An outage of the store signs nobody out: requests with a session are answered
// 503 and keep their cookie; those without one are served.
//
// A stolen copy of the store holds no usable session ID and no readable value:
// records are kept under a hash of the ID and sealed with a key derived from
// it. Owner, times and label are readable.
//
// Nothing is stored for a visitor until something is put into the session, and
// a request that changes nothing writes nothing, but for recording activity at
// most ten times per idle timeout; over a store that waits for replicas
// ([store.Confirmer]) to set a value to what it is counts as a change. Several requests that a new visitor sends in
// parallel, before the first answer brings a cookie, each begin a session of
// their own.
//
// # Stores with copies
//
// Where reads of the store may be answered by a copy, as from a near cache
// ([store.FreshReader]), only the load of a request may be stale, and for its own
// user not even that: a second cookie, named as the first with "-v" behind, carries
// the version last written, and a server whose copy is older reads the store. So
// users read what they wrote on any server, once the answer to the write has
// arrived. If that cookie is lost, answers to parallel requests arrive out of order,
// or the change was made after the response had
// begun, they may read older values within the copies' bound; no update is lost by
// it.
//
// A session that was ended on another server is shown within that bound too, but
// the session takes no change. What a handler does elsewhere in its owner's name it
// does: wrap routes where that is not good enough with [Fresh], or
// call [Session.Refresh]; [Manager.RequireRecentSignIn] does so by itself.
//
// # Housekeeping
//
// Expired sessions are never seen, but some stores keep them until they are told
// to remove them. Run [Manager.Run] in one process at least:
//
//	go manager.Run(ctx)
//
// # Timeouts
//
// Sessions end after [Policy.Idle] without a request and [Policy.Absolute]
// after sign-in, decided by the clocks of the web servers: keep them
// synchronised.
package session
