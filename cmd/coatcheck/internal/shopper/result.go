package shopper

import (
	"fmt"
	"maps"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/latency"
)

// Kind is a kind of discrepancy.
type Kind string

// The kinds of discrepancy.
const (
	SignOut       Kind = "sign_out"       // was signed in, and the shop knew nobody
	LostItem      Kind = "lost_item"      // acknowledged, and not in the cart
	SurplusItem   Kind = "surplus_item"   // in the cart, and never ordered
	WrongUser     Kind = "wrong_user"     // somebody else, or somebody where nobody was signed in
	FailedRequest Kind = "failed_request" // no answer, or not the one that it should be

	// Unrepeatable is a request that is not safe to repeat, and whose server died
	// while it answered: no balancer can mend that, so it is counted apart.
	Unrepeatable Kind = "unrepeatable"

	// SlowRequest is one that took a second or more, whatever came of it. It is no fault.
	SlowRequest Kind = "slow_request"
)

// slow is what a visitor calls so.
const slow = time.Second

var kinds = []Kind{SignOut, LostItem, SurplusItem, WrongUser, FailedRequest, Unrepeatable, SlowRequest}

// Result is what shoppers met with.
type Result struct {
	Shoppers int    `json:"shoppers"`
	Seed     uint64 `json:"seed"`
	Counts
	Interrupted  int `json:"interrupted"`   // journeys in which any of these was noticed
	SlowRequests int `json:"slow_requests"` // of all

	Latency Latency          `json:"latency"`
	Servers map[string]int   `json:"servers"` // requests answered, by X-Served-By
	First   map[Kind]Example `json:"first,omitempty"`
}

// Counts are how much shoppers did, and what they noticed.
type Counts struct {
	Journeys         int `json:"journeys"` // begun
	Requests         int `json:"requests"`
	SignOuts         int `json:"sign_outs"`
	LostItems        int `json:"lost_items"`    // pieces
	SurplusItems     int `json:"surplus_items"` // pieces
	WrongUsers       int `json:"wrong_users"`
	FailedRequests   int `json:"failed_requests"`
	UnrepeatableLost int `json:"unrepeatable_lost"` // not among the failed
}

// Example is one discrepancy in full.
type Example struct {
	Shopper string   `json:"shopper"`
	What    string   `json:"what"`
	Trace   []string `json:"trace"` // the shopper's last requests, oldest first

	interrupts bool // it is the first in its journey
}

// Flawless reports whether the shoppers noticed nothing. Unrepeatable and slow requests
// do not count.
func (r *Result) Flawless() bool {
	return r.SignOuts+r.LostItems+r.SurplusItems+r.WrongUsers+r.FailedRequests == 0
}

// String returns a table for people, and the first discrepancy of each kind.
func (r *Result) String() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 1, ' ', tabwriter.AlignRight)
	row := func(what string, n int, note string, args ...any) {
		if note != "" {
			note = "  " + fmt.Sprintf(note, args...)
		}
		fmt.Fprintf(w, "%s\t%d\t%s\n", what, n, note)
	}
	row("shoppers", r.Shoppers, "seed %d", r.Seed)
	row("journeys", r.Journeys, "%d interrupted", r.Interrupted)
	row("requests", r.Requests, "p50 %s, p99 %s, max %s", short(r.Latency.P50), short(r.Latency.P99), short(r.Latency.Max))
	row("servers", len(r.Servers), "")
	row("sign-outs", r.SignOuts, "")
	row("lost items", r.LostItems, "")
	row("surplus items", r.SurplusItems, "")
	row("wrong users", r.WrongUsers, "")
	row("failed requests", r.FailedRequests, "")
	row("slow requests", r.SlowRequests, "over a second")
	row("unrepeatable", r.UnrepeatableLost, "their server died while it answered")
	_ = w.Flush() // to memory
	for _, k := range kinds {
		ex, ok := r.First[k]
		if !ok {
			continue
		}
		fmt.Fprintf(&b, "\nThe first %s: %s: %s\n", strings.ReplaceAll(string(k), "_", " "), ex.Shopper, ex.What)
		for _, line := range ex.Trace {
			fmt.Fprintf(&b, "\t%s\n", line)
		}
	}
	return b.String()
}

func short(d time.Duration) time.Duration {
	if d < 10*time.Millisecond {
		return d.Round(10 * time.Microsecond)
	}
	return d.Round(100 * time.Microsecond)
}

// tally collects the result of all shoppers.
type tally struct {
	observe func(Request)
	notice  func(Discrepancy)
	latency latency.Histogram

	mu    sync.Mutex
	short error // what this machine ran out of
	r     Result
}

func newTally(shoppers int, seed uint64, o Options) *tally {
	if o.Observe == nil {
		o.Observe = func(Request) {}
	}
	if o.Notice == nil {
		o.Notice = func(Discrepancy) {}
	}
	return &tally{observe: o.Observe, notice: o.Notice, r: Result{
		Shoppers: shoppers,
		Seed:     seed,
		Servers:  make(map[string]int),
		First:    make(map[Kind]Example),
	}}
}

func (t *tally) begin() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.r.Journeys++
}

func (t *tally) request(r Request, ex Example) {
	t.observe(r)
	t.latency.Add(r.Took)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.r.Requests++
	t.r.Latency.Max = max(t.r.Latency.Max, r.Took)
	if r.Server != "" {
		t.r.Servers[r.Server]++
	}
	if ex.interrupts {
		t.r.Interrupted++
	}
	switch r.Fault {
	case FailedRequest:
		t.r.FailedRequests++
		t.first(FailedRequest, ex)
	case Unrepeatable:
		t.r.UnrepeatableLost++
		t.first(Unrepeatable, ex)
	}
	if r.Took >= slow {
		t.r.SlowRequests++
		t.first(SlowRequest, ex)
	}
}

func (t *tally) discrepancy(v verdict, server string, ex Example) {
	for _, k := range v.kinds() {
		t.notice(Discrepancy{Time: time.Now(), Shopper: ex.Shopper, Server: server, Kind: k})
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if ex.interrupts {
		t.r.Interrupted++
	}
	if v.signedOut {
		t.r.SignOuts++
		t.first(SignOut, ex)
	}
	if v.wrongUser {
		t.r.WrongUsers++
		t.first(WrongUser, ex)
	}
	if v.lost > 0 {
		t.r.LostItems += v.lost
		t.first(LostItem, ex)
	}
	if v.surplus > 0 {
		t.r.SurplusItems += v.surplus
		t.first(SurplusItem, ex)
	}
}

func (t *tally) first(k Kind, ex Example) {
	if _, ok := t.r.First[k]; !ok {
		t.r.First[k] = ex
	}
}

// result returns what was counted so far.
func (t *tally) result() *Result {
	counts := t.latency.Counts()
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.r
	r.Servers, r.First = maps.Clone(r.Servers), maps.Clone(r.First)
	r.Latency.P50 = min(counts.Quantile(0.50), r.Latency.Max)
	r.Latency.P99 = min(counts.Quantile(0.99), r.Latency.Max)
	return &r
}

// ranOut notes that this machine has no more of something.
func (t *tally) ranOut(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.short == nil {
		t.short = err
	}
}

func (t *tally) exhausted() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.short
}
