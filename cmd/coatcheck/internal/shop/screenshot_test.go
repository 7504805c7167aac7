package shop_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/coatcheck/coatcheck/store/memstore"
	"github.com/coatcheck/coatcheck/store/storetest"
)

// screenshots is the folder that TestScreenshots writes to.
const screenshots = "COATCHECK_SCREENSHOTS"

// firefox is a User-Agent for the list of devices.
const firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0"

// TestScreenshots makes pictures of the pages with a real browser, for people to
// look at. shop.png is docs/shop.png, the one in the README.
func TestScreenshots(t *testing.T) {
	dir := os.Getenv(screenshots)
	if dir == "" {
		t.Skipf("set %s to a folder for pictures of the shop, as in: %s=$PWD go test -run Screenshots ./internal/shop", screenshots, screenshots)
	}
	browser, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatalf("%v; install it, as with: apt-get install -y --no-install-recommends chromium fonts-inter", err)
	}

	st := storetest.NewFaults(memstore.New(), nil)
	f := serve(t, st, "worker-1", "worker-2", "worker-3")
	for _, agent := range []string{
		"Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Mobile/15E148 Safari/604.1",
		"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36 Edg/141.0.0.0",
	} {
		f.visitor(t).signIn("alice", "User-Agent", agent)
	}
	alice := f.visitor(t)
	alice.get("/").want(t, http.StatusOK)
	for _, item := range [][2]string{{"apple", "3"}, {"plum", "12"}} {
		alice.buy(item[0], item[1])
		alice.get("/").want(t, http.StatusOK)
	}
	alice.signIn("alice", "User-Agent", firefox)
	alice.buy("pear", "2")
	alice.get("/").want(t, http.StatusOK)
	alice.get("/").want(t, http.StatusOK)
	alice.get("/").want(t, http.StatusOK)
	for _, shot := range []struct {
		name string
		page func() answer
	}{
		{"shop", func() answer { return alice.get("/") }},
		{"anonymous", func() answer { return f.visitor(t).get("/") }},
		{"devices", func() answer { return alice.get("/sessions") }},
		{"wrong", func() answer { return f.visitor(t).post("/login", "user", "alice", "password", "guess") }},
		{"outage", func() answer {
			st.SetHook(storetest.Every(storetest.Fault{Err: errors.New("the store is down")}))
			return alice.get("/")
		}},
	} {
		a := shot.page()
		// The browser gets what the visitor got, with its policy.
		shown := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/":
				for _, h := range []string{"Content-Type", "Content-Security-Policy"} {
					w.Header().Set(h, a.Header.Get(h))
				}
				_, _ = w.Write([]byte(a.body))
			case "/phone": // headless windows are never as narrow as a phone
				fmt.Fprint(w, `<body style="margin:0"><iframe src="/framed" style="border:0;width:390px;height:1500px"></iframe>`)
			case "/framed":
				w.Header().Set("Content-Type", a.Header.Get("Content-Type"))
				_, _ = w.Write([]byte(a.body))
			}
		}))
		for _, look := range []struct{ suffix, path, size, scheme string }{
			{"", "/", "1280,800", "1"},
			{"-dark", "/", "1280,800", "0"},
			{"-phone", "/phone", "390,1500", "1"},
			{"-phone-dark", "/phone", "390,1500", "0"},
		} {
			out, err := exec.Command(
				browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
				"--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
				"--user-data-dir="+t.TempDir(), "--blink-settings=preferredColorScheme="+look.scheme,
				"--window-size="+look.size, "--screenshot="+filepath.Join(dir, shot.name+look.suffix+".png"), shown.URL+look.path,
			).CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
		}
		shown.Close()
	}
}
