package shopper

import (
	"math/rand/v2"
	"reflect"
	"testing"
	"time"
)

func TestPlanDependsOnTheSeedOnly(t *testing.T) {
	plans := func(seed uint64) (out [][]step) {
		rng := rand.New(rand.NewPCG(seed, 0))
		for range 20 {
			out = append(out, newPlan(rng, time.Second))
		}
		return out
	}
	if !reflect.DeepEqual(plans(1), plans(1)) {
		t.Error("one seed made two plans")
	}
	if reflect.DeepEqual(plans(1), plans(2)) {
		t.Error("two seeds made one plan")
	}
}

func TestPlansHaveEverything(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 0))
	seen := make(map[stepKind]int)
	for range 100 {
		in := false
		for _, st := range newPlan(rng, time.Second) {
			seen[st.kind]++
			if st.signedIn != in {
				t.Errorf("a step is for somebody who is signed in: %t; it comes when that is %t", st.signedIn, in)
			}
			if st.think < 500*time.Millisecond || st.think > 1500*time.Millisecond {
				t.Errorf("thinks for %v, want about a second", st.think)
			}
			switch st.kind {
			case signIn:
				in = true
			case signOut:
				in = false
			}
		}
	}
	for _, k := range []stepKind{browse, addOne, addInTwoTabs, signIn, signOut} {
		if seen[k] < 20 {
			t.Errorf("100 journeys have %d steps of kind %d", seen[k], k)
		}
	}
}
