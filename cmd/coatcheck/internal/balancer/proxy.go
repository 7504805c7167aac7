package balancer

import (
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync"
)

func newProxy(secret string) httputil.ReverseProxy {
	return httputil.ReverseProxy{
		Rewrite:        func(pr *httputil.ProxyRequest) { rewrite(pr, secret) },
		ModifyResponse: modifyResponse,
		BufferPool:     copyBuffers{},
		// ReverseProxy logs each response that breaks off, on either side; failures of upstreams are logged and counted by the exchange.
		ErrorLog: log.New(io.Discard, "", 0),
		// FlushInterval stays zero: event streams and bodies of unknown length are flushed at once anyway.
	}
}

func rewrite(pr *httputil.ProxyRequest, secret string) {
	h := pr.Out.Header
	for name := range h {
		if strings.HasPrefix(name, "X-Forwarded-") {
			delete(h, name) // -Port, -Ssl, -Prefix and their like; ReverseProxy removes only the usual three
		}
	}
	h.Del("X-Real-Ip")
	h.Del("True-Client-Ip")
	pr.SetXForwarded()

	// Set last, and after ReverseProxy has removed what Connection lists: a client can neither bring nor remove it.
	h.Del(SecretHeader)
	if secret != "" {
		h.Set(SecretHeader, secret)
	}

	// What the worker sees is what the client sent; nothing here depends on how a query is parsed.
	pr.Out.URL.RawQuery = pr.In.URL.RawQuery

	// Only WebSockets: an upgrade to h2c would open a tunnel around all of the above. And none in HTTP/1.0 (RFC 9110, section 7.8).
	if up := h.Get("Upgrade"); up != "" && (!strings.EqualFold(up, "websocket") || !pr.In.ProtoAtLeast(1, 1)) {
		h.Del("Upgrade")
		h.Del("Connection")
	}

	// http.Transport replays a request without a body that carries one of these keys on its own, even if it may have been delivered
	// (golang.org/issue/19943), and looks for the canonical spelling. On the wire case means nothing (RFC 9110, section 5.1).
	for _, name := range []string{"Idempotency-Key", "X-Idempotency-Key"} {
		if v, ok := h[name]; ok {
			delete(h, name)
			h[strings.ToLower(name)] = v
		}
	}
}

func modifyResponse(resp *http.Response) error {
	resp.Header.Del(SecretHeader)
	resp.Header.Del(UnrepeatableHeader) // only the balancer knows
	return nil
}

// An interim keeps back the responses before the answer that are not for the client:
//
//   - A worker's 100 (Continue). The request's body says it by itself when it is first read, and a second one would reach clients that expect
//     the answer next.
//   - All of them while the body may say that: net/http writes them side by side.
//   - All of them from clients of HTTP/1.0 (RFC 9110, section 15.2).
type interim struct {
	http.ResponseWriter
	r *http.Request
}

func (w *interim) WriteHeader(code int) {
	before := code >= 100 && code < 200 // 101, which is the answer, is written on the hijacked connection
	if before && (code == http.StatusContinue || w.r.Header.Get("Expect") != "" || !w.r.ProtoAtLeast(1, 1)) {
		return
	}
	w.ResponseWriter.WriteHeader(code)
}

// Unwrap is for [http.ResponseController], which flushes and hijacks.
func (w *interim) Unwrap() http.ResponseWriter { return w.ResponseWriter }

type copyBuffers struct{}

var copyBufferPool = sync.Pool{New: func() any { return new([32 << 10]byte) }}

func (copyBuffers) Get() []byte  { return copyBufferPool.Get().(*[32 << 10]byte)[:] }
func (copyBuffers) Put(p []byte) { copyBufferPool.Put((*[32 << 10]byte)(p)) }
