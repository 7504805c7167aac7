package storetest

import (
	"time"

	"github.com/coatcheck/coatcheck/store"
)

var touchRules = []rule{
	{
		name: "extends-and-changes-nothing-else",
		says: "Touch moves Expires and leaves everything else alone, the version above all.",
		why:  "A touch that takes a version makes the user's own parallel request conflict; one that writes back old data loses an update.",
		look: "the columns that Touch sets.",
		run: func(x *script) {
			r := x.session("alice")
			k := x.created(r)
			r.Expires = r.Expires.Add(time.Hour)
			x.touch(k, r.Expires)
			x.holds("after Touch", k, r)
		},
	},
	{
		name: "never-shortens",
		says: "Touch only extends: an earlier time changes nothing.",
		why:  "A slow request that touches late would sign out the user whose newer request has extended the session.",
		look: "greatest(expires, given) in the statement itself.",
		run: func(x *script) {
			r := x.session("alice")
			k := x.created(r)
			for _, earlier := range []time.Time{r.Expires.Add(-time.Minute), time.Now().Add(-time.Hour), time.Unix(1, 0)} {
				if err := x.store.Touch(x.ctx, k, earlier); err == nil {
					x.holds("after Touch to an earlier time", k, r)
				}
			}
		},
	},
	{
		name: "nothing-to-extend-is-no-error",
		says: "Touch to an earlier time, or to the same one, is no error.",
		why:  "It happens whenever two requests overlap; an error would be logged, or taken for the end of the session.",
		look: "servers that count changed rows, or a WHERE that leaves the row out: re-read before saying absent.",
		run: func(x *script) {
			r := x.session("alice")
			k := x.created(r)
			for _, expires := range []time.Time{r.Expires, r.Expires.Add(-time.Minute), time.Now().Add(-time.Hour)} {
				x.want("Touch to a time that is not later", x.store.Touch(x.ctx, k, expires), nil)
			}
			x.touch(k, r.Deadline)
			x.want("Touch of a record that expires at its deadline", x.store.Touch(x.ctx, k, r.Deadline.Add(time.Hour)), nil)
		},
	},
	{
		name: "clamped-to-the-deadline",
		says: "Touch never moves Expires past the stored Deadline.",
		why:  "The absolute timeout (ASVS 7.3.2) must hold for a session that is used all day, or by a thief.",
		look: "least(given, deadline) in the statement itself.",
		run: func(x *script) {
			r := x.session("alice")
			k := x.created(r)
			x.touch(k, r.Deadline.Add(time.Hour))
			want := r
			want.Expires = r.Deadline
			x.holds("after Touch past the deadline", k, want)

			k = x.created(r)
			lower := x.changed(r)
			lower.Deadline = r.Expires.Add(time.Minute)
			x.replace(k, r.Version, lower)
			x.touch(k, r.Deadline)
			lower.Expires = lower.Deadline
			x.holds("after Replace lowered the deadline and Touch went past it", k, lower)
		},
	},
	{
		name: "absent-is-not-found",
		says: "Touch without a record is ErrNotFound and stores nothing.",
		why:  "A touch that creates is a session out of nothing.",
		look: "EXPIRE answers, upserts.",
		run: func(x *script) {
			k := x.key()
			x.want("Touch of an absent record", x.store.Touch(x.ctx, k, time.Now().Add(time.Hour)), store.ErrNotFound)
			x.gone("after Touch of an absent record", k)
		},
	},
	{
		name: "deleted-stays-deleted",
		says: "Touch after Delete is ErrNotFound: it never revives.",
		why:  "The idle-timeout write of a slow request must not bring back a session that was signed out.",
		look: "read-modify-write in Touch, caches.",
		run: func(x *script) {
			r := x.session("alice")
			k := x.created(r)
			x.get(k)
			x.delete(k)
			x.want("Touch after Delete", x.store.Touch(x.ctx, k, r.Expires.Add(time.Hour)), store.ErrNotFound)
			x.gone("after Delete and Touch", k)
		},
	},
	{
		name: "zero-is-invalid",
		says: "Touch with a zero time is ErrInvalid and changes nothing.",
		why:  "Zero means \"for ever\" to some servers.",
		look: "the first lines of Touch.",
		run: func(x *script) {
			r := x.session("alice")
			k := x.created(r)
			x.want("Touch with a zero time", x.store.Touch(x.ctx, k, time.Time{}), store.ErrInvalid)
			x.holds("after Touch with a zero time", k, r)
		},
	},
}
