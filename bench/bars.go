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
func bars(f *family, res *results) []bar {
	j := judge{res: res}
	f.judge(&j)
	return j.bars
}

type judge struct {
	res  *results
	bars []bar
}

// timed adds a bar that a busy machine keeps from being judged.
func (j *judge) timed(b bar) {
	b.Busy = j.res.Others > quiet
	j.bars = append(j.bars, b)
}

// rate asks for a rate of at least so many times another peer's.
func (j *judge) rate(what, section, ours, theirs string, least float64) {
	a, b := j.res.find(section, ours), j.res.find(section, theirs)
	if got := ratio(a, b, func(m measurement) float64 { return m.Rate }); got > 0 {
		j.timed(bar{What: what, Want: fmt.Sprintf("at least %g", least), Got: fmt.Sprintf("%.2f", got), Met: got >= least})
	}
}

// latency asks for a p50 of at most so many times another peer's.
func (j *judge) latency(what, section, ours, theirs string, most float64) {
	a, b := j.res.find(section, ours), j.res.find(section, theirs)
	if got := ratio(a, b, func(m measurement) float64 { return float64(m.P50) }); got > 0 {
		j.timed(bar{What: what, Want: fmt.Sprintf("at most %g", most), Got: fmt.Sprintf("%.2f", got), Met: got <= most})
	}
}

// p50 asks for a p50 of at most that.
func (j *judge) p50(what, section, peer string, most time.Duration) {
	if r := j.res.find(section, peer); r != nil {
		j.timed(bar{What: what, Want: "at most " + brief(most), Got: brief(r.P50), Met: r.P50 <= most})
	}
}
