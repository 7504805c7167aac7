package store_test

import (
	"context"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/store"
)

// minimal is a store without capabilities.
type minimal struct{}

func (minimal) Get(context.Context, store.Key) (store.Record, error) {
	return store.Record{}, store.ErrNotFound
}
func (minimal) Create(context.Context, store.Key, store.Record) error          { return nil }
func (minimal) Replace(context.Context, store.Key, uint64, store.Record) error { return nil }
func (minimal) Touch(context.Context, store.Key, time.Time) error              { return nil }
func (minimal) Delete(context.Context, store.Key) (bool, error)                { return false, nil }

// pinging has one.
type pinging struct {
	minimal
	by string
}

func (p pinging) Ping(context.Context) error { return errBy(p.by) }

type errBy string

func (e errBy) Error() string { return string(e) }

// wrapper has Ping among its methods, as one that embeds its inner store would,
// and says what capability says.
type wrapper struct {
	pinging
	capability func(target any) bool
}

func (w wrapper) Capability(target any) bool { return w.capability(target) }

func TestAs(t *testing.T) {
	refuse := func(any) bool { return false }
	forward := func(target any) bool {
		p, ok := target.(*store.Pinger)
		if ok {
			*p = pinging{by: "forwarded"}
		}
		return ok
	}
	for _, tt := range []struct {
		name string
		s    store.Store
		want string // who answers Ping; "" for nobody
	}{
		{"a store without it", minimal{}, ""},
		{"a store with it", pinging{by: "itself"}, "itself"},
		{"a wrapper that refuses, whatever its methods", wrapper{pinging{by: "leaked"}, refuse}, ""},
		{"a wrapper that forwards, whatever its methods", wrapper{pinging{by: "leaked"}, forward}, "forwarded"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, ok := store.As[store.Pinger](tt.s)
			if ok != (tt.want != "") {
				t.Fatalf("As = %v, %v; want %q", p, ok, tt.want)
			}
			if !ok {
				if p != nil {
					t.Errorf("As = %v, false; want nil", p)
				}
				return
			}
			if err := p.Ping(t.Context()); err.Error() != tt.want {
				t.Errorf("Ping was answered by %q; want %q", err, tt.want)
			}
		})
	}
	if _, ok := store.As[store.Sweeper](wrapper{pinging{}, forward}); ok {
		t.Error("As found a capability that the wrapper does not have")
	}
}
