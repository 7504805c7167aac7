// Package store is the contract between session managers and the servers that
// keep their sessions: what a backend implements, and what a manager may rely
// on.
//
// A [Store] maps a [Key] to a [Record]. It never sees a usable session ID and
// never looks into a record's data. Everything that could lose an update or
// revive an ended session is excluded by the shape of the interface: there is
// no blind upsert, only [Store.Create] for what is absent and [Store.Replace]
// for exactly the version that was read.
//
// The rules that the comments below state are tested, each by a case that
// names it, in package storetest. An implementation is one that passes it.
package store

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Key names a record. It is derived from the session ID by a one-way function,
// so that neither a store nor a dump of it holds a credential. Printing a Key
// by any verb, or logging it, shows a fixed word and none of its bytes.
type Key [32]byte

// Handle is the public name of a session, for device lists and revocation. It
// is random and survives a change of the session's ID. It grants nothing.
type Handle [16]byte

// Record is what a store keeps under a Key.
//
// Times have millisecond precision; a store truncates what is finer (see
// [Record.Truncate]) and returns times in UTC. The byte slices of a Record
// given to a store are not modified or retained by it, and those of a Record
// returned by a store belong to the caller. An empty slice and nil are the
// same.
type Record struct {
	// Version is the compare-and-swap token. The caller chooses it; a store
	// keeps what it is given, all 64 bits of it, and compares for equality only.
	Version uint64
	// Handle, Owner and Created are fixed by Create for the life of the key:
	// Replace keeps the stored ones, whatever it is given.
	Handle  Handle
	Owner   string    // the account; at most MaxOwner bytes, compared byte for byte; "" is anonymous
	Created time.Time // when the session began
	// Deadline is the absolute timeout. Replace may lower it; nothing raises it.
	Deadline time.Time
	// Expires is the idle timeout, never after Deadline. A record is never
	// returned at or after it.
	Expires time.Time
	// Next, if not zero, makes this record a marker: the session went on under
	// that key, or ended if Next is the record's own key. A marker is not a
	// session: it is in no owner's list and cannot be touched.
	Next  Key
	Label []byte // shown in device lists; opaque to the store; at most MaxLabel bytes
	Data  []byte // the session's sealed values; opaque to the store
}

// Bounds on the parts of a record. A store accepts at least MinData bytes of
// Data; past its own limit it answers ErrTooLarge before anything is written.
const (
	MaxOwner = 255
	MaxLabel = 1024
	MinData  = 256 << 10
)

// Errors that a store wraps and a caller matches with [errors.Is]. Any other
// error means that the store could not answer. No error holds a session ID, a
// Key, an owner or data.
var (
	// ErrNotFound: there is no live record under the key.
	ErrNotFound = errors.New("session record not found")
	// ErrConflict: a live record is in the way (Create) or has another version
	// (Replace). Nothing was changed by the call, not even by an earlier
	// attempt hidden inside it.
	ErrConflict = errors.New("session record conflict")
	// ErrInvalid: the arguments break the contract; nothing was sent.
	ErrInvalid = errors.New("invalid session record")
	// ErrTooLarge: the record is over the store's own limit; nothing was sent.
	ErrTooLarge = errors.New("session record too large")
	// ErrCorrupt: what is stored under the key is not a record. It does not heal
	// by waiting; deleting it does.
	ErrCorrupt = errors.New("session record is damaged")
	// ErrAmbiguous: the write may or may not have happened.
	ErrAmbiguous = errors.New("outcome of session write unknown")
	// ErrUnconfirmed is an ErrAmbiguous of a store that promises more than its
	// first server's word: even a write that can be read back may still be lost,
	// with that server. A Replace from the version that is there to itself, with
	// the record that is there, confirms it.
	ErrUnconfirmed = fmt.Errorf("%w: not confirmed by enough replicas", ErrAmbiguous)
	// ErrUnapplied: the store could not do the write, and has not done it nor will:
	// nothing was changed, not even by an earlier attempt hidden inside the call. It
	// never comes with ErrAmbiguous.
	ErrUnapplied = errors.New("session write not applied")
	// ErrRejected is an ErrUnapplied for a reason that waiting a moment does not change:
	// a full disk or memory, or a right that is missing.
	ErrRejected = fmt.Errorf("%w: rejected", ErrUnapplied)
	// ErrNotAsked is an ErrUnapplied of something in front of the store, as a circuit
	// breaker, that refused the call since others have failed. Nothing was sent. During
	// an outage that is the answer to most calls, and worth no line in a log. Reads
	// return it, too.
	ErrNotAsked = fmt.Errorf("%w: the store was not asked", ErrUnapplied)
)

// Store keeps records. Every method is safe for concurrent use, by any number
// of processes on the same backend.
//
// The clock of the calling process decides what has expired. Reads see the
// writes that finished before they began. A context that has ended before a
// call fails it, and errors caused by a context match [context.Canceled] or
// [context.DeadlineExceeded]. A write whose answer was lost, for that or any
// other reason, is reported as ErrAmbiguous, or as another error that is none
// of the above; never as success, conflict, absence or ErrUnapplied. Whoever gets an
// error that is none of the above must take the outcome for open.
type Store interface {
	// Get returns the live record under k, session or marker, or ErrNotFound
	// when it is absent or expired, or ErrCorrupt.
	Get(ctx context.Context, k Key) (Record, error)

	// Create stores r under k if no live record is there, else it returns
	// ErrConflict. An expired record is no obstacle. It returns ErrInvalid if
	// [Record.Validate] does.
	Create(ctx context.Context, k Key, r Record) error

	// Replace stores r under k if the live record there has Version old, in one
	// atomic step. It returns ErrNotFound if there is no live record: nothing
	// that was deleted or has expired ever comes back by it. It returns
	// ErrConflict if the version differs, and ErrInvalid if [Record.Validate]
	// does. The stored Handle, Owner and Created stay. The stored Deadline
	// becomes the earlier of itself and r.Deadline, and Expires is clamped to it.
	Replace(ctx context.Context, k Key, old uint64, r Record) error

	// Touch moves the expiry of the live session under k to expires, clamped to
	// the stored Deadline, and leaves the version alone. It only extends: an
	// earlier time changes nothing and is no error. It returns ErrNotFound if
	// there is no live session (a marker is none), and ErrInvalid if expires is
	// zero.
	Touch(ctx context.Context, k Key, expires time.Time) error

	// Delete removes the record under k, session or marker, and reports whether
	// a live one was there. That none was is no error.
	Delete(ctx context.Context, k Key) (existed bool, err error)
}
