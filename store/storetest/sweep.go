package storetest

import (
	"time"

	"github.com/coatcheck/coatcheck/store"
)

var sweepRules = []rule{
	{
		name: "spares-the-living",
		says: "Sweep removes expired records only.",
		why:  "A sweep that removes live ones signs users out, at night, unseen.",
		look: "the condition, and that it is tested again by the statement that deletes.",
		run: func(x *script) {
			sweeper := need[store.Sweeper](x)
			r, m := x.session("alice"), x.marker("")
			live, marker := x.created(r), x.created(m)
			touched := x.session("alice")
			var k store.Key
			later := touched.Expires
			x.sleepUntil(x.soon(func(soon time.Time) error {
				k = x.key()
				touched.Expires = soon
				if err := x.store.Create(x.ctx, k, touched); err != nil {
					return err
				}
				return x.store.Touch(x.ctx, k, later)
			}))
			touched.Expires = later
			_, err := sweeper.Sweep(x.ctx, 100)
			x.want("Sweep", err, nil)
			x.holds("a live session after Sweep", live, r)
			x.holds("a live marker after Sweep", marker, m)
			x.holds("a session touched before its first expiry, after Sweep", k, touched)
		},
	},
	{
		name: "at-most-limit-and-tells-the-end",
		says: "Sweep removes at most limit records and returns how many; fewer than limit means that none are left.",
		why:  "One unbounded DELETE blocks the site; a wrong count never finishes, or never frees the space.",
		look: "the batch's LIMIT and the count of removed rows.",
		run: func(x *script) {
			sweeper := need[store.Sweeper](x)
			live := x.session("alice")
			k := x.created(live)
			r := x.session("alice")
			x.sleepUntil(x.soon(func(soon time.Time) error {
				r.Expires = soon
				for range 7 {
					if err := x.store.Create(x.ctx, x.key(), r); err != nil {
						return err
					}
				}
				return nil
			}))
			removed, calls := 0, 0
			for {
				n, err := sweeper.Sweep(x.ctx, 3)
				if err != nil {
					x.Fatalf("Sweep: %v; want success", err)
				}
				if n > 3 {
					x.Errorf("Sweep with limit 3 removed %d", n)
				}
				removed += n
				if calls++; n < 3 || calls == 100 {
					break
				}
			}
			// An attempt that was too slow on the real clock left some of its own.
			if removed < 7 || x.c.Synctest && removed != 7 {
				x.Errorf("Sweep with limit 3 of 7 expired records said it was done after %d", removed)
			}
			n, err := sweeper.Sweep(x.ctx, 100)
			x.want("Sweep", err, nil)
			if n != 0 {
				x.Errorf("Sweep said that none were left, but the next one removed %d", n)
			}
			if x.c.Count != nil {
				x.delete(k)
				if left := x.c.Count(x.t, x.store); left != 0 {
					x.Errorf("the backend holds %d entries after everything expired was swept and the rest deleted", left)
				}
				return
			}
			x.holds("a live session after Sweep", k, live)
		},
	},
	{
		name: "limit-must-be-positive",
		says: "Sweep with a limit of zero or less is ErrInvalid.",
		why:  "LIMIT 0 or -1 means nothing to one server and everything to another; a loop over it never ends.",
		look: "the first lines of Sweep.",
		run: func(x *script) {
			sweeper := need[store.Sweeper](x)
			for _, limit := range []int{0, -1} {
				_, err := sweeper.Sweep(x.ctx, limit)
				x.want("Sweep without a positive limit", err, store.ErrInvalid)
			}
		},
	},
}
