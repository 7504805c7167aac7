// Package fleet runs workers: real processes of one command, started, watched,
// replaced, scaled, drained and stopped.
//
// A [Fleet] keeps as many workers as it was told to. One that dies, is drained, or
// fails its health checks for too long is replaced by another with a new name, so
// that a name never means two processes. Those that are gone are not among the workers but in the events.
package fleet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os/exec"
	"slices"
	"sync"
	"time"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/handover"
)

// MaxWorkers bounds a fleet: each worker is a process on this machine.
const MaxWorkers = 100

// Errors of the methods of [Fleet], for [errors.Is].
var (
	ErrUnknown = errors.New("no such worker")
	ErrCount   = fmt.Errorf("the number of workers must be between 1 and %d", MaxWorkers)
	ErrStopped = errors.New("the fleet is stopping")
)

// Router sends requests to workers. A Fleet tells it which there are. A
// balancer.Balancer is one.
type Router interface {
	// Add begins to send requests to the worker, once it passes a health check.
	Add(name string, u *url.URL) error
	// WaitReady returns when the worker is sent requests.
	WaitReady(ctx context.Context, name string) error
	// WaitDown returns when the worker, which was ready, is sent no requests
	// because it fails its health checks.
	WaitDown(ctx context.Context, name string) error
	// Drain sends no more requests to the worker and returns when it has none
	// in flight, or with an error when ctx ends.
	Drain(ctx context.Context, name string) error
	// Remove sends no more requests to the worker and forgets it.
	Remove(name string) error
}

// Command returns the command of the worker of that name, not started, and the
// configuration to hand over to it (see package handover). The Fleet sets the
// command's standard streams and its process group.
type Command func(name string) (cmd *exec.Cmd, config any, err error)

// Options configures a [Fleet].
type Options struct {
	// Output is where the workers' standard error goes, each line after the
	// worker's name. A Write must not wait for anything: the workers do for it. If
	// zero, it goes nowhere.
	Output io.Writer
	// Logger gets the events. It must not wait for anything: the fleet does for
	// it. If zero, nobody gets them.
	Logger *slog.Logger
	// StartTimeout bounds the time from start to ready. If zero, 30 s.
	StartTimeout time.Duration
	// DrainTimeout bounds how long a drain waits for requests in flight. If
	// zero, 30 s.
	DrainTimeout time.Duration
	// StopTimeout bounds the time from SIGTERM to the end of the process, which
	// is then killed. If zero, 10 s.
	StopTimeout time.Duration
	// UnhealthyTimeout is how long a worker that was ready may fail its health
	// checks until it is replaced. If zero, 10 s.
	UnhealthyTimeout time.Duration
}

// State is what a worker is doing.
type State string

// The states of a worker, in this order. One that fails its health checks is
// starting again, until it passes them or is replaced.
const (
	Starting State = "starting"
	Ready    State = "ready" // and sent requests
	Draining State = "draining"
)

// Worker is one worker at one moment.
type Worker struct {
	Name    string    `json:"name"`
	PID     int       `json:"pid"`
	URL     string    `json:"url"` // "" until it is ready
	State   State     `json:"state"`
	Started time.Time `json:"started"`
}

// Fleet is a set of worker processes. Its methods are safe for concurrent use.
type Fleet struct {
	router  Router
	command Command
	opts    Options
	events  events

	mu      sync.Mutex
	target  int
	started int // how many were started ever, for their names
	workers []*worker
	closed  bool          // no worker is started any more
	changed chan struct{} // closed and renewed at every change of workers
	backoff backoff
	retry   *time.Timer // set while a start waits for the backoff
	failure error       // of the first start
	running sync.WaitGroup
}

type worker struct {
	Worker
	process *process
	routed  bool          // the router knows it
	readyAt time.Time     // zero until it was ready for the first time
	sick    bool          // it was ready, and fails its health checks
	killed  bool          // by us
	gone    chan struct{} // closed when the worker is out of the fleet
}

// New returns a Fleet without workers.
func New(router Router, command Command, opts *Options) *Fleet {
	f := &Fleet{router: router, command: command, changed: make(chan struct{})}
	if opts != nil {
		f.opts = *opts
	}
	if f.opts.Output == nil {
		f.opts.Output = io.Discard
	}
	if f.opts.Logger == nil {
		f.opts.Logger = slog.New(slog.DiscardHandler)
	}
	setDefault(&f.opts.StartTimeout, 30*time.Second)
	setDefault(&f.opts.DrainTimeout, 30*time.Second)
	setDefault(&f.opts.StopTimeout, 10*time.Second)
	setDefault(&f.opts.UnhealthyTimeout, 10*time.Second)
	f.events.logger, f.events.changed = f.opts.Logger, make(chan struct{})
	return f
}

func setDefault(d *time.Duration, v time.Duration) {
	if *d <= 0 {
		*d = v
	}
}

// Start starts n workers and returns when all of them are ready. If one is not
// able to start, or ctx ends, it kills all and returns why: a fleet that never
// was ready has nothing to keep up.
func (f *Fleet) Start(ctx context.Context, n int) error {
	if err := f.Scale(n); err != nil {
		return err
	}
	err := f.await(ctx, func() bool {
		return f.failure != nil || f.countLocked(Ready) >= f.target
	})
	f.mu.Lock()
	if f.failure != nil {
		err = f.failure
	}
	f.mu.Unlock()
	if err != nil {
		f.KillAll()
	}
	return err
}

// Scale sets the number of workers to keep. It returns at once: workers that are
// missing are started, those too many are drained, the youngest first.
func (f *Fleet) Scale(n int) error { return f.ScaleFor(n, "") }

// ScaleFor is [Fleet.Scale] for a reason, which the event tells.
func (f *Fleet) ScaleFor(n int, reason string) error {
	if n < 1 || n > MaxWorkers {
		return ErrCount
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return ErrStopped
	}
	if f.target != n && f.target != 0 {
		detail := fmt.Sprintf("from %d to %d workers", f.target, n)
		if reason != "" {
			detail += ": " + reason
		}
		f.events.add(Scaled, "", detail)
	}
	f.target = n
	f.reconcileLocked()
	return nil
}

// Kill ends the worker by SIGKILL, in the middle of whatever it does, and
// returns when it is gone. It is replaced.
func (f *Fleet) Kill(ctx context.Context, name string) error {
	f.mu.Lock()
	w := f.findLocked(name)
	if w == nil {
		f.mu.Unlock()
		return ErrUnknown
	}
	w.killed = true
	f.mu.Unlock()
	w.process.kill()
	select {
	case <-w.gone:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Drain takes the worker out of service without failing a request: it gets no
// new ones, finishes those that it has, and ends. Drain returns at once. The
// worker is replaced, so that the count stays what [Fleet.Scale] set; if it is
// the only one ready, it serves until its replacement is.
func (f *Fleet) Drain(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	w := f.findLocked(name)
	if w == nil {
		return ErrUnknown
	}
	if f.closed {
		return ErrStopped
	}
	f.drainLocked(w)
	f.reconcileLocked()
	return nil
}

// Workers returns the workers, the oldest first.
func (f *Fleet) Workers() []Worker {
	f.mu.Lock()
	defer f.mu.Unlock()
	ws := make([]Worker, 0, len(f.workers))
	for _, w := range f.workers {
		ws = append(ws, w.Worker)
	}
	return ws
}

// Target returns the number of workers to keep.
func (f *Fleet) Target() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.target
}

// Events returns what happened, the oldest first. It forgets what is long ago.
func (f *Fleet) Events() []Event { return f.events.list() }

// EventsSince returns those that came after the first n ever, as far as they are not
// forgotten, how many there were in all, and a channel that is closed at the next one.
func (f *Fleet) EventsSince(n int) (fresh []Event, total int, changed <-chan struct{}) {
	return f.events.since(n)
}

// EventCounts returns how many events of each kind there ever were, those that are
// forgotten too. A kind without any may be missing.
func (f *Fleet) EventCounts() map[Kind]int { return f.events.count() }

// Changed returns a channel that is closed at the next change of the workers.
func (f *Fleet) Changed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}

// Shutdown asks every worker to end and returns when all are gone. The caller
// has seen to it that no request is in flight, so one that cannot end loses
// nothing by being killed: at once if it fails its health checks, else after
// [Options.StopTimeout]. When ctx ends before that all are killed, which is an
// error. No worker is started any more.
func (f *Fleet) Shutdown(ctx context.Context) error {
	f.mu.Lock()
	f.closeLocked()
	for _, w := range f.workers {
		w.State = Draining
		f.unrouteLocked(w)
		if w.sick {
			w.killed = true
			w.process.kill()
		} else {
			w.process.terminate()
		}
	}
	f.changedLocked()
	f.mu.Unlock()

	gone := func() bool { return len(f.workers) == 0 }
	stopping, cancel := context.WithTimeout(ctx, f.opts.StopTimeout)
	defer cancel()
	if f.await(stopping, gone) != nil {
		for _, w := range f.Workers() {
			f.opts.Logger.Warn("worker did not end; killing it", "worker", w.Name)
		}
		f.KillAll()
		if ctx.Err() != nil {
			return errors.New("some workers did not end in time and were killed")
		}
	}
	f.running.Wait()
	return nil
}

// KillAll ends every worker by SIGKILL and returns when all are gone. No worker is
// started any more.
func (f *Fleet) KillAll() {
	f.mu.Lock()
	f.closeLocked()
	for _, w := range f.workers {
		w.killed = true
		w.process.kill()
	}
	f.mu.Unlock()
	f.running.Wait()
}

func (f *Fleet) closeLocked() {
	f.closed = true
	if f.retry != nil {
		f.retry.Stop()
		f.retry = nil
	}
}

// reconcileLocked starts or drains workers until there are as many as wanted.
func (f *Fleet) reconcileLocked() {
	if f.closed {
		return
	}
	active := func() int { return f.countLocked(Starting) + f.countLocked(Ready) }
	for active() > f.target {
		f.drainLocked(f.dispensableLocked())
	}
	for active() < f.target && f.retry == nil {
		if d := f.backoff.wait(time.Now()); d > 0 {
			f.events.add(Delayed, "", fmt.Sprintf("%d starts failed in a row; next try in %v", f.backoff.failures, d.Round(time.Millisecond)))
			f.retry = time.AfterFunc(d, func() {
				f.mu.Lock()
				defer f.mu.Unlock()
				f.retry = nil
				f.reconcileLocked()
			})
			return
		}
		f.startLocked()
	}
}

// dispensableLocked returns the worker to lose when there are too many: one that
// serves nobody yet, else the youngest.
func (f *Fleet) dispensableLocked() *worker {
	for _, state := range []State{Starting, Ready} {
		for _, w := range slices.Backward(f.workers) {
			if w.State == state {
				return w
			}
		}
	}
	panic("fleet: no worker to lose")
}

func (f *Fleet) startLocked() {
	f.started++
	name := fmt.Sprintf("worker-%d", f.started)
	cmd, config, err := f.command(name)
	var p *process
	if err == nil {
		p, err = start(cmd, config, &lines{emit: func(line string) {
			_, _ = fmt.Fprintf(f.opts.Output, "%s | %s\n", name, line)
		}})
	}
	if err != nil {
		f.failedLocked(name, err)
		return
	}
	w := &worker{
		Worker:  Worker{Name: name, PID: p.pid(), State: Starting, Started: time.Now()},
		process: p,
		gone:    make(chan struct{}),
	}
	f.workers = append(f.workers, w)
	f.events.add(Started, name, fmt.Sprintf("process %d", w.PID))
	f.changedLocked()
	f.running.Go(func() { f.supervise(w) })
}

// failedLocked notes that a worker did not start, and tries again later.
func (f *Fleet) failedLocked(name string, err error) {
	err = fmt.Errorf("%s did not start: %w", name, err)
	f.events.add(Failed, name, err.Error())
	if f.failure == nil {
		f.failure = err
	}
	f.backoff.failed(time.Now())
	f.changedLocked()
}

// supervise follows a worker from its start to its end.
func (f *Fleet) supervise(w *worker) {
	ctx, cancel := context.WithTimeoutCause(context.Background(), f.opts.StartTimeout,
		fmt.Errorf("it was not ready within %v", f.opts.StartTimeout))
	go func() {
		<-w.process.exited
		cancel()
	}()
	problem := f.admit(ctx, w)
	if problem != nil {
		w.process.kill()
	} else {
		f.follow(w)
	}
	<-w.process.exited
	f.ended(w, problem)
}

// admit waits until a worker is ready and puts it into service. It returns why
// the worker has to go, or nil; ctx ends when its time is up or it has exited.
func (f *Fleet) admit(ctx context.Context, w *worker) error {
	var r handover.Report
	select {
	case r = <-w.process.report:
	case <-ctx.Done():
		select {
		case r = <-w.process.report: // at the same moment
		default:
			return expired(ctx)
		}
	}
	if r.Error != "" {
		return errors.New(r.Error)
	}
	u, err := url.Parse(r.URL)
	if err != nil {
		return fmt.Errorf("its address: %w", err)
	}
	if err := f.route(w, u); err != nil {
		return err
	}
	if err := f.router.WaitReady(ctx, w.Name); err != nil {
		if cause := expired(ctx); cause != nil {
			return cause
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		if w.State == Draining || ctx.Err() != nil {
			return nil // it ends anyway
		}
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if w.State == Starting && ctx.Err() == nil {
		w.State, w.readyAt = Ready, time.Now()
		f.events.add(BecameReady, w.Name, r.URL)
		f.changedLocked()
	}
	return nil
}

// follow keeps the state of a worker that was ready true to its health, until it
// leaves service.
func (f *Fleet) follow(w *worker) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-w.process.exited:
			cancel()
		case <-ctx.Done():
		}
	}()
	for {
		if f.router.WaitDown(ctx, w.Name) != nil || !f.setHealth(w, Ready, Starting, Unhealthy) {
			return
		}
		patience, end := context.WithTimeout(ctx, f.opts.UnhealthyTimeout)
		err := f.router.WaitReady(patience, w.Name)
		end()
		switch {
		case err == nil:
			if !f.setHealth(w, Starting, Ready, BecameReady) {
				return
			}
		case patience.Err() == context.DeadlineExceeded && ctx.Err() == nil:
			f.mu.Lock()
			defer f.mu.Unlock()
			if w.State == Starting && !f.closed {
				f.drainLocked(w)
				f.reconcileLocked()
			}
			return
		default:
			return
		}
	}
}

// setHealth moves a worker from one state to another, or reports that it is not in
// the first.
func (f *Fleet) setHealth(w *worker, from, to State, k Kind) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if w.State != from {
		return false
	}
	w.State, w.sick = to, k == Unhealthy
	f.events.add(k, w.Name, w.URL)
	f.changedLocked()
	return true
}

// expired returns why ctx ended if its time was up, else nil.
func expired(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return context.Cause(ctx)
	}
	return nil
}

// route tells the router about a worker, unless it is leaving already.
func (f *Fleet) route(w *worker, u *url.URL) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if w.State != Starting {
		return nil
	}
	if err := f.router.Add(w.Name, u); err != nil {
		return err
	}
	w.URL, w.routed = u.String(), true
	f.changedLocked()
	return nil
}

func (f *Fleet) unrouteLocked(w *worker) {
	if w.routed {
		w.routed = false
		_ = f.router.Remove(w.Name) // it fails only for names that are not there
	}
}

// ended takes a worker whose process has ended out of the fleet, and has it
// replaced unless it was drained.
func (f *Fleet) ended(w *worker, problem error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	defer close(w.gone)
	f.unrouteLocked(w)
	f.workers = slices.DeleteFunc(f.workers, func(o *worker) bool { return o == w })

	now, end := time.Now(), w.process.end()
	switch {
	case w.killed:
		f.events.add(Killed, w.Name, end)
	case w.State == Draining:
		f.events.add(Drained, w.Name, end)
	case w.State == Starting && w.readyAt.IsZero():
		if problem == nil {
			problem = errors.New(end + w.process.lastWords())
		}
		f.failedLocked(w.Name, problem)
	default:
		f.events.add(Died, w.Name, end)
		// A signal comes from outside; waiting would not mend what sends it.
		if w.process.exitedByItself() {
			f.backoff.died(now, now.Sub(w.readyAt))
		}
	}
	f.changedLocked()
	f.reconcileLocked()
}

// drainLocked begins to take a worker out of service.
func (f *Fleet) drainLocked(w *worker) {
	if w.State == Draining {
		return
	}
	w.State = Draining
	f.events.add(BeganDraining, w.Name, "")
	f.changedLocked()
	routed := w.routed
	f.running.Go(func() { f.drain(w, routed) })
}

func (f *Fleet) drain(w *worker, routed bool) {
	ctx, cancel := context.WithTimeout(context.Background(), f.opts.DrainTimeout)
	defer cancel()
	go func() { // do not wait for the requests of the dead
		select {
		case <-w.process.exited:
			cancel()
		case <-ctx.Done():
		}
	}()
	if routed {
		_ = f.await(ctx, func() bool { return f.countLocked(Ready) > 0 || f.closed })
		if err := f.router.Drain(ctx, w.Name); err != nil && ctx.Err() == context.DeadlineExceeded {
			f.opts.Logger.Warn("requests still in flight when the drain ended", "worker", w.Name, "after", f.opts.DrainTimeout)
		}
	}
	f.mu.Lock()
	hopeless := w.sick
	if hopeless {
		w.killed = true
	}
	f.mu.Unlock()
	if hopeless {
		w.process.kill() // it would not hear
		return
	}
	w.process.terminate()
	select {
	case <-w.process.exited:
	case <-time.After(f.opts.StopTimeout):
		f.opts.Logger.Warn("worker did not end after it was drained; killing it", "worker", w.Name)
		w.process.kill()
	}
}

// await returns when done, which is called with the lock held, or ctx ends.
func (f *Fleet) await(ctx context.Context, done func() bool) error {
	for {
		f.mu.Lock()
		ok, changed := done(), f.changed
		f.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (f *Fleet) changedLocked() {
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *Fleet) countLocked(s State) int {
	n := 0
	for _, w := range f.workers {
		if w.State == s {
			n++
		}
	}
	return n
}

func (f *Fleet) findLocked(name string) *worker {
	for _, w := range f.workers {
		if w.Name == name {
			return w
		}
	}
	return nil
}
