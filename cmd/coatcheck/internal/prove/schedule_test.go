package prove

import (
	"math"
	"reflect"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/shopper"
)

func config() Config {
	return Config{Sessions: External, Duration: time.Minute, Shoppers: 200, Workers: 3, Kills: 20, ScaleTo: 10, Seed: 7, Think: time.Second}
}

// TestScheduleDependsOnTheSeedAlone: or the comparison would compare nothing.
func TestScheduleDependsOnTheSeedAlone(t *testing.T) {
	a, b := config(), config()
	b.Sessions = Local
	if !reflect.DeepEqual(newSchedule(a), newSchedule(b)) {
		t.Error("the schedule depends on where sessions are kept")
	}
	b.Seed = 8
	if reflect.DeepEqual(newSchedule(a), newSchedule(b)) {
		t.Error("the schedule does not depend on the seed")
	}
}

func TestSchedule(t *testing.T) {
	c := config()
	s := newSchedule(c)
	kills, scales := 0, []int(nil)
	last := time.Duration(0)
	for _, a := range s.acts {
		if a.at < last || a.at > c.Duration {
			t.Errorf("%+v comes after %v", a, last)
		}
		last = a.at
		switch a.do {
		case kill:
			kills++
		case scale:
			scales = append(scales, a.n)
		default:
			t.Errorf("%+v happens to a store that is to have no trouble", a)
		}
	}
	if kills != 20 || !reflect.DeepEqual(scales, []int{10, 3}) {
		t.Errorf("%d kills, scaling to %v; want 20, and to 10 and back to 3", kills, scales)
	}
	want := 60 * 200 / shopper.MeanSteps
	if n := float64(len(s.arrivals)); math.Abs(n-want) > 4*math.Sqrt(want) {
		t.Errorf("%v shoppers come in a minute; want about %.0f", n, want)
	}
	c.Kills, c.ScaleTo = 0, 0
	if s := newSchedule(c); len(s.acts) != 0 {
		t.Errorf("without trouble there is %+v", s.acts)
	}
}

// TestStoreActs: each outage ends before the next begins, and others than a shared store
// have none.
func TestStoreActs(t *testing.T) {
	c := config()
	c.StoreRestarts, c.SlowStore = 10, time.Millisecond
	down, outages, slow := false, 0, 0
	for _, a := range newSchedule(c).acts {
		switch a.do {
		case storeDown, storeUp:
			if down == (a.do == storeDown) {
				t.Errorf("at %v the store is down already, or up", a.at)
			}
			down = a.do == storeDown
			outages++
		case storeSlow, storeFast:
			slow++
		}
	}
	if outages != 20 || slow != 2 || down {
		t.Errorf("%d times down or up, %d slow or fast, in the end down: %t; want 20, 2 and not", outages, slow, down)
	}
	others := c
	others.StoreRestarts, others.SlowStore = 0, 0
	want := newSchedule(others)
	c.Sessions = Sticky
	if !reflect.DeepEqual(newSchedule(c), want) {
		t.Error("trouble of the store changes what happens to those who have none")
	}
}

func TestSpike(t *testing.T) {
	c := config()
	c.Shoppers, c.Spike = 40, 10
	before, during, after := 0, 0, 0
	for _, at := range newSchedule(c).arrivals {
		switch {
		case at < 18*time.Second:
			before++
		case at < 30*time.Second:
			during++
		default:
			after++
		}
	}
	calm := float64(before+after) / 48
	if got := float64(during) / 12 / calm; got < 7 || got > 13 {
		t.Errorf("%.1f times as many shoppers come during the spike; want about 10", got)
	}
}
