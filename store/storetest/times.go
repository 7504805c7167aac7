package storetest

import (
	"time"

	"github.com/coatcheck/coatcheck/store"
)

var timeRules = []rule{
	{
		name: "cut-to-the-millisecond",
		says: "Times finer than a millisecond are truncated, not rounded, by Create, Replace and Touch.",
		why:  "Two backends that disagree by a microsecond disagree about who is alive, and a migration is never equal.",
		look: "Record.Truncate before storing; rounding by DATETIME(3) or TIMESTAMP(3) columns.",
		run: func(x *script) {
			const fine = 999_999 * time.Nanosecond
			r := x.session("alice")
			r.Created, r.Deadline, r.Expires = r.Created.Add(fine), r.Deadline.Add(fine), r.Expires.Add(fine)
			k := x.created(r)
			x.holds("after Create with nanoseconds", k, r)

			next := x.changed(r)
			next.Expires = r.Expires.Add(time.Second)
			x.replace(k, r.Version, next)
			x.holds("after Replace with nanoseconds", k, next)

			next.Expires = next.Expires.Add(time.Second)
			x.touch(k, next.Expires)
			x.holds("after Touch with nanoseconds", k, next)
		},
	},
	{
		name: "returned-in-utc",
		says: "Times given in any zone are the same instants, and are returned in UTC.",
		why:  "A zone that is dropped moves every timeout by hours, on one server of the fleet.",
		look: "drivers that format local time (loc, parseTime), columns without a zone: store Unix milliseconds.",
		run: func(x *script) {
			zone := time.FixedZone("test", -(9*60+30)*60)
			r := x.session("alice")
			r.Created, r.Deadline, r.Expires = r.Created.In(zone), r.Deadline.In(zone), r.Expires.In(zone)
			k := x.created(r)
			utc := func(what string, r store.Record) {
				for _, t := range []time.Time{r.Created, r.Deadline, r.Expires} {
					if t.Location() != time.UTC {
						x.Errorf("%s: a time is in zone %v; want UTC", what, t.Location())
					}
				}
			}
			x.holds("after Create with times in a zone", k, r)
			utc("after Create", x.get(k))
			r.Expires = r.Expires.Add(time.Minute)
			x.touch(k, r.Expires)
			x.holds("after Touch with a time in a zone", k, r)
			utc("after Touch", x.get(k))
			next := x.changed(r)
			x.replace(k, r.Version, next)
			x.holds("after Replace with times in a zone", k, next)
			utc("after Replace", x.get(k))
		},
	},
	{
		name: "far-apart",
		says: "Creation times of decades ago and deadlines in decades are kept.",
		why:  "32-bit seconds end in 2038.",
		look: "the width of the columns (TIMESTAMP in MySQL ends in 2038).",
		run: func(x *script) {
			r := x.session("alice")
			r.Created = time.Date(1980, 2, 29, 23, 59, 59, int(time.Millisecond), time.UTC)
			r.Deadline = time.Date(2120, 12, 31, 23, 59, 59, int(999*time.Millisecond), time.UTC)
			k := x.created(r)
			x.holds("after Create", k, r)
			r.Expires = time.Date(2110, 1, 1, 0, 0, 0, 0, time.UTC)
			x.touch(k, r.Expires)
			x.holds("after Touch", k, r)
		},
	},
}
