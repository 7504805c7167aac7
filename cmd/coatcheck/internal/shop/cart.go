package shop

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/coatcheck/coatcheck/session"
)

// cart is how many of each SKU the visitor wants.
var cart = session.NewAttr[map[string]int]("cart")

const (
	maxQuantity = 99   // of one request
	maxLine     = 9999 // of one SKU in a cart
)

// errLineFull is the refusal of an update: on values that another request has
// made meanwhile, too.
var errLineFull = errors.New("the cart holds too many of this already")

// add returns the update that puts qty of sku into a cart. It may run more than
// once, on newer carts.
func add(sku string, qty int) func(map[string]int) (map[string]int, error) {
	return func(c map[string]int) (map[string]int, error) {
		if c == nil {
			c = make(map[string]int)
		}
		if c[sku]+qty > maxLine {
			return nil, errLineFull
		}
		c[sku] += qty
		return c, nil
	}
}

func (s *shop) addToCart(w http.ResponseWriter, r *http.Request, sess *session.Session) error {
	form, err := readForm(r)
	if err != nil {
		return err
	}
	sku := form.Get("sku")
	if !inCatalogue(sku) {
		return refusef(http.StatusBadRequest, "This shop sells no %q.", shorten(sku))
	}
	qty, err := strconv.Atoi(form.Get("qty"))
	if err != nil || qty < 1 || qty > maxQuantity || strconv.Itoa(qty) != form.Get("qty") { // as +1 and 01
		return refusef(http.StatusBadRequest, "The quantity must be a whole number from 1 to %d.", maxQuantity)
	}
	err = cart.Update(sess, add(sku, qty))
	if errors.Is(err, session.ErrDecode) {
		// Better an empty cart than one that can never be used again.
		cart.Delete(sess)
		err = cart.Update(sess, add(sku, qty))
	}
	if err == nil {
		// The answer shows the cart, so that must be final.
		err = sess.Commit(r.Context())
	}
	if errors.Is(err, errLineFull) {
		return refusef(http.StatusConflict, "A cart holds at most %d of one kind, so nothing was added.", maxLine)
	}
	if err != nil {
		return err
	}
	return s.done(w, r, sess, "/")
}

// readCart returns the visitor's cart, never nil.
func (s *shop) readCart(r *http.Request, sess *session.Session) map[string]int {
	c, err := cart.Get(sess)
	if err != nil {
		s.logger.WarnContext(r.Context(), "shop: a cart is not readable and shown as empty", "error", err)
	}
	if c == nil {
		c = map[string]int{}
	}
	return c
}

// sessionState is what GET /api/session answers.
type sessionState struct {
	User     string         `json:"user"`
	Cart     map[string]int `json:"cart"`
	ServedBy string         `json:"served_by"`
}

func (s *shop) state(r *http.Request, sess *session.Session) sessionState {
	return sessionState{sess.Owner(), s.readCart(r, sess), s.name}
}

func (s *shop) apiSession(w http.ResponseWriter, r *http.Request, sess *session.Session) error {
	writeJSON(w, http.StatusOK, s.state(r, sess))
	return nil
}

// cartLine is a line of the cart as the page shows it.
type cartLine struct {
	product
	Quantity int
}

// Sum returns the price of the line.
func (l cartLine) Sum() string { return euros(l.Cents * l.Quantity) }

// cartLines returns what the page shows of a cart, in the order of the
// catalogue, and the price of all. What is not sold any more stays in the
// session and is not shown.
func cartLines(c map[string]int) (lines []cartLine, pieces int, total string) {
	cents := 0
	for _, p := range catalogue {
		if n := c[p.SKU]; n > 0 {
			lines = append(lines, cartLine{p, n})
			pieces += n
			cents += n * p.Cents
		}
	}
	return lines, pieces, euros(cents)
}

func shorten(s string) string {
	const most = 32
	if len(s) > most {
		return fmt.Sprintf("%.*s…", most, s)
	}
	return s
}
