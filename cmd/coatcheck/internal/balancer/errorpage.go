package balancer

import (
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
)

// UnrepeatableHeader is "1" on a 502 or 504 of the balancer whose request may have been carried out by a worker that then gave no answer: it
// is not safe to repeat, so it was delivered once. Without it, the request has changed nothing.
const UnrepeatableHeader = "X-Coatcheck-Unrepeatable"

// statusClientGone is nginx's 499: nobody reads it but the log of a handler around this one.
const statusClientGone = 499

// errorTexts is all that a client learns: nothing of what is behind the balancer.
var errorTexts = map[int]string{
	http.StatusBadRequest:            "The request's body could not be read.",
	http.StatusMethodNotAllowed:      "This method is not allowed here.",
	http.StatusRequestTimeout:        "The request's body took too long.",
	http.StatusRequestEntityTooLarge: "The request's body is too large.",
	http.StatusBadGateway:            "The server broke off before it answered.",
	http.StatusServiceUnavailable:    "No server is available right now. Please try again in a moment.",
	http.StatusGatewayTimeout:        "The server took too long to answer.",
}

// fail is the ReverseProxy's ErrorHandler.
func (ex *exchange) fail(w http.ResponseWriter, r *http.Request, err error) {
	f := &failure{status: http.StatusBadGateway}
	errors.As(err, &f)
	if f.status == statusClientGone {
		w.WriteHeader(f.status)
		return
	}
	if f.unrepeatable {
		w.Header().Set(UnrepeatableHeader, "1")
	}
	if f.status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	writeError(w, r, f.status)
}

func writeError(w http.ResponseWriter, r *http.Request, status int) {
	text := errorTexts[status]
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if !wantsJSON(r.Header.Values("Accept")) {
		h.Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, strconv.Itoa(status)+" "+http.StatusText(status)+"\n"+text+"\n")
		return
	}
	h.Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(struct {
		Status int    `json:"status"`
		Error  string `json:"error"`
	}{status, text})
}

// wantsJSON reports whether the client prefers JSON to text.
func wantsJSON(accept []string) bool {
	var jsonQ, textQ float64
	for part := range strings.SplitSeq(strings.Join(accept, ","), ",") {
		mt, params, err := mime.ParseMediaType(part)
		if err != nil {
			continue
		}
		q := 1.0
		if v, err := strconv.ParseFloat(params["q"], 64); err == nil {
			q = v
		}
		switch {
		case mt == "application/json" || strings.HasSuffix(mt, "+json"):
			jsonQ = max(jsonQ, q)
		case mt == "text/html" || mt == "text/plain" || mt == "text/*":
			textQ = max(textQ, q)
		}
	}
	return jsonQ > textQ
}
