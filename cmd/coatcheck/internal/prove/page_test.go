package prove

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"io"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/fleet"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/shopper"
)

func sample(mode Mode, signOuts int) *Result {
	began := time.Unix(1000, 0)
	r := &Result{
		Sessions: mode, Store: "sqlite:<b>", Seconds: 3, Kills: 1, Settings: Settings{Workers: 2, Kills: 1}, Flawless: signOuts == 0,
		Result: &shopper.Result{
			Shoppers: 5, Seed: 7,
			Counts:  shopper.Counts{Journeys: 5, Requests: 60, SignOuts: signOuts, UnrepeatableLost: 1},
			Servers: map[string]int{"worker-1": 40, "worker-2": 20}, Latency: shopper.Latency{P50: time.Millisecond, P99: 9 * time.Millisecond, Max: time.Second},
			First: map[shopper.Kind]shopper.Example{shopper.Unrepeatable: {Shopper: "shopper-1", What: "POST <cart>", Trace: []string{"GET / & more"}}},
		},
		Events: []fleet.Event{{Time: began.Add(time.Second), Kind: fleet.Killed, Worker: "worker-1"}, {Time: began.Add(2 * time.Second), Kind: fleet.Scaled, Detail: "from 2 to 3 workers"}},
		began:  began,
	}
	for i := range 6 {
		m := Moment{At: float64(i) / 2, Ready: 2, Requests: map[string]int{"worker-1": 10}, P50: 1, P99: 9}
		if i > 2 {
			m = Moment{At: float64(i) / 2, Ready: 1, Requests: map[string]int{"worker-2": 7}, Failed: 1, P50: 2, P99: 5}
		}
		r.Timeline = append(r.Timeline, m)
	}
	return r
}

// TestPage: the page stands alone, its charts are well formed, and what it shows is
// escaped.
func TestPage(t *testing.T) {
	page := Page([]*Result{sample(External, 0), sample(Local, 3)})
	for _, want := range []string{"sqlite:&lt;b&gt;", "POST &lt;cart&gt;", "GET / &amp; more", "No sign-out, no lost item", "3 sign-outs", "Seed 7"} {
		if !bytes.Contains(page, []byte(want)) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if m := regexp.MustCompile(`(?i)(src|href)=|url\(|<script|@import`).Find(page); m != nil {
		t.Errorf("the page needs something else: %s", m)
	}
	if bytes.Contains(page, []byte("NaN")) || bytes.Contains(page, []byte("Inf")) {
		t.Error("a figure is no number")
	}
	charts := regexp.MustCompile(`(?s)<svg.*?</svg>`).FindAll(page, -1)
	if len(charts) != 2 {
		t.Fatalf("%d charts; want one for each result", len(charts))
	}
	for _, c := range charts {
		for _, want := range []string{`class="kill"`, `class="scale"`, `class="ready"`, `class="p50"`, `class="bar"`, "<title>worker-2</title>"} {
			if !bytes.Contains(c, []byte(want)) {
				t.Errorf("the chart lacks %s", want)
			}
		}
		d := xml.NewDecoder(bytes.NewReader(c))
		for {
			if _, err := d.Token(); err == io.EOF {
				break
			} else if err != nil {
				t.Fatalf("the chart is not well formed: %v", err)
			}
		}
	}
	if empty := Page([]*Result{{Sessions: External, Result: &shopper.Result{}}}); !bytes.Contains(empty, []byte("0 journeys")) {
		t.Error("there is no page of an experiment in which nothing happened")
	}
}

// TestExcused: a 503 is excused by an outage alone, and the time after it.
func TestExcused(t *testing.T) {
	at := time.Unix(1000, 0)
	refused := shopper.Request{Method: "GET", Status: 503, Took: 100 * time.Millisecond}
	for from, want := range map[time.Duration]int{
		3800 * time.Millisecond: 0,
		3950 * time.Millisecond: 1, // it was there when the outage began
		5 * time.Second:         1,
		6500 * time.Millisecond: 1,
		7100 * time.Millisecond: 0,
	} {
		r := refused
		r.Start = at.Add(from)
		if got, first := excused([]shopper.Request{r}, at, []Outage{{4, 5}}); got != want || (first == nil) != (want == 1) {
			t.Errorf("a 503 at %v: %d excused, the first of the others is %v; want %d", from, got, first, want)
		}
	}
	for answer, want := range map[shopper.Request]int{
		{Method: "POST", Status: 503}: 1,
		{Method: "POST", Status: 500}: 1, // nobody can tell whether it was carried out
		{Method: "GET", Status: 500}:  0,
		{Method: "GET"}:               0, // no answer at all
		{Method: "POST", Status: 404}: 0,
	} {
		answer.Start = at.Add(5 * time.Second)
		if got, _ := excused([]shopper.Request{answer}, at, []Outage{{4, 5}}); got != want {
			t.Errorf("%s → %d in an outage: %d excused; want %d", answer.Method, answer.Status, got, want)
		}
	}
}

func TestTextAndJSON(t *testing.T) {
	text := sample(External, 0).Text() + "\n" + Compare([]*Result{sample(External, 0), sample(Sticky, 1), sample(Local, 3)})
	for _, want := range []string{"1 of 1 kills", "shared store", "memory, sticky", "sign-outs"} {
		if !strings.Contains(text, want) {
			t.Errorf("the text lacks %q:\n%s", want, text)
		}
	}
	b, err := json.Marshal(sample(Local, 3))
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	for _, field := range []string{"sessions", "store", "seconds", "sign_outs", "lost_items", "wrong_users", "failed_requests", "unrepeatable_lost", "requests", "journeys", "slow_requests", "timeline", "events", "latency", "seed"} {
		if _, ok := got[field]; !ok {
			t.Errorf("the object lacks %s: %s", field, b)
		}
	}
	if got["sign_outs"] != 3.0 {
		t.Errorf("sign_outs is %v; want 3", got["sign_outs"])
	}
}

// TestUnexcused: a change without an answer is excused by a kill alone.
func TestUnexcused(t *testing.T) {
	at := time.Unix(1000, 0)
	events := []fleet.Event{{Time: at, Kind: fleet.Killed}, {Time: at.Add(time.Minute), Kind: fleet.Died}}
	lost := func(start time.Duration) shopper.Request {
		return shopper.Request{Start: at.Add(start), Took: 100 * time.Millisecond, Fault: shopper.Unrepeatable}
	}
	for _, c := range []struct {
		lost shopper.Request
		want int
	}{
		{lost(-50 * time.Millisecond), 0},
		{lost(500 * time.Millisecond), 0},
		{lost(-3 * time.Second), 1},
		{lost(3 * time.Second), 1},
		{lost(time.Minute), 1}, // it died by itself
	} {
		if got := unexcused([]shopper.Request{c.lost}, events); got != c.want {
			t.Errorf("a change at %v: %d unexcused; want %d", c.lost.Start.Sub(at), got, c.want)
		}
	}
}
