package shop

import (
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/store"
)

// password opens every account: this is a demonstration.
const password = "demo"

const maxUser = 64 // characters

func (s *shop) login(w http.ResponseWriter, r *http.Request, sess *session.Session) error {
	form, err := readForm(r)
	if err != nil {
		return err
	}
	user := strings.TrimSpace(form.Get("user")) // phones end a suggested word with a space
	if !validUser(user) {
		no := refusef(http.StatusBadRequest, "A user name has 1 to %d letters, digits or other visible characters.", maxUser)
		no.login = true
		return no
	}
	// Hashed, so that their lengths are equal and the time tells nothing.
	got, want := sha256.Sum256([]byte(form.Get("password"))), sha256.Sum256([]byte(password))
	if subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
		no := refusef(http.StatusUnauthorized, "The user name or the password is wrong. Here, every password is %s.", password)
		no.login, no.user = true, user
		return no
	}
	err = sess.SignIn(r.Context(), user, &session.SignInOptions{
		Methods: []string{"password"},
		Label:   device(r.UserAgent()),
	})
	if err != nil {
		return err
	}
	return s.done(w, r, sess, "/")
}

func validUser(name string) bool {
	if name == "" || len(name) > store.MaxOwner || utf8.RuneCountInString(name) > maxUser || !utf8.ValidString(name) {
		return false
	}
	return !strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) })
}

func (s *shop) logout(w http.ResponseWriter, r *http.Request, sess *session.Session) error {
	if err := sess.Destroy(r.Context()); err != nil {
		return err
	}
	return s.done(w, r, sess, "/")
}
