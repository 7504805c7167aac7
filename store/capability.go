package store

import (
	"context"
	"iter"
	"time"
)

// Keyed is a record with the key it is stored under.
type Keyed struct {
	Key Key
	Record
}

// OwnerIndex is implemented by stores that can find sessions by owner. "" owns
// nothing: it is ErrInvalid in both methods.
//
// A record is never alive without being in the index: a Create that races a
// DeleteOwner either is removed by it, is listed after it, or fails with
// ErrNotFound. The index never outgrows the records that it names.
type OwnerIndex interface {
	// ListOwner returns the live sessions of owner in no particular order. It
	// leaves out markers.
	ListOwner(ctx context.Context, owner string) ([]Keyed, error)

	// DeleteOwner deletes the records of owner, markers too, but for those whose
	// Handle is in keep, and returns how many live sessions it ended. When it
	// returns, every record is gone whose Create had returned before the call.
	// One that is created meanwhile may be missed: who must not miss any calls
	// again until two calls in a row find none.
	DeleteOwner(ctx context.Context, owner string, keep ...Handle) (int, error)
}

// Lister is implemented by stores that can list everything they hold, for
// migration and administration.
type Lister interface {
	// List yields every live record, markers too, in no particular order. A
	// record that lives throughout is yielded at least once. After an error
	// (with a zero Keyed) the sequence ends. The caller may write to the store
	// while it iterates.
	List(ctx context.Context) iter.Seq2[Keyed, error]
}

// Sweeper is implemented by stores that need expired records to be removed for
// them. Reads never depend on it.
type Sweeper interface {
	// Sweep removes at most limit expired records and returns how many it
	// removed; fewer than limit means that none are left. It returns ErrInvalid
	// if limit is not positive.
	Sweep(ctx context.Context, limit int) (int, error)
}

// GetMany is implemented by stores that can read several records at once.
type GetMany interface {
	// GetMany returns the live records under ks. Keys without one are left out.
	GetMany(ctx context.Context, ks []Key) (map[Key]Record, error)
}

// Pinger is implemented by stores that can tell cheaply whether they answer.
type Pinger interface {
	Ping(ctx context.Context) error
}

// Watcher is implemented by stores that can tell of changes as they happen, to
// whoever keeps copies of records.
type Watcher interface {
	// Watch calls changed with the keys of records that anybody creates, replaces,
	// touches or deletes, soon after each change, and with no keys at all when any
	// record may have changed. It may tell of changes that were none.
	//
	// It calls ready when from then on every change is told, and may call it again
	// whenever it has made sure that this is still so: what was changed before asOf
	// has been told by then. Later calls name later times, by the clock of this
	// process.
	//
	// It blocks until ctx ends, whose error it then returns, or until changes may
	// be missed, as when a connection breaks; who still wants to know calls again.
	// An error that matches [errors.ErrUnsupported] says that it never works.
	// ready and changed are never called concurrently nor after Watch has
	// returned, and must not block. changed must not keep the slice.
	Watch(ctx context.Context, ready func(asOf time.Time), changed func([]Key)) error
}

// FreshReader is implemented by stores whose Get may answer from a copy that is
// not the newest, such as caches. Every other method of theirs is exact: what
// is built on a stale copy fails by its version.
type FreshReader interface {
	// GetFresh is a Get that sees the writes that finished before it began.
	GetFresh(ctx context.Context, k Key) (Record, error)
}

// Sharded is implemented by stores of which one part can fail while others
// answer.
type Sharded interface {
	// Shards returns the number of parts, the same for the life of the store.
	Shards() int
	// Shard returns the part that keeps k, from 0 to Shards()-1.
	Shard(k Key) int
}

// Confirmer is implemented by stores that may answer a write with
// [ErrUnconfirmed].
type Confirmer interface {
	// Confirms reports whether this one does, as it is set up. What is read from it
	// may then not be confirmed yet, so a caller who must be sure writes, even what
	// is there already.
	Confirms() bool
}

// Wrapper is implemented by every store around another store. It alone decides
// which capabilities it has: [As] asks it and does not look at its methods, nor
// at the store inside, so that an inner DeleteOwner cannot bypass a cache.
type Wrapper interface {
	Store
	// Capability sets *target, a pointer to a capability interface, and returns
	// true if the wrapper has that capability, by itself or by forwarding.
	Capability(target any) bool
}

// As returns s as the capability T, which must be an interface type, and
// whether s has it.
//
//	if idx, ok := store.As[store.OwnerIndex](s); ok { … }
func As[T any](s Store) (T, bool) {
	var t T
	if w, ok := s.(Wrapper); ok {
		ok = w.Capability(&t)
		return t, ok
	}
	t, ok := s.(T)
	return t, ok
}
