package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// The timeouts of every peer.
const (
	idle     = time.Hour
	absolute = 24 * time.Hour
)

// A peer is a way to have sessions.
type peer struct {
	name string
	// open returns the peer's app on the server at url, with connections of its own.
	open func(ctx context.Context, url string) (*app, error)
}

// An app is a shop with these pages, which all answer "ok" or what they read:
//
//	signIn  begins a session for a user, with a name and a cart
//	read    shows user and name: what is at the top of every page of a shop
//	all     shows user, name, and the quantity of the first item of the cart
//	write   adds one to that quantity
//
// Who is not signed in gets a 401.
type app struct {
	signIn func(ctx context.Context, i int) (cookie string, err error)
	read   page
	all    page
	write  page

	close func()

	// cpu returns the processor time that the app has used, if it is a process of
	// its own.
	cpu func() (time.Duration, error)

	// cached is true if the app may serve what is not on the server any more.
	cached bool
}

// A page returns a function that asks for the page with the cookie of a session
// and checks the answer. Each worker calls that for itself, from one goroutine.
type page func(worker int) op

// An op does something for the session with the number i and returns the answer,
// which is valid until the next.
type op func(i int, cookie string) ([]byte, error)

// item is what a cart holds. The cart is one JSON text for every Go library: with
// a struct of Go's, gob would write the description of the type into every
// session, and be larger and slower.
type item struct {
	SKU      string `json:"sku"`
	Name     string `json:"name"`
	Quantity int    `json:"quantity"`
	Price    int    `json:"price"`
}

var (
	items = []item{
		{"coat-0042", "Winter coat", 1, 12900},
		{"hat-0007", "Felt hat", 1, 3900},
	}
	cartJSON = mustJSON(items)
)

const userName = "Alice Example"

func user(i int) string { return fmt.Sprintf("user-%06d", i) }

// The greetings are what read answers. They are made beforehand: the load
// generator shares the processor with what it measures.
var greetings = func() []string {
	all := make([]string, 100_000)
	for i := range all {
		all[i] = user(i) + " " + userName
	}
	return all
}()

func mustJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// addOne returns a cart with one more of the first item, as a handler does that
// keeps it as JSON.
func addOne(cart string) (string, error) {
	var c []item
	if err := json.Unmarshal([]byte(cart), &c); err != nil {
		return "", err
	}
	if len(c) == 0 {
		return "", errors.New("the cart is empty")
	}
	c[0].Quantity++
	b, err := json.Marshal(c)
	return string(b), err
}

func quantity(cart string) (int, error) {
	var c []item
	if err := json.Unmarshal([]byte(cart), &c); err != nil {
		return 0, err
	}
	if len(c) == 0 {
		return 0, errors.New("the cart is empty")
	}
	return c[0].Quantity, nil
}

// What each page must answer.
var errAnswer = errors.New("the page answered something else")

func checkGreeting(i, status int, body []byte) error {
	if status != http.StatusOK || string(body) != greetings[i] {
		return wrongAnswer(status, body, greetings[i])
	}
	return nil
}

// checkCart is lenient with the quantity, which the load changes.
func checkCart(i, status int, body []byte) error {
	rest, ok := bytes.CutPrefix(body, []byte(greetings[i]))
	if status != http.StatusOK || !ok || len(rest) < 2 {
		return wrongAnswer(status, body, greetings[i]+" QUANTITY")
	}
	return nil
}

func checkOK(_, status int, body []byte) error {
	if status != http.StatusOK || string(body) != "ok" {
		return wrongAnswer(status, body, "ok")
	}
	return nil
}

func wrongAnswer(status int, body []byte, want string) error {
	return fmt.Errorf("%w: %d %q; want 200 %q", errAnswer, status, body, want)
}

// response is an http.ResponseWriter that costs as little as one can.
type response struct {
	header http.Header
	body   []byte
	status int
}

func (w *response) Header() http.Header  { return w.header }
func (w *response) WriteHeader(code int) { w.status = code }
func (w *response) Flush()               {}
func (w *response) reset()               { clear(w.header); w.body = w.body[:0]; w.status = http.StatusOK }

func (w *response) cookies() []*http.Cookie {
	return (&http.Response{Header: w.header}).Cookies()
}

func (w *response) Write(b []byte) (int, error) {
	w.body = append(w.body, b...)
	return len(b), nil
}

func (w *response) WriteString(s string) (int, error) {
	w.body = append(w.body, s...)
	return len(s), nil
}

// inProcess returns the page that h serves. A request costs one allocation, the
// http.Request, which a handler may keep or change.
func inProcess(h http.Handler, check func(i, status int, body []byte) error) page {
	return func(int) op {
		base, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "/", nil)
		if err != nil {
			panic(err)
		}
		cookies := []string{""}
		base.Header["Cookie"] = cookies
		base.RemoteAddr = "127.0.0.1:1024"
		w := &response{header: http.Header{}}
		ctx := context.Background()
		return func(i int, cookie string) ([]byte, error) {
			w.reset()
			cookies[0] = cookie
			h.ServeHTTP(w, base.WithContext(ctx))
			return w.body, check(i, w.status, w.body)
		}
	}
}

// pages are the handlers of an app on net/http.
type pages struct{ signIn, read, all, write http.Handler }

// app returns the app that serves p in this process.
func (p pages) app(closing func()) *app {
	return &app{
		signIn: func(ctx context.Context, i int) (string, error) {
			w := &response{header: http.Header{}}
			w.reset()
			r, err := http.NewRequestWithContext(ctx, http.MethodGet, signInURL("", i), nil)
			if err != nil {
				return "", err
			}
			p.signIn.ServeHTTP(w, r)
			return join(w.cookies()), checkOK(i, w.status, w.body)
		},
		read:  inProcess(p.read, checkGreeting),
		all:   inProcess(p.all, checkCart),
		write: inProcess(p.write, checkOK),
		close: closing,
	}
}

func signInURL(base string, i int) string {
	return base + "/signin?" + url.Values{"user": {user(i)}, "name": {userName}, "cart": {cartJSON}}.Encode()
}

// join returns cookies as a browser sends them.
func join(cookies []*http.Cookie) string {
	var parts []string
	for _, c := range cookies {
		parts = append(parts, c.Name+"="+c.Value)
	}
	return strings.Join(parts, "; ")
}

// strings of a session, for libraries that keep them under names. An error of
// save is the library's.
type bag struct {
	get  func(r *http.Request, name string) string
	put  func(r *http.Request, name, value string)
	save func(w http.ResponseWriter, r *http.Request) error
}

// pages returns the pages on b. What wrap adds is the library's middleware.
func (b bag) pages(wrap func(http.Handler) http.Handler) pages {
	page := func(f func(r *http.Request) (string, error)) http.Handler {
		return wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			text, err := f(r)
			if err == nil {
				err = b.save(w, r)
			}
			switch {
			case errors.Is(err, errSignedOut):
				http.Error(w, err.Error(), http.StatusUnauthorized)
			case err != nil:
				http.Error(w, err.Error(), http.StatusInternalServerError)
			default:
				_, _ = w.Write([]byte(text))
			}
		}))
	}
	signedIn := func(f func(r *http.Request, user string) (string, error)) http.Handler {
		return page(func(r *http.Request) (string, error) {
			user := b.get(r, "user")
			if user == "" {
				return "", errSignedOut
			}
			return f(r, user)
		})
	}
	return pages{
		signIn: page(func(r *http.Request) (string, error) {
			for _, name := range []string{"user", "name", "cart"} {
				b.put(r, name, r.FormValue(name))
			}
			return "ok", nil
		}),
		read: signedIn(func(r *http.Request, user string) (string, error) {
			return user + " " + b.get(r, "name"), nil
		}),
		all: signedIn(func(r *http.Request, user string) (string, error) {
			n, err := quantity(b.get(r, "cart"))
			return fmt.Sprintf("%s %s %d", user, b.get(r, "name"), n), err
		}),
		write: signedIn(func(r *http.Request, _ string) (string, error) {
			cart, err := addOne(b.get(r, "cart"))
			if err != nil {
				return "", err
			}
			b.put(r, "cart", cart)
			return "ok", nil
		}),
	}
}

var errSignedOut = errors.New("not signed in")
