package breaker

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/coatcheck/coatcheck/store"
)

// settle is how long a row of failures must have lasted to open the circuit.
const settle = 100 * time.Millisecond

// shard is the circuit of one shard.
type shard struct {
	number  int
	circuit *gobreaker.TwoStepCircuitBreaker[struct{}]
	hook    func(Change)
	absent  *store.Key // a key of this shard without a record; nil if none was found, or if it is the only shard

	// Written by what the circuit calls back, under its own lock; those
	// callbacks must not call it.
	last  *failure  // the latest one
	since time.Time // when the first call of the row of failures began

	mu      sync.Mutex // may be taken while the circuit holds its lock, never the other way round
	state   ShardState
	pending []Change
	telling bool
	untold  atomic.Bool // pending is not empty: spares the lock
}

// failure is a call's error that counts.
type failure struct {
	error
	began time.Time
}

// errNeutral is given to the circuit for a call that tells nothing.
var errNeutral = errors.New("neither success nor failure")

func newShard(number int, o Options) *shard {
	s := &shard{number: number, hook: o.OnStateChange, state: ShardState{Shard: number}}
	s.circuit = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		MaxRequests: uint32(o.Probes),
		Timeout:     o.OpenFor,
		IsExcluded:  func(err error) bool { return err == errNeutral },
		IsSuccessful: func(err error) bool {
			f, failed := err.(*failure)
			if failed {
				s.last = f
			}
			return !failed
		},
		ReadyToTrip: func(counts gobreaker.Counts) bool {
			if counts.ConsecutiveFailures == 1 || s.last.began.Before(s.since) {
				s.since = s.last.began
			}
			return int64(counts.ConsecutiveFailures) >= int64(o.Failures) && time.Since(s.since) >= settle
		},
		OnStateChange: func(_ string, from, to gobreaker.State) { s.change(stateOf(from), stateOf(to)) },
	})
	return s
}

func stateOf(s gobreaker.State) State {
	switch s {
	case gobreaker.StateOpen:
		return Open
	case gobreaker.StateHalfOpen:
		return HalfOpen
	}
	return Closed
}

// change runs under the circuit's lock, so that the hook cannot.
func (s *shard) change(from, to State) {
	c := Change{Shard: s.number, From: from, To: to, At: time.Now()}
	if to == Open {
		c.Err = s.last.error
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.State, s.state.Since = to, c.At
	if to != HalfOpen {
		s.state.Err = c.Err
	}
	if s.hook != nil {
		s.pending = append(s.pending, c)
		s.untold.Store(true)
	}
}

// tell calls the hook for the changes so far. If another goroutine is at it,
// that one tells of ours, too.
func (s *shard) tell() {
	for s.untold.Load() {
		s.mu.Lock()
		if s.telling || len(s.pending) == 0 {
			s.mu.Unlock()
			return
		}
		c := s.pending[0]
		s.pending = s.pending[1:]
		s.untold.Store(len(s.pending) > 0)
		s.telling = true
		s.mu.Unlock()
		s.tellOne(c)
	}
}

func (s *shard) tellOne(c Change) {
	defer func() { // a hook that panics ends its call, not the hook
		s.mu.Lock()
		s.telling = false
		s.mu.Unlock()
	}()
	s.hook(c)
}

// current returns the state, which time alone may have changed.
func (s *shard) current() ShardState {
	s.circuit.State()
	s.tell()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// allow returns what to report a call's outcome to, or an error that matches
// ErrOpen.
func (s *shard) allow(op string) (done func(error), err error) {
	done, err = s.circuit.Allow()
	s.tell()
	if err != nil {
		return nil, s.refusal(op)
	}
	return done, nil
}

func (s *shard) refusal(op string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &refusal{op, s.state}
}

// refusal is the error of a call that was refused. It does not wrap the failure
// that opened the circuit: that call may have reached the store, this one did not.
type refusal struct {
	op    string
	state ShardState
}

func (e *refusal) Error() string {
	text := "breaker: " + e.op + ": circuit open ("
	if e.state.State != Open { // its last change made it half-open, or closed it since
		text += "waiting for a probe, "
	}
	return fmt.Sprintf("%ssince %s, last error: %v)", text, e.state.Since.UTC().Format("15:04:05.000Z"), e.state.Err)
}

func (e *refusal) Is(target error) bool { return errors.Is(ErrOpen, target) }

// judge returns what the circuit is told of a call that began at began and
// returned err: nil, errNeutral or a failure.
func judge(err, callers error, began time.Time, timeout time.Duration) error {
	switch {
	case err == nil,
		errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrConflict),
		errors.Is(err, store.ErrCorrupt):
		return nil
	case errors.Is(err, store.ErrInvalid), errors.Is(err, store.ErrTooLarge),
		errors.Is(err, store.ErrRejected): // a store that is full is there for those who read
		return errNeutral
	// Where writes wait for replicas, it is the replicas or the store that is away.
	case errors.Is(err, store.ErrUnconfirmed) && time.Since(began) < timeout-timeout/50:
		return errNeutral
	// A caller whose deadline is as long as Timeout began to wait a little
	// earlier, and would hide every call that hangs: hence nearly.
	case callers != nil && time.Since(began) < timeout-timeout/50:
		return errNeutral
	}
	return &failure{err, began}
}
