package shopper

import (
	"slices"
	"strings"
	"testing"
)

func in(user string, apples, pears int) state {
	s := state{User: user, Cart: map[string]int{}}
	if apples > 0 {
		s.Cart["apple"] = apples
	}
	if pears > 0 {
		s.Cart["pear"] = pears
	}
	return s
}

// oneOf is a belief in which nothing is late.
func oneOf(states ...state) (b belief) {
	for _, s := range states {
		b = append(b, possibility{state: s})
	}
	return b
}

func TestJudge(t *testing.T) {
	for _, tt := range []struct {
		rule   string
		belief belief
		seen   state
		want   verdict
	}{
		{"as it must be", oneOf(in("ann", 2, 1)), in("ann", 2, 1), verdict{}},
		{"no cart is an empty cart", oneOf(state{}), in("", 0, 0), verdict{}},
		{"either of two", oneOf(in("ann", 2, 0), in("ann", 3, 0)), in("ann", 3, 0), verdict{}},
		{"less than acknowledged", oneOf(in("ann", 2, 1)), in("ann", 1, 0), verdict{lost: 2}},
		{"more than ordered", oneOf(in("ann", 2, 0)), in("ann", 4, 1), verdict{surplus: 3}},
		{"an item changed for another", oneOf(in("ann", 1, 0)), in("ann", 0, 1), verdict{lost: 1, surplus: 1}},
		{"half of an addition of unknown outcome", oneOf(in("ann", 0, 0), in("ann", 3, 0)), in("ann", 1, 0), verdict{surplus: 1}},
		{"more than acknowledged and unknown", oneOf(in("ann", 1, 0), in("ann", 3, 0)), in("ann", 4, 0), verdict{surplus: 1}},
		{"less than before an addition of unknown outcome", oneOf(in("ann", 2, 0), in("ann", 3, 0)), in("ann", 1, 0), verdict{lost: 1}},
		{"signed out with the cart kept", oneOf(in("ann", 2, 0)), in("", 2, 0), verdict{signedOut: true}},
		{"signed out, and the cart lost", oneOf(in("ann", 2, 1)), in("", 0, 0), verdict{signedOut: true, lost: 3}},
		{"somebody else", oneOf(in("ann", 2, 0)), in("bob", 5, 0), verdict{wrongUser: true}},
		{"somebody where nobody is signed in", oneOf(in("", 2, 0)), in("bob", 2, 0), verdict{wrongUser: true}},
		{"revived after a sign-out", oneOf(state{}), in("ann", 2, 0), verdict{wrongUser: true}},
		{"the cart is judged against the same user", oneOf(in("ann", 2, 0), state{}), in("", 2, 0), verdict{surplus: 2}},
	} {
		if got := tt.belief.judge(tt.seen); got != tt.want {
			t.Errorf("%s: judged %+v, want %+v", tt.rule, got, tt.want)
		}
	}
}

func TestBeliefAfterChanges(t *testing.T) {
	apple := toAdd(item{"apple", 2})
	for _, tt := range []struct {
		rule   string
		before belief
		change *change
		outcome
		want belief
	}{
		{"an addition", oneOf(in("ann", 1, 1)), apple, answered, oneOf(in("ann", 3, 1))},
		{"the first addition", oneOf(state{}), apple, answered, oneOf(in("", 2, 0))},
		{"an addition that may have been carried out", oneOf(in("ann", 1, 0)), apple, open, oneOf(in("ann", 1, 0), in("ann", 3, 0))},
		{"an addition after one that may have been", oneOf(in("ann", 1, 0), in("ann", 3, 0)), apple, answered, oneOf(in("ann", 3, 0), in("ann", 5, 0))},
		{"what is the same is held once", oneOf(in("ann", 1, 0), in("ann", 3, 0)), apple, open, oneOf(in("ann", 1, 0), in("ann", 3, 0), in("ann", 5, 0))},
		{"an addition that may still come", oneOf(in("ann", 1, 0)), apple, late, belief{{in("ann", 1, 0), []*change{apple}}, {state: in("ann", 3, 0)}}},
		{"an addition after one that may still come", belief{{in("ann", 1, 0), []*change{apple}}}, apple, answered, oneOf(in("ann", 3, 0), in("ann", 5, 0))},
		{"a sign-in keeps the cart", oneOf(in("", 1, 0)), toSignIn("ann"), answered, oneOf(in("ann", 1, 0))},
		{"a sign-in whose cookie may be lost", oneOf(in("", 1, 0)), toSignIn("ann"), open, oneOf(in("", 1, 0), state{}, in("ann", 1, 0))},
		{"a sign-out", oneOf(in("ann", 1, 0)), toSignOut(), answered, oneOf(state{})},
		{"a sign-out that may have been carried out", oneOf(in("ann", 1, 0)), toSignOut(), open, oneOf(in("ann", 1, 0), state{})},
	} {
		before := tt.before.String()
		got := tt.before.after(tt.change, tt.outcome)
		if !slices.EqualFunc(got, tt.want, possibility.equal) {
			t.Errorf("%s: believes %v, want %v", tt.rule, []possibility(got), []possibility(tt.want))
		}
		if tt.before.String() != before {
			t.Errorf("%s: the old belief was changed to %s", tt.rule, tt.before)
		}
	}
}

// A server that was killed may have sent a write that the store has not yet carried out.
func TestBeliefInWhatIsLate(t *testing.T) {
	seen := func(b belief, s state) belief {
		t.Helper()
		if v := b.judge(s); v != (verdict{}) {
			t.Fatalf("%s is judged %+v where %s was right", s, v, b)
		}
		return b.seen(s)
	}
	mustNotBe := func(b belief, s state) {
		t.Helper()
		if v := b.judge(s); v == (verdict{}) {
			t.Errorf("%s is right where %s was", s, b)
		}
	}
	apple, pear := toAdd(item{"apple", 1}), toAdd(item{"pear", 1})

	b := oneOf(in("ann", 1, 0)).after(apple, late)
	b = seen(seen(b, in("ann", 1, 0)), in("ann", 1, 0)) // not yet
	came := seen(b, in("ann", 2, 0))
	mustNotBe(came, in("ann", 1, 0)) // what was seen stays
	mustNotBe(came, in("ann", 3, 0)) // and comes once
	mustNotBe(b, in("", 0, 0))

	after := b.after(pear, answered)
	mustNotBe(seen(after, in("ann", 1, 1)), in("ann", 2, 1)) // the session has changed
	seen(seen(after, in("ann", 2, 1)), in("ann", 2, 1))

	both := b.after(pear, late)
	neither := seen(both, in("ann", 1, 0)) // both are of what it is now, so one can come
	mustNotBe(neither, in("ann", 2, 1))
	mustNotBe(seen(neither, in("ann", 1, 1)), in("ann", 2, 1))
	seen(seen(both, in("ann", 2, 0)), in("ann", 2, 1)) // the apple was there when the pear was asked for

	refused := seen(oneOf(in("ann", 1, 0)).after(apple, open), in("ann", 1, 0))
	mustNotBe(refused, in("ann", 2, 0)) // a server that has answered does nothing more

	signIn := seen(oneOf(in("", 1, 0)).after(toSignIn("ann"), late), in("", 1, 0))
	seen(signIn, state{})              // the old ID has ended
	mustNotBe(signIn, in("ann", 1, 0)) // the new one has no cookie
	if signOut := seen(oneOf(in("ann", 1, 0)).after(toSignOut(), late), in("ann", 1, 0)); signOut.mustBe("ann") {
		t.Error("who may have signed out must be signed in")
	}
}

// While changes fail and checks are answered, a belief stays small.
func TestBeliefStaysSmall(t *testing.T) {
	b := oneOf(in("", 1, 0))
	for i := range 40 {
		b = b.after(toAdd(item{"apple", 1}), late).after(toSignIn("ann"), late).after(toSignOut(), late).seen(in("", 1, 0))
		if n := len(b.now()); n > 8*(i+1) {
			t.Fatalf("after %d changes without an answer it has %d possibilities", 3*(i+1), n)
		}
	}
}

func TestBeliefIsToldInShort(t *testing.T) {
	b := oneOf(state{})
	for range 5 {
		b = b.after(toAdd(item{"plum", 1}), open)
	}
	if got := b.String(); !strings.HasPrefix(got, "nobody with nothing or nobody with 1×plum or") || !strings.HasSuffix(got, "or …") {
		t.Errorf("told as %q", got)
	}
}
