package shopper

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// state is what the shop holds for a visitor. No user is nobody.
type state struct {
	User string         `json:"user"`
	Cart map[string]int `json:"cart"`
}

func (s state) equal(o state) bool { return s.User == o.User && s.missing(o) == 0 && o.missing(s) == 0 }

// missing returns how many items s has fewer than o.
func (s state) missing(o state) int {
	n := 0
	for sku, qty := range o.Cart {
		n += max(0, qty-s.Cart[sku])
	}
	return n
}

func (s state) String() string {
	var b strings.Builder
	b.WriteString("nobody")
	if s.User != "" {
		b.Reset()
		b.WriteString(s.User)
	}
	b.WriteString(" with")
	if len(s.Cart) == 0 {
		b.WriteString(" nothing")
	}
	for _, sku := range slices.Sorted(maps.Keys(s.Cart)) {
		fmt.Fprintf(&b, " %d×%s", s.Cart[sku], sku)
	}
	return b.String()
}

// item is what is added to a cart at once.
type item struct {
	sku string
	qty int
}

// A change returns what the shop may hold after a request if it held s before:
// one state if the request is known to have been carried out, more if not.
type change func(s state, known bool) []state

func toAdd(it item) change {
	return func(s state, known bool) []state {
		more := state{User: s.User, Cart: maps.Clone(s.Cart)}
		if more.Cart == nil {
			more.Cart = make(map[string]int)
		}
		more.Cart[it.sku] += it.qty
		if known {
			return []state{more}
		}
		return []state{s, more}
	}
}

func toSignIn(user string) change {
	return func(s state, known bool) []state {
		in := state{User: user, Cart: s.Cart} // a cart that was filled before is kept
		if known {
			return []state{in}
		}
		// A sign-in ends the old session ID; the cookie with the new one may be
		// lost, and the cart with it.
		return []state{s, {}, in}
	}
}

func toSignOut(s state, known bool) []state {
	if known {
		return []state{{}}
	}
	return []state{s, {}}
}

// A belief is what the shop may hold, as far as the shopper knows: one state, or
// more after requests without an answer.
type belief []state

// maxBelief bounds a belief: while every check fails, each addition doubles it.
const maxBelief = 64

func (b belief) after(c change, known bool) belief {
	var out belief
	for _, s := range b {
		for _, n := range c(s, known) {
			if !slices.ContainsFunc(out, n.equal) {
				out = append(out, n)
			}
		}
	}
	return out
}

func (b belief) mayBe(user string) bool {
	return slices.ContainsFunc(b, func(s state) bool { return s.User == user })
}

func (b belief) mustBe(user string) bool {
	return !slices.ContainsFunc(b, func(s state) bool { return s.User != user })
}

func (b belief) String() string {
	var out []string
	for _, s := range b[:min(len(b), 4)] {
		out = append(out, s.String())
	}
	if len(b) > 4 {
		out = append(out, "…")
	}
	return strings.Join(out, " or ")
}

// verdict is what is wrong with a state that was seen.
type verdict struct {
	signedOut, wrongUser bool
	lost, surplus        int // items
}

// judge compares what was seen with the nearest state that is right.
func (b belief) judge(seen state) verdict {
	near := func(user string) (v verdict, ok bool) {
		for _, s := range b {
			if s.User != user {
				continue
			}
			w := verdict{lost: seen.missing(s), surplus: s.missing(seen)}
			if !ok || w.lost+w.surplus < v.lost+v.surplus {
				v, ok = w, true
			}
		}
		return v, ok
	}
	if v, ok := near(seen.User); ok {
		return v
	}
	if seen.User != "" {
		return verdict{wrongUser: true} // and the cart is not the shopper's to judge
	}
	// A sign-out that took the cart along has lost its items, too.
	v, _ := near(b[0].User)
	v.signedOut = true
	return v
}
