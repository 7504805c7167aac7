package breaker

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/coatcheck/coatcheck/store"
)

// Options configure a [Breaker].
type Options struct {
	// Timeout is the deadline of one call to the inner store. An earlier
	// deadline of the caller stays.
	//
	// If zero, 1 s.
	Timeout time.Duration

	// Failures is how many calls in a row must fail for the circuit to open.
	//
	// If zero, 5.
	Failures int

	// OpenFor is how long the circuit stays open before it is half-open. When the
	// store is back, that takes at most as long to be noticed by a caller, or
	// OpenFor and Timeout where a probe was swallowed right before.
	//
	// If zero, 500 ms.
	OpenFor time.Duration

	// Probes is how many calls may pass while the circuit is half-open. All of
	// them must succeed for it to close.
	//
	// If zero, 1.
	Probes int

	// OnStateChange is called after each change, for metrics and logs: those of
	// one shard in order and one at a time, in the goroutine of a call. It must
	// not block. It may use the Breaker.
	//
	// If zero, nobody is told.
	OnStateChange func(Change)

	// OnCall is called after each call but for List and Watch, refused ones too,
	// in its goroutine. It must not block.
	//
	// If zero, nobody is told.
	OnCall func(Call)
}

// State is the state of a circuit. Worse ones compare greater.
type State int

// States.
const (
	Closed   State = iota // calls pass
	HalfOpen              // a few calls pass, to see whether the store answers again
	Open                  // calls are refused
)

var states = [...]string{"closed", "half-open", "open"}

// String returns the state as a word in lower case.
func (s State) String() string {
	if s < 0 || int(s) >= len(states) {
		return fmt.Sprintf("state(%d)", int(s))
	}
	return states[s]
}

// MarshalText implements [encoding.TextMarshaler].
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Change is a change of one circuit's state.
type Change struct {
	Shard    int // 0 where the inner store has no shards
	From, To State
	At       time.Time
	Err      error // the failure that opened it; nil unless To is Open
}

// Call is a call that has returned.
type Call struct {
	Method   string // in lower case: "get", "delete owner", …
	Shard    int    // 0 where the inner store has no shards; -1 for a call over several
	Duration time.Duration
	Err      error // as the caller gets it; it matches ErrOpen if the call was refused
}

// ShardState is the state of one circuit.
type ShardState struct {
	Shard int // 0 where the inner store has no shards
	State State
	Since time.Time // of the last change; zero if there was none
	Err   error     // the failure that opened it; nil when it is closed
}

// ErrOpen is matched by the error of a call that was refused, and is a
// [store.ErrNotAsked]. Nothing was sent: it never comes with [store.ErrAmbiguous].
var ErrOpen = fmt.Errorf("%w: circuit open", store.ErrNotAsked)

// Breaker is a [store.Store] around another, with a deadline for each call and a circuit for
// each shard. It has the capabilities of the inner store. All of its methods are
// safe for concurrent use. Create one with [New].
type Breaker struct {
	inner   store.Store
	sharded store.Sharded // nil if the inner store has no shards
	shards  []*shard      // at least one
	timeout time.Duration
	onCall  func(Call)
}

var _ store.Wrapper = (*Breaker)(nil)

// New returns a Breaker around inner, all of whose circuits are closed. It
// starts no goroutine and calls nothing but Shards and Shard.
func New(inner store.Store, opts *Options) (*Breaker, error) {
	if inner == nil {
		return nil, errors.New("breaker: inner store is nil; pass the store to protect")
	}
	var o Options
	if opts != nil {
		o = *opts
	}
	switch {
	case o.Timeout < 0:
		return nil, fmt.Errorf("breaker: Options.Timeout is %v; want a positive duration, or 0 for 1 s", o.Timeout)
	case o.OpenFor < 0:
		return nil, fmt.Errorf("breaker: Options.OpenFor is %v; want a positive duration, or 0 for 500 ms", o.OpenFor)
	case o.Failures < 0 || o.Failures > math.MaxInt32:
		return nil, fmt.Errorf("breaker: Options.Failures is %d; want a small positive number, or 0 for 5", o.Failures)
	case o.Probes < 0 || o.Probes > math.MaxInt32:
		return nil, fmt.Errorf("breaker: Options.Probes is %d; want a small positive number, or 0 for 1", o.Probes)
	}
	o.Timeout = cmp.Or(o.Timeout, time.Second)
	o.Failures = cmp.Or(o.Failures, 5)
	o.OpenFor = cmp.Or(o.OpenFor, 500*time.Millisecond)
	o.Probes = cmp.Or(o.Probes, 1)

	b := &Breaker{inner: inner, timeout: o.Timeout, onCall: o.OnCall}
	n := 1
	if sharded, ok := store.As[store.Sharded](inner); ok {
		b.sharded, n = sharded, sharded.Shards()
		if n < 1 {
			return nil, fmt.Errorf("breaker: the inner store has %d shards; want at least one", n)
		}
	}
	for i := range n {
		b.shards = append(b.shards, newShard(i, o))
	}
	if n > 1 {
		b.findAbsent()
	}
	return b, nil
}

// findAbsent looks for a key on each shard that no session has. A shard that
// keeps next to none may be left without one.
func (b *Breaker) findAbsent() {
	found := 0
	for i := 0; found < len(b.shards) && i < 1000*len(b.shards); i++ {
		k := store.Key(sha256.Sum256(fmt.Append(nil, "coatcheck breaker ", i)))
		if s := b.of(k); s.absent == nil {
			s.absent = &k
			found++
		}
	}
}

// State returns the worst state of the circuits.
func (b *Breaker) State() State {
	worst := Closed
	for _, s := range b.shards {
		worst = max(worst, s.current().State)
	}
	return worst
}

// States returns the state of each circuit, by shard.
func (b *Breaker) States() []ShardState {
	list := make([]ShardState, len(b.shards))
	for i, s := range b.shards {
		list[i] = s.current()
	}
	return list
}

// Status describes the state in a line, for the body of a readiness check. It
// leaves out errors, which may name servers: see [Breaker.States].
func (b *Breaker) Status() string {
	var parts []string
	for _, s := range b.States() {
		if s.State == Closed {
			continue
		}
		text := fmt.Sprintf("%v since %s", s.State, s.Since.UTC().Format(time.RFC3339))
		if len(b.shards) > 1 {
			text = fmt.Sprintf("shard %d of %d %s", s.Shard+1, len(b.shards), text)
		}
		parts = append(parts, text)
	}
	if parts == nil {
		return Closed.String()
	}
	return strings.Join(parts, "; ")
}

// of returns the circuit of the shard that keeps k.
func (b *Breaker) of(k store.Key) *shard {
	if b.sharded == nil {
		return b.shards[0]
	}
	return b.shards[b.sharded.Shard(k)]
}

// Capability implements [store.Wrapper]: it forwards every capability that this
// package knows.
func (b *Breaker) Capability(target any) bool {
	switch t := target.(type) {
	case *store.OwnerIndex:
		return forward(b, t, func(inner store.OwnerIndex) store.OwnerIndex { return ownerIndex{b, inner} })
	case *store.Lister:
		return forward(b, t, func(inner store.Lister) store.Lister { return lister{b, inner} })
	case *store.Sweeper:
		return forward(b, t, func(inner store.Sweeper) store.Sweeper { return sweeper{b, inner} })
	case *store.GetMany:
		return forward(b, t, func(inner store.GetMany) store.GetMany { return getMany{b, inner} })
	case *store.Pinger:
		return forward(b, t, func(inner store.Pinger) store.Pinger { return pinger{b, inner} })
	case *store.FreshReader:
		return forward(b, t, func(inner store.FreshReader) store.FreshReader { return freshReader{b, inner} })
	case *store.Inspector:
		return forward(b, t, func(inner store.Inspector) store.Inspector { return inspector{b, inner} })
	case *store.Watcher: // a stream has no deadline, and says itself when it breaks
		return forward(b, t, func(inner store.Watcher) store.Watcher { return inner })
	case *store.Sharded:
		return forward(b, t, func(inner store.Sharded) store.Sharded { return inner })
	case *store.Confirmer:
		return forward(b, t, func(inner store.Confirmer) store.Confirmer { return inner })
	}
	return false
}

func forward[T any](b *Breaker, target *T, wrap func(inner T) T) bool {
	inner, ok := store.As[T](b.inner)
	if ok {
		*target = wrap(inner)
	}
	return ok
}
