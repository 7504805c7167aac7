package storetest

import (
	"bytes"
	"strings"

	"github.com/coatcheck/coatcheck/store"
)

var sizeRules = []rule{
	{
		name: "the-largest-everyone-takes",
		says: "A store takes MinData bytes of Data, MaxLabel of Label and MaxOwner of Owner.",
		why:  "A session that fits one backend must fit the next one it is migrated to.",
		look: "column widths, packet and item limits.",
		run: func(x *script) {
			r := x.session(strings.Repeat("o", store.MaxOwner))
			r.Label = bytes.Repeat([]byte{0xff}, store.MaxLabel)
			r.Data = bytes.Repeat([]byte{0xff, 0}, store.MinData/2)
			k := x.created(r)
			x.holds("after Create of the largest record", k, r)
			next := x.changed(r)
			next.Data = bytes.Repeat([]byte{0, 0xff}, store.MinData/2)
			x.replace(k, r.Version, next)
			x.holds("after Replace with the largest record", k, next)
		},
	},
	{
		name: "over-its-limit-is-too-large",
		says: "Past its own limit a store answers ErrTooLarge, before anything is written.",
		why:  "A truncated session does not decode; an error of the server's own is taken for an outage, and tried again.",
		look: "compare len(r.Data) with the limit before sending; INSERT IGNORE truncates silently.",
		run: func(x *script) {
			if x.c.MaxData == 0 {
				x.Skipf("Config.MaxData is zero: the store has no limit of its own")
			}
			r := x.session("alice")
			r.Data = bytes.Repeat([]byte{'x'}, x.c.MaxData)
			k := x.created(r)
			x.holds("after Create of a record at the limit", k, r)

			large := x.changed(r)
			large.Data = append(bytes.Clone(r.Data), 'x')
			x.want("Replace with a record over the limit", x.store.Replace(x.ctx, k, r.Version, large), store.ErrTooLarge)
			x.holds("after a Replace that was too large", k, r)
			k = x.key()
			x.want("Create of a record over the limit", x.store.Create(x.ctx, k, large), store.ErrTooLarge)
			x.gone("after a Create that was too large", k)
		},
	},
}
