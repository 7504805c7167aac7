//go:build unix

package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/uptest"
)

// visitor is a browser: one cookie jar, one shop.
type visitor struct {
	t      *testing.T
	client *http.Client
	shop   string
}

func newVisitor(t *testing.T, u *uptest.Up, roots *x509.CertPool) *visitor {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &visitor{t: t, shop: u.Shop, client: &http.Client{
		Jar:       jar,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}},
	}}
}

func (v *visitor) post(path string, form url.Values) *http.Response {
	v.t.Helper()
	req, err := http.NewRequestWithContext(v.t.Context(), http.MethodPost, v.shop+path, strings.NewReader(form.Encode()))
	if err != nil {
		v.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	resp, err := v.client.Do(req)
	if err != nil {
		v.t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		v.t.Fatalf("POST %s: %s", path, resp.Status)
	}
	return resp
}

// state is what GET /api/session says.
type state struct {
	User     string
	Cart     map[string]int
	ServedBy string `json:"served_by"`
}

func (v *visitor) look() state {
	v.t.Helper()
	resp, err := v.client.Get(v.shop + "/api/session")
	if err != nil {
		v.t.Fatal(err)
	}
	defer resp.Body.Close()
	var s state
	if err := json.NewDecoder(resp.Body).Decode(&s); err != nil || resp.StatusCode != http.StatusOK {
		v.t.Fatalf("GET /api/session: %s, %v", resp.Status, err)
	}
	if by := resp.Header.Get("X-Served-By"); by != s.ServedBy {
		v.t.Errorf("X-Served-By: %s in an answer of %s", by, s.ServedBy)
	}
	return s
}

// cookie returns the visitor's session cookie.
func (v *visitor) cookie(u *uptest.Up) *http.Cookie {
	v.t.Helper()
	shop, err := url.Parse(v.shop)
	if err != nil {
		v.t.Fatal(err)
	}
	cookies := v.client.Jar.Cookies(shop)
	i := slices.IndexFunc(cookies, func(c *http.Cookie) bool { return c.Name == u.Cookie })
	if i < 0 {
		v.t.Fatalf("the visitor has no cookie %s", u.Cookie)
	}
	return cookies[i]
}

func (v *visitor) mustHave(user string, apples int) state {
	v.t.Helper()
	s := v.look()
	if s.User != user || s.Cart["apple"] != apples {
		v.t.Errorf("%s sees %q with %d apples, want %q with %d", s.ServedBy, s.User, s.Cart["apple"], user, apples)
	}
	return s
}

func TestVisitorDoesNotNoticeThatServersDie(t *testing.T) {
	u := uptest.Start(t, "--workers", "3")
	v := newVisitor(t, u, nil)
	v.post("/login", url.Values{"user": {"alice"}, "password": {"demo"}})
	v.post("/cart", url.Values{"sku": {"apple"}, "qty": {"2"}})
	rotation := func(apples int) []string {
		t.Helper()
		var order []string
		for range 30 {
			order = append(order, v.mustHave("alice", apples).ServedBy)
		}
		for i, name := range order {
			if name != order[i%3] {
				t.Errorf("30 requests were not answered in rotation: %v", order)
				break
			}
		}
		return slices.Sorted(slices.Values(order[:3]))
	}
	if got, want := rotation(2), []string{"worker-1", "worker-2", "worker-3"}; !slices.Equal(got, want) {
		t.Errorf("answered by %v, want %v", got, want)
	}
	u.Kill("worker-1")
	v.mustHave("alice", 2)
	u.Kill("worker-3")
	v.mustHave("alice", 2)
	v.post("/cart", url.Values{"sku": {"apple"}, "qty": {"1"}})
	u.AwaitWorkers(3)
	if got, want := rotation(3), []string{"worker-2", "worker-4", "worker-5"}; !slices.Equal(got, want) {
		t.Errorf("answered by %v, want the survivor and its new companions, %v", got, want)
	}
	u.Scale(5)
	u.AwaitWorkers(5)
	u.Drain("worker-2")
	u.Scale(1)
	u.AwaitWorkers(1)
	v.mustHave("alice", 3)
	v.post("/logout", nil)
	v.mustHave("", 0)
}

// Sessions outlive the whole fleet, for the store does.
func TestSessionsSurviveARestart(t *testing.T) {
	store := "sqlite:" + filepath.Join(t.TempDir(), "s.db")
	first := uptest.Start(t, "--workers", "1", "--store", store)
	v := newVisitor(t, first, nil)
	v.post("/login", url.Values{"user": {"alice"}, "password": {"demo"}})
	first.Signal(os.Interrupt)
	if code := first.Wait(); code != 0 {
		t.Fatalf("status %d", code)
	}
	// On the same port, for the name of the development cookie holds it.
	second := uptest.Start(t, "--workers", "1", "--store", store, "--listen", strings.TrimPrefix(first.Shop, "http://"))
	if second.Shop != v.shop {
		t.Fatalf("the shop moved to %s", second.Shop)
	}
	v.mustHave("alice", 0)
}

func TestHTTPSHasTheStrictCookie(t *testing.T) {
	cert, key, roots := certificate(t)
	u := uptest.Start(t, "--workers", "1", "--tls-cert", cert, "--tls-key", key)
	if !strings.HasPrefix(u.Shop, "https://") || u.Cookie != "__Host-session" || u.Insecure {
		t.Errorf("ready says %+v", u.Ready)
	}
	if strings.Contains(u.Stderr(), "insecure") {
		t.Errorf("HTTPS is called insecure: %s", u.Stderr())
	}
	v := newVisitor(t, u, roots)
	resp := v.post("/login", url.Values{"user": {"alice"}, "password": {"demo"}})
	found := false
	for _, c := range resp.Cookies() {
		if c.Name == "__Host-session" {
			found = c.Secure && c.HttpOnly && c.Path == "/" && c.Domain == ""
		}
	}
	if !found {
		t.Errorf("no strict __Host-session among %v", resp.Cookies())
	}
	v.mustHave("alice", 0)
}

// certificate returns the files of a new certificate for 127.0.0.1 and its key.
func certificate(t *testing.T) (certFile, keyFile string, roots *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	roots = x509.NewCertPool()
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots.AddCert(cert)
	return write("cert.pem", "CERTIFICATE", der), write("key.pem", "PRIVATE KEY", keyDER), roots
}
