package storetest

import "github.com/coatcheck/coatcheck/store"

var pingRules = []rule{{
	name: "answers",
	says: "Ping of a store that answers is no error, and changes nothing.",
	why:  "A dashboard and a breaker go by it.",
	look: "the command, and the permission that it needs.",
	run: func(x *script) {
		p := need[store.Pinger](x)
		r := x.session("alice")
		k := x.created(r)
		x.want("Ping", p.Ping(x.ctx), nil)
		x.holds("after Ping", k, r)
	},
}}
