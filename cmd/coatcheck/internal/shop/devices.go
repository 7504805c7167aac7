package shop

import (
	"fmt"
	"net/http"
	"time"

	"github.com/coatcheck/coatcheck/session"
)

// signedIn is one device of the list of a user (ASVS 7.5.2).
type signedIn struct {
	Handle   string    `json:"handle"`
	Label    string    `json:"label"`
	Current  bool      `json:"current"`
	Since    time.Time `json:"signed_in"`
	Expires  time.Time `json:"expires"`
	Deadline time.Time `json:"deadline"`
}

var errSignInFirst = &refusal{status: http.StatusUnauthorized, login: true, text: "Please sign in to see your devices."}

func (s *shop) devices(w http.ResponseWriter, r *http.Request, sess *session.Session) error {
	if sess.Owner() == "" {
		return errSignInFirst
	}
	infos, err := s.sessions.Sessions(r.Context(), sess.Owner())
	if err != nil {
		return err
	}
	list := make([]signedIn, len(infos))
	for i, in := range infos {
		list[i] = signedIn{in.Handle.String(), in.Label, in.Handle == sess.Handle(), in.Created, in.Expires, in.Deadline}
	}
	if wantsJSON(r) {
		writeJSON(w, http.StatusOK, struct {
			User     string     `json:"user"`
			Sessions []signedIn `json:"sessions"`
		}{sess.Owner(), list})
		return nil
	}
	now := time.Now()
	rows := make([]deviceRow, len(list))
	for i, d := range list {
		rows[i] = deviceRow{d, ago(now.Sub(d.Since)), span(d.Expires.Sub(now))}
	}
	p := s.page(w, r, sess)
	p.Title = "Your devices"
	p.Devices = rows
	return s.write(w, http.StatusOK, devicesPage, p)
}

// deviceRow is a device as the page shows it.
type deviceRow struct {
	signedIn
	SinceText, ExpiresText string
}

// revoke ends one session of the user, which may be this one.
func (s *shop) revoke(w http.ResponseWriter, r *http.Request, sess *session.Session) error {
	if sess.Owner() == "" {
		return errSignInFirst
	}
	form, err := readForm(r)
	if err != nil {
		return err
	}
	handle, err := session.ParseHandle(form.Get("handle"))
	if err != nil {
		return refusef(http.StatusBadRequest, "This names none of your devices.")
	}
	if handle == sess.Handle() {
		if err := sess.Destroy(r.Context()); err != nil {
			return err
		}
		return s.revoked(w, r, sess, 1, "/")
	}
	found, err := s.sessions.Revoke(r.Context(), sess.Owner(), handle)
	if err != nil {
		return err
	}
	n := 0 // somebody was faster, which is as good
	if found {
		n = 1
	}
	return s.revoked(w, r, sess, n, "/sessions")
}

// revokeOthers signs the user out everywhere else, and whoever has copied this
// browser's cookie.
func (s *shop) revokeOthers(w http.ResponseWriter, r *http.Request, sess *session.Session) error {
	if sess.Owner() == "" {
		return errSignInFirst
	}
	n, err := sess.RevokeOthers(r.Context())
	if err != nil {
		return err
	}
	return s.revoked(w, r, sess, n, "/sessions")
}

func (s *shop) revoked(w http.ResponseWriter, r *http.Request, sess *session.Session, n int, to string) error {
	if wantsJSON(r) {
		writeJSON(w, http.StatusOK, struct {
			Revoked int `json:"revoked"`
		}{n})
		return nil
	}
	return s.done(w, r, sess, to)
}

func ago(d time.Duration) string {
	if d < time.Minute {
		return "just now"
	}
	return span(d) + " ago"
}

// span returns a duration as people say it.
func span(d time.Duration) string {
	switch {
	case d < 2*time.Minute:
		return "a minute"
	case d.Round(time.Minute) == time.Hour:
		return "an hour"
	case d < 100*time.Minute:
		return fmt.Sprintf("%d minutes", int(d.Round(time.Minute)/time.Minute))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d hours", int(d.Round(time.Hour)/time.Hour))
	default:
		return fmt.Sprintf("%d days", int(d/(24*time.Hour)))
	}
}
