package shop_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/shop"
	"github.com/coatcheck/coatcheck/store/memstore"
)

// Two servers over one store: what one of them is told, the other one knows.
func Example() {
	sessions := memstore.New()
	var servers []*httptest.Server
	for _, name := range []string{"worker-1", "worker-2"} {
		h, err := shop.New(sessions, name, &shop.Options{InsecureCookie: true})
		if err != nil {
			fmt.Println(err)
			return
		}
		srv := httptest.NewServer(h)
		defer srv.Close()
		servers = append(servers, srv)
	}

	jar, _ := cookiejar.New(nil) // never an error
	browser := &http.Client{Jar: jar}
	if _, err := browser.PostForm(servers[0].URL+"/login", url.Values{"user": {"alice"}, "password": {"demo"}}); err != nil {
		fmt.Println(err)
		return
	}
	if _, err := browser.PostForm(servers[1].URL+"/cart", url.Values{"sku": {"apple"}, "qty": {"2"}}); err != nil {
		fmt.Println(err)
		return
	}
	for _, srv := range servers {
		resp, err := browser.Get(srv.URL + "/api/session")
		if err != nil {
			fmt.Println(err)
			return
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		fmt.Print(string(body))
	}
	// Output:
	// {"user":"alice","cart":{"apple":2},"served_by":"worker-1"}
	// {"user":"alice","cart":{"apple":2},"served_by":"worker-2"}
}
