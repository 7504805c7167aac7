package shopper

import (
	"math/rand/v2"
	"time"
)

type stepKind int

const (
	browse stepKind = iota
	addOne
	addInTwoTabs
	signIn
	signOut
)

// step is a part of a journey.
type step struct {
	kind     stepKind
	items    []item
	signedIn bool // is for somebody who is signed in
	think    time.Duration
}

var skus = []string{"apple", "pear", "plum"}

// newPlan returns a journey. It is made before the journey begins, so that it
// depends on the seed alone and not on how the shop behaves: an experiment can
// be repeated on another shop.
func newPlan(rng *rand.Rand, think time.Duration) []step {
	var plan []step
	in := false
	do := func(kind stepKind, items int) {
		st := step{kind: kind, signedIn: in}
		for range items {
			st.items = append(st.items, item{skus[rng.IntN(len(skus))], 1 + rng.IntN(3)})
		}
		st.think = time.Duration((0.5 + rng.Float64()) * float64(think))
		plan = append(plan, st)
	}
	do(browse, 0)
	if rng.IntN(2) == 0 {
		do(addOne, 1) // before the sign-in, which must keep it
	}
	do(signIn, 0)
	in = true
	for range 3 + rng.IntN(6) {
		switch n := rng.IntN(20); {
		case n < 5:
			do(browse, 0)
		case n < 15:
			do(addOne, 1)
		case n < 18:
			do(addInTwoTabs, 2)
		default:
			do(signOut, 0)
			in = false
			do(signIn, 0)
			in = true
		}
	}
	if rng.IntN(3) > 0 { // the others close the browser
		do(signOut, 0)
	}
	return plan
}

// MeanSteps is how many steps a journey has on average, and so how many times Options.Think
// it lasts: a browse, an addition in half of them, a sign-in, five and a half rounds of
// which a tenth has two steps, and a sign-out in two of three.
const MeanSteps = 1 + 0.5 + 1 + 5.5*1.1 + 2.0/3
