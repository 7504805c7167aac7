package admin

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"errors"
	"html/template"
	"net/http"
	"slices"
	"strconv"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/fleet"
)

var (
	//go:embed page.html
	pageHTML string
	//go:embed page.css
	pageCSS string

	pageTemplate = template.Must(template.New("page").Parse(pageHTML))

	// contentSecurityPolicy allows the page's own style and its forms, nothing else.
	contentSecurityPolicy = "default-src 'none'; style-src 'sha256-" + hash(pageCSS) +
		"'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// shownEvents is how many events the page shows.
const shownEvents = 15

func (h *handler) page(w http.ResponseWriter, r *http.Request) {
	status := h.status(r.Context())
	events := h.opts.Fleet.Events()
	events = events[max(0, len(events)-shownEvents):]
	slices.Reverse(events)
	var b bytes.Buffer
	err := pageTemplate.Execute(&b, struct {
		Status
		CSS         template.CSS
		Events      []fleet.Event
		Fewer, More int
		Max         int
	}{status, template.CSS(pageCSS), events, status.Target - 1, status.Target + 1, fleet.MaxWorkers})
	if err != nil {
		writeError(w, http.StatusInternalServerError, "the page could not be made")
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = w.Write(b.Bytes())
}

func (h *handler) formScale(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	if err := r.ParseForm(); err != nil {
		h.back(w, r, badRequest{errors.New("the form could not be read")})
		return
	}
	n, err := strconv.Atoi(r.PostForm.Get("workers"))
	if err != nil {
		h.back(w, r, badRequest{errors.New("workers must be a whole number")})
		return
	}
	h.back(w, r, h.opts.Fleet.Scale(n))
}

func (h *handler) formAutoscale(w http.ResponseWriter, r *http.Request) {
	h.back(w, r, h.opts.Fleet.Unpin())
}

func (h *handler) formKill(w http.ResponseWriter, r *http.Request) {
	h.back(w, r, h.opts.Fleet.Kill(r.Context(), r.PathValue("name")))
}

func (h *handler) formDrain(w http.ResponseWriter, r *http.Request) {
	h.back(w, r, h.opts.Fleet.Drain(r.PathValue("name")))
}

// back returns to the page. That a worker is gone already is no news there.
func (h *handler) back(w http.ResponseWriter, r *http.Request, err error) {
	if err != nil && !errors.Is(err, fleet.ErrUnknown) {
		http.Error(w, err.Error(), statusOf(err))
		return
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
}
