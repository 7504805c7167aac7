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
	"strings"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/fleet"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/load"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/shopper"
)

var (
	//go:embed page.html
	pageHTML string
	//go:embed page.css
	pageCSS string
	//go:embed page.js
	pageJS string

	pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{"words": words}).Parse(pageHTML))

	// contentSecurityPolicy allows the page's own style and script, and what they ask
	// this server for, nothing else; and no text can become markup in the script.
	contentSecurityPolicy = "default-src 'none'; style-src 'sha256-" + hash(pageCSS) +
		"'; script-src 'sha256-" + hash(pageJS) + "'; connect-src 'self'; form-action 'self'" +
		"; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)

func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// words makes words of a kind's name.
func words(k shopper.Kind) string { return strings.ReplaceAll(string(k), "_", " ") }

// shownEvents is how many events the page shows.
const shownEvents = 40

// defaultShoppers is how many the page proposes.
const defaultShoppers = 20

func (h *Handler) page(w http.ResponseWriter, r *http.Request) {
	status := h.status(r.Context())
	events := h.opts.Fleet.Events()
	events = events[max(0, len(events)-shownEvents):]
	slices.Reverse(events)
	ready := 0
	for _, w := range status.Workers {
		if w.State == fleet.Ready {
			ready++
		}
	}
	var b bytes.Buffer
	err := pageTemplate.Execute(&b, struct {
		Status
		Load              load.Status
		CSS               template.CSS
		JS                template.JS
		Shop              string
		Events            []fleet.Event
		Ready             int
		Fewer, More       int
		MaxWorkers        int
		Shoppers, MaxLoad int
		NoWorker          Worker
	}{
		status, h.opts.Load.Status(), template.CSS(pageCSS), template.JS(pageJS), h.opts.Shop, events, ready,
		status.Target - 1, status.Target + 1, fleet.MaxWorkers, defaultShoppers, load.Max,
		Worker{},
	})
	if err != nil {
		writeError(w, http.StatusInternalServerError, "the page could not be made")
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = w.Write(b.Bytes())
}

func (h *Handler) formScale(w http.ResponseWriter, r *http.Request) {
	h.formCount(w, r, "workers", h.opts.Fleet.Scale)
}

func (h *Handler) formLoad(w http.ResponseWriter, r *http.Request) {
	h.formCount(w, r, "shoppers", h.setLoad)
}

// formCount does with the whole number of a form's field what is to be done.
func (h *Handler) formCount(w http.ResponseWriter, r *http.Request, field string, do func(int) error) {
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	if err := r.ParseForm(); err != nil {
		h.back(w, r, badRequest{errors.New("the form could not be read")})
		return
	}
	n, err := strconv.Atoi(r.PostForm.Get(field))
	if err != nil {
		h.back(w, r, badRequest{errors.New(field + " must be a whole number")})
		return
	}
	h.back(w, r, do(n))
}

func (h *Handler) formAutoscale(w http.ResponseWriter, r *http.Request) {
	h.back(w, r, h.opts.Fleet.Unpin())
}

func (h *Handler) formKill(w http.ResponseWriter, r *http.Request) {
	h.back(w, r, h.opts.Fleet.Kill(r.Context(), r.PathValue("name")))
}

func (h *Handler) formDrain(w http.ResponseWriter, r *http.Request) {
	h.back(w, r, h.opts.Fleet.Drain(r.PathValue("name")))
}

// back returns to the page. That a worker is gone already is no news there.
func (h *Handler) back(w http.ResponseWriter, r *http.Request, err error) {
	if err != nil && !errors.Is(err, fleet.ErrUnknown) {
		http.Error(w, err.Error(), statusOf(err))
		return
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
}
