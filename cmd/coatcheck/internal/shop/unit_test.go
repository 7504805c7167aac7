package shop

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/store/memstore"
)

func TestDevice(t *testing.T) {
	for _, tt := range []struct{ agent, want string }{
		{"Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0", "Firefox on Linux"},
		{"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36", "Chrome on Windows"},
		{"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36 Edg/141.0.0.0", "Edge on Windows"},
		{"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36 OPR/122.0.0.0", "Opera on Windows"},
		{"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.0 Safari/605.1.15", "Safari on macOS"},
		{"Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Mobile/15E148 Safari/604.1", "Safari on iPhone"},
		{"Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) CriOS/141.0.0.0 Mobile/15E148 Safari/604.1", "Chrome on iPhone"},
		{"Mozilla/5.0 (iPad; CPU OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) FxiOS/145.0 Mobile/15E148 Safari/605.1.15", "Firefox on iPad"},
		{"Mozilla/5.0 (Linux; Android 16) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/28.0 Chrome/130.0.0.0 Mobile Safari/537.36", "Samsung Internet on Android"},
		{"Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36", "Chrome on ChromeOS"},
		{"curl/8.17.0", "curl"},
		{"Wget/1.25.0 on Linux", "Wget on Linux"},
		{"Go-http-client/1.1", "Go program"},
		{"SomeBot/1.0 (Linux)", "Unknown browser on Linux"},
		{"<b>me</b>", "Unknown device"},
		{"", "Unknown device"},
	} {
		if got := device(tt.agent); got != tt.want {
			t.Errorf("device(%q) = %q, want %q", tt.agent, got, tt.want)
		}
	}
}

func TestServerMarks(t *testing.T) {
	for _, tt := range []struct {
		name, mark string
		color      int // -1: any
	}{
		{"worker-1", "1", 1},
		{"worker-8", "8", 0},
		{"worker-112", "112", 0},
		{"host-8081", "81", 1},
		{"web", "W", -1},
		{"web-0", "W", -1},
		{strings.Repeat("9", 80), "9", -1},
	} {
		s := newServer(tt.name)
		if s.Mark != tt.mark || tt.color >= 0 && s.Color != tt.color || s.Color < 0 || s.Color >= colors {
			t.Errorf("newServer(%.20q) = %+v", tt.name, s)
		}
	}
}

func TestSpan(t *testing.T) {
	for _, tt := range []struct {
		d    time.Duration
		want string
	}{
		{-time.Hour, "a minute"},
		{90 * time.Second, "a minute"},
		{2 * time.Minute, "2 minutes"},
		{59*time.Minute + 59*time.Second, "an hour"},
		{time.Hour, "an hour"},
		{75 * time.Minute, "75 minutes"},
		{100 * time.Minute, "2 hours"},
		{24 * time.Hour, "24 hours"},
		{72 * time.Hour, "3 days"},
	} {
		if got := span(tt.d); got != tt.want {
			t.Errorf("span(%v) = %q, want %q", tt.d, got, tt.want)
		}
	}
	if got := ago(59 * time.Second); got != "just now" {
		t.Errorf("ago(59s) = %q", got)
	}
	if got := ago(5 * time.Minute); got != "5 minutes ago" {
		t.Errorf("ago(5m) = %q", got)
	}
}

// A browser applies the style only if the policy has its hash, byte for byte as
// the page has it.
func TestPolicyAllowsTheStyle(t *testing.T) {
	h, err := New(memstore.New(), "worker-1", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/", "/nowhere"} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		page := w.Body.String()
		_, rest, _ := strings.Cut(page, "<style>")
		css, _, found := strings.Cut(rest, "</style>")
		if !found {
			t.Fatalf("%s has no style", path)
		}
		sum := sha256.Sum256([]byte(css))
		want := "style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
		policy := w.Header().Get("Content-Security-Policy")
		if !strings.Contains(policy, want) {
			t.Errorf("%s: the policy %q does not allow the style of the page", path, policy)
		}
		for _, directive := range []string{"default-src 'none'", "frame-ancestors 'none'", "form-action 'self'", "base-uri 'none'"} {
			if !strings.Contains(policy, directive) {
				t.Errorf("%s: the policy %q lacks %s", path, policy, directive)
			}
		}
		if strings.Contains(page, "<script") || strings.Contains(page, " style=") {
			t.Errorf("%s: the page has what the policy forbids", path)
		}
	}
}

// What a page shows must be there for every product.
func TestCatalogue(t *testing.T) {
	for _, p := range catalogue {
		if p.Icon() == "" || p.Cents <= 0 || p.Name == "" || p.Note == "" {
			t.Errorf("%s is incomplete", p.SKU)
		}
	}
	for _, sku := range []string{"apple", "pear", "plum"} {
		if !inCatalogue(sku) {
			t.Errorf("the shop sells no %s", sku)
		}
	}
	if lines, pieces, total := cartLines(map[string]int{"apple": 3, "plum": 12, "gone": 1}); len(lines) != 2 || pieces != 15 || total != "€4.35" || lines[1].Sum() != "€3.00" {
		t.Errorf("the cart shows %v, %d pieces, %s", lines, pieces, total)
	}
	if got := shorten(strings.Repeat("é", 40)); !strings.HasPrefix(got, "éé") || len(got) > 70 {
		t.Errorf("shorten returns %d bytes, %q", len(got), got)
	}
}
