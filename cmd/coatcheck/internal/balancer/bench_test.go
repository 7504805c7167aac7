package balancer

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"testing"
)

// One request to a worker, directly and through the balancer's front: the difference is what a visitor pays for it.
func BenchmarkRequest(b *testing.B) {
	h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })
	b.Run("direct", func(b *testing.B) {
		s := httptest.NewServer(h)
		defer s.Close()
		load(b, s.URL)
	})
	b.Run("bare ReverseProxy", func(b *testing.B) {
		s := httptest.NewServer(h)
		defer s.Close()
		target, err := url.Parse(s.URL)
		if err != nil {
			b.Fatal(err)
		}
		p := httptest.NewServer(&httputil.ReverseProxy{
			Rewrite:   func(pr *httputil.ProxyRequest) { pr.SetURL(target) },
			Transport: &http.Transport{MaxIdleConnsPerHost: 512},
		})
		defer p.Close()
		load(b, p.URL)
	})
	b.Run("balanced", func(b *testing.B) {
		lb := newBalancer(Options{Secret: "s"})
		for i := range 3 {
			worker(b, lb, strconv.Itoa(i), h)
		}
		load(b, front(b, lb))
	})
}

func load(b *testing.B, url string) {
	tr := &http.Transport{MaxIdleConnsPerHost: 100, DisableCompression: true}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, url, nil)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			resp, err := tr.RoundTrip(req.Clone(req.Context()))
			if err != nil {
				b.Error(err)
				return
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
	})
}

func BenchmarkRotation(b *testing.B) {
	lb := newBalancer(Options{})
	for i := range 10 {
		add(b, lb, strconv.Itoa(i), "http://127.0.0.1:1")
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			lb.release(lb.acquire(nil, ""))
		}
	})
}
