//go:build unix

package stop_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/stop"
)

func raise(t *testing.T, sig syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(os.Getpid(), sig); err != nil {
		t.Fatal(err)
	}
}

func TestFirstSignalIsPoliteAndTheSecondIsNot(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		t.Run(sig.String(), func(t *testing.T) {
			polite, now, release := stop.Notify(t.Context())
			defer release()
			raise(t, sig)
			<-polite.Done()
			if err := context.Cause(polite); !errors.Is(err, stop.ErrAsked) {
				t.Errorf("the cause of the first is %v", err)
			}
			if now.Err() != nil {
				t.Error("the first signal ended everything at once")
			}
			raise(t, sig)
			<-now.Done()
			if err := context.Cause(now); !errors.Is(err, stop.ErrInsisted) {
				t.Errorf("the cause of the second is %v", err)
			}
		})
	}
}

func TestEndOfTheParentContextEndsBoth(t *testing.T) {
	reason := errors.New("parent gone")
	parent, end := context.WithCancelCause(t.Context())
	polite, now, release := stop.Notify(parent)
	defer release()
	end(reason)
	<-polite.Done()
	<-now.Done()
	if context.Cause(polite) != reason || context.Cause(now) != reason {
		t.Errorf("causes %v and %v, want %v", context.Cause(polite), context.Cause(now), reason)
	}
}

func ExampleNotify() {
	polite, now, release := stop.Notify(context.Background())
	defer release()
	_ = syscall.Kill(os.Getpid(), syscall.SIGTERM)
	<-polite.Done() // finish what is in flight, but not longer than until now ends
	fmt.Println(context.Cause(polite), now.Err())
	// Output: asked to stop <nil>
}
