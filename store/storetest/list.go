package storetest

import (
	"context"
	"errors"

	"github.com/coatcheck/coatcheck/store"
)

var listRules = []rule{
	{
		name: "yields-every-live-record",
		says: "List yields every live record, owned or not, whole.",
		why:  "A migration that misses records signs those users out.",
		look: "the condition, the fields, anonymous records.",
		run: func(x *script) {
			need[store.Lister](x)
			x.holdsOnly("List of an empty store", x.list(), nil)
			want := make(map[store.Key]store.Record)
			for _, owner := range []string{"", "alice", "bob", ""} {
				r := x.session(owner)
				want[x.created(r)] = r
			}
			x.delete(x.created(x.session("alice")))
			x.holdsOnly("List", x.list(), want)
		},
	},
	{
		name: "many-records",
		says: "List yields all of hundreds of records.",
		why:  "A migration that stops after the first page signs out everybody on the second.",
		look: "cursors, and pages with nothing in them.",
		run: func(x *script) {
			need[store.Lister](x)
			want := make(map[store.Key]store.Record)
			for range 520 {
				r := x.session("")
				want[x.created(r)] = r
			}
			x.holdsOnly("List", x.list(), want)
		},
	},
	{
		name: "stops-when-told",
		says: "The sequence ends when the loop does, and can be started again.",
		why:  "An administrator who looks at ten sessions must not read a million, or leave a connection behind.",
		look: "the result of yield; rows and cursors that are not closed.",
		run: func(x *script) {
			l := need[store.Lister](x)
			for range 10 {
				x.created(x.session("alice"))
			}
			seq := l.List(x.ctx)
			for range 50 { // more often than a pool has connections
				n := 0
				for _, err := range seq {
					x.want("List", err, nil)
					if n++; n == 3 {
						break
					}
				}
				if n != 3 {
					x.Fatalf("List yielded %d of 10 records before the loop ended; want 3", n)
				}
			}
		},
	},
	{
		name: "may-be-written-to-meanwhile",
		says: "The caller may write to the store while it iterates; a record that lives throughout is yielded.",
		why:  "A clean-up that deletes what it lists would deadlock, or skip.",
		look: "locks and the one write connection held over a yield; pages by offset.",
		run: func(x *script) {
			l := need[store.Lister](x)
			throughout := make(map[store.Key]store.Record)
			doomed := make(map[store.Key]bool)
			for i := range 300 {
				r := x.session("alice")
				k := x.created(r)
				if i%2 == 0 {
					throughout[k] = r
				} else {
					doomed[k] = true
				}
			}
			found := make(map[store.Key]store.Record)
			n := 0
			for kr, err := range l.List(x.ctx) {
				if err != nil {
					x.Fatalf("List while writing: %v; want success", err)
				}
				if _, ok := throughout[kr.Key]; ok {
					found[kr.Key] = kr.Record
				}
				if doomed[kr.Key] {
					x.delete(kr.Key)
				}
				if n++; n < 50 {
					x.created(x.session("bob"))
				}
			}
			x.holdsOnly("List while writing, of the records that lived throughout", found, throughout)
		},
	},
	{
		name: "ends-after-an-error",
		says: "After an error, which comes with a zero Keyed, the sequence ends.",
		why:  "A loop that goes on after an error takes half of the records for all of them.",
		look: "a return after yield(store.Keyed{}, err).",
		run: func(x *script) {
			l := need[store.Lister](x)
			for range 10 {
				x.created(x.session("alice"))
			}
			ctx, cancel := context.WithCancel(x.ctx)
			cancel()
			calls := 0
			for kr, err := range l.List(ctx) {
				if calls++; calls > 1 {
					x.Fatalf("List went on after an error")
				}
				if !errors.Is(err, context.Canceled) {
					x.Errorf("List with an ended context: got error %v; want context.Canceled", err)
				}
				x.same("the record that comes with an error", kr.Record, store.Record{})
				if !kr.Key.IsZero() {
					x.Errorf("List yielded a key with an error")
				}
			}
			if calls == 0 {
				x.Errorf("List with an ended context yielded nothing; want an error, or an empty store is what it looks like")
			}
		},
	},
}
