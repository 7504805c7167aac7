package main

import (
	"fmt"
	"time"
)

// A bar is what the project asks of itself.
type bar struct {
	What string `json:"what"`
	Want string `json:"want"`
	Got  string `json:"got"`
	Met  bool   `json:"met"`
	// Busy is true if that cannot be told: others had too much of the machine.
	Busy bool `json:"busy,omitempty"`
}

// bars judges what was measured; what was not is left out.
func bars(res *results) []bar {
	var all []bar
	rate := func(what string, a, b *rowResult, least float64) {
		if got := ratio(a, b, func(m measurement) float64 { return m.Rate }); got > 0 {
			all = append(all, bar{What: what, Want: fmt.Sprintf("at least %g", least), Got: fmt.Sprintf("%.2f", got), Met: got >= least})
		}
	}
	rate("read, to scs on go-redis", res.find("read", coatcheck), res.find("read", scsGoRedis), 5.5)
	rate("read, to a bare handler: cookie, GET, unseal", res.find("read", coatcheck), res.find("read", bareSealed), 0.85)
	rate("write, to scs on go-redis", res.find("write", coatcheck), res.find("write", scsGoRedis), 3)
	rate("compare-and-swap in the store, to a plain SET", res.find("store", casStore), res.find("store", plainSET), 0.8)
	rate("read with the near cache, to scs on go-redis", res.find("read", near), res.find("read", scsGoRedis), 20)
	if r := res.find("read", near); r != nil {
		const most = 3500 * time.Nanosecond
		all = append(all, bar{What: "read with the near cache, p50", Want: "at most " + brief(most), Got: brief(r.P50), Met: r.P50 <= most})
	}
	for _, n := range []string{"1", "8"} {
		a, b := res.find("delay-"+n, delayed(coatcheck, 0)), res.find("delay-"+n, delayed(bareGET, 0))
		if got := ratio(a, b, func(m measurement) float64 { return float64(m.P50) }); got > 0 {
			all = append(all, bar{What: "p50 of a read, " + n + " at once, to a bare GET's", Want: "at most 1.25", Got: fmt.Sprintf("%.2f", got), Met: got <= 1.25})
		}
	}
	for i := range all {
		all[i].Busy = res.Others > quiet
	}
	// Memory is the same on a busy machine.
	var ours, theirs float64
	for _, m := range res.Memory {
		switch m.Peer {
		case coatcheck:
			ours = m.Bytes
		case scsGoRedis:
			theirs = m.Bytes
		}
	}
	if ours > 0 && theirs > 0 {
		all = append(all, bar{
			What: "memory of a session on the server, owner index counted",
			Want: fmt.Sprintf("at most scs's %.0f bytes", theirs), Got: fmt.Sprintf("%.0f bytes", ours), Met: ours <= theirs,
		})
	}
	return all
}
