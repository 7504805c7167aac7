// Package stop tells a process how it is asked to end: politely at first, then
// at once.
package stop

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"
)

// Causes of the contexts that [Notify] returns.
var (
	ErrAsked    = errors.New("asked to stop")
	ErrInsisted = errors.New("asked a second time: stopped at once")
)

// Notify returns two contexts below parent. The first ends with the first
// interrupt, SIGTERM or SIGHUP: finish what is in flight and end. The second
// ends with the next one: end now. When the second ends, so does the first.
// Release gives the signals back.
func Notify(parent context.Context) (polite, now context.Context, release func()) {
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // by nohup
		signals = append(signals, syscall.SIGHUP)
	}
	c := make(chan os.Signal, 2)
	signal.Notify(c, signals...)

	now, endNow := context.WithCancelCause(parent)
	polite, endPolite := context.WithCancelCause(now)
	released := make(chan struct{})
	go func() {
		for _, end := range []func(){
			func() { endPolite(ErrAsked) },
			func() { endNow(ErrInsisted) },
		} {
			select {
			case <-c:
				end()
			case <-released:
				return
			}
		}
	}()
	return polite, now, func() {
		signal.Stop(c)
		close(released)
		endNow(context.Canceled)
	}
}
