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

// A change is what a request does to what the shop holds.
type change struct {
	done func(state) state // and its answer comes
	lost func(state) state // and its answer does not
}

// An outcome is what a shopper knows of a request for a change.
type outcome int

const (
	// answered: it was carried out.
	answered outcome = iota

	// open: it was carried out or not, and whoever answered so does nothing more.
	open

	// late: the same, and it may still be carried out. A server that was killed may
	// have sent a write that its store does at any later moment: until the session has
	// changed otherwise, for a write is one of what was read.
	late
)

func toAdd(it item) *change {
	add := func(s state) state {
		more := state{User: s.User, Cart: maps.Clone(s.Cart)}
		if more.Cart == nil {
			more.Cart = make(map[string]int)
		}
		more.Cart[it.sku] += it.qty
		return more
	}
	return &change{done: add, lost: add}
}

func toSignIn(user string) *change {
	return &change{
		done: func(s state) state { return state{User: user, Cart: s.Cart} }, // a cart that was filled before is kept
		// A sign-in ends the old session ID; the cookie with the new one is lost, and
		// the cart with it.
		lost: toNothing,
	}
}

func toSignOut() *change { return &change{done: toNothing, lost: toNothing} }

func toNothing(state) state { return state{} }

// A possibility is what the shop may hold, and the changes of which one may still come.
type possibility struct {
	state
	pending []*change
}

func (p possibility) equal(o possibility) bool {
	return p.state.equal(o.state) && slices.Equal(p.pending, o.pending)
}

// A belief is what the shop may hold, as far as the shopper knows: one possibility,
// or more after requests without an answer.
type belief []possibility

// maxBelief bounds a belief: while no check is answered, each addition doubles it.
const maxBelief = 64

// with returns the belief and one more possibility.
func (b belief) with(p possibility) belief {
	if slices.ContainsFunc(b, p.equal) {
		return b
	}
	return append(b, p)
}

// now returns what the shop may hold at this moment, when what was pending may have
// come: one at most, for the others are not of what it has left.
func (b belief) now() belief {
	var out belief
	for _, p := range b {
		out = out.with(p)
		for _, c := range p.pending {
			out = out.with(possibility{state: c.lost(p.state)})
		}
	}
	return out
}

func (b belief) after(c *change, o outcome) belief {
	var out belief
	for _, p := range b.now() {
		switch o {
		case late:
			out = out.with(possibility{p.state, append(slices.Clone(p.pending), c)})
		case open:
			out = out.with(p)
		}
		if o != answered {
			out = out.with(possibility{state: c.lost(p.state)})
		}
		out = out.with(possibility{state: c.done(p.state)})
	}
	return out
}

// seen returns the belief after the state was seen, which it may be.
func (b belief) seen(s state) belief {
	var out belief
	for _, p := range b.now() {
		if p.state.equal(s) {
			out = out.with(p)
		}
	}
	return out
}

func (b belief) mayBe(user string) bool {
	return slices.ContainsFunc(b, func(p possibility) bool { return p.User == user })
}

func (b belief) mustBe(user string) bool {
	return !slices.ContainsFunc(b.now(), func(p possibility) bool { return p.User != user })
}

func (b belief) String() string {
	var out []string
	for _, p := range b {
		if told := p.state.String(); !slices.Contains(out, told) {
			out = append(out, told)
		}
	}
	if len(out) > 4 {
		out = out[:4]
		out = append(out, "…")
	}
	return strings.Join(out, " or ")
}

// verdict is what is wrong with a state that was seen.
type verdict struct {
	signedOut, wrongUser bool
	lost, surplus        int // items
}

// kinds returns what there is of it.
func (v verdict) kinds() (kinds []Kind) {
	for _, k := range []struct {
		is   bool
		kind Kind
	}{{v.signedOut, SignOut}, {v.wrongUser, WrongUser}, {v.lost > 0, LostItem}, {v.surplus > 0, SurplusItem}} {
		if k.is {
			kinds = append(kinds, k.kind)
		}
	}
	return kinds
}

// judge compares what was seen with the nearest state that is right.
func (b belief) judge(seen state) verdict {
	b = b.now()
	near := func(user string) (v verdict, ok bool) {
		for _, p := range b {
			if p.User != user {
				continue
			}
			w := verdict{lost: seen.missing(p.state), surplus: p.missing(seen)}
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
