package session_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
)

// guest is a visitor of the examples' apps: a browser that keeps its cookies and
// prints what it is answered.
type guest struct {
	app     http.Handler
	cookies map[string]string
}

func newGuest(app http.Handler) *guest { return &guest{app, map[string]string{}} }

// visit sends a request such as "POST /login?user=alice" and prints the answer.
func (g *guest) visit(request string) {
	method, target, _ := strings.Cut(request, " ")
	r := httptest.NewRequestWithContext(context.Background(), method, "https://shop.example"+target, nil)
	for name, value := range g.cookies {
		r.AddCookie(&http.Cookie{Name: name, Value: value})
	}
	w := httptest.NewRecorder()
	g.app.ServeHTTP(w, r)
	resp := w.Result()
	for _, c := range resp.Cookies() {
		g.cookies[c.Name] = c.Value
		if c.MaxAge < 0 {
			delete(g.cookies, c.Name)
		}
	}
	fmt.Println(strings.TrimSpace(fmt.Sprintf("%s: %d %s", request, w.Code, w.Body)))
}
