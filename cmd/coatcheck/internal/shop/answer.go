package shop

import (
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/store"
)

// maxForm is the greatest body of a request in bytes: the forms are short.
const maxForm = 16 << 10

// readForm returns the form in the body of a request.
func readForm(r *http.Request) (url.Values, error) {
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")) // "" is none of them
	var err error
	switch kind {
	case "application/x-www-form-urlencoded":
		err = r.ParseForm()
	case "multipart/form-data":
		err = r.ParseMultipartForm(maxForm)
	default:
		return nil, refusef(http.StatusUnsupportedMediaType, "Send a form: application/x-www-form-urlencoded or multipart/form-data.")
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, refusef(http.StatusRequestEntityTooLarge, "The form is too large.")
	}
	if err != nil {
		return nil, refusef(http.StatusBadRequest, "The form could not be read.")
	}
	return r.PostForm, nil
}

// refusal is an answer to a request that asks for what cannot be. The session
// is as it was.
type refusal struct {
	status int
	text   string
	login  bool   // it is about a sign-in
	user   string // as whom the visitor wanted to
}

func (r *refusal) Error() string { return r.text }

func refusef(status int, format string, args ...any) *refusal {
	return &refusal{status: status, text: fmt.Sprintf(format, args...)}
}

// refuse answers with the shop's page, where the visitor can try again.
func (s *shop) refuse(w http.ResponseWriter, r *http.Request, sess *session.Session, no *refusal) {
	if wantsJSON(r) {
		writeJSONError(w, no.status, no.text)
		return
	}
	p := s.frontPage(w, r, sess)
	if no.login {
		p.LoginAlert, p.LoginUser = no.text, no.user
	} else {
		p.Alert = no.text
	}
	s.mustWrite(w, r, no.status, shopPage, p)
}

// done answers a POST that worked.
func (s *shop) done(w http.ResponseWriter, r *http.Request, sess *session.Session, to string) error {
	if wantsJSON(r) {
		writeJSON(w, http.StatusOK, s.state(r, sess))
		return nil
	}
	s.trail.extend(w, r, sess.Handle() != session.Handle{})
	http.Redirect(w, r, to, http.StatusSeeOther)
	return nil
}

// answerSessionError is the [session.Options.ErrorHandler].
func (s *shop) answerSessionError(w http.ResponseWriter, r *http.Request, err error) {
	status := session.StatusCode(err)
	text := "Something went wrong on our side, and the change may not have been saved. Please look at your cart before you try again."
	switch {
	case status == http.StatusServiceUnavailable && isLogout(r):
		text = "You are signed out in this browser. The place where sessions are kept cannot be reached, so a copy of your session may live there until it expires."
	case status == http.StatusServiceUnavailable && len(r.CookiesNamed(s.cookie)) == 0:
		text = "The place where sessions are kept cannot be reached, so this could not be done. Please try again in a moment."
	case status == http.StatusServiceUnavailable && errors.Is(err, session.ErrAmbiguous):
		text = "The place where sessions are kept went out of reach before it had answered, so the change may have been saved or not. Please look at your cart before you try again."
	case status == http.StatusServiceUnavailable && errors.Is(err, store.ErrRejected):
		text = "The place where sessions are kept takes no changes at the moment, so this was not saved. If you were signed in, you still are, with your cart. Please try again later."
	case status == http.StatusServiceUnavailable:
		text = "The place where sessions are kept cannot be reached. Nothing is lost: if you were signed in, you still are, with your cart. Please try again in a moment."
	case errors.Is(err, session.ErrEnded):
		text = "You were signed out in the meantime, so this change was not saved. Please sign in and try again."
	case status == http.StatusConflict:
		text = "Your session changed in the meantime, so this change was not saved. Please try again."
	}
	if status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	s.answerError(w, r, status, text)
}

// answerError answers without a session: there may be none to ask.
func (s *shop) answerError(w http.ResponseWriter, r *http.Request, status int, text string) {
	if wantsJSON(r) {
		writeJSONError(w, status, text)
		return
	}
	s.mustWrite(w, r, status, errorPage, &page{
		Title:  errorTitle(status),
		Server: newServer(s.name),
		Status: status,
		Alert:  text,
	})
}

func errorTitle(status int) string {
	switch status {
	case http.StatusServiceUnavailable:
		return "Back in a moment"
	case http.StatusNotFound:
		return "Nothing here"
	case http.StatusForbidden:
		return "Not from there"
	case http.StatusConflict:
		return "Somebody was faster"
	}
	return http.StatusText(status)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // an error is the client's going
}

func writeJSONError(w http.ResponseWriter, status int, text string) {
	writeJSON(w, status, struct {
		Status int    `json:"status"`
		Error  string `json:"error"`
	}{status, text})
}

// wantsJSON reports whether the client asks for JSON, or for what is JSON only.
func wantsJSON(r *http.Request) bool {
	if strings.HasPrefix(r.URL.Path, "/api/") {
		return true
	}
	var jsonQ, htmlQ float64
	for part := range strings.SplitSeq(strings.Join(r.Header.Values("Accept"), ","), ",") {
		kind, params, err := mime.ParseMediaType(part)
		if err != nil {
			continue
		}
		q := 1.0
		if v, err := strconv.ParseFloat(params["q"], 64); err == nil {
			q = v
		}
		switch kind {
		case "application/json":
			jsonQ = max(jsonQ, q)
		case "text/html", "application/xhtml+xml":
			htmlQ = max(htmlQ, q)
		}
	}
	return jsonQ > htmlQ
}
