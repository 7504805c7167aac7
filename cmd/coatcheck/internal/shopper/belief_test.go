package shopper

import (
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

func TestJudge(t *testing.T) {
	for _, tt := range []struct {
		rule   string
		belief belief
		seen   state
		want   verdict
	}{
		{"as it must be", belief{in("ann", 2, 1)}, in("ann", 2, 1), verdict{}},
		{"no cart is an empty cart", belief{{}}, in("", 0, 0), verdict{}},
		{"either of two", belief{in("ann", 2, 0), in("ann", 3, 0)}, in("ann", 3, 0), verdict{}},
		{"less than acknowledged", belief{in("ann", 2, 1)}, in("ann", 1, 0), verdict{lost: 2}},
		{"more than ordered", belief{in("ann", 2, 0)}, in("ann", 4, 1), verdict{surplus: 3}},
		{"an item changed for another", belief{in("ann", 1, 0)}, in("ann", 0, 1), verdict{lost: 1, surplus: 1}},
		{"half of an addition of unknown outcome", belief{in("ann", 0, 0), in("ann", 3, 0)}, in("ann", 1, 0), verdict{surplus: 1}},
		{"more than acknowledged and unknown", belief{in("ann", 1, 0), in("ann", 3, 0)}, in("ann", 4, 0), verdict{surplus: 1}},
		{"less than before an addition of unknown outcome", belief{in("ann", 2, 0), in("ann", 3, 0)}, in("ann", 1, 0), verdict{lost: 1}},
		{"signed out with the cart kept", belief{in("ann", 2, 0)}, in("", 2, 0), verdict{signedOut: true}},
		{"signed out, and the cart lost", belief{in("ann", 2, 1)}, in("", 0, 0), verdict{signedOut: true, lost: 3}},
		{"somebody else", belief{in("ann", 2, 0)}, in("bob", 5, 0), verdict{wrongUser: true}},
		{"somebody where nobody is signed in", belief{in("", 2, 0)}, in("bob", 2, 0), verdict{wrongUser: true}},
		{"revived after a sign-out", belief{{}}, in("ann", 2, 0), verdict{wrongUser: true}},
		{"the cart is judged against the same user", belief{in("ann", 2, 0), {}}, in("", 2, 0), verdict{surplus: 2}},
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
		change change
		known  bool
		want   belief
	}{
		{"an addition", belief{in("ann", 1, 1)}, apple, true, belief{in("ann", 3, 1)}},
		{"the first addition", belief{{}}, apple, true, belief{in("", 2, 0)}},
		{"an addition that may have been carried out", belief{in("ann", 1, 0)}, apple, false, belief{in("ann", 1, 0), in("ann", 3, 0)}},
		{"an addition after one that may have been", belief{in("ann", 1, 0), in("ann", 3, 0)}, apple, true, belief{in("ann", 3, 0), in("ann", 5, 0)}},
		{"what is the same is held once", belief{in("ann", 1, 0), in("ann", 3, 0)}, apple, false, belief{in("ann", 1, 0), in("ann", 3, 0), in("ann", 5, 0)}},
		{"a sign-in keeps the cart", belief{in("", 1, 0)}, toSignIn("ann"), true, belief{in("ann", 1, 0)}},
		{"a sign-in whose cookie may be lost", belief{in("", 1, 0)}, toSignIn("ann"), false, belief{in("", 1, 0), {}, in("ann", 1, 0)}},
		{"a sign-out", belief{in("ann", 1, 0)}, toSignOut, true, belief{{}}},
		{"a sign-out that may have been carried out", belief{in("ann", 1, 0)}, toSignOut, false, belief{in("ann", 1, 0), {}}},
	} {
		before := tt.before.String()
		got := tt.before.after(tt.change, tt.known)
		if got.String() != tt.want.String() {
			t.Errorf("%s: believes %s, want %s", tt.rule, got, tt.want)
		}
		if tt.before.String() != before {
			t.Errorf("%s: the old belief was changed to %s", tt.rule, tt.before)
		}
	}
}

func TestBeliefIsToldInShort(t *testing.T) {
	b := belief{{}}
	for range 5 {
		b = b.after(toAdd(item{"plum", 1}), false)
	}
	if got := b.String(); !strings.HasPrefix(got, "nobody with nothing or nobody with 1×plum or") || !strings.HasSuffix(got, "or …") {
		t.Errorf("told as %q", got)
	}
}
