package shop

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"fmt"
	"hash/fnv"
	"html/template"
	"net/http"
	"strconv"
	"strings"

	"github.com/coatcheck/coatcheck/session"
)

var (
	//go:embed *.html
	pages embed.FS
	// The style is part of each page: another request for it would take part in
	// the rotation, and each visitor would see one and the same server again and
	// again.
	//
	//go:embed style.css
	style string

	layout      = template.Must(template.ParseFS(pages, "layout.html"))
	shopPage    = parse("shop.html")
	devicesPage = parse("devices.html")
	errorPage   = parse("error.html")

	// contentSecurityPolicy allows the page's own style, icon and forms, and no
	// script at all.
	contentSecurityPolicy = "default-src 'none'; style-src 'sha256-" + hash(style) + "'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

func parse(name string) *template.Template {
	return template.Must(template.Must(layout.Clone()).ParseFS(pages, name))
}

func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// page is what the templates show. Those of errors know neither user nor cart.
type page struct {
	Title  string
	Status int    // of an error
	Alert  string // what is wrong
	// LoginAlert and LoginUser are what is wrong with a sign-in and the name that
	// was tried.
	LoginAlert, LoginUser string

	Server   server
	Trail    []server // the recent requests', this one last
	User     string
	Idle     string // the timeouts in words (ASVS 7.1.1)
	Absolute string

	Catalogue []product
	MaxAdd    int
	Cart      []cartLine
	Pieces    int
	Total     string

	Devices []deviceRow
}

// Style returns the style as it is, for the hash in the policy to fit.
func (*page) Style() template.CSS { return template.CSS(style) }

// server is a server's name and how the page marks it.
type server struct {
	Name  string
	Mark  string // short enough for a dot
	Color int    // of so many in the style
}

const colors = 8

// newServer gives numbered servers, such as worker-12, their number and colours
// in turn, and others what their name makes.
func newServer(name string) server {
	digits := strings.TrimLeft(name[len(strings.TrimRight(name, "0123456789")):], "0")
	if n, err := strconv.Atoi(digits); err == nil {
		if len(digits) > 3 { // a port: its end tells servers apart
			digits = digits[len(digits)-2:]
		}
		return server{name, digits, n % colors}
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(name)) // never fails
	return server{name, strings.ToUpper(name[:1]), int(h.Sum32() % colors)}
}

// page returns what all pages that know their visitor show.
func (s *shop) page(w http.ResponseWriter, r *http.Request, sess *session.Session) *page {
	p := &page{
		Title:    "The Orchard",
		Server:   newServer(s.name),
		User:     sess.Owner(),
		Idle:     span(s.sessions.Policy().Idle),
		Absolute: span(s.sessions.Policy().Absolute),
	}
	p.Cart, p.Pieces, p.Total = cartLines(s.readCart(r, sess))
	for _, name := range s.trail.extend(w, r, sess.Handle() != session.Handle{}) {
		p.Trail = append(p.Trail, newServer(name))
	}
	return p
}

func (s *shop) frontPage(w http.ResponseWriter, r *http.Request, sess *session.Session) *page {
	p := s.page(w, r, sess)
	p.Catalogue, p.MaxAdd = catalogue, maxQuantity
	return p
}

func (s *shop) front(w http.ResponseWriter, r *http.Request, sess *session.Session) error {
	return s.write(w, http.StatusOK, shopPage, s.frontPage(w, r, sess))
}

// write sends a page that is complete, or returns an error and sends nothing.
func (s *shop) write(w http.ResponseWriter, status int, t *template.Template, p *page) error {
	var b bytes.Buffer
	if err := t.ExecuteTemplate(&b, "layout.html", p); err != nil {
		return fmt.Errorf("shop: make the page: %w", err)
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	// So that a balancer can tell a part from the whole before it passes it on:
	// a page is more than one write of the server, which may die in between.
	w.Header().Set("Content-Length", strconv.Itoa(b.Len()))
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // an error is the client's going
	return nil
}

// mustWrite is write for where no better page is left to answer with.
func (s *shop) mustWrite(w http.ResponseWriter, r *http.Request, status int, t *template.Template, p *page) {
	if err := s.write(w, status, t, p); err != nil {
		s.logger.ErrorContext(r.Context(), "shop: page failed", "error", err)
		http.Error(w, http.StatusText(status), status)
	}
}
