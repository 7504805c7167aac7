package storetest

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coatcheck/coatcheck/store"
)

var watchRules = []rule{
	{
		name: "tells-of-every-change",
		says: "Watch tells of what this process creates, replaces, touches and deletes, soon after each.",
		why:  "A copy that nobody is told of is served until it is too old, even after a sign-out.",
		look: "the commands that the subscription covers; a touch is one of them.",
		run:  func(x *script) { watchChanges(x, x) },
	},
	{
		name: "tells-of-other-processes",
		says: "Watch tells of what other processes create, replace, touch and delete, soon after each.",
		why:  "A sign-out on another server would hold there alone.",
		look: "notifications that stay in the process, or that leave out what others write.",
		run: func(x *script) {
			need[store.Watcher](x)
			watchChanges(x, x.second())
		},
	},
	{
		name: "tells-of-revocation",
		says: "Watch tells of every record that DeleteOwner deletes.",
		why:  "Who signs out everywhere must be out where a copy is kept, too.",
		look: "deletions by owner that take another path than Delete.",
		run: func(x *script) {
			need[store.OwnerIndex](x)
			ks := make([]store.Key, 5)
			for i := range ks {
				ks[i] = x.created(x.session("alice"))
			}
			w := x.watch()
			defer w.stop()
			x.deleteOwner("alice")
			for _, k := range ks {
				w.told("DeleteOwner", k)
			}
		},
	},
	{
		name: "ready-means-watching",
		says: "Every change after ready is told.",
		why:  "What changes between ready and the subscription stays in a cache for as long as copies live.",
		look: "ready that is called before the server has confirmed the subscription.",
		run: func(x *script) {
			for range 20 {
				w := x.watch()
				k := x.created(x.session(""))
				w.told("Create right after ready", k)
				w.stop()
				if x.Failed() {
					return
				}
			}
		},
	},
	{
		name: "ready-again-means-told",
		says: "When ready is called again, all that was changed before the time that it names has been told; each time is later than the one before, and none is to come.",
		why:  "Caches keep copies for longer that are current as of that time: a change that is told later leaves a stale one.",
		look: "a time that is taken after the server was asked; answers that overtake the changes.",
		run: func(x *script) {
			w := x.watch()
			defer w.stop()
			// Long enough for stores that make sure a few times a second.
			for range 30 {
				time.Sleep(20 * time.Millisecond)
				k := x.created(x.session(""))
				w.finished(k)
				if !w.told("Create", k) {
					return
				}
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.wrong != "" {
				x.Errorf("%s", w.wrong)
			}
		},
	},
	{
		name: "a-burst-is-told-whole",
		says: "Under many writes at once every change is told, in calls that do not overlap.",
		why:  "Messages that are dropped in a hurry are stale copies; callers keep what they are told without a lock.",
		look: "buffers that are full: then tell that anything may have changed, or return. One goroutine calls.",
		run: func(x *script) {
			w := x.watch()
			defer w.stop()
			const writers, each = 8, 50
			ks := make([]store.Key, writers*each)
			for i := range ks {
				ks[i] = x.key()
			}
			r := x.session("")
			together(writers, func(i int) {
				for _, k := range ks[i*each : (i+1)*each] {
					if err := x.store.Create(x.ctx, k, r); err != nil {
						x.Errorf("Create: %v; want success", err)
					}
				}
			})
			for _, k := range ks {
				if !w.told("one of many Creates", k) {
					return
				}
			}
			if w.overlapped.Load() {
				x.Errorf("changed was called while another call of it ran")
			}
		},
	},
	{
		name: "ends-with-its-context",
		says: "Watch returns its context's error when that ends, at once if it has ended already, and calls nothing after that.",
		why:  "A server that stops would hang; a cache that was closed would be written to.",
		look: "a receive without ctx; callbacks in a goroutine that outlives the call.",
		run: func(x *script) {
			ended, cancel := context.WithCancel(x.ctx)
			cancel()
			late := x.watchWith(ended)
			late.stop()
			late.wantEnd("Watch with a context that has ended")

			w := x.watch()
			k := x.created(x.session(""))
			w.told("Create", k)
			w.stop()
			w.wantEnd("Watch whose context ended")
			if w.stopped.Load() == 0 {
				return
			}
			// What comes after a Watch that was told of it comes after this one, too.
			again := x.watch()
			defer again.stop()
			for range 5 {
				k := x.created(x.session(""))
				again.told("Create", k)
			}
			if w.after.Load() || late.after.Load() {
				x.Errorf("changed or ready was called after Watch had returned")
			}
		},
	},
}

// patience is how long "soon" may take on a busy server.
const patience = 10 * time.Second

// watchChanges watches with r what w does.
func watchChanges(r, w *script) {
	replaced, touched := r.session("alice"), r.session("")
	replacedKey, touchedKey, deletedKey := r.created(replaced), r.created(touched), r.created(r.session("alice"))
	watch := r.watch()
	defer watch.stop()
	created := w.created(w.session("alice"))
	watch.told("Create", created)
	w.replace(replacedKey, replaced.Version, w.changed(replaced))
	watch.told("Replace", replacedKey)
	w.touch(touchedKey, touched.Expires.Add(time.Minute))
	watch.told("Touch", touchedKey)
	w.delete(deletedKey)
	watch.told("Delete", deletedKey)
}

// watching is a call of Watch and what it has told.
type watching struct {
	x       *script
	cancel  context.CancelFunc
	ready   chan struct{}
	done    chan struct{} // closed when Watch has returned
	err     error         // set then
	stopped atomic.Int64  // 1 when Watch has returned

	calls      atomic.Int64 // that run now
	overlapped atomic.Bool
	after      atomic.Bool // something was called after Watch had returned

	mu     sync.Mutex
	keys   map[store.Key]bool
	all    bool
	untold map[store.Key]time.Time // changes, and when they were made
	asOf   time.Time               // of the last call of ready
	wrong  string                  // what was wrong with it
	news   chan struct{}           // holds a token after each call of changed
}

// watch begins to watch, or skips the rule. It returns when the store is ready.
func (x *script) watch() *watching {
	x.Helper()
	w := x.watchWith(x.ctx)
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	select {
	case <-w.ready:
	case <-w.done:
		if errors.Is(w.err, errors.ErrUnsupported) {
			x.Skipf("the store cannot watch here: %v", w.err)
		}
		x.Fatalf("Watch ended before it was ready: %v", w.err)
	case <-timeout.C:
		w.stop()
		x.Fatalf("Watch was not ready within %v", patience)
	}
	return w
}

func (x *script) watchWith(ctx context.Context) *watching {
	x.Helper()
	watcher := need[store.Watcher](x)
	ctx, cancel := context.WithCancel(ctx)
	w := &watching{
		x: x, cancel: cancel,
		ready: make(chan struct{}), done: make(chan struct{}), news: make(chan struct{}, 1),
		keys: make(map[store.Key]bool), untold: make(map[store.Key]time.Time),
	}
	go func() {
		defer close(w.done)
		w.err = watcher.Watch(ctx, w.isReady, w.changed)
		w.stopped.Store(1)
	}()
	return w
}

// enter notes a call that must not be, if it is one.
func (w *watching) enter() {
	if w.calls.Add(1) > 1 {
		w.overlapped.Store(true)
	}
	if w.stopped.Load() == 1 {
		w.after.Store(true)
	}
}

func (w *watching) isReady(asOf time.Time) {
	w.enter()
	defer w.calls.Add(-1)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.asOf.IsZero() {
		close(w.ready)
	}
	switch {
	case asOf.After(time.Now()):
		w.wrong = "ready names a time to come"
	case !asOf.After(w.asOf):
		w.wrong = "ready names a time that is not later than that of the call before"
	}
	w.asOf = asOf
	for k, made := range w.untold {
		if made.Before(asOf) && !w.keys[k] && !w.all {
			w.wrong = "ready names a time before which something was changed that it has not told of"
		}
	}
}

// finished says that k has been changed just now.
func (w *watching) finished(k store.Key) {
	made := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.untold[k] = made
}

func (w *watching) changed(ks []store.Key) {
	w.enter()
	w.mu.Lock()
	for _, k := range ks {
		w.keys[k] = true
	}
	w.all = w.all || len(ks) == 0
	w.mu.Unlock()
	runtime.Gosched() // whoever would overlap does it now
	w.calls.Add(-1)
	select {
	case w.news <- struct{}{}:
	default:
	}
}

// told reports whether the watcher hears of k soon, and fails the rule if not.
// What it heard counts once: a later change must be told again.
func (w *watching) told(what string, k store.Key) bool {
	w.x.Helper()
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		w.mu.Lock()
		heard := w.keys[k] || w.all
		delete(w.keys, k)
		if heard {
			delete(w.untold, k)
		}
		w.mu.Unlock()
		if heard {
			return true
		}
		select {
		case <-w.news:
		case <-w.done:
			w.x.Errorf("%s: Watch ended instead of telling: %v", what, w.err)
			return false
		case <-timeout.C:
			w.x.Errorf("%s: Watch did not tell of it within %v", what, patience)
			return false
		}
	}
}

// stop ends the context and waits for Watch to return.
func (w *watching) stop() {
	w.x.Helper()
	w.cancel()
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	select {
	case <-w.done:
	case <-timeout.C:
		w.x.Errorf("Watch did not return within %v of its context's end", patience)
	}
}

func (w *watching) wantEnd(what string) {
	w.x.Helper()
	select {
	case <-w.done:
		if errors.Is(w.err, errors.ErrUnsupported) {
			w.x.Skipf("the store cannot watch here: %v", w.err)
		}
		w.x.want(what, w.err, context.Canceled)
	default: // stop has said so
	}
}
